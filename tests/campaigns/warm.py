"""A process that has imported the suite and forks a child per try: a command begins in milliseconds, not seconds.

Each child is a process of its own that runs `ablate` as the command line does. It is preloaded with file_calls.c,
through which the call that changes files can be chosen at which it is killed, is stopped or meets an error.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

SOURCE = Path(__file__).with_name("file_calls.c")
MARK = "ABLATE_FILE_CALLS"
KILL, KILL_HALFWAY, STOP = -1, -2, -3
FAULTS = {
    "kill": KILL, "kill-halfway": KILL_HALFWAY, "stop": STOP,
    "EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "ESTALE": errno.ESTALE,
}  # fmt: skip
LIMIT = 120.0
"""Seconds after which a command hangs."""


@dataclass(frozen=True)
class At:
    """The call, from 1, below ``folder`` that meets ``fault``; 0: none does. ``trace`` gets a line per call."""

    folder: Path
    call: int = 0
    fault: str = "kill"
    trace: Path | None = None


@dataclass(frozen=True)
class Ended:
    code: int
    """Of the command; -9 where it was killed."""
    text: str
    """What it said, stdout and stderr."""
    seconds: float
    hung: bool = False

    @property
    def has_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.text


class Child:
    """A process that was forked for one command."""

    def __init__(self, pid: int, out: Path) -> None:
        self.pid, self.out, self.began, self.status = pid, out, time.monotonic(), None

    def is_stopped(self, limit: float = LIMIT) -> bool:
        """Waits until it stops (True) or ends (False)."""
        until = time.monotonic() + limit
        while self.status is None and time.monotonic() < until:
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if pid and os.WIFSTOPPED(status):
                return True
            if pid:
                self.status = status
            else:
                time.sleep(0.005)
        return False

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def ended(self, limit: float = LIMIT) -> Ended:
        """Waits for its end; one that hangs is ended."""
        until, hung = time.monotonic() + limit, False
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
            elif time.monotonic() > until:
                hung = True
                os.kill(self.pid, signal.SIGKILL)
                _, self.status = os.waitpid(self.pid, 0)
            else:
                time.sleep(0.005)
        text = self.out.read_text(errors="replace")
        return Ended(os.waitstatus_to_exitcode(self.status), text, time.monotonic() - self.began, hung)


def preload() -> None:
    """Begins this script again with file_calls.c in it, one thread and no bytecode, unless that is so already."""
    if os.environ.get(MARK):
        return
    folder = Path(tempfile.mkdtemp(prefix="ablate-campaign-"))
    library = folder / "file_calls.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE], check=True)
    environment = os.environ | {
        MARK: "1", "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    sys.stdout.flush()
    # The library stays mapped once the new process has begun; what other processes it starts do without it.
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def forget_library() -> None:
    """Removes what ``preload`` compiled, which is in this process by now."""
    library = os.environ.pop("LD_PRELOAD", "")
    if library.endswith("file_calls.so"):
        Path(library).unlink(missing_ok=True)
        Path(library).parent.rmdir()


def _end_with_parent() -> None:
    """Has the system end this process where the one that started it ends: none is left of a campaign."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def fork(work: Callable[[], int], out: Path, at: At | None = None, uid: int | None = None) -> Child:
    """A child that does ``work``, with what it says in the file ``out``."""
    sys.stdout.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The parent has no threads of its own that hold a lock.
        pid = os.fork()
    if pid:
        return Child(pid, out)
    code = 99
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.setsid()
        _end_with_parent()
        if uid is not None:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
        if at is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            trace = os.open(at.trace, flags, 0o666) if at.trace else -1
            ctypes.CDLL(None).calls_arm(os.fsencode(at.folder), at.call, FAULTS[at.fault], trace)
        code = work()
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                code = code or 1
        os._exit(code)


def ablate(words: Sequence[object], silence: float | None = None) -> Callable[[], int]:
    """Work for a child: the command `ablate` with ``words``; ``silence`` seconds are those of a lease."""

    def work() -> int:
        from suite import cli, lease

        if silence is not None:
            lease.SILENCE = silence
        return cli.main([str(word) for word in words])

    return work


def command(
    words: Sequence[object],
    out: Path,
    at: At | None = None,
    silence: float | None = None,
    limit: float = LIMIT,
    uid: int | None = None,
) -> Ended:
    """Runs `ablate` with ``words`` to its end."""
    return fork(ablate(words, silence), out, at, uid).ended(limit)


def warm_up(work: Callable[[], int], out: Path) -> Ended:
    """Has a child do ``work``, and imports here what it has imported: the next ones begin with that.

    Nothing is run here but imports: a process with threads cannot be forked well.
    """
    names = out.with_suffix(".modules")

    def listed() -> int:
        code = work()
        names.write_text("\n".join(sys.modules))
        return code

    import suite.cli  # noqa: F401

    ended = fork(listed, out).ended()
    if names.exists():
        for name in names.read_text().splitlines():
            if name not in sys.modules and not name.startswith(("__", "ablate_plugin_")):
                try:
                    importlib.import_module(name)
                except Exception:
                    continue  # What a package made up at run time cannot be imported by name.
        names.unlink()
    return ended


def study_words(runs: Path, data: Path, *more: object, variants: str = "softmax", **settings: object) -> list[str]:
    """`ablate run` of two small cells: a start, and a row that is fine-tuned from it; a row per variant."""
    from small_grid import run_command

    chosen = {"steps": 6, "evaluations": 2} | settings
    return run_command(runs, data, "--no-ray", *more, variants=variants, report=True, **chosen)[3:]


def draw_once() -> None:
    """Has every figure drawn as SVG alone: PDF and PNG say nothing that it does not, and take most of a report."""
    from matplotlib.figure import Figure

    drawn = Figure.savefig

    def save(self: Figure, file: Any, *arguments: Any, **options: Any) -> None:
        if options.get("format") in ("pdf", "png") and hasattr(file, "write"):
            file.write(f"the {options['format']} of a figure\n".encode())
        else:
            drawn(self, file, *arguments, **options)

    Figure.savefig = save  # pyright: ignore[reportAttributeAccessIssue]


def spread(tries: Sequence[Any], work: Callable[[Any], dict[str, Any]], jobs: int) -> Iterator[dict[str, Any]]:
    """What ``work`` finds of each of ``tries``, in ``jobs`` processes, as it comes: plain values."""
    pipes, pids = [], []
    for worker in range(jobs):
        read, write = os.pipe()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            code = 0
            try:
                _end_with_parent()
                os.close(read)
                with os.fdopen(write, "w") as file:
                    for one in tries[worker::jobs]:
                        print(json.dumps(work(one)), file=file, flush=True)
            except BaseException:
                traceback.print_exc()
                code = 1
            os._exit(code)
        os.close(write)
        pipes.append(read)
        pids.append(pid)
    parts = dict.fromkeys(pipes, b"")
    while parts:
        for pipe in select.select(list(parts), [], [])[0]:
            content = os.read(pipe, 1 << 16)
            if not content:
                del parts[pipe]
                os.close(pipe)
                continue
            *lines, parts[pipe] = (parts[pipe] + content).split(b"\n")
            yield from map(json.loads, lines)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    if any(codes):
        raise RuntimeError(f"a process of the campaign ended with {codes}")
