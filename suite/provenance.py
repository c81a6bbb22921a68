"""What made a number: the code, the packages and the machine. Imports no torch."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import shlex
import socket
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

ENGINE = (
    "attention.py", "native.py", "training.py", "engine.py", "pruning.py", "optimisers.py",
    "models/*.py", "data/*.py",
)  # fmt: skip
"""The files of this package that can change a finished cell's numbers."""

PACKAGES = (
    "torch", "transformers", "entmax", "fvcore", "numpy", "tokenizers", "safetensors", "ray", "deepspeed"
)  # fmt: skip


@cache
def engine_digest() -> str:
    """A digest of the engine's source: a finished cell that another engine made is stale."""
    root = Path(__file__).parent
    hashed = hashlib.sha256()
    for path in sorted(path for pattern in ENGINE for path in root.glob(pattern)):
        hashed.update(path.relative_to(root).as_posix().encode() + b"\n")
        hashed.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return hashed.hexdigest()[:16]


@cache
def code() -> dict[str, Any]:
    """Commit, a hash of local changes to it (None where there are none), and the engine's digest."""
    root = Path(__file__).parent.parent
    commit = changes = None
    if (root / ".git").exists():
        commit = _git(root, "rev-parse", "HEAD")
        difference = _git(root, "diff", "HEAD")
        changes = hashlib.sha256(difference.encode()).hexdigest()[:16] if difference else None
    return {"commit": commit, "changes": changes, "engine": engine_digest()}


def packages() -> dict[str, str | None]:
    """Versions of what computes; None where a package is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


@cache
def hardware() -> dict[str, Any]:
    """The machine of this process; methods with C of their own differ in last bits between compilers."""
    return {
        "host": socket.gethostname(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "compiler": compiler_version(),
    }


def compiler() -> list[str]:
    """The command of the C compiler: ``$CC``, or ``cc``."""
    return shlex.split(os.environ.get("CC") or "cc")


def compiler_version() -> str | None:
    """What the compiler calls itself; None where there is none."""
    try:
        done = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.partition("\n")[0] or None


def processor() -> str:
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
