"""The cells of a study as reports need them, read from their records once for a whole build, each file verified."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from reports.text import shortened
from suite import forms
from suite.errors import UserError
from suite.files import damaged, digest
from suite.forms import Named, Some
from suite.records import LINES, CellFolder, RecordError, State, StudyFolder, load_cells

ROUNDING = 0.005 + 1e-9
"""Points by which two accounts of one accuracy may differ: sums in other orders and precisions, and the official
evaluator's two decimals."""
TOLD = 20
"""Damaged files that a message names."""
LONGEST = 2000
"""Characters of a failure's message that a report has room for."""
MEASURED = ("cost.json", "segments.jsonl", "faults.jsonl", "log.txt")
"""The files of a cell that no second run repeats."""
FILES = (
    *("config.json", "result.json", "failure.json", "stopped.json"),
    *("metrics.jsonl", "sites.jsonl", "predictions.parquet", "submissions.jsonl", "server.jsonl"),
    *MEASURED,
)
"""Those of a cell that reports read, beside its examples."""


CELL: dict[str, Any] = {
    "variant": str,
    "arguments": dict,
    "layers": [int],
    "seed": int,
    "protocol": {"steps": int, "batch_size": int},
    "model": {"width": int, "heads": int},
    "pictures": str,
}
CELL["start"] = Some(CELL)
STUDY = {
    "dataset": {"splits": Named({"questions": int})},
    "cells": [{"cell": CELL}],
    "searches?": [{"steps": int, "scheduler": {"name": str}}],
}
"""What reports need of study.json beside what every command does."""


@dataclass(frozen=True)
class CellRecord:
    """One cell as reports need it."""

    id: str
    role: str
    state: State
    stale: bool
    configuration: Mapping[str, Any]
    failure: str | None
    result: Mapping[str, Any] | None
    record: CellFolder = field(compare=False)
    """What its files are read through, so that none is read that is not what was written."""
    start: str | None
    """Id of the cell that it starts from."""
    server: Mapping[str, Mapping[str, Any]]
    """What the test server answered (CellFolder.server) for a finished cell."""

    @property
    def folder(self) -> Path:
        return self.record.path

    @functools.cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """Its evaluations, as metrics.jsonl has them."""
        return self.record.lines("metrics")

    @property
    def keep(self) -> list[list[int]] | None:
        """The layers of each stack with which a trained cell, its start, is evaluated; None where it is trained."""
        return self.configuration.get("keep")

    @property
    def accuracy(self) -> float:
        """Test accuracy in per cent of a finished cell."""
        assert self.result is not None
        return float(self.result["accuracy"][self.configuration["test"]])

    @property
    def official(self) -> float | None:
        """Official accuracy of the test split in per cent; None where the humans' answers are not known."""
        return ((self.result or {}).get("official") or {}).get(self.configuration["test"])


Group: TypeAlias = tuple[CellRecord, ...]
"""Cells that differ in nothing but their seeds."""
Pair: TypeAlias = tuple[CellRecord, CellRecord]
"""Two finished cells of equal seeds: the second is subtracted."""


@dataclass(frozen=True)
class Records:
    """All that one build reads of a study: study.json and the cells are read once, and the same to the end."""

    folder: Path
    study: Mapping[str, Any]
    cells: tuple[CellRecord, ...]
    """Every cell of the study, rows or not, in the study's order."""
    digests: Mapping[str, str]
    """Name -> sha256 of study.json and of each file of the cells, before anything was read of it."""

    def same(self) -> bool:
        """Whether study.json is still the one that was read."""
        try:
            return digest(self.folder / "study.json") == self.digests["study.json"]
        except FileNotFoundError:
            return False


def read_records(study_folder: Path | str) -> Records:
    """The study at ``study_folder``, with every file of its cells held against what was written.

    Raises RecordError that names each damaged file.
    """
    folder = StudyFolder(study_folder)
    study, digests = _study(folder)
    cells, wrong = [], []
    for plain in load_cells(folder.path, study).to_dict("records"):
        record = plain["record"]
        if plain["state"] == "damaged":
            wrong.append(plain["failure"])
            continue
        with told_of(record.path):
            found, told = _files(record)
            digests |= {f"{plain['id']}/{name}": one for name, one in found.items()}
            told += _lines(record, plain["state"] == "finished")
            wrong += told
            if not told:
                try:
                    cells.append(_cell(plain, record))
                except RecordError as error:
                    wrong.append(str(error))
    if wrong:
        raise _all_of(folder.path, wrong)
    return Records(folder.path, study, tuple(cells), digests)


def _study(folder: StudyFolder) -> tuple[dict[str, Any], dict[str, str]]:
    """study.json, and the digest of the file that it was read from: another launch may write it meanwhile."""
    path = folder.path / "study.json"
    while True:
        before = digest(path) if path.exists() else ""
        study = folder.study()
        if digest(path) == before:
            break
    forms.check(path, study, STUDY)
    ids = {entry["id"] for entry in study["cells"]}
    for entry in study["cells"]:
        if (split := entry["cell"]["test"]) not in study["dataset"]["splits"]:
            raise damaged(path, f"{entry['id']} is tested on {split[:80]!r}, which is no split of the data set")
    for pair in study.get("comparisons", ()):
        for one in (pair["base"], pair["changed"]):
            if one not in ids:
                raise damaged(path, f"it compares {one[:80]!r}, which it does not have")
    return study, {path.name: before}


