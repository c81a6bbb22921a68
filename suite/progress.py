"""What a person sees while cells run: a live table in a terminal, plain lines anywhere else. On stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.live import Live
from rich.table import Table

from suite.config import Cell
from suite.errors import clean
from suite.plan import Job, describe
from suite.pulse import Progress, clock
from suite.records import State
from suite.terminal import Terminal, let_go
from suite.trackers import Follower


@dataclass
class _Running:
    job: Job
    began: float = field(default_factory=time.monotonic)
    latest: Progress | None = None
    live: Mapping[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> int:
        return max(self.latest.step if self.latest else 0, self.live.get("step", 0))

    @property
    def speed(self) -> float:
        """Questions per second; 0 where it is not known yet."""
        return self.live.get("questions_per_second") or (self.latest.questions_per_second if self.latest else 0.0)


class Display:
    """Follows the cells of one launch; used as a context manager around it. ``followers`` are told the same."""

    def __init__(self, jobs: Sequence[Job], finished: int, slots: int, followers: Sequence[Follower] = ()) -> None:
        self.followers = followers
        # While a cell runs in this process, what is printed to sys.stderr goes to its log.
        self.console = Terminal(file=sys.stderr, highlight=False)
        self.waiting = {job.id: job for job in jobs}
        self.running: dict[str, _Running] = {}
        self.total, self.done = len(jobs) + finished, finished
        self.slots = slots
        self.live = Live(get_renderable=self._table, console=self.console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def started(self, job: Job) -> None:
        self.waiting.pop(job.id, None)
        self.running[job.id] = _Running(job)
        for follower in self.followers:
            follower.started(job)
        if not self.console.is_terminal:
            self._say(f"started   {job.id}  {describe(job)}")

    def evaluated(self, job: Job, progress: Progress) -> None:
        if job.id not in self.running:
            self.started(job)
        self.running[job.id].latest = progress
        for follower in self.followers:
            follower.evaluated(job)
        if not self.console.is_terminal:
            self._say(
                f"          {job.id}  step {progress.step}/{progress.steps}  validation "
                f"{progress.accuracy:.1f} %  {progress.questions_per_second:.0f} questions/s  "
                f"all done in about {clock(self._left())}"
            )

    def stepped(self, job: Job, live: Mapping[str, Any]) -> None:
        """Between two evaluations."""
        if job.id in self.running:
            self.running[job.id].live = live

    def added(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Cells that are known only now; returns them."""
        self.waiting |= {job.id: job for job in jobs}
        self.total += len(jobs)
        for job in jobs:
            self._say(f"known     {job.id}  {describe(job)}")
        return jobs

    def lost(self, job: Job, why: str) -> None:
        """Its worker ended before it did; it will go on elsewhere."""
        self.running.pop(job.id, None)
        self.waiting[job.id] = job
        self._say(f"lost      {job.id}  {describe(job)}: {why}; it goes on from there")

    def ended(self, job: Job, state: State) -> None:
        running = self.running.pop(job.id, None)
        for follower in self.followers:
            follower.ended(job, state)
        took = f" in {clock(time.monotonic() - running.began)}" if running else ""
        self.done += state in ("finished", "stopped")
        self._say(f"{state:<9} {job.id}  {describe(job)}{took}  ({self.done} of {self.total} cells)")

    def _say(self, text: str) -> None:
        try:
            self.console.print(clean(text), markup=False, soft_wrap=True)
        except OSError:
            let_go()

    def _left(self) -> float:
        """Seconds until the last cell ends, if those that wait run as fast as those that run; 0 if unknown."""
        speeds = [running.speed for running in self.running.values() if running.speed]
        if not speeds:
            return 0.0
        speed = sum(speeds) / len(speeds)
        waiting = sum(_questions(job.cell, 0) for job in self.waiting.values())
        running = [_questions(running.job.cell, running.step) for running in self.running.values()]
        return max(max(running, default=0), (waiting + sum(running)) / self.slots) / speed

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, title_justify="left")
        table.title = f"{self.done} of {self.total} cells finished"
        if left := self._left():
            table.title += f", about {clock(left)} left"
        for name in ("cell", "method", "step", "validation", "questions/s", "time"):
            table.add_column(name, justify="left" if name in ("cell", "method") else "right")
        for running in self.running.values():
            latest = running.latest
            table.add_row(
                clean(running.job.id),
                clean(describe(running.job)),
                f"{running.step}/{running.job.cell.protocol.steps}",
                f"{latest.accuracy:.1f} %" if latest else "",
                f"{running.speed:.0f}" if running.speed else "",
                clock(time.monotonic() - running.began),
            )
        return table


def _questions(cell: Cell, step: int) -> int:
    """Left to train on."""
    return 0 if cell.keep is not None else (cell.protocol.steps - step) * cell.protocol.batch_size
