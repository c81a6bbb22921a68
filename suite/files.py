"""Files of records: written whole or not at all, and known again when they are read. Imports no torch.

A JSON document, and each line of a ``.jsonl`` file, ends with ``"check"``: the first sixteen hex digits of the
sha256 of what stands before it. Records of older engines have none. What a file system answers (OSError) passes as
it is: damage is only what a digest or a parser says.

Nothing follows links in a record: who copies a run folder from elsewhere must not write, or publish, files of his
own that it points to.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from operator import ne
from pathlib import Path
from typing import Any, Protocol

from suite.errors import UserError
from suite.process import born, is_gone, short_machine

LEFT_AFTER = 24 * 3600.0
"""Seconds after which a temporary file of a process on another machine is one that it left."""

_count = itertools.count()
_TEMPORARY = re.compile(r"\..+\.(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-(?P<born>\d+(?:\.\d+)?)-\d+")
_DOCUMENT_END = re.compile(rb',\n "check": "([0-9a-f]{16})"\n\}\n?\Z')
_LINE_END = re.compile(rb', "check": "([0-9a-f]{16})"\}\Z')


class RecordError(UserError):
    """A record that cannot be read: names the file and what to do."""


class Staging(Protocol):
    """Where the one process that may change a record prepares each change: it is gone once another may."""

    @property
    def path(self) -> Path | None:
        """A folder on the record's file system that no other process ever has under this name."""

    def check(self) -> None:
        """Raises where the record is not this process's to change any more."""


def damaged(path: Path, why: str) -> RecordError:
    """The error for a file of a record that is not what was written. Nothing is to be deleted: it may be whole."""
    if path.name == "study.json":
        advice = (
            "Restore it from a copy, or give the command that launched the study again: it writes that file anew "
            "and finished cells stay."
        )
    else:
        advice = (
            "Restore it from a copy, or have that cell set aside and trained again: "
            "`ablate run STUDY --rerun-damaged`."
        )
    return RecordError(f"{path} is damaged: {why}. {advice}")


# Writing


@contextmanager
def replacing(path: Path, settled: bool = False, staging: Staging | None = None) -> Iterator[Path]:
    """Another name for ``path`` to write to, which becomes it at the end; nothing is left where that fails.

    ``settled``: no reader sees half of it after a power cut either, for which the disk is waited for. With
    ``staging`` nothing becomes ``path`` once the record is another process's: what was to be renamed has gone with
    the staging folder.
    """
    if staging is not None and staging.path is None:
        staging.check()
    folder = path.parent if staging is None or staging.path is None else staging.path
    temporary = folder / temporary_name(path.name)
    try:
        yield temporary
        if settled:
            settle(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        # On a disk that is full it would take what others wait for.
        with contextlib.suppress(OSError):
            discard(temporary)
        if staging is not None and isinstance(error, OSError):
            staging.check()
        raise


def remove(path: Path, staging: Staging | None = None) -> None:
    """Removes a file, a link or a folder, if there is one; with ``staging`` only while the record is ours."""
    if staging is None:
        discard(path)
        return
    if staging.path is None:
        staging.check()
    assert staging.path is not None
    gone = staging.path / temporary_name(path.name)
    try:
        os.replace(path, gone)
    except OSError as error:
        staging.check()
        if not isinstance(error, FileNotFoundError):
            raise
        return
    # What is in the staging folder goes with it in the end.
    with contextlib.suppress(OSError):
        discard(gone)


def insist(removal: Callable[[], object]) -> None:
    """Does a removal, a second time where it fails: an error that passes leaves nothing. Raises no OSError."""
    for _ in range(2):
        with contextlib.suppress(OSError):
            removal()
            return


def clear(folder: Path) -> None:
    """Removes a folder with all of it that goes, as ``insist`` does: one file that stays keeps no other."""
    for _ in range(2):
        shutil.rmtree(folder, ignore_errors=True)


def discard(path: Path) -> None:
    """Removes a file, a link (not what it leads to) or a folder, if it is there."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        if path.is_symlink() or not path.is_dir():
            raise
        shutil.rmtree(path)


def temporary_name(name: str) -> str:
    """A name that no other process can have, on any machine, and by which ``sweep`` knows whose it is."""
    return f".{name}.{short_machine()}-{os.getpid()}-{born():.0f}-{next(_count)}"


def is_left(path: Path) -> bool:
    """Whether the file or folder is a temporary one of a process that has ended."""
    known = _TEMPORARY.fullmatch(path.name)
    if known is None:
        return False
    if known["machine"] == short_machine():
        return is_gone(int(known["pid"]), float(known["born"]))
    with contextlib.suppress(OSError):
        return time.time() - path.lstat().st_mtime > LEFT_AFTER
    return False


def sweep(folder: Path) -> None:
    """Removes what processes that were killed have left in ``folder``: the suite's own temporary files alone."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.startswith(".") and is_left(path := Path(entry.path)):
                with contextlib.suppress(OSError):
                    discard(path)


def write_bytes(path: Path, content: bytes, settled: bool = False, staging: Staging | None = None) -> None:
    """Writes under a temporary name and renames, so that no reader sees half a file."""
    with replacing(path, settled, staging) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str, settled: bool = False, staging: Staging | None = None) -> None:
    write_bytes(path, text.encode(), settled, staging)


