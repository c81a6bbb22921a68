"""This process and others on this machine, told apart for as long as the machine runs. Imports no torch."""

from __future__ import annotations

import hashlib
import os
import uuid
from functools import cache
from pathlib import Path

import psutil

CLOCK_STEP = 3600.0
"""Seconds by which a clock that is set may move the time at which a process started, where only that is known."""


@cache
def machine() -> str:
    """One boot of one machine, and one container on it: within it process ids mean something."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{uuid.getnode()} {_hostname()}"


@cache
def short_machine() -> str:
    """Eight hex digits of ``machine``, for names of files."""
    return hashlib.sha256(machine().encode()).hexdigest()[:8]


def born(pid: int | None = None) -> float:
    """When the process ``pid``, by default this one, started: in clock ticks since the machine did.

    No clock that is set changes that. Where the system does not tell it, in seconds since 1970. Raises
    ProcessLookupError where there is no such process.
    """
    pid = os.getpid() if pid is None else pid
    if Path("/proc/self/stat").exists():
        try:
            # The name of the command, in brackets, may have any character.
            return float(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
        except FileNotFoundError:
            raise ProcessLookupError(pid) from None
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        raise ProcessLookupError(pid) from None


def is_gone(pid: int, when: float) -> bool:
    """Whether the process ``pid`` of this machine that was born ``when`` has certainly ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # Another user's, of whom the system may tell no more than that.
        if not Path(f"/proc/{pid}/stat").exists():
            return False
    try:
        apart = abs(born(pid) - when)
        if apart > (0 if Path("/proc/self/stat").exists() else CLOCK_STEP):
            return True
        # A process that was killed keeps its id until its parent asks, and nobody asks for some orphans.
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return True
    except (OSError, ValueError, psutil.Error):
        return False


def _hostname() -> str:
    return os.uname().nodename
