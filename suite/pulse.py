"""What a running cell shows of itself while it runs, and what it is asked from outside. Imports no torch."""

from __future__ import annotations

import contextlib
import faulthandler
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import IO, Any

from suite.lease import BEAT, LeaseLost
from suite.records import CellFolder


@dataclass(frozen=True)
class Progress:
    """Where a cell stands after an evaluation."""

    step: int
    steps: int
    accuracy: float
    """Validation, per cent."""
    loss: float
    questions_per_second: float
    """In training, since the last evaluation."""


class Wish(IntEnum):
    """What a cell is to do after its step; the greatest of all its workers' wishes counts."""

    GO_ON = 0
    SAVE = 1
    """Write a checkpoint."""
    LEAVE = 2
    """Write a checkpoint and end this start of the cell: another will go on."""


class Leave(Exception):
    """A cell that was asked to leave has written its checkpoint."""


class Pulse:
    """Of one start of a cell, in the process that trains it; used as a context manager around that."""

    def __init__(
        self,
        record: CellFolder,
        report: Callable[[Progress], None] = lambda progress: None,
        leaves: Callable[[], bool] = lambda: False,
        save_every: float = 600.0,
        hung_after: float = 0.0,
        log: IO[str] | None = None,
    ) -> None:
        """``leaves`` is asked every few seconds whether the cell is to leave. ``save_every`` seconds a checkpoint
        is due. Without a sign of life for ``hung_after`` seconds, if any, the process writes every thread's stack
        to ``log`` and ends; entering is the first."""
        self.record, self.report, self._leaves = record, report, leaves
        self.save_every, self.hung_after, self.log = save_every, hung_after, log
        self._asked, self._saved = False, time.monotonic()
        self._now: dict[str, Any] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pulse", daemon=True)

    def __enter__(self) -> Pulse:
        self.alive()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self.hung_after:
            faulthandler.cancel_dump_traceback_later()
        with contextlib.suppress(OSError, LeaseLost):
            self.record.forget_live()

    def alive(self) -> None:
        """Called at least once every few minutes by whatever takes long."""
        if self.hung_after and self.log is not None:
            faulthandler.dump_traceback_later(self.hung_after, exit=True, file=self.log)

    def stepped(self, step: int, steps: int, questions_per_second: float) -> None:
        """After each optimiser step; ``questions_per_second`` since the last evaluation."""
        self.alive()
        self._now = {"step": step, "steps": steps, "questions_per_second": questions_per_second}

    def leave(self) -> None:
        """Asks the cell to write a checkpoint and leave; may be called from a signal handler."""
        self._asked = True

    def saved(self) -> None:
        self._saved = time.monotonic()

    @property
    def wish(self) -> Wish:
        if self._asked:
            return Wish.LEAVE
        return Wish.SAVE if time.monotonic() - self._saved > self.save_every else Wish.GO_ON

    def _watch(self) -> None:
        shown: dict[str, Any] = {}
        while not self._ended.wait(BEAT):
            # A file system that does not answer for a while must not end this: it shows that the cell lives.
            with contextlib.suppress(OSError):
                self._asked = self._asked or self._leaves()
            if self._now != shown:
                shown = self._now
                # Nobody needs it: a full disk must not end a cell for its sake.
                with contextlib.suppress(OSError, LeaseLost):
                    self.record.write_live(shown)


def drain_markers(study: Path, launch: str, node: str, host: str) -> list[Path]:
    """The files whose existence asks the cells of ``launch`` on a node to leave."""
    return [launch_marker(study, launch), *(study / "drain" / f"{launch}@{place}" for place in (node, host))]


def launch_marker(study: Path, launch: str) -> Path:
    """The file whose existence asks every cell of ``launch`` to leave, and the launch to end."""
    return study / "drain" / f"{launch}@all"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds for a reader."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
