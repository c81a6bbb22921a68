"""What a system answers for a while and then no longer, and waiting until it does. Imports no torch."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path

from suite.terminal import say

TROUBLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN,
    errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EBUSY,
}  # fmt: skip
"""What a system answers for a while and then no longer."""


def waiting_for(folder: Path, patience: float, act: Callable[[], object]) -> None:
    """Does what writes to ``folder``; where that answers with trouble, again, for ``patience`` seconds."""
    until, wait = time.monotonic() + patience, 1.0
    while True:
        try:
            act()
            return
        except OSError as error:
            if error.errno not in TROUBLE or time.monotonic() > until:
                raise
            say(f"The launch waits for {error.filename or folder}: {error.strerror}.")
            time.sleep(min(wait, max(0.0, until - time.monotonic())))
            wait = min(2 * wait, 60.0)
