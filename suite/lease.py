"""Who runs a cell: at most one process at a time, whatever machines, drivers or networks do in between.

A lease is a folder ``lease/<n>/<token>/`` in the cell's folder, with ``holder.json``, which its holder touches
every few seconds. It appears whole, by a rename, and no two processes can create the same number. A holder is gone
where its process is, on the same machine, or where it stayed silent; who takes a cell over from it creates the next
number and then removes the folder of the one before.

What a holder writes, replaces or removes in the record it does by a rename from or to that folder (suite.files). A
process that stood still while another took the cell over finds it gone, whatever it was about to do: none of its
renames takes effect any more, since no other lease ever has its token. Imports no torch.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from suite import process
from suite.files import check_no_link, clear, insist, read_bytes, remove
from suite.process import machine

BEAT = 2.0
"""Seconds between two touches."""
SILENCE = 90.0
"""Seconds without a touch after which a holder on another machine is gone; more than file systems cache."""
POLL = 0.5
_LEFT = re.compile(r"\.[0-9a-f]{32}(\.ended)?|\d{6}(\.json)?")
"""What a kill leaves beside the newest lease: drafts, ended leases, those of older engines."""
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
    """When the process started (suite.process.born); another process may have the same id later."""
    token: str

    def is_gone(self) -> bool:
        """Certainly gone; False where that cannot be known from here."""
        return self.machine == machine() and process.is_gone(self.pid, self.born)


class Lease:
    """On the cell in ``folder``, for this process."""

    def __init__(self, folder: Path, launch: str = "", node: str = "") -> None:
        self.folder = folder / "lease"
        host = socket.gethostname()
        token = uuid.uuid4().hex
        self.holder = Holder(launch, node or host, host, machine(), os.getpid(), process.born(), token)
        self.path: Path | None = None
        """Where the holder prepares what it changes; None while it holds nothing."""

    def take(self, waiting: Callable[[Holder | None], None] = lambda holder: None) -> None:
        """Returns once the cell is this process's; ``waiting`` is told, again and again, for whom it waits.

        None stands for one whose name does not read. Raises OSError where the folder cannot be written, RecordError
        where there is a link in it, and what ``waiting`` raises.
        """
        self._check_links()
        seen, since = None, time.monotonic()
        while True:
            number, token = _newest(self.folder)
            if not token:
                if self._create(number or 1):  # Nobody's: a folder without a lease in it is being removed.
                    return
                continue
            look = _look(self.folder / f"{number:06d}" / token)
            if look is None:  # Given back between the two looks.
                continue
            if look != seen:
                seen, since = look, time.monotonic()
            holder = look[1]
            if (holder is not None and holder.is_gone()) or time.monotonic() - since > SILENCE:
                if self._create(number + 1, token):
                    return
                continue
            waiting(holder)
            time.sleep(POLL)

    def _check_links(self) -> None:
        """Raises RecordError where there is a link among the leases, of which others may give theirs back now."""
        check_no_link(self.folder.parent, self.folder)
        for place, folders, files in os.walk(self.folder):  # It passes over what is gone meanwhile.
            for name in (*folders, *files):
                check_no_link(Path(place), Path(place, name))
            if place != str(self.folder):
                folders.clear()  # What a holder prepares is its own.

    def _create(self, number: int, over: str = "") -> bool:
        """Creates the lease ``number`` where nobody has the cell, or who has the token ``over`` is gone."""
        draft, token = self.folder / f".{self.holder.token}", self.holder.token
        try:
            (draft / token).mkdir(parents=True)
            (draft / token / "holder.json").write_text(json.dumps(asdict(self.holder)), encoding="utf-8")
            os.rename(draft, self.folder / f"{number:06d}")
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            # Another was faster, or gave the lease back and removed the folder of all.
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                return False
            raise
        self.path = self.folder / f"{number:06d}" / token
        # One look for both: what is lower where this lease is the newest is older, also if this process stalls now.
        leases = _leases(self.folder)
        others = {one for _, tokens in leases for one in tokens} - {token}
        # Where there is the lease that was looked at, those before it are what its holder took over from and left.
        if max(leases, default=None) != (number, [token]) or (others and over not in others):
            # This process was slow, and others have been here since it looked; numbers may have begun anew.
            self.release()
            return False
        for lower, tokens in leases:
            for other in tokens if lower < number else ():
                self._end(self.folder / f"{lower:06d}" / other)
        self._tidy()
        return True

    def _tidy(self) -> None:
        """Removes what others that were killed left among the leases; one that lives and is late begins again."""
        assert self.path is not None
        ours = self.path.parent.name
        with contextlib.suppress(OSError, LeaseLost):
            for path in self.folder.iterdir():
                # "." is below the digits; a number above is of who took over while this process stood still.
                if _LEFT.fullmatch(path.name) and path.name != ours and path.name[: len(ours)] <= ours:
                    remove(path, self)

    def beat(self) -> None:
        """Shows that this process lives. Needs no room on the disk."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                os.utime(self.path / "holder.json")

    def check(self) -> None:
        """Raises LeaseLost where the cell is no longer this process's."""
        if self.path is None or _newest(self.folder) != (int(self.path.parent.name), self.holder.token):
            raise LeaseLost(f"Another process has taken over {self.folder.parent}: this one leaves it alone.")

    def release(self) -> None:
        if self.path is not None:
            insist(partial(self._end, self.path))
            insist(self.folder.rmdir)
            self.path = None

    def _end(self, path: Path) -> None:
        """Ends the lease whose folder is ``path``, with all that was prepared there.

        At once, by a rename; then what is in it is removed: a network file system may take a process that stood
        still to the folder under its new name, and it must find nothing there that it could rename.
        """
        ended = self.folder / f".{path.name}.ended"
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, ended)
        clear(ended)
        insist(path.parent.rmdir)