def write_json(path: Path, value: Any, settled: bool = False, staging: Staging | None = None) -> None:
    """Without a check: for files that are not records, and for lists."""
    write_text(path, _dumps(value, indent=1) + "\n", settled, staging)


def write_document(
    path: Path, value: Mapping[str, Any], settled: bool = False, staging: Staging | None = None
) -> None:
    """A JSON object that knows itself: ``read_json`` raises where a bit of it has changed since."""
    if not value:
        write_json(path, value, settled, staging)
        return
    content = _dumps(value, indent=1).removesuffix("\n}").encode()
    write_bytes(path, content + f',\n "check": "{_check(content)}"\n}}\n'.encode(), settled, staging)


def checked_lines(lines: Iterable[Mapping[str, Any]]) -> bytes:
    """Lines of a ``.jsonl`` file, each of which knows itself."""
    texts = (_dumps(line).removesuffix("}").encode() for line in lines)
    return b"".join(text + f', "check": "{_check(text)}"}}\n'.encode() for text in texts)


def settle(path: Path) -> None:
    """Returns once the disk has what was written to the file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _dumps(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, allow_nan=False)


def _check(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


# Reading


def read_bytes(path: Path) -> bytes:
    """The whole of a regular file. Raises RecordError for a link, and for what is no file."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP or path.is_symlink():
            raise is_link(path) from None
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise RecordError(f"{path} is expected to be a file, and is none. Move it away.")
    with os.fdopen(file, "rb") as opened:
        return opened.read()


def is_link(path: Path) -> RecordError:
    return RecordError(
        f"{path} is a link, and records hold none: what it leads to is nobody's but its owner's. Put the file or "
        "folder itself there."
    )


def check_no_link(root: Path, path: Path) -> None:
    """Raises RecordError where ``path``, or a folder between ``root`` and it, is a link. ``root`` itself may be."""
    for part in (path, *path.parents):
        if part == root or part == part.parent:
            return
        if part.is_symlink():
            raise is_link(part)


def read_json(path: Path) -> Any:
    """The JSON of a file; of an object that was written with a check, without it.

    Raises RecordError where the file is missing, or is not what was written.
    """
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        raise RecordError(f"{path} is missing: the record is incomplete. Run the study again.") from None
    return parse_json(path, content)


def parse_json(path: Path, content: bytes) -> Any:
    """As ``read_json``, of what was read of the file at ``path`` already."""
    try:
        value = _loads(content, _DOCUMENT_END)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"not JSON as it was written ({_few_words(error)})") from None
    return value


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``.jsonl`` file; none where there is no file.

    A last line without its end is one that is being written, or that a kill cut off: it is left out.
    """
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        return []
    return parse_lines(path, content)


def parse_lines(path: Path, content: bytes) -> list[dict[str, Any]]:
    """As ``read_lines``, of what was read of the file at ``path`` already."""
    *texts, _ = content.split(b"\n")
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            line = _loads(text, _LINE_END)
            if not isinstance(line, dict):
                raise ValueError("expected an object")
        except (ValueError, RecursionError) as error:  # Of JSON, or of its encoding.
            raise damaged(Path(f"{path}:{number}"), f"not JSON as it was written ({_few_words(error)})") from None
        lines.append(line)
    return lines


def parse_vouched_lines(path: Path, content: bytes) -> list[dict[str, Any]]:
    """As ``parse_lines``, of content whose digest says that it is what was written: in half the time."""
    texts = content.split(b"\n")[:-1]
    try:
        lines = json.loads(b"[" + b",".join(texts) + b"]", parse_constant=_refuse)
    except (ValueError, RecursionError):
        return parse_lines(path, content)  # Which says what is wrong, and where.
    if len(lines) != len(texts) or not all(isinstance(line, dict) for line in lines):
        return parse_lines(path, content)
    for line in lines:
        line.pop("check", None)
    return lines


def _loads(content: bytes, ending: re.Pattern[bytes]) -> Any:
    """The value of JSON text without its check, which is held against the text: ValueError where that is not so."""
    found = ending.search(content, max(0, len(content) - 64))
    if found is None:  # Nobody vouches for it: a hand, or an older engine, wrote it.
        value = strict_json(content)
        last = next(reversed(value), "") if isinstance(value, dict) else ""
        if len(last) == len("check") and sum(map(ne, last, "check")) < 2:  # Damage may hit what is to tell of it.
            raise ValueError("its check is damaged")
        return value
    if _check(content[: found.start()]) != found[1].decode():
        raise ValueError("its check is of other content")
    value = json.loads(content)
    del value["check"]
    return value


def strict_json(text: str | bytes) -> Any:
    """What a JSON text holds. Raises ValueError, also for NaN, infinity and a name that an object has twice."""
    return json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_once)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is no finite number")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)[:40]!r} stands in it twice")
    return value


def _few_words(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__


def digest(path: Path) -> str:
    """The sha256 of a file, in hex. Raises RecordError for a link."""
    if path.is_symlink():
        raise is_link(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
