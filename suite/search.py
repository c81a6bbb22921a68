"""A study's searches: which trials there are, and what they have found. Imports no ray.

Equality: which trials there are depends on the study alone. A random search gives the same winner, to the bit, on
any machine on which cells are equal to the bit, however often it was interrupted. Under asha the trials are the
same, but which of them are stopped may depend on the order in which they run: a trial is held against those that
have come as far before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from suite.config import Cell, Scalar, Search, Study
from suite.errors import UserError
from suite.plan import Job, plan, resolve, selected, write_study
from suite.records import CellFolder, RecordError, StudyFolder

DRAWS = 1000
"""Times as many draws as trials, after which a space has no more values that are new."""


@dataclass(frozen=True)
class Found:
    """A search, and what its trials have come to so far."""

    search: Search
    trials: tuple[str, ...]
    """Ids, in the order in which they were drawn."""
    complete: bool
    """No trial is left to run."""
    winner: str | None
    """The trial with the best validation accuracy, the lowest id of equal ones; None where none is known yet, or
    no trial finished."""
    arguments: Mapping[str, Scalar]
    """What the space gave the winner."""
    accuracy: float | None
    """The winner's, validation, per cent."""
    cells: tuple[str, ...] = ()
    """Ids of the rows that train the winner's arguments again."""


def trial_cells(search: Search) -> list[Cell]:
    """The cells of all trials, no two of equal arguments. More trials keep those that there were.

    Raises UserError where the space has fewer values.
    """
    cells: dict[tuple[Scalar, ...], Cell] = {}
    shares = _shares(search.seed)
    for _ in range(DRAWS * search.trials):
        drawn = {name: search.space[name].at(next(shares)) for name in sorted(search.space)}
        if tuple(drawn.values()) not in cells:
            arguments = {**search.cell.arguments, **drawn}
            cells[tuple(drawn.values())] = dataclasses.replace(search.cell, arguments=arguments, seed=search.seed)
        if len(cells) == search.trials:
            return list(cells.values())
    raise UserError(
        f"The search of {search.cell.variant} expects a space of at least {search.trials} different values, one "
        f"for each trial; received one of {len(cells)}. Lower its trials or widen its space."
    )


def _shares(seed: int) -> Iterator[float]:
    """Numbers from 0 to below 1."""
    # Bits, not a Generator: what that draws from them may change between versions of numpy.
    bits = np.random.PCG64(seed)
    while True:
        yield (int(bits.random_raw()) >> 11) / (1 << 53)


