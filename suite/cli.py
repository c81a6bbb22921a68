"""The command ``ablate``: arguments only. Data goes to stdout, progress and messages to stderr."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import shlex
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import suite.look  # noqa: F401  What a notebook says of figures is not for a command.
from suite import registry
from suite.errors import UserError, clean, unknown
from suite.lease import holder_of, sweep
from suite.patience import waiting_for
from suite.pulse import clock
from suite.records import RecordError, StudyFolder, depth_text, load_cells
from suite.room import cores
from suite.terminal import Terminal, let_go, open_closed, say

if TYPE_CHECKING:
    from suite.bench.run import Bench
    from suite.data.vqa2 import Files
    from suite.plan import Job, Workplace
    from suite.schedule import Cluster
    from suite.search import Planned


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; 0 where all is well, 1 where cells failed, 2 for a user's mistake, 128 and its
    number for a signal (130 for Ctrl-C)."""
    words = sys.argv[1:] if argv is None else list(argv)
    open_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):  # Not every terminal knows every character of a report.
        sys.stdout.reconfigure(errors="replace")
    try:
        # One command of two words: what `ablate score` takes otherwise is a file.
        joined = ["score add", *words[2:]] if words[:2] == ["score", "add"] else words
        arguments = _parser().parse_args(joined)
        arguments.words = words
        for plugin in getattr(arguments, "plugin", ()):
            registry.load_plugin(plugin)
        code = arguments.command(arguments)
        sys.stdout.flush()  # A disk that is full says so here.
        return code
    except UserError as error:
        say(f"ablate: {error}")
        return 2
    except BrokenPipeError:
        _print_nowhere()
        return 0
    except OSError as error:
        _print_nowhere()
        say(f"ablate: {error.strerror or error}: {error.filename or 'no file named'}.")
        return 2
    except MemoryError as error:
        say(f"ablate: There is no memory left: {error}.")
        return 2
    except KeyboardInterrupt as stopped:
        continues = " The same command continues where the cells were." if words[:1] == ["run"] else ""
        say(f"ablate: stopped.{continues}")
        return 128 + getattr(stopped, "number", signal.SIGINT)


