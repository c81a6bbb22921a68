"""Below the tables, in words: what the intervals hold for, what would have been found, what has no number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from reports.report import Report, Row
from reports.statistics import FEW as FEW_IMAGES
from reports.statistics import RESAMPLES, Estimate

FEW = 8
"""Cells of one state that are named."""
MANY = 16
"""Rows whose detectable difference is given one by one, and intervals that are named."""


def certainty(report: Report) -> list[str]:
    """What the intervals hold for, how p was made, and which differences would have been found."""
    pairs = [(row.short, row.paired) for row in report.rows] + [
        (row.label, row.paired) for row in report.comparisons
    ]
    levels = [*report.rows, *report.floors]
    found = [row.estimate for row in levels if row.estimate] + [pair for _, pair in pairs if pair]
    if not found:
        lacking = any(row.measured for row in levels)
        return ["No intervals: the finished cells have no predictions, or of one image alone."] if lacking else []
    images = _range(one.images for one in found)
    lines = [
        f"±: half of the 95 % interval, over images ({RESAMPLES:,} bootstrap resamples of {images} images with all "
        "their questions, paired in differences) and, from two seeds on, over seeds (t distribution)."
    ]
    if any(one.error == 0 for one in found):
        lines.append(
            "Where no image differs from another, as with no wrong answer, ± is the largest share of images that "
            "may differ with none of them among those tested (Clopper and Pearson's limit)."
        )
    if rough := _rough(levels, pairs):
        lines.append(
            f"Rough intervals, of fewer than {FEW_IMAGES} images that differ from all others (95 % intervals "
            f"of 3 to 15 such images cover 85 to 93 %): {rough}."
        )
    if any(one.seeds == 1 for one in found):
        lines.append(
            "With one seed an interval and its p hold for the questions only: another run may well lie outside."
        )
    if any(pair for _, pair in pairs):
        lines.append(
            "p: two-sided, against no difference to the softmax row, by Holm's rule over all rows that have one"
            f"{'; of changes, over all changes' if any(one.paired for one in report.comparisons) else ''}."
        )
        least = [(name, pair.detectable) for name, pair in pairs if pair and pair.detectable is not None]
        found = sorted(points for _, points in least)
        each = "; ".join(f"{name} {points:.2f}" for name, points in least)
        lines.append(
            "Minimum detectable difference (points; 80 % power, 5 % two-sided, before Holm): "
            f"{each if len(least) <= MANY else f'{found[0]:.2f} to {found[-1]:.2f} over {len(least)} rows'}."
        )
    return lines


def _rough(levels: Iterable[Row], pairs: Iterable[tuple[str, Estimate | None]]) -> str:
    """Which intervals are of few images, each with their number; of many which only how many."""
    named = [
        *((row.short, "accuracy", row.estimate) for row in levels),
        *((name, "difference", pair) for name, pair in pairs),
    ]
    few = [f"{name}, {what} ({one.telling})" for name, what, one in named if one and one.telling is not None]
    return "; ".join(few) if len(few) <= MANY else f"{len(few)} intervals" if few else ""


def _range(numbers: Iterable[int]) -> str:
    low, high = min(found := sorted(numbers)), max(found)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def completeness(report: Report) -> str:
    """How many cells there are a number of, and that nothing stands in for the others."""
    cells = {cell.id: cell for row in (*report.rows, *report.floors) for cell in row.cells}
    states = Counter(cell.state for cell in cells.values())
    others = []
    for state, count in sorted(states.items()):
        if state != "finished":
            ids = [cell.id for cell in cells.values() if cell.state == state]
            more = f" and {count - FEW} more" if count > FEW else ""
            others.append(f"{count} {state} ({', '.join(ids[:FEW])}{more})")
    counted = "; ".join([f"{states['finished']} of {len(cells)} cells finished", *others])
    return f"{counted}. Nothing is imputed: a cell without a result is in no number."
