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

from suite import tools
from suite.room import cores

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
    """Commit, a hash of local changes to it, and the engine's digest.

    The hash is None where there are no changes, and ``unknown`` where git does not say.
    """
    root = Path(__file__).parent.parent
    commit = changes = None
    if (root / ".git").exists():
        commit, changes = _git(root, "rev-parse", "--verify", "HEAD"), _changes(root)
    return {"commit": commit.strip() if commit else None, "changes": changes, "engine": engine_digest()}


def _changes(root: Path) -> str | None:
    """A hash of the files that are not as in the commit, and of new ones in the packages.

    Of the files, not of a text about them: how that looks is up to the user's settings.
    """
    options = ("--name-only", "-z", "--no-renames", "--no-relative", "--no-ext-diff", "--ignore-submodules=none")
    changed = _git(root, "diff", *options, "HEAD", "--")
    # What git is told to ignore is the checkout's own, not the user's.
    listing = ("--others", "--exclude-per-directory=.gitignore", "-z", "--")
    new = _git(root, "ls-files", *listing, "suite", "ablations", "reports")
    if changed is None or new is None:
        return "unknown"
    names = sorted({*changed.split("\0"), *new.split("\0")} - {""})
    hashed = hashlib.sha256()
    try:
        for name in names:
            path = root / name
            hashed.update(os.fsencode(name) + b"\0")
            hashed.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"not a file")
    except OSError:
        return "unknown"
    return hashed.hexdigest()[:16] if names else None


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
        "cores": cores(),
        "compiler": compiler_version(),
    }


def compiler() -> list[str]:
    """The command of the C compiler: ``$CC``, or ``cc``."""
    given = os.environ.get("CC", "")
    try:
        return shlex.split(given) or ["cc"]
    except ValueError:  # A quote without its other half: then it is the name of a file.
        return [given]


def compiler_version() -> str | None:
    """What the compiler calls itself; None where there is none."""
    try:
        done = tools.ask([*compiler(), "--version"])
    except (OSError, ValueError, subprocess.TimeoutExpired):
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
    """What git prints of the checkout ``root`` itself, whatever repository is around it or in the environment."""
    named = [f"--git-dir={root / '.git'}", f"--work-tree={root}", "-c", "core.fsmonitor=false"]
    command = ["git", "-C", str(root), *named, *arguments]
    try:  # Names of files come back as they are, of any bytes.
        done = tools.ask(command, without="GIT_", settings={"GIT_OPTIONAL_LOCKS": "0"}, errors="surrogateescape")
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
