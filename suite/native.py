"""C beside a method's Python: compiled once with the machine's own compiler, kept by content, called by ctypes.

A method that has a faster way in C asks ``load`` for it, and does without where there is none.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from suite import provenance

# Not -ffast-math: it may take it that nothing is infinite or not a number, and reorder what a method ordered.
FLAGS = ("-std=gnu11", "-O3", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
# Not every compiler has them. torch's own threads are OpenMP's: others beside them would wait for a core.
FASTER = ("-march=native", "-fopenmp")


@cache
def load(source: Path) -> ctypes.CDLL | None:
    """The functions of the C file ``source``; None, and a line on stderr, where it cannot be compiled.

    The compiler is ``$CC`` or ``cc``. What it makes is kept in the user's cache folder under a name that holds
    the source, the compiler and the processor: machines that share a home folder never load each other's.
    """
    try:
        version = provenance.compiler_version()
        if version is None:
            raise OSError(f"there is no compiler `{provenance.compiler()[0]}`")
        made = hashlib.sha256(source.read_bytes())
        made.update("\n".join([version, _processor(), *FLAGS, *FASTER]).encode())
        return ctypes.CDLL(str(_compiled(source, made.hexdigest()[:16])))
    except (OSError, subprocess.SubprocessError) as error:
        why = getattr(error, "stderr", None) or error
        print(f"{source.name} cannot be compiled, and runs in torch, slower: {why}", file=sys.stderr, flush=True)
        return None


def _compiled(source: Path, name: str) -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adaptive-attention-suite"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:  # A folder of this process: what lies where others write could be theirs.
        folder = Path(tempfile.mkdtemp())
    library = folder / f"{source.stem}-{name}.so"
    if not library.exists():
        made = library.with_name(f".{library.name}.{os.getpid()}")
        arguments = [*FLAGS, str(source), "-o", str(made)]
        try:
            _compile(*FASTER, *arguments)
        except subprocess.CalledProcessError:
            _compile(*arguments)
        os.replace(made, library)
    return library


def _compile(*arguments: str) -> None:
    command = [*provenance.compiler(), *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)


def _processor() -> str:
    """What tells this machine's instructions from another's."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    names = ("model name", "flags", "CPU part", "Features")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(names)))
