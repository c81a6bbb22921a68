"""`ablate bench grid`: what scheduling costs, beside the same cells placed greedily on the same slots.

A launch is timed from when Ray is up to when its last cell is finished. How long each cell took by itself is in its
record: from its first file to its last. Placed one after another on the slot that is free first, each after its
start, these durations make the least time that such a launch could have taken.

Cells of next to no work show what a cell costs beside its work, and what the driver holds for many of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import resource
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from suite import plan
from suite.bench import show
from suite.bench.measure import Settings, say
from suite.bench.record import Record, Row, Spread, digits
from suite.config import Cell, ModelSize, Protocol, Study
from suite.errors import UserError
from suite.estimate import makespan
from suite.records import StudyFolder

GREEDY, OURS = "greedy placement", "ablate run"
EMPTY = Cell(
    variant="softmax",
    dataset="easy_vqa",
    protocol=Protocol(steps=1, batch_size=8, evaluations=1, optimizer="adamw", schedule="linear"),
    model=ModelSize(width=8, heads=1, intermediate=8),
    layers=(1, 1, 1),
    test="validation",
)
"""Next to no work."""


@dataclass(frozen=True)
class Launch:
    """Of one grid."""

    seconds: float
    """Ray's own start and end left out."""
    makespan: float
    driver_bytes: int
    """Resident memory of the driver at its highest."""


@dataclass(frozen=True)
class Scheduling:
    study: str
    """Whose grid is run beside the empty cells; none where it is empty."""
    cells: tuple[int, ...]
    """Numbers of empty cells."""
    slots: int
    data: str
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Of the study's cells, as ``--set`` takes them."""

    name = "grid"
    reference = GREEDY

    def arguments(self) -> dict[str, Any]:
        return asdict(self)

    def measure(self, record: Record, settings: Settings) -> Iterator[None]:
        record.notes.append(
            f"Launches on {self.slots} slots, each in a fresh process, timed from when Ray is up. {GREEDY}: the "
            "same durations of cells, each after its start, on the slot that is free first."
        )
        grids = {f"{count} empty cells": _empty(count) for count in self.cells}
        if self.study:
            grids[self.study] = plan.load_study(self.study, self.settings)
        for what, study in grids.items():
            rows = [
                Row({"grid": what, "cells": _count(study)}, name, seconds={"launch": []}) for name in (GREEDY, OURS)
            ]
            record.rows += rows
            for number in range(settings.rounds):
                say(f"{what}: launch {number + 1} of {settings.rounds}")
                launch = _in_a_process(study, Path(self.data), self.slots)
                for row, seconds in zip(rows, (launch.makespan, launch.seconds), strict=True):
                    row.seconds["launch"].append(seconds)
                rows[1].facts["driver_bytes"] = max(launch.driver_bytes, rows[1].facts.get("driver_bytes", 0))
                yield

    def table(self, record: Record) -> list[dict[str, str]]:
        return [
            {
                "grid": row.case["grid"],
                "cells": str(row.case["cells"]),
                "launch (s)": Spread.of(row.totals()).text(),
                "greedy (s)": Spread.of(record.beside(row, GREEDY).totals()).text(),
                "times": Spread.of(record.ratios(row)).text(),
                "added per cell and slot (s)": self._added(record, row).text(),
                "driver (MiB)": digits(row.facts["driver_bytes"] / 2**20),
            }
            for row in record.measured()
            if row.name == OURS
        ]

    def _added(self, record: Record, row: Row) -> Spread:
        greedy = record.beside(row, GREEDY).totals()
        return Spread.of(
            [
                (ours - least) * self.slots / row.case["cells"]
                for ours, least in zip(row.totals(), greedy, strict=True)
            ]
        )

    def findings(self, record: Record) -> list[str]:
        peaks = {
            row.case["cells"]: row.facts["driver_bytes"]
            for row in record.measured()
            if row.name == OURS and row.case["grid"].endswith("empty cells")
        }
        if len(peaks) < 2:
            return []
        few, many = min(peaks), max(peaks)
        return [f"The driver's memory at {many} cells is {peaks[many] / peaks[few]:.2f} times that at {few}."]

    def figure(self, record: Record) -> Figure:
        panels = {}
        for row in record.measured():
            spread = Spread.of(row.totals())
            mark = show.Mark(row.name, spread, digits(spread.middle), ours=row.name == OURS)
            panels.setdefault(f"{row.case['grid']}, seconds", []).append(mark)
        return show.dots(panels, xlabel="seconds")


def _empty(count: int) -> Study:
    cells = tuple(dataclasses.replace(EMPTY, seed=seed) for seed in range(count))
    return Study(name="empty", question="What does a cell cost beside its work?", cells=cells)


def _count(study: Study) -> int:
    return len(set(_with_starts((*study.cells, *study.floors))))


def _with_starts(cells: Sequence[Cell]) -> Iterator[str]:
    for cell in cells:
        yield repr(cell)
        if cell.start:
            yield from _with_starts([cell.start])


def _in_a_process(study: Study, data: Path, slots: int) -> Launch:
    """One launch; what the driver holds is then its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_launch, args=(study, data, slots, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise UserError("The launch ended before its time: run the study by itself to see why.") from None
    finally:
        process.join()


def _launch(study: Study, data: Path, slots: int, sender: Any) -> None:
    from suite import schedule

    with tempfile.TemporaryDirectory(prefix="ablate-bench-grid-") as runs:
        folder = StudyFolder(Path(runs) / study.name)
        plan.check_folder(folder.path)
        jobs = plan.plan(study, data)
        plan.write_study(folder, study, jobs, data)
        workplace = plan.Workplace(str(folder.path), str(data.resolve()), launch="bench")
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            seconds = schedule.run_with_ray(jobs, workplace, 0, schedule.Cluster(cpus=slots))
        durations = {job.id: _duration(folder.cell(job.id).path) for job in jobs}
        least = makespan(durations, {job.id: job.start for job in jobs}, slots)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sender.send(Launch(seconds, least, peak))


def _duration(cell: Path) -> float:
    """Seconds between a cell's first file and its last."""
    return (cell / "result.json").stat().st_mtime - (cell / "config.json").stat().st_mtime
