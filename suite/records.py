"""A cell's folder: everything a run leaves behind, in files that a stranger can read with pandas.

State is what exists: ``config.json`` is written first, ``result.json`` last, so a folder with a result is
complete and one without can be continued. Every file is written under a temporary name and renamed (suite.files);
``.jsonl`` files get lines at their end, and are cut back to the checkpoint's step when a cell resumes.

A record knows itself. Each JSON object and line has a check of its own, ``result.json`` the sha256 of the files
that a finished record consists of, and a checkpoint how far the lines had come: what is read is held against them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal, get_args

import numpy as np
import pandas as pd

from suite import forms
from suite.errors import UserError
from suite.files import RecordError as RecordError
from suite.files import (
    Staging,
    check_no_link,
    checked_lines,
    damaged,
    digest,
    is_left,
    is_link,
    parse_json,
    parse_lines,
    parse_vouched_lines,
    read_bytes,
    read_json,
    remove,
    replacing,
    sweep,
    write_document,
    write_json,
)
from suite.files import read_lines as read_lines
from suite.files import settle as settle
from suite.files import write_bytes as write_bytes
from suite.files import write_text as write_text
from suite.lease import Lease, held

State = Literal["missing", "started", "stopped", "failed", "finished", "damaged"]
Lines = Literal["metrics", "sites", "segments", "faults", "submissions", "server"]
LINES: tuple[Lines, ...] = get_args(Lines)

OWN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
"""What a cell, a launch or a study may be called: one folder's name, on any file system."""


