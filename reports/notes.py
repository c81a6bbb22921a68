"""What a reader must know of rows and of a whole study, in sentences: states, deviations, budgets, searches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from reports.cells import CellRecord, Group
from reports.labels import written
from reports.published import SERVER_SPLITS, Paper, Published
from reports.report import Measured
from suite.records import depth_text


def heading(study: Mapping[str, Any], groups: Sequence[Group], paper: Paper) -> str:
    """One plain line: data, model size, budget, seeds, and what must not be compared."""
    dataset, cells = study["dataset"], [_training(cell) for group in groups for cell in group]
    local = _either(cell["test"] for cell in cells)
    tests = _either(f"{dataset['splits'][cell['test']]['questions']:,}" for cell in cells)
    widths = _either(cell["model"]["width"] for cell in cells)
    heads = _either(cell["model"]["heads"] for cell in cells)
    starts = _either(_starting_weights(cell) for cell in cells)
    budgets = _either(_budget(cell) for cell in cells)
    seeds = ", ".join(map(str, sorted({cell["seed"] for cell in cells})))
    published, split = f"The published numbers are on {paper.dataset}: compare differences, never levels.", ""
    if dataset["name"] == paper.dataset_name:
        published = (
            f"Our accuracies on {local or 'a local split'} are not the server's on {' and '.join(SERVER_SPLITS)}, "
            "where the published numbers are: compare with these what the server answered, on the same split, and "
            "nothing else."
        )
        split = f", split {local}"
    if not cells:
        return f"The study has no rows on {dataset['title']}. {published}"
    return (
        f"Measured here on {dataset['title']}{split} ({tests} test questions): LXMERT of width {widths}, "
        f"{heads} heads, starting weights {starts}, fine-tuned for {budgets}, "
        f"seed{'s' if ',' in seeds else ''} {seeds}. {published}"
    )


def _starting_weights(configuration: Mapping[str, Any]) -> str:
    """What a cell fine-tunes: of weights from outside the last part of their path or hub id."""
    start, pretrained = configuration["start"], configuration.get("pretrained")
    if start:
        before = f" from {PurePath(start['pretrained']).name}" if start.get("pretrained") else ""
        return f"trained for {_budget(start)}{before}"
    return PurePath(pretrained).name if pretrained else "random"


def _budget(configuration: Mapping[str, Any]) -> str:
    return f"{configuration['protocol']['steps']:,} steps x batch {configuration['protocol']['batch_size']}"


def _either(values: Iterable[Any]) -> str:
    return " or ".join(dict.fromkeys(map(str, values)))


def searched(search: Mapping[str, Any], cells: Sequence[CellRecord]) -> str:
    """``span: searched, 8 trials x 400 steps, random; winner limit = 64, ramp = 8``."""
    trials = [cell for cell in cells if cell.id in search["trials"]]
    counts = {state: sum(cell.state == state for cell in trials) for state in ("stopped", "failed")}
    ended = "".join(f", {count} {state}" for state, count in counts.items() if count)
    stale = ", some by an engine that has changed since" if any(cell.stale for cell in trials) else ""
    winner = search["winner"]
    if winner is None:
        found = "no trial finished" if search["complete"] else "winner not known yet"
    else:
        arguments = ", ".join(f"{name} = {written(value)}" for name, value in winner["arguments"].items())
        level = "" if winner["accuracy"] is None else f" ({winner['accuracy']:.2f} %)"
        found = f"winner {arguments}, by validation accuracy{level}"
    layers = depth_text(search["layers"], None)
    return (
        f"{search['variant']} {layers}: searched, {len(search['trials'])} trials x {search['steps']:,} steps, "
        f"{search['scheduler']['name']}{ended}{stale}; {found}."
    )


def remarks(group: Group, reference: Group) -> list[str]:
    """What a reader must know about our side of a row."""
    remarks = []
    for state in ("failed", "stopped", "started", "missing"):
        ids = [cell.id for cell in group if cell.state == state]
        if ids and len(ids) < len(group):
            remarks.append(f"{len(ids)} of {len(group)} seeds {state}: {', '.join(ids)}.")
    remarks += [f"{cell.id} failed: {cell.failure}" for cell in group if cell.failure is not None]
    stale = [cell.id for cell in group if cell.stale]
    if stale:
        remarks.append(f"Stale, the engine has changed since: {', '.join(stale)}.")
    if group and group[0].keep is not None:
        remarks.append("Evaluated only: one trained model without the layers named, counted from 0.")
    finished = [cell.official for cell in group if cell.result is not None]
    if None in finished and any(official is not None for official in finished):
        known = sum(official is not None for official in finished)
        remarks.append(f"Official accuracy of {known} of {len(finished)} seeds.")
    changed = deviations(group, reference) if group else []
    if changed:
        remarks.append(f"Differs from the softmax row in more than its method: {'; '.join(changed)}.")
    return remarks


def server_note(published: Published | None, group: Group, measured: Measured) -> str:
    """Where the test server's numbers of a row come from, and how far they are from the published ones."""
    said = []
    for split in measured.server:
        cells = [
            f"{line['accuracy']:.2f} for {name} (added {line['added'][:10]}, {_submission(line['submission'])})"
            for name, line in answered(group, split).items()
        ]
        said.append(f"{split} {', '.join(cells)}")
    note = f"The test server's own, not computed here: {'; '.join(said)}."
    theirs = published.accuracies if published else {}
    differences = [
        f"{split} {ours - theirs[split]:+.2f}" for split, ours in measured.server.items() if split in theirs
    ]
    return note + (f" Minus the published, points: {', '.join(differences)}." if differences else "")


def _submission(sha256: str | None) -> str:
    return f"submission {sha256[:12]}" if sha256 else "submission not known"


def deviations(group: Group, reference: Group) -> list[str]:
    """Settings other than method, layers and seed that are not the reference row's: no longer an ablation."""
    if not reference or group == reference:
        return []
    ours, theirs = (_settings(_training(each[0])) for each in (group, reference))
    return [
        f"{name} {written(ours.get(name))} (there {written(theirs.get(name))})"
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]


def _training(cell: CellRecord) -> Mapping[str, Any]:
    """How the model of a cell was trained; of one that is evaluated only, how its start was."""
    if cell.keep is None:
        return cell.configuration
    return {**cell.configuration, "keep": None, "start": cell.configuration["start"]["start"]}


def _settings(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """A cell's configuration flat, without what labels state. A start with its own method is told apart."""
    flat: dict[str, Any] = {}
    for name, value in configuration.items():
        if name in ("variant", "arguments", "layers", "seed", "start", "pretrained"):
            continue
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": one for inner, one in value.items()}
        else:
            flat[name] = value
    start = configuration["start"]
    if start is None:
        return flat | {"start": configuration.get("pretrained") or "none"}
    own = all(start[name] == configuration[name] for name in ("variant", "arguments", "layers"))
    # Starting from a model of one's own method and layers, or from the plain one, is stated by the study.
    flat["start"] = "trained" if own or start["variant"] == "softmax" else start["variant"]
    return flat | {f"start.{name}": value for name, value in _settings(start).items()}


def answered(group: Group, split: str) -> dict[str, Mapping[str, Any]]:
    """Cell id -> what the test server answered for it on ``split``."""
    return {cell.id: cell.server[split] for cell in group if split in cell.server}
