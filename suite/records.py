"""A cell's folder: everything a run leaves behind, in files that a stranger can read with pandas.

State is what exists: ``config.json`` is written first, ``result.json`` last, so a folder with a result is
complete and one without can be continued. Whole files are written under a temporary name and renamed;
``.jsonl`` files are appended to, and cut back to the checkpoint's step when a cell resumes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from suite.errors import UserError

State = Literal["missing", "started", "stopped", "failed", "finished"]


class RecordError(UserError):
    """A record that cannot be read: names the file and what to do."""


class CellFolder:
    """The record of one cell at ``path``, which need not exist yet."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.guard: Callable[[], None] | None = None
        """Called before anything is written; raises where the cell is not this process's to write to."""

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

    def config(self) -> dict[str, Any]:
        return read_json(self.path / "config.json")

    def result(self) -> dict[str, Any] | None:
        return self._optional("result.json")

    def failure(self) -> dict[str, Any] | None:
        return self._optional("failure.json")

    def stopped(self) -> dict[str, Any] | None:
        """Of a trial that its search's scheduler stopped: step, accuracy (validation, per cent), rung (the
        step from which on this accuracy did not suffice), scheduler (its name, grace and reduction)."""
        return self._optional("stopped.json")

    def metrics(self) -> pd.DataFrame:
        """One row per evaluation: step, seconds, train_loss, loss, accuracy (per cent), learning_rate."""
        return pd.DataFrame(read_lines(self.path / "metrics.jsonl"))

    def sites(self) -> pd.DataFrame:
        """One row per attention site and evaluation: what the attention learned, one number per head."""
        return pd.DataFrame(read_lines(self.path / "sites.jsonl"))

    def predictions(self) -> pd.DataFrame:
        """One row per test question, scores from 0 to 1.

        question_id, image_id, question_type, answer_type ("" where the data set has none), answer, score (LXMERT's
        soft score), official (the evaluator's; NaN where the ten humans' answers are not known), top_answers,
        top_confidences. Records of older engines lack the types and ``official``.
        """
        return pd.read_parquet(self.path / "predictions.parquet")

    def examples(self) -> list[dict[str, Any]]:
        """The fixed sample of test questions that a finished cell keeps; none in records of older engines.

        question_id, image_id, split, text, words (its pieces), boxes (x0, y0, x1, y1 from 0 to 1), width, height,
        picture (a file in examples/, or ""), answers (answer -> score), top_answers, top_confidences.
        """
        path = self.path / "examples" / "questions.json"
        return read_json(path) if path.exists() else []

    def attention(self) -> dict[str, np.ndarray]:
        """Site and direction, such as ``cross.4.words-boxes`` -> weights (E, H, Q, K) of the examples, float16."""
        path = self.path / "examples" / "attention.npz"
        with path.open("rb") as file, np.load(file) as arrays:
            return dict(arrays)

    def submissions(self) -> list[dict[str, Any]]:
        """Result files made for the test server: split, questions, sha256, file, written (a date)."""
        return read_lines(self.path / "submissions.jsonl")

    def server(self) -> dict[str, dict[str, Any]]:
        """What the test server answered: split (test-dev, test-std) -> accuracy (per cent), added (a date),
        submission (sha256 of the result file; None where it is not known). The last answer counts."""
        return {line["split"]: line for line in read_lines(self.path / "server.jsonl")}

    def costs(self) -> list[dict[str, Any]]:
        """What `ablate bench cost` measured of the finished cell: one measurement per device."""
        path = self.path / "cost.json"
        if not path.exists():
            return []
        try:
            measured = read_json(path)["measurements"]
        except (RecordError, KeyError, TypeError):
            measured = None
        if not isinstance(measured, list) or not all(isinstance(one, dict) and "device" in one for one in measured):
            raise RecordError(
                f"{path} has no list of measurements. Delete that file, and measure again: ablate bench cost."
            )
        return measured

    def write_cost(self, measurement: Mapping[str, Any]) -> None:
        """Adds a measurement of a device, or puts it in the place of that device's earlier one."""
        kept = [one for one in self.costs() if one["device"] != measurement["device"]]
        write_json(self.path / "cost.json", {"measurements": [*kept, measurement]})

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Opens the record; what an earlier try that failed or was stopped left is cleared, and what a model cost
        that is trained anew."""
        self.check()
        self.path.mkdir(parents=True, exist_ok=True)
        for name in ("failure.json", "stopped.json", "cost.json"):
            (self.path / name).unlink(missing_ok=True)
        write_json(self.path / "config.json", config, settled=True)

    def write_live(self, live: Mapping[str, Any]) -> None:
        """Where a cell that runs stands now: step, steps, questions_per_second."""
        write_json(self.path / "live.json", live)

    def live(self) -> dict[str, Any] | None:
        return self._optional("live.json")

    def told(self, tracker: str) -> int:
        """The last step that a tracker (suite.trackers) was told of; -1 before the first."""
        return (self._optional(f"told-{tracker}.json") or {"step": -1})["step"]

    def write_told(self, tracker: str, step: int) -> None:
        write_json(self.path / f"told-{tracker}.json", {"step": step})

    def append(
        self,
        name: Literal["metrics", "sites", "segments", "faults", "submissions", "server"],
        lines: Iterable[Mapping[str, Any]],
    ) -> None:
        """Adds all of ``lines``, or none where there is no room for them."""
        self.check()
        with (self.path / f"{name}.jsonl").open("ab", buffering=0) as file:
            before, left = file.tell(), "".join(_dumps(line) + "\n" for line in lines).encode()
            try:
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())  # A checkpoint that follows goes on after these lines.
            except OSError:
                file.truncate(before)  # Half a line would spoil the next one.
                raise

    def cut_back(self, step: int) -> None:
        """Forget every line after ``step``: the cell resumes from the checkpoint of that step.

        Segments say where the run was, and all stay; what a kill left of a line goes from every file.
        """
        self.check()
        for name in ("metrics", "sites", "segments"):
            path = self.path / f"{name}.jsonl"
            kept = [line for line in read_lines(path) if name == "segments" or line["step"] <= step]
            write_text(path, "".join(_dumps(line) + "\n" for line in kept), settled=True)

    def write_predictions(self, table: pd.DataFrame) -> None:
        self.check()
        path = self.path / "predictions.parquet"
        with _temporary(path, settled=True) as temporary:
            table.to_parquet(temporary, index=False)

    def write_examples(
        self,
        questions: Sequence[Mapping[str, Any]],
        attention: Mapping[str, np.ndarray],
        pictures: Mapping[str, bytes],
    ) -> None:
        """Keeps what ``examples`` and ``attention`` read, and files of pictures by name; the questions last."""
        self.check()
        folder = self.path / "examples"
        folder.mkdir(exist_ok=True)
        for name, content in pictures.items():
            write_bytes(folder / name, content, settled=True)
        with _temporary(folder / "attention.npz", settled=True) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **attention)  # pyright: ignore[reportArgumentType]: its names are arrays.
        write_json(folder / "questions.json", questions, settled=True)

    def write_result(self, result: Mapping[str, Any]) -> None:
        self.check()
        write_json(self.path / "result.json", result, settled=True)

    def write_failure(self, failure: Mapping[str, Any]) -> None:
        self.check()
        write_json(self.path / "failure.json", failure, settled=True)

    def write_stopped(self, stopped: Mapping[str, Any]) -> None:
        self.check()
        write_json(self.path / "stopped.json", stopped, settled=True)

    def forget_stop(self) -> None:
        """The cell may go on: the study no longer has the scheduler that stopped it."""
        (self.path / "stopped.json").unlink(missing_ok=True)

    def clear(self) -> None:
        """Forgets all but who runs the cell."""
        self.check()
        for path in self.path.iterdir():
            if path.is_file():
                path.unlink()
            elif path.name != "lease":
                shutil.rmtree(path)

    def remove(self) -> None:
        shutil.rmtree(self.path)

    def tidy(self) -> None:
        """Removes what a process that was killed left beside a finished record."""
        for path in (*self.path.glob(".*"), *self.path.glob("examples/.*"), self.path / "live.json"):
            # A folder is somebody else's; what a network file system keeps for who has it open goes by itself.
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        for path in (
            *self.checkpoints.glob(".*"),
            *sorted(self.checkpoints.glob("step-*"))[:-1],
            self.path / "lease",
        ):
            shutil.rmtree(path, ignore_errors=True)

    def set_aside(self) -> None:
        """Out of the study's way, under the name of the engine that made it; nothing is lost."""
        target = self.path.parent / "stale" / f"{self.id}-{self.config()['code']['engine']}"
        target.parent.mkdir(exist_ok=True)
        if target.exists():
            shutil.rmtree(target)
        os.replace(self.path, target)

    def check(self) -> None:
        """Raises where the cell is not this process's to write to."""
        if self.guard is not None:
            self.guard()

    def _optional(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        try:
            return read_json(path) if path.exists() else None
        except RecordError:
            if path.exists():
                raise
            return None  # It went between the two looks, as live.json does when its cell ends.


class StudyFolder:
    """The folder ``runs/<study>`` with ``study.json`` and one folder per cell."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def study(self) -> dict[str, Any]:
        """``study.json``: name, question, floors and the cells (id, role, configuration) of the last launch.

        Raises RecordError where the study was never launched.
        """
        path = self.path / "study.json"
        if not path.exists():
            raise RecordError(f"No study at {self.path}: expected {path}. Run `ablate run` first, or give --runs.")
        return read_json(path)

    def write_study(self, study: Mapping[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "study.json", study, settled=True)

    def cell(self, cell_id: str) -> CellFolder:
        return CellFolder(self.path / cell_id)


def load_cells(path: Path | str) -> pd.DataFrame:
    """One row per cell of the study at ``path``, in the study's order; missing and failed ones included.

    Columns: id, role (row, start, floor or trial), state, stale, variant, arguments (dict), layers (tuple), seed,
    dataset, steps (0 where a cell is evaluated only), batch_size, start (id or None), cell (the whole
    configuration), accuracy (dict: split -> per cent), macs, macs_reference, uncounted_operators (dict),
    parameters, seconds, failure (message or None), folder. What a cell does not have yet is None.
    """
    folder = StudyFolder(path)
    study = folder.study()
    stale: set[str] = set()
    rows = []
    for entry in study["cells"]:
        record = folder.cell(entry["id"])
        cell, result, failure, state = entry["cell"], record.result(), record.failure(), record.state
        if state in ("finished", "stopped") and record.config()["code"]["engine"] != study["engine"]:
            stale.add(entry["id"])
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
                "failure": failure["message"] if failure else None,
                "folder": record.path,
                **{name: result[name] if result else None for name in _RESULT_COLUMNS},
            }
        )
    # As objects: pandas would turn the None of a cell that has no number yet into NaN.
    return pd.DataFrame(rows, dtype=object)


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


def write_json(path: Path, value: Any, settled: bool = False) -> None:
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n", settled)


def write_text(path: Path, text: str, settled: bool = False) -> None:
    write_bytes(path, text.encode(), settled)


def write_bytes(path: Path, content: bytes, settled: bool = False) -> None:
    """Writes under a temporary name and renames, so that no reader sees half a file.

    ``settled``: nor does a reader after a power cut, for which the disk is waited for.
    """
    with _temporary(path, settled) as temporary:
        temporary.write_bytes(content)


@contextmanager
def _temporary(path: Path, settled: bool) -> Iterator[Path]:
    """Another name for ``path`` to write to, which becomes it at the end; nothing is left where that fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        if settled:
            settle(temporary)
        os.replace(temporary, path)
    except BaseException:
        # On a disk that is full it would take what others wait for.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def settle(path: Path) -> None:
    """Returns once the disk has what was written to the file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{path} is missing: the record is incomplete. Run the study again.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} is not JSON ({error}). Delete that cell's folder and run again.") from None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``.jsonl`` file; none where there is no file.

    A last line without its end is one that is being written, or that a kill cut off: it is left out.
    """
    if not path.exists():
        return []
    *texts, _ = path.read_bytes().split(b"\n")
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            lines.append(json.loads(text))
        except ValueError as error:  # Of JSON, or of its encoding.
            raise RecordError(
                f"{path}:{number} is not JSON ({error}). Delete that cell's folder and run again."
            ) from None
    return lines


def _dumps(value: Any) -> str:
    return json.dumps(value, allow_nan=False)
