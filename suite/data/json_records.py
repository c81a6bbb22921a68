"""Records of a JSON file: read at once, and named by line where something is wrong with one.

VQA's files are lists of up to 650,000 records, at the top or under a key. They are parsed by one call of the
standard library, which keeps no lines; a line is looked for when a fault is told, and only then.
"""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from suite.data.store import DataError

PACKED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"\xfd7zXZ": "xz"}
"""What no JSON begins with."""


@dataclass
class Faults:
    """What is wrong with single records: raised at once or, with `skip_bad`, kept and listed."""

    skip_bad: bool
    found: list[tuple[Path, str | None, int, str]] = field(default_factory=list)

    def add(self, path: Path, key: str | None, record: int, text: str) -> None:
        """The record at position `record`, from 0, of the list under `key` has the fault `text`."""
        if not self.skip_bad:
            raise DataError(f"{place(path, key, record)}: {text}")
        self.found.append((path, key, record, text))

    def sentences(self) -> list[str]:
        """One for each fault in the order found, with file, line and record; each file is read once."""
        wanted: dict[tuple[Path, str | None], set[int]] = {}
        for path, key, record, _ in self.found:
            wanted.setdefault((path, key), set()).add(record)
        lines = {file: _lines(*file, records) for file, records in wanted.items()}
        return [
            f"{_named(path, lines[path, key][record], record)}: {text}" for path, key, record, text in self.found
        ]


def load(path: Path) -> Any:
    """What the JSON file holds. Raises DataError, with file and line, where it is not JSON, or not there."""
    try:
        text = _text(path)
    except UnicodeDecodeError as error:
        content, at = error.object, error.start
        if packed := next((name for begins, name in PACKED.items() if content.startswith(begins)), None):
            raise DataError(f"{path}: expected JSON, got a file packed by {packed}. Unpack it first.") from None
        line = content.count(b"\n", 0, at) + 1
        raise DataError(
            f"{path}, line {line}: expected UTF-8, got byte {content[at]:#x}. Save it as UTF-8."
        ) from None
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Expected a JSON file.") from None
    try:
        with uncollected():
            return json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text[error.pos] in "{[":
            raise DataError(
                f"{path}, line {error.lineno}: expected one list of records, got another value behind the first: a "
                f"record a line. Wrap them in one list, as `jq -s . {path}` does."
            ) from None
        torn = error.msg.startswith("Unterminated") or len(text[error.pos :].strip()) < len("false")
        advice = "Is the file whole? Download or copy it again." if torn else "Mend it there, or get it again."
        raise DataError(
            f"{path}, line {error.lineno}: expected JSON, got something else ({error.msg} at character "
            f"{error.pos} of {len(text)}). {advice}"
        ) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; lists in lists in lists
        raise DataError(f"{path}, line 1: expected JSON that can be read, got an error ({error}).") from None


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the search for unreachable cycles, half of the time where millions of objects are made."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def place(path: Path, key: str | None, record: int) -> str:
    """The file, line and record, counted from 1, of the record at position `record` of the list under `key`."""
    return _named(path, _lines(path, key, [record])[record], record)


def is_text(value: Any) -> bool:
    """Whether it is a string that can be written; JSON can escape half a character, which cannot."""
    return isinstance(value, str) and (value.isascii() or not _HALF.search(value))


def is_id(value: Any) -> bool:
    """Whether it is a whole number that int64 holds."""
    return type(value) is int and -(2**63) <= value < 2**63


_HALF = re.compile("[\ud800-\udfff]")
_GAP = re.compile(r"[ \t\n\r,:]*")


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8-sig")


def _named(path: Path, line: int, record: int) -> str:
    return f"{path}, line {line}, record {record + 1}"


def _lines(path: Path, key: str | None, records: Collection[int]) -> dict[int, int]:
    """The line, from 1, in which each of `records` begins."""
    try:
        return _find_lines(_text(path), key, records)
    except (ValueError, IndexError, StopIteration, RecursionError) as error:
        # What was read once cannot fail again unless another program writes it, or lists are nested to the limit.
        raise DataError(f"{path} has a fault whose line cannot be found ({error}). Read it again.") from None


def _find_lines(text: str, key: str | None, records: Collection[int]) -> dict[int, int]:
    decode = json.JSONDecoder().raw_decode

    def behind_gap(position: int) -> int:
        found = _GAP.match(text, position)
        assert found is not None, "it matches nothing, too"
        return found.end()

    start = behind_gap(0)
    if key is not None:
        position = start + 1
        # To the end: of two equal keys the last one counts.
        while text[position := behind_gap(position)] != "}":
            name, position = decode(text, position)
            position = behind_gap(position)
            if name == key:
                start = position
            _, position = decode(text, position)
    found = {}
    line, counted, position = 1, 0, start + 1
    for record in range(max(records) + 1):
        position = behind_gap(position)
        if record in records:
            line += text.count("\n", counted, position)
            counted = position
            found[record] = line
        _, position = decode(text, position)
    return found