class CellFolder:
    """The record of one cell at ``path``, which need not exist yet."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.guard: Staging | None = None
        """Through which a process that trains the cell writes: nothing takes effect once it has lost the cell."""
        self._known: tuple[tuple[int, ...], dict[str, Any]] | None = None
        self._verified: dict[str, tuple[int, ...]] = {}

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def state(self) -> State:
        if (self.path / "result.json").exists():
            return "finished"
        if (self.path / "failure.json").exists():
            return "failed"
        if (self.path / "stopped.json").exists():
            return "stopped"
        return "started" if (self.path / "config.json").exists() else "missing"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoint"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    # Reading: each file is held against its form, its check and, where the cell is finished, its digest.

    def config(self) -> dict[str, Any]:
        return read_json(self.path / "config.json")

    def result(self) -> dict[str, Any] | None:
        """What the finished cell has measured; the same object each time: not to be changed."""
        path = self.path / "result.json"
        try:
            stamp = _stamp(path)
        except FileNotFoundError:
            return None
        if self._known is None or self._known[0] != stamp:
            value = forms.check(path, read_json(path), forms.RESULT)
            if value.get("id", self.id) != self.id:
                raise damaged(path, f"it is the result of {value['id']}")
            self._known = stamp, value
        return self._known[1]

    def failure(self) -> dict[str, Any] | None:
        return self._optional("failure.json", forms.FAILURE)

    def stopped(self) -> dict[str, Any] | None:
        """Of a trial that its search's scheduler stopped: step, accuracy (validation, per cent), rung (the
        step from which on this accuracy did not suffice), scheduler (its name, grace and reduction)."""
        return self._optional("stopped.json", forms.STOPPED)

    def lines(self, name: Lines) -> list[dict[str, Any]]:
        """The lines of a ``.jsonl`` file of the record, in their order."""
        path = self.path / f"{name}.jsonl"
        try:
            content = self.read(path.name)
        except FileNotFoundError:
            return []
        lines = (parse_vouched_lines if path.name in self.digests() else parse_lines)(path, content)
        if _is_cut(content, name):
            raise damaged(path, "its end is missing")
        place = str(path)  # Of a path it is slow to make, and a record has hundreds of lines.
        for number, line in enumerate(lines, 1):
            forms.check(f"{place}:{number}", line, forms.LINES[name])
        return lines

    def metrics(self) -> pd.DataFrame:
        """One row per evaluation: step, seconds, train_loss, loss, accuracy (per cent), learning_rate."""
        return pd.DataFrame(self.lines("metrics"))

    def sites(self) -> pd.DataFrame:
        """One row per attention site and evaluation: what the attention learned, one number per head."""
        return pd.DataFrame(self.lines("sites"))

    def predictions(self) -> pd.DataFrame:
        """One row per test question, scores from 0 to 1.

        question_id, image_id, question_type, answer_type ("" where the data set has none), answer, score (LXMERT's
        soft score), official (the evaluator's; NaN where the ten humans' answers are not known), top_answers,
        top_confidences. Records of older engines lack the types and ``official``.
        """
        return pd.read_parquet(io.BytesIO(self.read("predictions.parquet")))

    def examples(self) -> list[dict[str, Any]]:
        """The fixed sample of test questions that a finished cell keeps; none in records of older engines.

        question_id, image_id, split, text, words (its pieces), boxes (x0, y0, x1, y1 from 0 to 1), width, height,
        picture (a file in examples/, or ""), answers (answer -> score), top_answers, top_confidences.
        """
        path = self.path / "examples" / "questions.json"
        if "examples/questions.json" not in self.digests() and not path.exists():
            return []
        self.verify("examples/questions.json")
        return forms.check(path, read_json(path), [forms.EXAMPLE])

    def attention(self) -> dict[str, np.ndarray]:
        """Site and direction, such as ``cross.4.words-boxes`` -> weights (E, H, Q, K) of the examples, float16."""
        with np.load(io.BytesIO(self.read("examples/attention.npz"))) as arrays:
            return dict(arrays)

    def submissions(self) -> list[dict[str, Any]]:
        """Result files made for the test server: split, questions, sha256, file, written (a date)."""
        return self.lines("submissions")

    def server(self) -> dict[str, dict[str, Any]]:
        """What the test server answered: split (test-dev, test-std) -> accuracy (per cent), added (a date),
        submission (sha256 of the result file; None where it is not known). The last answer counts."""
        return {line["split"]: line for line in self.lines("server")}

    def costs(self) -> list[dict[str, Any]]:
        """What `ablate bench cost` measured of the finished cell: one measurement per device."""
        path = self.path / "cost.json"
        if not path.exists():
            return []
        try:
            return forms.check(path, read_json(path), forms.COST)["measurements"]
        except RecordError as error:
            raise RecordError(
                f"{str(error).partition(' Restore')[0]} Restore it from a copy, or move it away and measure again: "
                "ablate bench cost."
            ) from None

    def live(self) -> dict[str, Any] | None:
        """Where a cell that runs stands; None where that does not read: it is written again in seconds."""
        try:
            return self._optional("live.json", forms.LIVE)
        except RecordError:
            return None

    def told(self, tracker: str) -> int:
        """The last step that a tracker (suite.trackers) was told of; -1 before the first."""
        return (self._optional(f"told-{tracker}.json", forms.TOLD) or {"step": -1})["step"]

    def read(self, name: str) -> bytes:
        """A file of the record. Raises RecordError where a finished cell had another one, FileNotFoundError where
        there is none and never was."""
        path = self.path / name
        try:
            content = read_bytes(path)
        except FileNotFoundError:
            if name in self.digests():
                raise damaged(path, "it is missing") from None
            raise
        self._hold(name, hashlib.sha256(content).hexdigest())
        return content

    def verify(self, name: str) -> None:
        """As ``read``, for a file that is then read in parts: once in a process, while it stays as it is."""
        if name not in self.digests():
            return
        path = self.path / name
        try:
            stamp = _stamp(path)
            if self._verified.get(name) != stamp:
                self._hold(name, digest(path))
                self._verified[name] = stamp
        except FileNotFoundError:
            raise damaged(path, "it is missing") from None

    def digests(self) -> Mapping[str, str]:
        """Name -> sha256 of the files that the finished record consists of; none before, and of older engines."""
        return (self.result() or {}).get("files", {})

    def _hold(self, name: str, found: str) -> None:
        if self.digests().get(name, found) != found:
            raise damaged(self.path / name, "it is not what the finished cell had there")

    def check_links(self) -> None:
        """Raises RecordError where there is a link in the record: what it leads to is not the record's."""
        check_no_link(self.path.parent.parent, self.path)
        for folder in (self.path, self.checkpoints, self.path / "examples"):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        raise is_link(Path(entry.path))

    def _optional(self, name: str, form: forms.Form) -> dict[str, Any] | None:
        path = self.path / name
        try:
            content = read_bytes(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return forms.check(path, parse_json(path, content), form)

    # Writing

    def write_cost(self, measurement: Mapping[str, Any]) -> None:
        """Adds a measurement of a device, or puts it in the place of that device's earlier one."""
        kept = [one for one in self.costs() if one["device"] != measurement["device"]]
        self._write("cost.json", {"measurements": [*kept, measurement]}, settled=False)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Opens the record; what an earlier try that failed or was stopped left is cleared, and what a model cost
        that is trained anew."""
        self.check()
        self.path.mkdir(parents=True, exist_ok=True)
        for name in ("failure.json", "stopped.json", "cost.json"):
            remove(self.path / name, self.guard)
        self._write("config.json", config)

    def write_live(self, live: Mapping[str, Any]) -> None:
        """Where a cell that runs stands now: step, steps, questions_per_second."""
        self._write("live.json", live, settled=False)

    def forget_live(self) -> None:
        remove(self.path / "live.json", self.guard)

    def write_told(self, tracker: str, step: int) -> None:
        self._write(f"told-{tracker}.json", {"step": step}, settled=False)

    def append(self, name: Lines, lines: Iterable[Mapping[str, Any]]) -> None:
        """Adds all of ``lines``, or none where there is no room for them."""
        path, more = self.path / f"{name}.jsonl", checked_lines(lines)
        if self.guard is None and name in _BY_USERS:
            lease = Lease(self.path)
            lease.take()
            try:
                _written_anew(path, more, lease)
            finally:
                lease.release()
            return
        if self.guard is not None:
            _written_anew(path, more, self.guard)
            return
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with os.fdopen(file, "r+b", buffering=0) as opened:
            content = opened.read()
            end = content.rfind(b"\n") + 1  # A kill may have cut the last line off.
            opened.seek(end)
            try:
                opened.truncate()
                while more:
                    more = more[opened.write(more) :]
                os.fsync(file)
            except OSError:
                opened.truncate(end)  # Half a line would spoil the next one.
                raise

    def marks(self) -> dict[str, dict[str, Any]]:
        """How far the lines have come, for a checkpoint: name -> bytes, and the sha256 of these."""
        marks = {}
        for name in _RESUMED:
            path = self.path / f"{name}.jsonl"
            content = read_bytes(path) if path.exists() else b""
            marks[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        return marks

    def cut_back(self, step: int, marks: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Forget every line after ``step``: the cell resumes from the checkpoint of that step, which has ``marks``.

        Segments say where the run was, and all stay; what a kill left of a line goes from every file. Raises
        RecordError where the lines up to the checkpoint are not those that it was saved with.
        """
        self.check()
        for name in _RESUMED:
            path = self.path / f"{name}.jsonl"
            content = read_bytes(path) if path.exists() else b""
            mark = (marks or {}).get(name)
            before = content[: mark["bytes"]] if mark else b""
            if mark and hashlib.sha256(before).hexdigest() != mark["sha256"]:
                raise damaged(path, f"its lines are not those that the checkpoint of step {step} was saved with")
            if name == "segments" or (not mark and step >= 0):
                kept = [line for line in parse_lines(path, content) if name == "segments" or line["step"] <= step]
                before = checked_lines(kept)
            if before != content or not path.exists():
                write_bytes(path, before, settled=True, staging=self.guard)

    def open_log(self) -> IO[str]:
        """The cell's log, to write at its end. What a process writes that has lost the cell is in no record."""
        check_no_link(self.path, self.log)
        with replacing(self.log, staging=self.guard) as temporary:
            if self.log.exists():
                shutil.copyfile(self.log, temporary)
            return temporary.open("a", encoding="utf-8", errors="backslashreplace")

    def write_predictions(self, table: pd.DataFrame) -> None:
        with replacing(self.path / "predictions.parquet", settled=True, staging=self.guard) as temporary:
            table.to_parquet(temporary, index=False, write_page_checksum=True)

    def write_examples(
        self,
        questions: Sequence[Mapping[str, Any]],
        attention: Mapping[str, np.ndarray],
        pictures: Mapping[str, bytes],
    ) -> None:
        """Keeps what ``examples`` and ``attention`` read, and files of pictures by name; the questions last."""
        self.check()
        folder = self.path / "examples"
        check_no_link(self.path, folder)
        folder.mkdir(exist_ok=True)
        for name, content in pictures.items():
            write_bytes(folder / name, content, settled=True, staging=self.guard)
        place = folder / "attention.npz"
        with replacing(place, settled=True, staging=self.guard) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **attention)  # pyright: ignore[reportArgumentType]: its names are arrays.
        write_json(folder / "questions.json", questions, settled=True, staging=self.guard)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Closes the record: with the digests of all that it consists of, after a last look at each line of it."""
        for name in _RESUMED:
            self.lines(name)
        files = {path.relative_to(self.path).as_posix(): digest(path) for path in self._parts()}
        self._write("result.json", {**result, "id": self.id, "files": files})

    def _parts(self) -> Iterator[Path]:
        for name in ("config.json", *(f"{name}.jsonl" for name in _RESUMED), "predictions.parquet"):
            if (self.path / name).exists():
                yield self.path / name
        yield from sorted(path for path in self.path.glob("examples/*") if not path.name.startswith("."))
        yield from sorted(self.path.glob("checkpoint/step-*/manifest.json"))

    def write_failure(self, failure: Mapping[str, Any]) -> None:
        self._write("failure.json", failure)

    def write_stopped(self, stopped: Mapping[str, Any]) -> None:
        self._write("stopped.json", stopped)

    def _write(self, name: str, value: Mapping[str, Any], settled: bool = True) -> None:
        write_document(self.path / name, value, settled, self.guard)

    def forget_stop(self) -> None:
        """The cell may go on: the study no longer has the scheduler that stopped it."""
        remove(self.path / "stopped.json", self.guard)

    def clear(self) -> None:
        """Forgets all but who runs the cell."""
        self.check()
        for path in list(self.path.iterdir()):
            if path.name != "lease":
                remove(path, self.guard)

    def tidy(self) -> None:
        """Removes what processes that were killed have left beside a finished record, and nothing of anybody's."""
        result = self.result()
        if result is None or not any(self._left(result["steps"])):
            return
        with held(self.path) as lease:
            if lease is None:  # Whoever has it tidies.
                return
            for path in self._left(result["steps"]):
                if path.name != "lease":  # Who takes it has swept it.
                    remove(path, lease)

    def _left(self, steps: int) -> Iterator[Path]:
        for folder in (self.path, self.path / "examples", self.checkpoints):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                names = os.listdir(folder)
                yield from (folder / name for name in names if is_left(folder / name) or _OLD_LEFT.fullmatch(name))
        for name in ("live.json", ".train", "lease"):
            if (self.path / name).exists():
                yield self.path / name
        if (self.checkpoints / f"step-{steps:08d}").exists():
            for path in self.checkpoints.iterdir():
                if _STEP.fullmatch(path.name) and int(path.name[5:]) < steps:
                    yield path

    def set_aside(self, where: Literal["stale", "damaged"] = "stale") -> Path:
        """Out of the study's way, into a folder beside its cells; nothing is lost. Returns where it is now.

        Raises UserError where a process runs the cell.
        """
        with held(self.path) as lease:
            if lease is None:
                raise UserError(f"{self.id} runs: it cannot be set aside now. Wait for it, or drain its launch.")
            target = self.path.parent / where / self.id
            check_no_link(self.path.parent, target)
            target.parent.mkdir(exist_ok=True)
            number = 1
            while target.exists():
                number += 1
                target = target.with_name(f"{self.id}.{number}")
            os.replace(self.path, target)
        shutil.rmtree(target / "lease", ignore_errors=True)
        return target

    def check(self) -> None:
        """Raises where the cell is not this process's to write to."""
        if self.guard is not None:
            self.guard.check()


