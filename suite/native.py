"""C beside a method's Python: compiled once with the machine's own compiler, kept by content, called by ctypes.

A method that has a faster way in C asks ``load`` for it, and does without where there is none. The two differ in
last bits: ``loaded`` says which one ran.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from suite import provenance, tools
from suite.private import is_own, others_may_change

# Not -ffast-math: it may take it that nothing is infinite or not a number, and reorder what a method ordered.
FLAGS = ("-std=gnu11", "-O3", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
# Not every compiler has them. torch's own threads are OpenMP's: others beside them would wait for a core.
FASTER = ("-march=native", "-fopenmp")
COMPILES_WITHIN = 120.0
"""Seconds."""
NAME = "adaptive-attention-suite"

_loaded: dict[str, str] = {}


def loaded() -> dict[str, str]:
    """Name of each C file that was asked for since ``forget`` -> what runs instead of it: ``C`` with the digest of
    the library, or ``torch`` and why."""
    return dict(_loaded)


def forget() -> None:
    """Called before a cell begins: a process trains one after another, and each says what it ran itself."""
    _loaded.clear()


def load(source: Path) -> ctypes.CDLL | None:
    """The functions of the C file ``source``; None, and a line on stderr, where it cannot be compiled now.

    To be asked whenever they are to run, not once for a process: so ``loaded`` knows it of each cell.

    The compiler is ``$CC`` or ``cc``. What it makes is kept in the user's cache folder under a name that holds
    the source, the compiler and the processor: machines that share a home folder never load each other's. It is
    loaded only if nobody else can have written it and its bytes are those that were compiled.
    """
    library, _loaded[source.name] = _load(source)
    return library


@cache
def _load(source: Path) -> tuple[ctypes.CDLL | None, str]:
    """The library, and what ``loaded`` says of it."""
    try:
        version = provenance.compiler_version()
        if version is None:
            raise OSError(f"there is no compiler `{provenance.compiler()[0]}`")
        made = hashlib.sha256(source.read_bytes())
        made.update("\n".join([version, _processor(), *FLAGS, *FASTER]).encode())
        library, digest = _library(source, f"{source.stem}-{made.hexdigest()[:16]}")
    except (OSError, subprocess.SubprocessError) as error:
        why = getattr(error, "stderr", None) or str(error)
        print(f"{source.name} cannot be compiled, and runs in torch, slower: {why}", file=sys.stderr, flush=True)
        return None, f"torch: {why.strip().partition(chr(10))[0]}"
    return library, f"C {digest}"


def _library(source: Path, name: str) -> tuple[ctypes.CDLL, str]:
    """Of the first folder that does, compiled there where it has none; and the head of its SHA-256."""
    trouble: OSError | None = None
    for folder in _folders():
        try:
            _sweep(folder)
            kept = _kept(folder, name) or _compiled(source, folder, name)
            return ctypes.CDLL(str(kept)), kept.stem.rpartition("-")[2]
        except OSError as error:  # It may be full, or on a file system that nothing is run from.
            trouble = error
    raise trouble or OSError("there is no folder that nobody else may change, to keep what is compiled")


def _folders() -> Iterator[Path]:
    """Where compiled code may lie: folders that nobody but this user may change, the one that stays first."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    cache = Path(given if os.path.isabs(given) else os.path.expanduser("~/.cache"))
    for folder in (cache / NAME, Path(tempfile.gettempdir()) / f"{NAME}-{os.geteuid()}"):
        with contextlib.suppress(OSError):
            folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.mkdir(exist_ok=True, mode=0o700)
            why = others_may_change(folder.parent) or (
                None if is_own(folder) else f"{folder} can be written by others"
            )
            if why:
                print(f"What is compiled is not kept in {folder}: {why}.", file=sys.stderr, flush=True)
            elif os.access(folder, os.W_OK):
                yield folder
    if others_may_change(Path(tempfile.gettempdir())) is None:
        # Somebody else has the name: what is loaded stays when the folder goes.
        with tempfile.TemporaryDirectory(prefix=f"{NAME}-") as folder:
            yield Path(folder)


def _kept(folder: Path, name: str) -> Path | None:
    """The library of that name, with its own digest behind it. What a power cut or a disk has damaged goes."""
    for library in sorted(folder.glob(f"{name}-*.so")):
        if not is_own(library):
            continue
        if library.name == f"{name}-{_digest(library)}.so":
            return library
        library.unlink(missing_ok=True)
    return None


def _compiled(source: Path, folder: Path, name: str) -> Path:
    """Compiles into ``folder``: the library is on the disk before it has its name."""
    work = Path(tempfile.mkdtemp(prefix=".", dir=folder))
    try:
        made = work / "library.so"
        arguments = [*FLAGS, str(source), "-o", str(made)]
        try:
            _compile(*FASTER, *arguments)
        except subprocess.CalledProcessError:
            _compile(*arguments)
        made.chmod(0o700)
        with made.open("rb+") as written:
            os.fsync(written.fileno())
        library = folder / f"{name}-{_digest(made)}.so"
        os.replace(made, library)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return library
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Removes what compilations that were killed have left."""
    for work in folder.glob(".*"):
        with contextlib.suppress(OSError):
            if work.is_dir() and time.time() - work.stat().st_mtime > 10 * COMPILES_WITHIN:
                shutil.rmtree(work, ignore_errors=True)


def _digest(library: Path) -> str:
    return hashlib.sha256(library.read_bytes()).hexdigest()[:32]


def _compile(*arguments: str) -> None:
    command = [*provenance.compiler(), *arguments]
    tools.ask(command, timeout=COMPILES_WITHIN).check_returncode()


def _processor() -> str:
    """What tells this machine's instructions from another's."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    names = ("model name", "flags", "CPU part", "Features")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(names)))