class Planned:
    """The cells of a study that are known so far; the rows of a search's winner are once its trials have ended.

    ``variants`` selects as ``suite.plan.selected`` does. Raises what ``suite.plan.plan`` raises.
    """

    def __init__(
        self,
        study: Study,
        data: Path,
        folder: StudyFolder,
        variants: Sequence[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.study, self.data, self.folder, self.variants = study, data, folder, variants
        self.jobs, self.searches = self._look(progress)

    @property
    def chosen(self) -> list[Job]:
        return selected(self.jobs, self.variants)

    @property
    def missing(self) -> list[Job]:
        """What is left to run."""
        return [job for job in self.chosen if not done(job, self.folder, self.searches)]

    def write(self) -> None:
        """``study.json``. Raises what ``suite.plan.write_study`` raises."""
        searches = [to_study_json(one) for one in self.searches]
        write_study(self.folder, self.study, self.jobs, self.data, searches)

    def look_again(self) -> None:
        """Reads the records anew, and writes ``study.json``."""
        before = self.jobs, self.searches
        self.jobs, self.searches = self._look()
        try:
            self.write()
        except OSError:  # As if nobody had looked: who tries again finds the same rows new.
            self.jobs, self.searches = before
            raise

    def after(self, ended: Job) -> list[Job]:
        """The rows that the end of ``ended`` makes known: of a search's winner, once all its trials have ended.

        Also of one that had ended with a failed trial, which has run again and may be the winner now.
        """
        ends = [one for one in self.searches if ended.id in one.trials]
        if not any(is_complete(one.search, one.trials, self.folder) for one in ends):
            return []
        known = {job.id for job in self.jobs}
        self.look_again()
        return [job for job in self.missing if job.id not in known]

    def _look(self, progress: Callable[[int, int], None] | None = None) -> tuple[list[Job], list[Found]]:
        trials = [cell for one in self.study.searches for cell in trial_cells(one)]
        jobs = plan(self.study, self.data, progress, trials)
        found = [_found(one, jobs, self.folder) for one in self.study.searches]
        rows = [_winning_rows(self.study, one) for one in found]
        if any(rows):
            more = (cell for cells in rows for cell in cells)
            jobs = plan(dataclasses.replace(self.study, cells=(*self.study.cells, *more)), self.data, None, trials)
        of = _ids(jobs)
        return jobs, [
            dataclasses.replace(one, cells=tuple(of(cell) for cell in cells))
            for one, cells in zip(found, rows, strict=True)
        ]


def _ids(jobs: Sequence[Job]) -> Callable[[Cell], str]:
    def of(cell: Cell) -> str:
        resolved = resolve(cell)
        return next(job.id for job in jobs if job.cell == resolved)

    return of


def _winning_rows(study: Study, found: Found) -> list[Cell]:
    """The cells that train the winner's arguments again."""
    if found.winner is None:
        return []
    arguments = {**found.search.cell.arguments, **found.arguments}
    seeds = dict.fromkeys(cell.seed for cell in study.cells)
    return [dataclasses.replace(found.search.cell, arguments=arguments, seed=seed) for seed in seeds]


def _found(search: Search, jobs: Sequence[Job], folder: StudyFolder) -> Found:
    """What the records say of a search."""
    cells, of = trial_cells(search), _ids(jobs)
    drawn = {of(cell): {name: cell.arguments[name] for name in search.space} for cell in cells}
    complete = is_complete(search, drawn, folder)
    winner, accuracy = (best(drawn, search, folder) if complete else None) or (None, None)
    return Found(search, tuple(drawn), complete, winner, drawn[winner] if winner else {}, accuracy)


def best(trials: Mapping[str, Any], search: Search, folder: StudyFolder) -> tuple[str, float] | None:
    """The winner among the finished trials and its accuracy: by validation alone, whatever the test split says."""
    results = {trial: result for trial in trials if (result := _result(folder.cell(trial))) is not None}
    accuracies = {trial: float(result["accuracy"][search.cell.validation]) for trial, result in results.items()}
    return min(accuracies.items(), key=lambda pair: (-pair[1], pair[0]), default=None)


def is_complete(search: Search, trials: Iterable[str], folder: StudyFolder) -> bool:
    """Whether every trial is failed, stopped, or finished with a result that reads."""
    records = map(folder.cell, trials)
    return all(record.state == "failed" or _result(record) or is_stopped(record, search) for record in records)


def _result(record: CellFolder) -> dict[str, Any] | None:
    """The result of a trial; None where it does not read: the study tells of it as damaged."""
    try:
        return record.result()
    except RecordError:
        return None


def is_stopped(record: CellFolder, search: Search) -> bool:
    """Whether the search's scheduler, as it is now, stopped the trial."""
    try:
        stopped = record.stopped() if record.state == "stopped" else None
    except RecordError:  # As for a result: it is run again.
        return False
    return stopped is not None and stopped["scheduler"] == scheduler_plain(search)


def done(job: Job, folder: StudyFolder, searches: Sequence[Found]) -> bool:
    """Whether nothing is left to run of a cell."""
    record = folder.cell(job.id)
    searched = [one.search for one in searches if job.id in one.trials]
    stopped = job.role == "trial" and any(is_stopped(record, search) for search in searched)
    return stopped or record.state == "finished"


def scheduler_plain(search: Search) -> dict[str, Any]:
    if search.scheduler == "random":
        return {"name": "random"}
    return {"name": "asha", "grace": search.grace, "reduction": search.reduction}


def to_study_json(found: Found) -> dict[str, Any]:
    """A search as ``study.json`` has it."""
    search = found.search
    return {
        "variant": search.cell.variant,
        "layers": list(search.cell.layers),
        "space": {
            name: {"distribution": type(one).__name__, **dataclasses.asdict(one)}  # type: ignore[call-overload]
            for name, one in search.space.items()
        },
        "scheduler": scheduler_plain(search),
        "seed": search.seed,
        "steps": search.cell.protocol.steps,
        "budget": search.budget,
        "trials": list(found.trials),
        "complete": found.complete,
        "winner": None
        if found.winner is None
        else {
            "trial": found.winner,
            "arguments": dict(found.arguments),
            "accuracy": found.accuracy,
            "cells": list(found.cells),
        },
    }