def _print_nowhere() -> None:
    """Where what is printed cannot be written: else Python tries again at its end, and says so."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print(text: str, end: str = "\n") -> None:
    """For a person: names and messages of records and plug-ins are shown, and obeyed by no terminal."""
    print(clean(text), end=end)


def _run(arguments: argparse.Namespace) -> int:
    folder, _, workplace, planned = _prepare(arguments)
    patiently = partial(waiting_for, folder.path, workplace.patience)
    patiently(planned.write)
    chosen, cells = {job.id for job in planned.chosen}, load_cells(folder.path).to_dict("records")
    cells = [cell for cell in cells if cell["id"] in chosen]
    if any([_stale(folder, cells, arguments.rerun_stale), _damaged(folder, cells, arguments.rerun_damaged)]):
        patiently(planned.look_again)
    chosen, missing = planned.chosen, planned.missing
    if missing:
        say(f"{len(missing)} of {len(chosen)} cells to run in {folder.path}.")
        _launch(arguments, missing, workplace, len(chosen) - len(missing), planned)
    else:
        say(f"All {len(chosen)} cells in {folder.path} are finished: nothing to run.")
    patiently(planned.look_again)
    for job in planned.chosen:
        with contextlib.suppress(UserError):  # What is damaged is told by the report.
            folder.cell(job.id).tidy()
    sweep(folder.path)
    folder.sweep()
    wrong = 0 if arguments.no_report else _reported(folder)
    return _digest(folder, [job.id for job in planned.missing], len(planned.chosen), arguments.words) or wrong


def _reported(folder: StudyFolder) -> int:
    """Builds and prints the report; the exit code that it gives."""
    try:
        text = _build_report(folder)
    except UserError as error:  # The cells that failed are told all the same.
        say(f"ablate: {error}")
        return 2
    let_go()
    print(text)
    return 0


def _launch(
    arguments: argparse.Namespace, missing: Sequence[Job], workplace: Workplace, finished: int, planned: Planned
) -> None:
    # After the checks: Ray takes seconds to import, and a mistake should be told at once.
    from suite import schedule
    from suite.trackers import following

    for job in missing:
        planned.folder.cell(job.id).forget_stop()
    with following(arguments.log, planned.folder) as followers:
        searching = planned.searches, planned.after, followers
        if arguments.no_ray:
            schedule.run_alone(missing, workplace, finished, *searching)
        else:
            schedule.run_with_ray(missing, workplace, finished, _cluster(arguments), *searching)


def _stale(folder: StudyFolder, cells: Sequence[Mapping[str, Any]], rerun: bool) -> bool:
    """Says which finished cells another engine made; with ``rerun`` sets them aside, to be trained again.

    True where it did.
    """
    stale = [cell["id"] for cell in cells if cell["stale"]]
    for cell in stale if rerun else ():
        folder.cell(cell).set_aside()
    if stale:
        done = "set aside, to be trained again" if rerun else "kept and marked; --rerun-stale trains them again"
        say(f"{len(stale)} finished cells were made by another version of the engine: {done}.")
    return bool(stale) and rerun


def _damaged(folder: StudyFolder, cells: Sequence[Mapping[str, Any]], rerun: bool) -> bool:
    """Says which cells have records that are not what was written; with ``rerun`` sets them aside, to be trained
    again. True where it did."""
    found = {cell["id"]: cell["failure"] for cell in cells if cell["state"] == "damaged"}
    if rerun:  # Also what only a look at every byte tells.
        from suite.verify import damages

        others = [cell["id"] for cell in cells if cell["id"] not in found]
        found |= {one: told[0] for one in others if (told := damages(folder.cell(one)))}
    for cell, why in found.items():
        say(f"{cell}: {why}")
        if rerun:
            say(f"{cell} is set aside in {folder.cell(cell).set_aside('damaged')}, and trained again.")
    return bool(found) and rerun


def _prepare(arguments: argparse.Namespace) -> tuple[StudyFolder, list[Job], Workplace, Planned]:
    """The study's folder, its jobs, where they run, and what else is planned, with everything that can be wrong
    checked first."""
    from suite import plan, search
    from suite.config import Placement
    from suite.engine import check_placement

    placement = Placement(
        arguments.threads, arguments.gpus_per_cell, arguments.workers, arguments.engine, arguments.zero_stage
    )
    study = plan.load_study(arguments.study, dict(arguments.set), arguments.variants, arguments.seeds)
    folder = StudyFolder(arguments.runs / study.name)
    plan.check_folder(folder.path)
    counting = _counting("prepared", "pictures")
    planned = search.Planned(study, arguments.data, folder, arguments.variants, counting)
    check_placement(placement, [job.cell for job in planned.chosen])
    workplace = plan.Workplace(
        study=str(folder.path.resolve()),
        data=str(arguments.data.resolve()),
        plugins=plan.keep_plugins(folder, arguments.plugin),
        placement=placement,
        launch=f"{time.strftime('%Y%m%d-%H%M%S')}-{socket.gethostname()}-{os.getpid()}",
        save_every=60 * arguments.save_every,
        hung_after=60 * arguments.hung_after,
        patience=60 * arguments.patience,
    )
    return folder, planned.jobs, workplace, planned


def _plan(arguments: argparse.Namespace) -> int:
    from suite.forecast import forecast, here, shown_cells, shown_nodes

    folder, _, workplace, planned = _prepare(arguments)
    cluster = _cluster(arguments) if arguments.address else None
    found = forecast(
        planned.chosen, folder, workplace, cluster, here(arguments.cpus, arguments.gpus), arguments.macs
    )  # fmt: skip
    for one in planned.searches:
        cell = one.search.cell
        if not one.cells and (not arguments.variants or cell.variant in arguments.variants):
            said = {"what": f"{cell.variant} {depth_text(cell.layers, None)}", "steps": cell.protocol.steps}
            found.cells.append(dict.fromkeys(found.cells[0]) | said | {"state": _no_winner(one.complete)})
    if arguments.json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
    else:
        _print_table(shown_cells(found.cells), False)
        if cluster is not None:
            _print_table(shown_nodes(found.nodes), False)
        print(*found.summary(), sep="\n")
        for finding in found.findings:
            _print(f"`ablate run` would not start: {finding}")
    return 1 if found.findings else 0


def _cluster(arguments: argparse.Namespace) -> Cluster:
    from suite.schedule import Cluster

    return Cluster(arguments.address, arguments.cpus, arguments.gpus, getattr(arguments, "wait", False))


def _no_winner(complete: bool) -> str:
    """Instead of the state of a row that a search has not found."""
    return "failed: no trial of the search finished" if complete else "winner of the search, not known yet"


def _status(arguments: argparse.Namespace) -> int:
    folder = StudyFolder(arguments.runs / arguments.study)
    if arguments.watch and arguments.json:
        raise UserError("--watch shows a table that changes, --json prints the cells once. Give one of them.")
    if not arguments.watch:
        cells = load_cells(folder.path).to_dict("records")
        _print_table(_states(folder, cells), arguments.json)
        _say_failures(folder, [cell["id"] for cell in cells if cell["state"] == "failed"])
        for cell in cells:
            if cell["state"] == "damaged":
                say(f"damaged: {cell['id']}: {cell['failure']}")
        return 0
    from rich.live import Live
    from rich.text import Text

    with Live(console=Terminal(sys.stdout, highlight=False, markup=False), auto_refresh=False) as live:
        seen = None
        while True:
            try:
                cells = load_cells(folder.path).to_dict("records")
                rows, seen = _states(folder, cells), time.monotonic()
            except (OSError, UserError):  # A folder may go between two looks, and come back.
                if seen is None or time.monotonic() - seen > GONE:
                    raise
                time.sleep(2)
                continue
            live.update(Text(_watched(rows), no_wrap=True), refresh=True)
            if all(row["state"].startswith(("finished", "failed", "stopped", "damaged")) for row in rows):
                return 0
            time.sleep(2)


GONE = 60.0
"""Seconds that `status --watch` looks on where records cannot be read."""
WATCHED = ("running", "interrupted", "damaged", "failed", "missing", "stopped", "finished")
"""States of cells, those first that somebody may have to do something about."""


def _watched(rows: list[dict]) -> str:
    """Counts by state, then the table: at its end, which a low terminal cuts off, is what matters least."""
    states = [next((state for state in WATCHED if row["state"].startswith(state)), "missing") for row in rows]
    counts = [f"{states.count(state)} {state}" for state in WATCHED if state in states]
    order = sorted(range(len(rows)), key=lambda place: WATCHED.index(states[place]))
    return f"{len(rows)} cells: {', '.join(counts)}\n\n{_table([rows[place] for place in order])}"


def _states(folder: StudyFolder, cells: Sequence[Mapping[str, Any]]) -> list[dict]:
    """One row per cell of the study; those that run now with where they are."""
    rows = []
    for cell in cells:
        record = cell["record"]
        state, step, live, holder = cell["state"], cell["steps"], None, None
        if state == "started":
            holder, live = holder_of(record.path), record.live()
            state = "running" if holder else "interrupted"
        if state == "damaged":
            step = 0
        elif state != "finished":
            lines = record.lines("metrics")
            step = max(live["step"] if live and holder else 0, lines[-1]["step"] if lines else 0)
        speed = live["questions_per_second"] if live and holder else None
        left = (cell["steps"] - step) * cell["batch_size"] / speed if speed else None
        rows.append(
            {
                "id": cell["id"],
                "role": cell["role"],
                "variant": cell["variant"],
                "layers": depth_text(cell["layers"], cell["cell"].get("keep")),
                "state": f"{state} (stale)" if cell["stale"] else state,
                "step": f"{step}/{cell['steps']}" if cell["steps"] else None,
                "questions_per_second": round(speed) if speed else None,
                "left": clock(left) if left else None,
                "where": f"{holder.host} {holder.node[:6]}" if holder else None,
                "lost": None if state == "damaged" else len(record.lines("faults")) or None,
            }
        )
    for one in folder.study().get("searches", ()):
        if one["winner"] is None:
            said = {"role": "row", "variant": one["variant"], "layers": depth_text(one["layers"], None)}
            rows.append(dict.fromkeys(rows[0]) | said | {"state": _no_winner(one["complete"])})
    return rows


def _logs(arguments: argparse.Namespace) -> int:
    folder = StudyFolder(arguments.runs / arguments.study)
    known = [cell["id"] for cell in folder.study()["cells"]]
    if arguments.cell not in known:
        raise unknown("cell", arguments.cell, known)
    record = folder.cell(arguments.cell)
    record.check_links()
    if not record.log.exists():
        raise UserError(
            f"{arguments.cell} has not begun and has no log. Run it first: ablate run {arguments.study}."
        )
    # A terminal obeys nothing of it; who reads it otherwise gets what is there.
    show = _print if sys.stdout.isatty() else print
    shown = 0
    while True:
        # A cell that was interrupted has nobody who writes to its log.
        runs = arguments.follow and record.state == "started" and holder_of(record.path)
        # Opened anew each time: who takes a cell over goes on in a copy.
        with record.log.open("rb") as log:
            log.seek(shown)
            new = log.read()
        shown += len(new)
        show(new.decode(errors="replace"), end="")
        sys.stdout.flush()
        if not runs:
            return 0
        time.sleep(1)


def _drain(arguments: argparse.Namespace) -> int:
    from suite.drain import drain

    if not arguments.runs.is_dir():
        raise UserError(
            f"There is no folder of records {arguments.runs}. Give --runs the one that the cells write to."
        )
    places = [arguments.runs / arguments.study] if arguments.study else sorted(arguments.runs.glob("*"))
    if arguments.study:
        StudyFolder(places[0]).check_launched()  # A slip would leave its cells running.
    left, staying = drain(places, arguments.all, 60 * arguments.wait)
    for cell in left:
        _print(f"left: {cell}")
    for cell in staying:
        _print(f"still running: {cell}")
    where = "" if arguments.all else f" on {socket.gethostname()}"
    say(f"{len(left)} cells have written checkpoints and left{where}, {len(staying)} are still running.")
    return 1 if staying else 0


def _report(arguments: argparse.Namespace) -> int:
    folder = StudyFolder(arguments.runs / arguments.study)
    # Reports from elsewhere need not know an option before somebody asks for it.
    options = {"measured": False} if arguments.no_measured else {}
    options |= {"question": arguments.question} if arguments.question is not None else {}
    options |= {"all_heads": True} if arguments.all_heads else {}
    if not arguments.check:
        print(_build_report(folder, **options))
        return 0
    if options:
        raise UserError("--check builds with the options that the report was made with: give it alone.")
    return _check_report(folder)


def _build_report(folder: StudyFolder, **options: object) -> str:
    reports = [registry.find("report", name) for name in registry.names("report")]
    texts = [report(folder.path, folder.path / "report", **options) for report in reports]
    return "\n".join([*texts, f"Report: {folder.path / 'report' / 'index.html'}"])


def _check_report(folder: StudyFolder) -> int:
    place = folder.path / "report"
    reports = [registry.find("report", name) for name in registry.names("report")]
    unlike = [text for report in reports if (text := report(folder.path, place, check=True))]
    _print("\n".join(unlike) or f"{place} is what the records give.")
    return 1 if unlike else 0


def _verify_records(arguments: argparse.Namespace) -> int:
    from suite.verify import damages

    folder, wrong = StudyFolder(arguments.runs / arguments.study), 0
    cells = load_cells(folder.path)
    for number, cell in enumerate(cells.to_dict("records"), 1):
        print(f"\rverified {number} of {len(cells)} cells", end="", file=sys.stderr, flush=True)
        for told in [cell["failure"]] if cell["state"] == "damaged" else damages(folder.cell(cell["id"])):
            print(f"{cell['id']}: {told}")
            wrong += 1
    print(file=sys.stderr)
    if not wrong:
        print(f"Every byte of the {len(cells)} cells in {folder.path} is what was written.")
    return 1 if wrong else 0


def _export(arguments: argparse.Namespace) -> int:
    from suite.export import export

    folder = StudyFolder(arguments.runs / arguments.study)
    said = export(folder, arguments.cell, arguments.data, arguments.out)
    print(arguments.out)
    say(said)
    return 0


def _variants(arguments: argparse.Namespace) -> int:
    names = [arguments.name] if arguments.name else registry.names("variant")
    if arguments.action == "list":
        for name in names:
            variant = registry.find("variant", name)
            _print(f"{name:<14} {variant()}  {(variant.__doc__ or '').strip().splitlines()[0]}")
        return 0
    from suite.contract import check

    for name in names:
        for line in check(registry.find("variant", name)()):
            _print(f"{name}: {line}")
    return 0


def _data(arguments: argparse.Namespace) -> int:
    from suite.plan import open_data

    folder, progress = arguments.data / arguments.name, _counting("prepared", "pictures")
    files = _files(arguments)
    if arguments.action == "verify":
        return _verify(folder)
    if files and folder.exists():
        say(f"{folder} is there already and stays as it is: give --data OTHER to prepare it from these files.")
    elif files:
        say(str(files))
        left_out = registry.find("dataset", arguments.name)(folder, progress, files)
        if left_out:
            say(f"left out: {len(left_out)}, listed in {folder / 'left_out.txt'}; the first: {left_out[0]}")
    dataset = open_data(arguments.data, arguments.name, progress)
    print(json.dumps(dataset.information, indent=1))
    return 0


def _files(arguments: argparse.Namespace) -> Files | None:
    """What ``ablate data prepare`` is given to make a data set from; None where nothing is."""
    given = {
        "splits": {name: [Path(file) for file in files.split(",")] for name, files in arguments.split},
        "features": arguments.features,
        "annotations": arguments.annotations,
        "answers": arguments.answers,
        "tokenizer": arguments.tokenizer,
        "dtype": arguments.dtype,
        "boxes": arguments.boxes,
        "skip_bad": arguments.skip_bad,
    }
    given = {name: value for name, value in given.items() if value}
    if arguments.source is None and not given and not arguments.splits:
        return None
    if arguments.action != "prepare":
        raise UserError(f"`ablate data {arguments.action}` takes no files to prepare from. Leave them out.")
    from suite.data import vqa2

    if arguments.name != vqa2.NAME:
        raise UserError(f"{arguments.name} is prepared from a package: it takes no files. Leave them out.")
    if arguments.source is not None:
        return vqa2.find_files(arguments.source, arguments.splits or (), **given)
    if "splits" not in given or "features" not in given:
        raise UserError(
            "Expected --from FOLDER (and --splits of it), or --split NAME=FILE and --features FILE. Give them."
        )
    return vqa2.Files(**given)


def _verify(folder: Path) -> int:
    from suite.data.verify import verify_dataset

    damage = verify_dataset(folder, _counting("read", "images"))
    for sentence in damage:
        _print(sentence)
    print(f"{folder}: {'damaged' if damage else 'every file and every image is as it was written'}.")
    return 1 if damage else 0


def _score(arguments: argparse.Namespace) -> int:
    from suite.data.official import score_file

    scores, frame = score_file(arguments.results, arguments.annotations, arguments.questions, arguments.revision)
    if arguments.json:
        # The evaluator's own names for its accuracies.
        written = {
            "revision": scores.revision,
            "questions": len(scores.questions),
            "overall": scores.overall,
            "perAnswerType": scores.answer_types,
            "perQuestionType": scores.question_types,
        }
        print(json.dumps(written, indent=1))
        return 0
    rows = [{"": "all", "questions": len(frame), "accuracy": f"{scores.overall:.2f}"}]
    for column, accuracies in (("answer_type", scores.answer_types), ("question_type", scores.question_types)):
        counts = Counter(frame[column])
        rows += [
            {"": f"{column.replace('_', ' ')}: {name or 'not given'}", "questions": counts[name]}
            | {"accuracy": f"{accuracies[name]:.2f}"}
            for name in sorted(accuracies)
        ]
    print(f"Official VQA accuracy in per cent, evaluator of {scores.revision}.")
    _print_table(rows, False)
    return 0


def _score_add(arguments: argparse.Namespace) -> int:
    from suite.submit import add_server_score

    runs, cell, split = arguments.runs, arguments.cell, arguments.split
    _print(add_server_score(runs, cell, split, arguments.accuracy, arguments.study))
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    from suite.submit import write_submission

    folder = StudyFolder(arguments.runs / arguments.study)
    said = write_submission(
        folder, arguments.cell, arguments.data, arguments.split, arguments.out, arguments.questions,
        arguments.device, _counting("answered", "questions"),
    )  # fmt: skip
    print(arguments.out)
    say(said)
    return 0


def _flops(arguments: argparse.Namespace) -> int:
    from suite import flops, plan

    study = plan.load_study(arguments.study, {}, arguments.variants)
    rows = flops.at_paper_size(plan.resolve(cell) for cell in study.cells)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    billions = ("reference", "answer", "matmul", "linear")
    shown = [
        row
        | {name: f"{row[name] / 1e9:.3f} G" for name in billions}
        | {"change": f"{row['change']:+.2f} %", "parameters": f"{row['parameters'] / 1e6:.1f} M"}
        for row in rows
    ]
    print("Multiply-adds at LXMERT's base size, 20 word pieces, 36 boxes, one question.")
    print("reference: every output; answer: what runs for the answer. The paper: -17.54 % for 9-5-5 with p = 1.")
    _print_table(shown, False)
    return 0


def _bench_attention(arguments: argparse.Namespace) -> int:
    from suite.bench.attention import Attention

    names = ("keys", "heads", "tokens", "width", "span", "variants")
    return _bench(arguments, Attention(**{name: getattr(arguments, name) for name in names}))


def _bench_model(arguments: argparse.Namespace) -> int:
    from suite.bench.model import Model

    return _bench(arguments, Model(arguments.size, arguments.batch, arguments.dropout))


def _bench_variants(arguments: argparse.Namespace) -> int:
    from suite import plan
    from suite.bench.variants import Variants

    cells = plan.load_study(arguments.study, {}, arguments.variants).cells
    return _bench(arguments, Variants(cells, arguments.size, arguments.batch, arguments.dropout))


def _bench_data(arguments: argparse.Namespace) -> int:
    from suite.bench.data import Data

    return _bench(arguments, Data(arguments.images, arguments.batch, arguments.processes))


def _bench_grid(arguments: argparse.Namespace) -> int:
    from suite.bench.grid import Scheduling
    from suite.plan import open_data

    open_data(arguments.data, "easy_vqa", _counting("prepared", "pictures"))
    chosen = dict(arguments.set)
    bench = Scheduling(arguments.study, arguments.cells, arguments.slots, str(arguments.data), chosen)
    return _bench(arguments, bench)


def _bench_cost(arguments: argparse.Namespace) -> int:
    from suite.bench.cost import measure_costs
    from suite.bench.measure import Settings

    folder = StudyFolder(arguments.runs / arguments.study)
    settings = Settings(arguments.rounds, arguments.threads, arguments.device)
    _print(measure_costs(folder, arguments.data, arguments.cells, settings, arguments.plugin), end="")
    return 0


def _bench(arguments: argparse.Namespace, bench: Bench) -> int:
    from suite.bench.measure import Settings
    from suite.bench.run import run

    settings = Settings(arguments.rounds, arguments.threads, arguments.device, arguments.seed)
    return run(bench, settings, arguments.out or Path("bench") / bench.name, ["ablate", *arguments.words])


def _digest(folder: StudyFolder, missing: Sequence[str], total: int, command: Sequence[str]) -> int:
    """Says what did not finish, and how to run it again; 1 where there is anything."""
    for cell_id in missing:
        if folder.cell(cell_id).state != "failed":
            say(f"not finished: {cell_id}: its worker died or was stopped.")
    _say_failures(folder, missing)
    if missing:
        say(f"{len(missing)} of {total} cells did not finish. Run them again: ablate {shlex.join(command)}")
    return 1 if missing else 0


def _say_failures(folder: StudyFolder, cells: Iterable[str]) -> None:
    for cell_id in cells:
        record = folder.cell(cell_id)
        with contextlib.suppress(RecordError):  # Told as damaged.
            if record.state == "failed" and (failure := record.failure()):
                say(f"failed: {cell_id}: {failure['message']}")
                say(f"  at  {failure.get('where', '')}\n  log {failure.get('log', '')}")


def _print_table(rows: list[dict], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    print(_table(rows))


def _table(rows: list[dict]) -> str:
    """Columns side by side; those that say nothing are left out."""
    kept = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    lines = [[name.replace("_", " ") for name in kept]]
    # In one line each, and nothing that a terminal obeys.
    lines += [["" if row[name] is None else _cell(row[name]) for name in kept] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _cell(value: object) -> str:
    return clean(str(value)).replace("\n", " ").replace("\t", " ")


def _counting(verb: str, things: str) -> Callable[[int, int], None]:
    """Progress that is said ten times over all of it, with the time that is left."""
    began, said = time.monotonic(), 0

    def count(done: int, total: int) -> None:
        nonlocal said
        if done == total or done * 10 // total > said:
            said = done * 10 // total
            left = (time.monotonic() - began) / done * (total - done)
            say(f"{verb} {done:,} of {total:,} {things}, {left:.0f} s left")

    return count


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected field=value, such as steps=100; received {text!r}")
    return name, value


def _slots(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1; received {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number; received {text!r}")
    return int(text)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1.0
    if not 0 <= minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"expected minutes, such as 10 or 0.5; received {text!r}")
    return minutes


def _shared_folder(text: str) -> Path:
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text} is an object store; give a folder on a file system that all nodes see"
        )
    return Path(text)


def _address(text: str) -> str:
    if not text:  # As of a shell's variable that is not set: not this machine.
        raise argparse.ArgumentTypeError(
            "expected host:port or auto, received nothing; without it this machine runs"
        )
    return text


def _names(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if not names:  # As of a shell's variable that is not set: not all of them.
        raise argparse.ArgumentTypeError("expected names with commas between them, received none")
    return names


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(_slots(number) for number in text.split(","))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ablate", description="Ablations of adaptive attention in LXMERT.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    places = argparse.ArgumentParser(add_help=False)
    places.add_argument("study", nargs="?", default="demo", metavar="STUDY", help="default: demo")
    places.add_argument("--runs", type=_shared_folder, default=Path("runs"), help="folder of the records (runs)")
    places.add_argument("--plugin", type=Path, action="append", default=[], metavar="FILE")

    grid = argparse.ArgumentParser(add_help=False, parents=[places])
    grid.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets (data)")
    grid.add_argument("--set", type=_setting, action="append", default=[], metavar="FIELD=VALUE")
    grid.add_argument("--variants", type=_names, metavar="NAME,NAME", help="only these, new ones included")
    grid.add_argument("--seeds", type=_slots, metavar="N", help="every row at seeds 0 to N - 1")
    grid.add_argument("--threads", type=int, default=1, help="CPU threads per cell, or per worker (1)")
    grid.add_argument(
        "--gpus-per-cell", type=float, metavar="N", help="or per worker; fractions allowed; 1 where there are any"
    )
    grid.add_argument("--workers", type=_slots, default=1, metavar="N", help="processes that train a cell (1)")
    grid.add_argument(
        "--engine", choices=("torch", "deepspeed"), default="torch", help="of several workers (torch)"
    )
    grid.add_argument("--zero-stage", type=int, default=0, choices=(0, 1, 2, 3), help="DeepSpeed's ZeRO (0)")

    grid.add_argument("--address", type=_address, help="a Ray cluster's address, or auto")
    grid.add_argument("--cpus", type=_slots, help="CPUs of this machine to use (all)")
    grid.add_argument("--gpus", type=_count, help="GPUs of this machine to use (all)")

    faults = grid.add_argument_group("faults", "times in minutes")
    faults.add_argument(
        "--save-every", type=_minutes, default=10, metavar="N", help="a checkpoint between evaluations (10)"
    )
    faults.add_argument(
        "--hung-after", type=_minutes, default=30, metavar="N", help="without a step a worker is hung (30)"
    )
    faults.add_argument(
        "--patience", type=_minutes, default=10, metavar="N", help="wait for a run folder that is full (10)"
    )

    run = commands.add_parser("run", parents=[grid], help="run the missing cells, then build the report")
    run.add_argument("--no-ray", action="store_true", help="one cell after another in this process")
    run.add_argument("--wait", action="store_true", help="until a node that can hold a cell joins the cluster")
    run.add_argument(
        "--log",
        choices=("tensorboard", "mlflow", "wandb"),
        action="append",
        default=[],
        help="tell it the evaluations too; several by repeating",
    )
    run.add_argument(
        "--no-report", action="store_true", help="leave the report as it is: `ablate report` builds it"
    )
    run.add_argument("--rerun-stale", action="store_true", help="train cells of another engine again")
    run.add_argument(
        "--rerun-damaged",
        action="store_true",
        help="set cells whose records are damaged aside, and train them again",
    )
    run.set_defaults(command=_run)

    plan = commands.add_parser(
        "plan", parents=[grid], help="list the cells without running any; 1 where they would not run"
    )
    plan.add_argument("--macs", action="store_true", help="count multiply-adds at the paper's size; takes seconds")
    plan.set_defaults(command=_plan)
    status = commands.add_parser("status", parents=[places], help="which cells are finished")
    status.set_defaults(command=_status)
    report = commands.add_parser("report", parents=[places], help="rebuild tables and figures from records")
    report.add_argument(
        "--no-measured", action="store_true", help="without what no second run repeats, such as seconds"
    )
    report.add_argument("--question", metavar="ID", help="of the test split: draw the rows' answers to it")
    report.add_argument("--all-heads", action="store_true", help="draw alpha of every head, not of the first six")
    report.add_argument(
        "--check", action="store_true", help="only say whether the report is what the records give; 1 where not"
    )
    report.set_defaults(command=_report)
    for command in (plan, status):
        command.add_argument("--json", action="store_true")
    status.add_argument("--watch", action="store_true", help="until no cell is left to run; Ctrl-C ends it")

    verify = commands.add_parser("verify", parents=[places], help="whether every byte of the records is as written")
    verify.set_defaults(command=_verify_records)

    logs = commands.add_parser("logs", parents=[places], help="what a cell has printed")
    logs.add_argument("cell", metavar="CELL", help="its id, as `ablate status` lists it")
    logs.add_argument("--follow", action="store_true", help="as long as it runs")
    logs.set_defaults(command=_logs)

    drain = commands.add_parser("drain", help="has cells write checkpoints and leave this machine, or stop")
    drain.add_argument("--all", action="store_true", help="on every machine; their launch ends")
    drain.add_argument("--study", metavar="STUDY", help="of this study only")
    drain.add_argument("--runs", type=_shared_folder, default=Path("runs"), help="folder of the records (runs)")
    drain.add_argument("--wait", type=_minutes, default=2, metavar="N", help="for them to leave, in minutes (2)")
    drain.set_defaults(command=_drain)

    export = commands.add_parser("export", parents=[places], help="a finished cell as a model of transformers")
    export.add_argument("cell", metavar="CELL", help="its id, as `ablate status` lists it")
    export.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    export.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets (data)")
    export.set_defaults(command=_export)

    predict = commands.add_parser(
        "predict", parents=[places], help="a finished cell's answers, as the server wants"
    )
    predict.add_argument("cell", metavar="CELL", help="its id, as `ablate status` lists it")
    predict.add_argument("--split", default="test", help="of the data set (test)")
    predict.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new file")
    predict.add_argument("--questions", type=Path, metavar="FILE", help="check that all of these are answered")
    predict.add_argument("--device", choices=("cpu", "cuda"), help="by default a GPU where there is one")
    predict.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets (data)")
    predict.set_defaults(command=_predict)

    variants = commands.add_parser("variants", help="what is registered")
    variants.add_argument("action", nargs="?", choices=("list", "check"), default="list")
    variants.add_argument("name", nargs="?", help="one of them (all)")
    variants.add_argument("--plugin", type=Path, action="append", default=[], metavar="FILE")
    variants.set_defaults(command=_variants)

    data = commands.add_parser("data", help="prepare a data set, say what it holds, verify it")
    data.add_argument("action", choices=("prepare", "info", "verify"))
    data.add_argument("name", nargs="?", default="easy_vqa")
    data.add_argument("--data", type=Path, default=Path("data"))
    files = data.add_argument_group("prepare vqa2", "from files of yours; see the README")
    files.add_argument(
        "--from", dest="source", type=Path, metavar="FOLDER", help="has the files by their usual names"
    )
    files.add_argument("--splits", type=_names, metavar="NAME,NAME", help="only these of the folder")
    files.add_argument(
        "--split", type=_setting, action="append", default=[], metavar="NAME=FILE,FILE", help="questions of a split"
    )
    files.add_argument("--features", type=Path, action="append", metavar="FILE", help="TSV, zip, HDF5, npz folder")
    files.add_argument(
        "--annotations", type=Path, action="append", metavar="FILE", help="for the official accuracy"
    )
    files.add_argument("--answers", type=Path, metavar="FILE", help="the vocabulary of answers")
    files.add_argument("--tokenizer", metavar="FILE", help="vocab.txt, or a hub id (bert-base-uncased)")
    files.add_argument("--dtype", choices=("float16", "float32"), help="of the features (float16)")
    files.add_argument(
        "--boxes", choices=("pixels", "shares"), help="what boxes are measured in (their first images tell)"
    )
    files.add_argument("--skip-bad", action="store_true", help="leave out and list what is wrong")
    data.set_defaults(command=_data)

    score = commands.add_parser("score", help="the official VQA accuracy of a result file, anybody's")
    score.add_argument("results", type=Path, metavar="RESULTS.json", help="a list of {question_id, answer}")
    score.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="the official answers")
    score.add_argument("--questions", type=Path, metavar="FILE", help="check that the annotations are of these")
    score.add_argument("--revision", choices=("2021", "before-2021"), default="2021", help="the evaluator (2021)")
    score.add_argument("--json", action="store_true")
    score.set_defaults(command=_score)

    add = commands.add_parser("score add", help="keep what the test server answered for a cell")
    add.add_argument("cell", metavar="CELL", help="its id, as `ablate status` lists it")
    add.add_argument("accuracy", type=float, metavar="ACCURACY", help="in per cent")
    add.add_argument("--split", choices=("test-dev", "test-std"), required=True)
    add.add_argument("--study", metavar="STUDY", help="where several have the cell")
    add.add_argument("--runs", type=_shared_folder, default=Path("runs"), help="folder of the records (runs)")
    add.set_defaults(command=_score_add)

    flops = commands.add_parser("flops", help="multiply-adds per row at the paper's size")
    flops.add_argument("study", nargs="?", default="demo", metavar="STUDY", help="whose rows; default: demo")
    flops.add_argument("--plugin", type=Path, action="append", default=[], metavar="FILE")
    flops.add_argument("--variants", type=_names, metavar="NAME,NAME", help="registered ones beside the rows")
    flops.add_argument("--json", action="store_true")
    flops.set_defaults(command=_flops)

    _add_bench(commands.add_parser("bench", help="measured speed and memory, side by side"), places)
    return parser


def _add_bench(bench: argparse.ArgumentParser, places: argparse.ArgumentParser) -> None:
    bench.description = (
        "What is compared runs in turn, round after round, in one process. Prints a table in Markdown; "
        "samples.json, table.md and the figure go to a folder. Ctrl-C keeps what was measured."
    )
    benches = bench.add_subparsers(required=True, metavar="BENCH")
    # Without --rounds: its default is each bench's own, and a parent's is all its children's.
    machine = argparse.ArgumentParser(add_help=False)
    machine.add_argument("--threads", type=_slots, default=cores(), metavar="N", help="CPU threads (one per core)")
    machine.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    kept = argparse.ArgumentParser(add_help=False, parents=[machine])
    kept.add_argument("--out", type=Path, metavar="FOLDER", help="default: bench/ and the bench's name")
    kept.add_argument("--seed", type=int, default=0)
    five = argparse.ArgumentParser(add_help=False)
    five.add_argument(
        "--rounds", type=_slots, default=5, metavar="N", help="samples of each number (5), after one to warm up"
    )
    shared = argparse.ArgumentParser(add_help=False, parents=[kept, five])
    models = argparse.ArgumentParser(add_help=False, parents=[shared])
    models.add_argument("--size", choices=("base", "demo"), default="base", help="LXMERT base, or the demo study's")
    models.add_argument("--dropout", type=float, default=0.0, help="everywhere (0)")
    methods = argparse.ArgumentParser(add_help=False)
    methods.add_argument("--plugin", type=Path, action="append", default=[], metavar="FILE")

    attention = benches.add_parser(
        "attention", parents=[shared, methods], help="one block of every method, from few keys to many"
    )
    keys = (20, 36, 64, 128, 256, 512, 1024, 2048, 4096)
    attention.add_argument("--keys", type=_numbers, default=keys, metavar="N,N", help=f"{','.join(map(str, keys))}")
    attention.add_argument("--heads", type=_numbers, default=(12,), metavar="N,N", help="12")
    attention.add_argument(
        "--tokens", type=_numbers, default=(2304,), metavar="N,N", help="of a batch, questions x keys (2304)"
    )
    attention.add_argument("--width", type=_slots, default=64, metavar="N", help="of a head (64)")
    attention.add_argument("--span", type=int, default=64, help="tokens that learned spans are set to (64)")
    attention.add_argument("--variants", type=_names, default=[], metavar="NAME,NAME", help="only these")
    attention.set_defaults(command=_bench_attention)

    model = benches.add_parser(
        "model", parents=[models], help="our LXMERT against transformers', with equal logits"
    )
    model.add_argument("--batch", type=_numbers, default=(32, 64), metavar="N,N", help="questions (32,64)")
    model.set_defaults(command=_bench_model)

    variants = benches.add_parser(
        "variants", parents=[models, methods], help="a training step of each row of a study against its first"
    )
    variants.add_argument("study", nargs="?", default="demo", metavar="STUDY", help="whose rows; default: demo")
    variants.add_argument("--variants", type=_names, metavar="NAME,NAME", help="registered ones beside the rows")
    variants.add_argument("--batch", type=_slots, default=32, metavar="N", help="questions (32)")
    variants.set_defaults(command=_bench_variants)

    data = benches.add_parser("data", parents=[shared], help="region features kept in four ways, and converted")
    data.add_argument("--images", type=_slots, default=1000, metavar="N", help="generated (1000), 1.1 MB each")
    data.add_argument("--batch", type=_slots, default=64, metavar="N", help="images read at a time (64)")
    data.add_argument("--processes", type=_slots, default=4, metavar="N", help="whose memory is measured (4)")
    data.set_defaults(command=_bench_data)

    cost = benches.add_parser(
        "cost", parents=[places, machine, five], help="what a study's finished cells cost, into their records"
    )
    cost.description = (
        "Steps, prediction, latency, memory and energy of finished cells, measured while none of the study runs. "
        "Prints a table in Markdown; each cell keeps its numbers in cost.json, one measurement per device."
    )
    cost.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets (data)")
    cost.add_argument("--cells", nargs="+", default=[], metavar="ID", help="these (the first finished of each row)")
    cost.set_defaults(command=_bench_cost)

    grid = benches.add_parser("grid", parents=[kept], help="what scheduling costs beside the cells' own time")
    grid.add_argument("study", nargs="?", default="", metavar="STUDY", help="run its grid too; default: none")
    grid.add_argument(
        "--cells", type=_numbers, default=(20, 200), metavar="N,N", help="of next to no work (20,200)"
    )
    grid.add_argument("--slots", type=_slots, default=cores(), metavar="N", help="cells at a time")
    grid.add_argument("--set", type=_setting, action="append", default=[], metavar="FIELD=VALUE")
    grid.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets (data)")
    grid.add_argument("--rounds", type=_slots, default=1, metavar="N", help="samples of each number (1)")
    grid.set_defaults(command=_bench_grid)


if __name__ == "__main__":
    sys.exit(main())
