"""What all figures share: how lines are told apart, labels, legends, and the layout."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reports.text import plain
from suite.look import BLACK, COLOURS, COLUMN, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# In its black the first line stands out, as the reference does.
LINES = (BLACK, *COLOURS)
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)), (0, (7, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
SMALL = 6.0
"""Points: the least size of any text."""


@dataclass(frozen=True)
class Look:
    """How one line or point is told apart from others: never by its colour alone."""

    colour: str
    dash: Any
    marker: str


def look(number: int) -> Look:
    """The ``number``-th: no pair of colour and dash comes twice within 35, none of colour and marker within 77."""
    return Look(
        LINES[number % len(LINES)], DASHES[number % len(DASHES)], MARKERS[number % len(MARKERS)]
    )  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """One figure of a report."""

    name: str
    """Of its files, without the ending."""
    title: str
    caption: str
    """What is shown, in full sentences: units, and what lines, bands and points mean."""
    figure: Figure


def wrapped(text: str, width: int, lines: int = 4) -> str:
    """``text`` from data in lines of ``width`` characters; what is longer than ``lines`` ends in dots."""
    # What has no room is left out before it is broken into lines, which takes long of a long text.
    text = textwrap.fill(plain(text[: 4 * width * lines]), width, max_lines=lines, placeholder=" …")
    # matplotlib leaves labels that begin with an underscore out of legends.
    return f" {text}" if text.startswith("_") else text


def named(text: str, width: int) -> str:
    """A title of a figure in at most two lines."""
    return wrapped(text, width, 2)


def panels(count: int, height: float, rest: float) -> tuple[Figure, list[Axes]]:
    """A figure of column width with ``count`` panels in two columns, each ``height`` inches; ``rest`` for the
    legend and titles. One panel has the width to itself."""
    from matplotlib.figure import Figure

    columns = min(count, 2)
    lines = -(-count // columns)
    figure = Figure(figsize=(COLUMN, rest + height * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.set_axis_off()
    return figure, list(grid[:count])


def handle(colour: Any, label: str, marker: str = "", linestyle: Any = "-", **settings: Any) -> Line2D:
    """An entry of a legend; ``label`` is wrapped already."""
    from matplotlib.lines import Line2D

    given: dict[str, Any] = {"markersize": 4} | settings
    return Line2D([], [], color=colour, label=label, marker=marker, linestyle=linestyle, **given)


def legend_below(figure: Figure, handles: Sequence[Any], columns: int = 2, title: str = "") -> None:
    """Below the panels, where it hides no data, in at most ``columns``; in fewer where labels are wide."""
    if not handles:
        return
    for count in range(min(columns, len(handles)), 0, -1):
        legend = figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=count,
            title=title or None,
            title_fontsize=STYLE["legend.fontsize"],
            frameon=False,
            handlelength=2.6 if columns < 4 else 1.8,
            handletextpad=0.5,
            columnspacing=1.0,
            labelspacing=0.3,
            borderpad=0.2,
        )
        if count == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def finish(figure: Figure) -> Figure:
    """The figure with its layout computed once and for all formats."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure
