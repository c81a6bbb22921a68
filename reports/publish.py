"""A report takes its place whole: built in a folder of its own, then put there by one build at a time.

Any number of builds may go on at once, of one study or while its records change; the last to end leaves its own
report, and nothing of another's. ``built.txt`` names the files that are the report's: of what lies beside them
nothing is touched. What a build that was killed leaves is removed by the next one, and keeps nobody waiting.

Nothing follows links: a run folder from elsewhere could lead to files of the user's own.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from suite.errors import UserError, clean
from suite.files import (
    check_no_link,
    clear,
    digest,
    insist,
    is_link,
    read_bytes,
    read_json,
    remove,
    sweep,
    temporary_name,
    write_text,
)
from suite.lease import BEAT, Holder, Lease, holder_of

LIST = "built.txt"
"""Names the files of the report, and while a build puts them in their places also those of the one before."""
LAST = ("cell.html", "index.html", "provenance.json")
"""What leads to the other files, or vouches for them, comes after them."""
LOCK = ".publishing"
LONGEST = 100.0
"""Seconds after which a build that still has the lock has been given up by the others."""
PATIENCE = 5.0
"""Seconds after which it is said for whom a build waits."""


@contextmanager
def drafted(output: Path) -> Iterator[Path]:
    """An empty folder within ``output`` to build a report in; it is gone in the end, whatever became of it."""
    if output.is_symlink():
        raise is_link(output)
    new = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    sweep(output)
    draft = output / temporary_name("build")
    draft.mkdir()
    try:
        yield draft
    finally:
        clear(draft)
        if new:
            insist(output.rmdir)  # Unless there is a report now.


def publish(draft: Path, output: Path) -> None:
    """Puts the files of ``draft`` in their places under ``output`` and removes those of the build before.

    Raises LeaseLost where another build took over meanwhile because this process stood still.
    """
    names = _in_order(draft)
    lease = Lease(output / LOCK)
    lease.take(_waiting(output))
    try:
        _publish(draft, output, names, lease)
    except OSError:
        lease.check()
        raise
    finally:
        lease.release()
        insist((output / LOCK).rmdir)


def _publish(draft: Path, output: Path, names: list[str], lease: Lease) -> None:
    for name in names:
        check_no_link(output, (output / name).parent)
    # From there no rename takes effect any more once another has the lease.
    assert lease.path is not None
    ours = lease.path / "report"
    os.rename(draft, ours)
    before, beaten = [name for name in listed(output) if name not in set(names)], time.monotonic()
    # Before they are there, so that a build that is cut short leaves nothing unlisted.
    _write_list(output, [*names, *before], lease)
    for name in names:
        place = output / name
        try:
            os.replace(ours / name, place)
        except (FileNotFoundError, NotADirectoryError):
            lease.check()
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(ours / name, place)
        if time.monotonic() - beaten > BEAT:
            lease.beat()
            beaten = time.monotonic()
    for name in before:
        with contextlib.suppress(NotADirectoryError):
            if _is_ours(output, name):
                remove(output / name, lease)
    _write_list(output, names, lease)


def listed(output: Path) -> list[str]:
    """The files under ``output`` that a build has put there, by built.txt; by provenance.json in older reports."""
    try:
        names = read_bytes(output / LIST).decode(errors="replace").splitlines()
    except FileNotFoundError:
        try:
            names = list(read_json(output / "provenance.json")["outputs"])
        except (UserError, KeyError, TypeError):
            return []
    return [name for name in names if _is_inside(name)]


def _write_list(output: Path, names: list[str], lease: Lease) -> None:
    write_text(output / LIST, "".join(f"{name}\n" for name in sorted(names)), staging=lease)


def _is_inside(name: object) -> bool:
    """Whether it is a name that a report's file can have: below its folder, and no hidden one."""
    return (
        isinstance(name, str)
        and bool(name)
        and "\0" not in name
        and all(part and not part.startswith(".") for part in name.split("/"))
        and PurePosixPath(name).as_posix() == name
    )


def _is_ours(output: Path, name: str) -> bool:
    """Whether there is such a file, or a link in its place, which may go: reached through no link."""
    with contextlib.suppress(FileNotFoundError, UserError):
        check_no_link(output, (output / name).parent)
        mode = (output / name).lstat().st_mode
        return stat.S_ISREG(mode) or stat.S_ISLNK(mode)
    return False


def _in_order(draft: Path) -> list[str]:
    last = {name: place for place, name in enumerate(LAST, 1)}
    return sorted(contents(draft, read=False), key=lambda name: (last.get(name, 0), name))


def contents(folder: Path, read: bool = True) -> dict[str, str]:
    """Name -> sha256 of every file under ``folder`` (empty unless ``read``); hidden ones are nobody's report.

    A link is named and not followed.
    """
    found = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in (name for name in (*folders, *files) if not name.startswith(".")):
            path = Path(place, name)
            if path.is_symlink():
                found[path.relative_to(folder).as_posix()] = "a link"
            elif name in files:
                with contextlib.suppress(FileNotFoundError):
                    found[path.relative_to(folder).as_posix()] = digest(path) if read else ""
    return found


def settled_contents(output: Path) -> dict[str, str]:
    """As ``contents``, at a moment at which no build puts files in their places."""
    since = time.monotonic()
    while True:
        before = _stamps(output)
        found = contents(output)
        busy = holder_of(output / LOCK)
        if (busy is None and _stamps(output) == before) or time.monotonic() - since > LONGEST:
            return found
        time.sleep(0.1)


def _stamps(output: Path) -> dict[str, tuple[int, int]]:
    """What tells a file from one that is written in its place later: inode and time."""
    found = {}
    for name in contents(output, read=False):
        with contextlib.suppress(FileNotFoundError):
            status = (output / name).lstat()
            found[name] = status.st_ino, status.st_mtime_ns
    return found


def _waiting(output: Path) -> Callable[[Holder | None], None]:
    since, told = time.monotonic(), False

    def waiting(holder: Holder | None) -> None:
        nonlocal told
        if not told and time.monotonic() - since > PATIENCE:
            who = f"process {holder.pid} on {holder.host}" if holder else "another process"
            with contextlib.suppress(OSError, AttributeError):  # Nobody may listen, or there is no stderr.
                print(clean(f"Waiting for {who}, which writes {output}."), file=sys.stderr, flush=True)
            told = True

    return waiting
