"""Text of a report before any format: tables of strings, clean of characters that a terminal or page obeys."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from suite.errors import clean

ABSENT = "-"
"""Where the paper prints a dash, or a number cannot exist; the column of the accuracy says why in words."""


@dataclass(frozen=True)
class Column:
    side: str
    """``paper`` (published), ``ours`` (measured) or empty: no reader may take one for the other. By type, which is
    ours alone, ``answer`` or ``question``."""
    title: str


@dataclass(frozen=True)
class Note:
    mark: str
    text: str


@dataclass(frozen=True)
class TextTable:
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[Note, ...]
    """The notes that its rows refer to, in the order of their marks."""
    breaks: tuple[int, ...] = ()
    """Columns before which a narrow page may begin a new part of the table."""

    def parts(self, width: int, widths: Callable[[Sequence[int]], Sequence[int]]) -> list[list[int]]:
        """The columns of each part, the labels' among them: as many sections as fit in ``width``, at least one.

        ``widths`` says what each of some columns needs.
        """
        parts: list[list[int]] = []
        for first, end in itertools.pairwise([1, *self.breaks, len(self.columns)]):
            section = range(first, end)
            if parts and sum(widths([*parts[-1], *section])) <= width:
                parts[-1] += section
            else:
                parts.append([0, *section])
        return parts


def plain(text: str) -> str:
    """``clean`` as one line, without spaces that show nothing."""
    return " ".join(clean(text).split())


def shortened(text: str, most: int) -> str:
    """The first ``most`` characters of a text that nobody bounds, and how many it goes on for."""
    left = len(text) - most
    return f"{text[:most]} … ({left:,} characters more)" if left > 0 else text
