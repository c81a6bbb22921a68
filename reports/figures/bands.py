"""A band per kind of thing, and in it a point per row: rows can be compared within a band."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING

from reports.figures.drawing import handle
from reports.figures.rows import Chosen, row_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

SIZE = 3.2
"""Of the points."""


def band_height(rows: int) -> float:
    """Inches that a band of ``rows`` points needs."""
    return max(0.3, 0.07 * rows)


def draw_bands(
    axes: Axes, names: Sequence[str], chosen: Chosen, values: Mapping[str, Sequence[float | None]]
) -> None:
    """``values`` has by the row's key a number for each of the bands' ``names``, None where there is none."""
    rows = [row for row in chosen.rows if row.key in values]
    for number, row in enumerate(rows):
        # Rows one above the other inside a band: equal numbers do not hide each other.
        shift = 0.76 * ((number + 0.5) / len(rows) - 0.5)
        points = [(one, place + shift) for place, one in enumerate(values[row.key]) if one is not None]
        how = chosen.looks[row.key]
        axes.plot(
            [value for value, _ in points],
            [place for _, place in points],
            color=how.colour,
            marker=how.marker,
            linestyle="",
            markersize=SIZE,
            markerfacecolor="white" if row.stale else how.colour,
            label=row_label(row),
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks([place + 0.5 for place in range(len(names) - 1)], minor=True)
    axes.tick_params(axis="y", which="both", length=0)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="y", which="minor", color="#B8B8B8", linewidth=0.6)


def entries(chosen: Chosen, drawn: Container[str]) -> list[Line2D]:
    """The legend: of all ``chosen`` rows, without a point for those whose key is not among the ``drawn``."""
    found = [
        handle(how.colour, row_label(row), how.marker, "", markersize=SIZE)
        if row.key in drawn
        else handle("none", row_label(row), linestyle="")
        for row, how in zip(chosen.rows, chosen.looks.values(), strict=True)
    ]
    return found + ([handle("none", chosen.short, linestyle="")] if chosen.left_out else [])
