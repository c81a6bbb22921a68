"""Whether a folder or file is its user's alone to change."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path


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