@contextmanager
def held(folder: Path, launch: str = "") -> Iterator[Lease | None]:
    """The lease on the cell in ``folder`` for something short; None where another process has it."""

    class Busy(Exception):
        """Somebody else's."""

    def busy(holder: Holder | None) -> None:
        raise Busy

    lease = Lease(folder, launch)
    try:
        lease.take(busy)
    except Busy:
        yield None
        return
    try:
        yield lease
    finally:
        lease.release()


def holder_of(folder: Path) -> Holder | None:
    """Who runs the cell in ``folder``; None where nobody does, or has certainly gone."""
    number, token = _newest(folder / "lease")
    look = _look(folder / "lease" / f"{number:06d}" / token) if token else None
    return look[1] if look and look[1] and not look[1].is_gone() else None


def sweep(study: Path) -> None:
    """Removes the files of CHECK that drivers left which were killed on this machine."""
    for file in sorted(study.glob(f"{CHECK}*")):
        driver = file.with_suffix("")  # Of an answer, the file that it answers.
        with contextlib.suppress(OSError, ValueError, TypeError):
            if not driver.exists() or Holder(**json.loads(driver.read_bytes())).is_gone():
                file.unlink()


def _leases(folder: Path) -> list[tuple[int, list[str]]]:
    """Every number with the tokens in it: one, or none where its lease is being removed."""
    found = []
    try:
        numbers = [name for name in os.listdir(folder) if name.isascii() and name.isdigit()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    for name in numbers:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found.append((int(name), sorted(os.listdir(folder / name))))
    return found


def _newest(folder: Path) -> tuple[int, str]:
    """Number and token of the newest lease; no token where it is nobody's any more, 0 where there never was one."""
    number, tokens = max(_leases(folder), default=(0, []))
    return number, tokens[0] if tokens else ""


def _look(path: Path) -> tuple[Any, Holder | None] | None:
    """What changes with every touch, and the holder (None where it does not read); None where there is no lease."""
    file = path / "holder.json"
    try:
        # Read: a network file system then asks its server instead of its cache.
        text, touched = read_bytes(file), file.stat().st_mtime_ns
    except FileNotFoundError:
        return None
    try:
        holder = Holder(**json.loads(text))
        return (path, touched), holder if _is_plain(holder) else None
    except (ValueError, TypeError, RecursionError):
        return (path, touched), None


def _is_plain(holder: Holder) -> bool:
    """Whether a holder that was read is one that a process can have written."""
    texts = (holder.launch, holder.node, holder.host, holder.machine, holder.token)
    return (
        all(isinstance(text, str) for text in texts)
        and not isinstance(holder.pid, bool)
        and isinstance(holder.pid, int)
        and 0 < holder.pid < 1 << 31
        and isinstance(holder.born, int | float)
        and 0 <= holder.born < float("inf")
        and all(len(text) <= 200 and not {"/", "\0"} & set(text) for text in texts[:3])
    )
