"""Folders that are their user's alone: whether one is, and one for each process that needs it."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = "ablate-"
"""How the name of a process's own folder begins; a word for what it is and eight characters follow."""


@contextmanager
def own_folder(place: Path, what: str = "") -> Iterator[Path]:
    """A new folder in ``place``, 0700, until the end. Those of this user's killed processes on this machine go.

    Raises OSError.
    """
    _sweep(place)
    folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{what}", dir=place))
    try:
        # Held as long as this process lives, by it alone: the next one sees whose folder this is.
        with open(folder / "new", "x", opener=functools.partial(os.open, mode=0o600)) as held:
            with contextlib.suppress(OSError):
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (folder / "new").rename(folder / _lock())
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _lock() -> str:
    # A temporary folder may be several machines', and their locks are not always one.
    return f"lock-{hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]}"


def _sweep(place: Path) -> None:
    for folder in place.glob(f"{FOLDER}*"):
        with contextlib.suppress(OSError):
            if is_own(folder):
                with (folder / _lock()).open() as held:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)


def is_own(path: Path) -> bool:
    """Whether nobody but this user may write to the file or folder itself, which is no link. Raises OSError."""
    found = path.lstat()
    alone = not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return not stat.S_ISLNK(found.st_mode) and found.st_uid == os.geteuid() and alone


def others_may_change(folder: Path) -> str | None:
    """Who besides this user and root may put another folder in the place of one in ``folder``, in words.

    A folder that all may write, as the temporary one, will do where only owners may rename (the sticky bit).
    Raises OSError.
    """
    real = Path(os.path.realpath(folder))
    for place in (real, *real.parents):
        found = place.stat()
        if found.st_uid not in (0, os.geteuid()):
            return f"{place} belongs to another user"
        if found.st_mode & stat.S_ISVTX:
            continue
        if found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and not _own_group(found.st_gid)):
            return f"{place} can be written by others"
    return None


def _own_group(number: int) -> bool:
    """Whether the group is of this user alone, as many systems give one to each."""
    if number == 0:
        return True
    with contextlib.suppress(KeyError, OSError, ImportError):
        import grp
        import pwd

        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(number)
        return user.pw_gid == number and user.pw_name == group.gr_name and set(group.gr_mem) <= {user.pw_name}
    return False