_RESUMED: tuple[Lines, ...] = ("metrics", "sites", "segments")
"""What grows while a cell trains, and goes back to its checkpoint."""
_BY_USERS: tuple[Lines, ...] = ("submissions", "server")
"""What commands add to a finished record."""
_STEP = re.compile(r"step-\d{8}")
_OLD_LEFT = re.compile(r"\.(?:[a-z][a-z-]*\.(?:json|jsonl|parquet|npz|png|jpg)|step-\d{8})\.\d+|\.probe")
"""Temporary names of older engines."""


class StudyFolder:
    """The folder ``runs/<study>`` with ``study.json`` and one folder per cell."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def study(self) -> dict[str, Any]:
        """``study.json``: name, question, floors and the cells (id, role, configuration) of the last launch.

        Raises RecordError where the study was never launched, or the file is not one that a launch wrote.
        """
        path = self.path / "study.json"
        self.check_launched()
        study = forms.check(path, read_json(path), forms.STUDY)
        ids = [entry["id"] for entry in study["cells"]]
        for one in ids:
            if not OWN_NAME.fullmatch(one):
                raise damaged(
                    path, f"{one[:80]!r} is no cell's id: expected letters, digits, '.', '_', '-' and '+'"
                )
        if len(set(ids)) < len(ids):
            raise damaged(path, f"it has the cell {next(one for one in ids if ids.count(one) > 1)} twice")
        for entry in study["cells"]:
            if entry["start"] is not None and entry["start"] not in ids:
                raise damaged(path, f"{entry['id']} starts from {entry['start'][:80]!r}, which it does not have")
        return study

    def check_launched(self) -> None:
        """Raises RecordError where the study was never launched."""
        self.check_links()
        if not (path := self.path / "study.json").exists():
            raise RecordError(f"No study at {self.path}: expected {path}. Run `ablate run` first, or give --runs.")

    def write_study(self, study: Mapping[str, Any]) -> None:
        self.check_links()
        self.path.mkdir(parents=True, exist_ok=True)
        write_document(self.path / "study.json", study, settled=True)

    def check_links(self) -> None:
        """Raises RecordError where the study's folder, or one that the suite writes in it, is a link."""
        check_no_link(self.path.parent, self.path)
        for name in ("study.json", "drain", "plugins", "report", "stale", "damaged"):
            check_no_link(self.path, self.path / name)

    def sweep(self) -> None:
        """Removes what processes that were killed have left in the study's own folders."""
        for folder in (self.path, *self.path.glob("plugins/*")):
            if not folder.is_symlink():
                sweep(folder)

    def cell(self, cell_id: str) -> CellFolder:
        return CellFolder(self.path / cell_id)


