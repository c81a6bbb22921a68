"""Where an axis is broken, so that what lies far from everything else does not press the rest together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports.figures.rows import drawn_interval
from reports.report import Row

EMPTY = 2 / 3
"""Share of an axis that must be empty in one piece before it is broken there."""
NARROW = 0.24
"""Least share of the width that one side of a break has."""
LEAST = 1.6
"""Of the side with fewer rows, per cent: a whole per cent in it has a tick, and room."""


@dataclass(frozen=True)
class Part:
    """One side of a break, or the whole axis."""

    low: float
    high: float
    """Per cent, as ``low``."""
    share: float
    """Of the width."""

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


def broken(rows: Sequence[Row], floors: Sequence[float]) -> tuple[Part, Part] | None:
    """The two parts of an axis with the test accuracies of rows and floors (per cent); None where it is whole.

    No break goes through what is drawn of one row, its seeds and its interval.
    """
    extents = [_extent(row) for row in rows if row.measured]
    spans = sorted([*extents, *((value, value) for value in floors)])
    if not extents or len(spans) < 2:
        return None
    groups = [spans[0]]
    gaps = []
    for low, high in spans[1:]:
        gaps.append((low - groups[-1][1], groups[-1][1], low))
        groups.append((low, max(high, groups[-1][1])))
    gap, left, right = max(gaps)
    first, last = spans[0][0], groups[-1][1]
    if gap <= max(EMPTY * (last - first), LEAST):
        return None
    below = sum(low <= left for low, _ in extents)
    share = min(max(below / len(extents), NARROW), 1 - NARROW)
    return (
        _part(first, left, share, few=2 * below <= len(extents)),
        _part(right, last, 1 - share, few=2 * below > len(extents)),
    )


def _extent(row: Row) -> tuple[float, float]:
    assert row.measured is not None
    drawn = [row.measured.accuracy, *row.measured.accuracies, *(drawn_interval(row) or ())]
    return min(drawn), max(drawn)


def _part(low: float, high: float, share: float, few: bool) -> Part:
    margin = max(0.12 * (high - low), 0.05, (LEAST - (high - low)) / 2 if few else 0)
    return Part(low - margin, high + margin, share)
