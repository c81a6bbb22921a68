"""Who runs a cell: at most one process at a time, whatever machines, drivers or networks do in between.

A holder creates ``lease/<n>.json`` in the cell's folder and touches it every few seconds. It has lost the cell
once there is a higher number: who takes a cell over from a holder that is gone creates the next one, and no two
can create the same. A holder is gone where its process is, on the same machine, or where it stayed silent.
Imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

BEAT = 2.0
"""Seconds between two touches."""
SILENCE = 90.0
"""Seconds without a touch after which a holder on another machine is gone; more than file systems cache."""
POLL = 0.5
CLOCK_STEP = 3600.0
"""Seconds by which a clock that is set may move the time at which a process started. Where another process has got
its id within that time, silence tells."""
CHECK = ".check-"
"""What begins the names of files in a study's folder by which a driver and its nodes see that they share it."""


class LeaseLost(RuntimeError):
    """Another process has taken the cell over: this one must not write to it any more."""


@dataclass(frozen=True)
class Holder:
    """The process that runs a cell."""

    launch: str
    """The `ablate run` that started it."""
    node: str
    """Ray's name of the node; the machine's where Ray does not run it."""
    host: str
    machine: str
    """Tells apart machines, and containers on one: process ids mean something within it."""
    pid: int
    born: float
    """When the process started; another process may have the same id later."""
    token: str

    def is_gone(self) -> bool:
        """Certainly gone; False where that cannot be known from here."""
        if self.machine != machine():
            return False
        try:
            process = psutil.Process(self.pid)
            # A process that was killed keeps its id until its parent asks, and nobody asks for some orphans.
            return abs(process.create_time() - self.born) > CLOCK_STEP or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


class Lease:
    """On the cell in ``folder``, for this process."""

    def __init__(self, folder: Path, launch: str = "", node: str = "") -> None:
        self.folder = folder / "lease"
        host = socket.gethostname()
        born = psutil.Process().create_time()
        self.holder = Holder(launch, node or host, host, machine(), os.getpid(), born, uuid.uuid4().hex)
        self.path: Path | None = None

    def take(self, waiting: Callable[[Holder | None], None] = lambda holder: None) -> None:
        """Returns once the cell is this process's; ``waiting`` is told, again and again, for whom it waits.

        Raises OSError where the folder cannot be written, and what ``waiting`` raises.
        """
        seen, since = None, time.monotonic()
        while True:
            path = _newest(self.folder)
            look = _look(path) if path else None
            if look != seen:
                seen, since = look, time.monotonic()
            holder = look[1] if look else None
            gone = holder is not None and holder.is_gone()
            if path is None or gone or time.monotonic() - since > SILENCE:
                if self._create(1 + int(path.stem) if path else 1):
                    return
                continue
            # Also where it was given back between the two looks: another may have it by now.
            waiting(holder)
            time.sleep(POLL)

    def _create(self, number: int) -> bool:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{number:06d}.json"
        try:
            with path.open("x", encoding="utf-8") as file:
                self.path = path
                file.write(json.dumps(asdict(self.holder)))
        except FileExistsError:
            return False
        except OSError:
            if self.path is not None:  # Begun, and without our name in it: nobody could tell that it is nobody's.
                with contextlib.suppress(OSError):
                    path.unlink()
            self.release()
            raise
        if _newest(self.folder) != path:  # This process was slow, and others have been here since it looked.
            self.release()
            return False
        for old in self.folder.glob("*.json"):
            if int(old.stem) < number:
                old.unlink(missing_ok=True)
        return True

    def beat(self) -> None:
        """Shows that this process lives. Needs no room on the disk."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def check(self) -> None:
        """Raises LeaseLost where the cell is no longer this process's."""
        if self.path is None or _newest(self.folder) != self.path or not self._is_ours(self.path):
            raise LeaseLost(f"Another process has taken over {self.folder.parent}: this one leaves it alone.")

    def release(self) -> None:
        if self.path is not None:
            with contextlib.suppress(OSError):
                if self._is_ours(self.path):
                    self.path.unlink()
            with contextlib.suppress(OSError):
                self.folder.rmdir()
            self.path = None

    def _is_ours(self, path: Path) -> bool:
        """Numbers come again once all have given the cell back."""
        look = _look(path)
        return look is not None and look[1] is not None and look[1].token == self.holder.token


def holder_of(folder: Path) -> Holder | None:
    """Who runs the cell in ``folder``; None where nobody does, or has certainly gone."""
    path = _newest(folder / "lease")
    look = _look(path) if path else None
    return look[1] if look and look[1] and not look[1].is_gone() else None


def sweep(study: Path) -> None:
    """Removes the files of CHECK that drivers left which were killed on this machine."""
    for file in sorted(study.glob(f"{CHECK}*")):
        driver = file.with_suffix("")  # Of an answer, the file that it answers.
        with contextlib.suppress(OSError, ValueError, TypeError):
            if not driver.exists() or Holder(**json.loads(driver.read_bytes())).is_gone():
                file.unlink()


def _newest(folder: Path) -> Path | None:
    return max(folder.glob("*.json"), default=None)


def _look(path: Path) -> tuple[Any, Holder | None] | None:
    """What changes with every touch, and the holder (None while the file is being written)."""
    try:
        # Opened: a network file system then asks its server instead of its cache.
        with path.open("rb") as file:
            text = file.read()
            touched = os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None
    try:
        return (path, touched), Holder(**json.loads(text))
    except (ValueError, TypeError):
        return (path, touched), None


@cache
def machine() -> str:
    """One boot of one machine, and one container on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{uuid.getnode()} {socket.gethostname()}"
