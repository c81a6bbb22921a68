"""The place that long work ends in, looked at before the work begins."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from suite.errors import UserError


def destination(out: Path, size: int, holds: str) -> Path:
    """Where a new ``out`` lies, its links followed: in a folder that is made, takes files and has room.

    ``size`` is in bytes.
    Raises UserError where ``out`` exists, which may be what ``holds`` says, or its folder cannot be written.
    """
    target = Path(os.path.realpath(out))
    if os.path.lexists(target):
        raise UserError(f"{out} exists, and {holds}. Give --out a new name.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Of the same name and more: it may be too long for the file system.
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", suffix=".probe") as probe:
            probe.write(bytes(4096))
            probe.flush()
        free = shutil.disk_usage(target.parent).free
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}. Give --out a place that can.") from error
    if free < size:
        raise UserError(
            f"{out} would have some {size / 1e6:.0f} MB, and its disk has {free / 1e6:.0f} MB left. Free space "
            "there, or give --out another place."
        )
    return target