def _files(record: CellFolder) -> tuple[dict[str, str], list[str]]:
    """Name -> sha256 of every file of the record that a report may read, and what is wrong with them."""
    found, wrong, recorded = {}, [], record.digests()
    # Records are copied without their models, which no report reads.
    names = [name for name in recorded if not name.startswith("checkpoint/") or (record.path / name).exists()]
    for name in dict.fromkeys((*FILES, *_examples(record.path), *names)):
        path = record.path / name
        try:
            if name in recorded:
                record.verify(name)
                found[name] = recorded[name]
            elif not stat.S_ISREG(path.lstat().st_mode):
                raise RecordError(f"{path} is expected to be a file, and is none. Move it away.")
            else:
                found[name] = digest(path)
        except FileNotFoundError:
            continue
        except RecordError as error:
            wrong.append(str(error))
    return found, wrong


def _examples(folder: Path) -> list[str]:
    """Names of what is in ``examples``, but for files that are being written."""
    try:
        return sorted(f"examples/{name}" for name in os.listdir(folder / "examples") if name[:1] != ".")
    except (FileNotFoundError, NotADirectoryError):
        return []


def _lines(record: CellFolder, finished: bool) -> list[str]:
    """What is wrong with the lines for which no result vouches."""
    wrong = []
    for name in LINES:
        if not finished or name in ("faults", "submissions", "server"):
            try:
                record.lines(name)
            except RecordError as error:
                wrong.append(str(error))
    return wrong


def _cell(plain: Mapping[str, Any], record: CellFolder) -> CellRecord:
    finished = plain["state"] == "finished"
    failure = (record.failure() or {}).get("message") if plain["state"] == "failed" else None
    cell = CellRecord(
        id=plain["id"],
        role=plain["role"],
        state=plain["state"],
        stale=bool(plain["stale"]),
        configuration=plain["cell"],
        failure=None if failure is None else shortened(failure, LONGEST),
        result=record.result() if finished else None,
        record=record,
        start=plain["start"],
        server=record.server() if finished else {},
    )
    if finished:
        _check_result(cell)
    return cell


def _check_result(cell: CellRecord) -> None:
    """Raises RecordError where the result is not that of the cell's own splits and last evaluation."""
    path, split = cell.folder / "result.json", cell.configuration["validation"]
    if cell.result is None:
        raise damaged(path, "it is missing")
    for wanted in (split, cell.configuration["test"]):
        if wanted not in cell.result["accuracy"]:
            known = ", ".join(cell.result["accuracy"])[:80] or "none"
            raise damaged(path, f"it has no accuracy for the split '{wanted}', only: {known}")
    if not cell.metrics:
        return  # Copied without its curves, which are then not drawn.
    last = cell.metrics[-1]
    if last["step"] != cell.result["steps"]:
        raise damaged(
            path, f"it is of step {cell.result['steps']:,}, and metrics.jsonl ends with step {last['step']:,}"
        )
    one, other = cell.result["accuracy"][split], last.get("accuracy")
    # Where a split is both, its accuracy is that of the test.
    if split != cell.configuration["test"] and other is not None and not abs(one - other) <= ROUNDING:
        raise damaged(
            path, f"its accuracy on {split} is {one:.4f} %, and the last one of metrics.jsonl {other:.4f} %"
        )


def _all_of(folder: Path, wrong: Sequence[str]) -> RecordError:
    """One error for all that is damaged, with the advice once."""
    if len(wrong) == 1:
        return RecordError(wrong[0])
    told = [one.partition(" Restore it from a copy")[0] for one in wrong[:TOLD]]
    more = f"\nand {len(wrong) - TOLD:,} more" if len(wrong) > TOLD else ""
    lines = "".join(f"\n{one}" for one in told)
    return RecordError(
        f"{len(wrong):,} files of the records in {folder} are damaged, of which no report can be made.{lines}{more}"
        "\nRestore them from a copy, or have their cells set aside and trained again: "
        "`ablate run STUDY --rerun-damaged`."
    )


@contextmanager
def told_of(path: Path) -> Iterator[None]:
    """Raises RecordError that names ``path`` for whatever its record holds that nobody foresaw.

    What the system answers, and what says already what is wrong, passes as it is.
    """
    try:
        yield
    except (UserError, OSError, MemoryError) as error:
        # A library says of damage that it is an OSError too, but without the system's number.
        if isinstance(error, OSError) and error.errno is None:
            raise damaged(path, few_words(error)) from error
        raise
    except Exception as error:
        raise damaged(path, few_words(error)) from error


def few_words(error: BaseException) -> str:
    """The first line of what an exception says, with its kind."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"


def is_per_head(value: Any) -> bool:
    """Whether a column of sites.jsonl has a number per head."""
    return isinstance(value, list) and all(isinstance(one, int | float) for one in value)