def load_cells(path: Path | str, study: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """One row per cell of the study at ``path``, in the study's order; missing and failed ones included.

    ``study`` is its ``study.json``, for who has read it already.

    Columns: id, role (row, start, floor or trial), state, stale, variant, arguments (dict), layers (tuple), seed,
    dataset, steps (0 where a cell is evaluated only), batch_size, start (id or None), cell (the whole
    configuration), accuracy (dict: split -> per cent), macs, macs_reference, uncounted_operators (dict),
    parameters, seconds, failure (message or None, of a failed or damaged cell), record (CellFolder). What a cell
    does not have yet is None. A record that does not read is ``damaged``, and the others are there.
    """
    folder = StudyFolder(path)
    study = folder.study() if study is None else study
    stale: set[str] = set()
    rows = []
    for entry in study["cells"]:
        record, cell = folder.cell(entry["id"]), entry["cell"]
        result = failure = None
        try:
            state = record.state
            record.check_links()
            result = record.result()
            if state == "failed":
                failure = (record.failure() or {"message": None})["message"]
            engine = _engine_of(record, entry, state)
            if state in ("finished", "stopped") and engine != study["engine"]:
                stale.add(entry["id"])
        except RecordError as error:
            state, result, failure = "damaged", None, str(error)
        if entry["start"] in stale:
            stale.add(entry["id"])
        rows.append(
            {
                "id": entry["id"],
                "role": entry["role"],
                "state": state,
                "stale": entry["id"] in stale,
                "variant": cell["variant"],
                "arguments": cell["arguments"],
                "layers": tuple(cell["layers"]),
                "seed": cell["seed"],
                "dataset": cell["dataset"],
                "steps": 0 if cell.get("keep") else cell["protocol"]["steps"],
                "batch_size": cell["protocol"]["batch_size"],
                "start": entry["start"],
                "cell": cell,
                "failure": failure,
                "record": record,
                **{name: result[name] if result else None for name in _RESULT_COLUMNS},
            }
        )
    # As objects: pandas would turn the None of a cell that has no number yet into NaN.
    return pd.DataFrame(rows, dtype=object)


def _engine_of(record: CellFolder, entry: Mapping[str, Any], state: State) -> str | None:
    """The engine that made the record of a cell; None where it has no configuration yet.

    Raises RecordError where the record is of another cell than the study's ``entry`` says.
    """
    path = record.path / "config.json"
    config = record._optional("config.json", forms.CONFIG)
    if config is None:
        if state in ("finished", "stopped"):
            raise damaged(path, "it is missing")
        return None
    if config.get("id", entry["id"]) != entry["id"]:
        raise damaged(path, f"it is the configuration of {config['id']}")
    if "cell" in config and (name := _unlike(config["cell"], entry["cell"])):
        raise damaged(path, f"its {name} is not that of the cell in study.json")
    engine = config.get("code", {}).get("engine")
    if engine is None and state in ("finished", "stopped"):
        raise damaged(path, "it does not name the engine that made the record")
    return engine


def _unlike(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """A field that both cells have, with different values; weights from outside may lie elsewhere."""
    for name in one.keys() & other.keys() - {"pretrained"}:
        ours, theirs = one[name], other[name]
        if isinstance(ours, dict) and isinstance(theirs, dict):
            if inside := _unlike(ours, theirs):
                return f"{name}.{inside}"
        elif ours != theirs:
            return name
    return ""


def _written_anew(path: Path, more: bytes, staging: Staging) -> None:
    """Adds whole lines to a file, which is written anew: one that is open stays so where another has taken over."""
    before = read_bytes(path) if path.exists() else b""
    write_bytes(path, before[: before.rfind(b"\n") + 1] + more, settled=True, staging=staging)


def _is_cut(content: bytes, name: Lines) -> bool:
    """Whether lines that are always written whole end before their end; older engines' may, by a kill."""
    if name in _BY_USERS and not content:
        return True
    whole = content.endswith(b"\n") or not content
    return not whole and (name in _BY_USERS or (name in _RESUMED and b'"check"' in content))


def _stamp(path: Path) -> tuple[int, ...]:
    """What tells a file from one that is written in its place later."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


_RESULT_COLUMNS = ("accuracy", "macs", "macs_reference", "uncounted_operators", "parameters", "seconds")


def depth_text(layers: Sequence[int], keep: Sequence[Sequence[int]] | None) -> str:
    """Layers of a cell for a reader, such as ``10-6-6``.

    With ``keep`` (``Cell.keep``) also how many run, and which do not, from 0: ``10-6-6 at 9-5-4 without 9/5/4,5``.
    """
    text = "-".join(map(str, layers))
    if keep is None:
        return text
    left_out = [
        ",".join(str(index) for index in range(count) if index not in kept)
        for count, kept in zip(layers, keep, strict=True)
    ]
    running = "-".join(str(len(kept)) for kept in keep)
    without = "/".join(one or "-" for one in left_out)
    return f"{text} at {running}" + (f" without {without}" if any(left_out) else "")
