"""Tables and figures of the benches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from suite.bench.record import Spread
from suite.look import BLACK, COLOURS, COLUMN, DARK, PALE, style

LABEL = 5.8
"""Size of the text inside a panel, points."""
LINE_OF_TEXT = 0.1
"""Height of a line of it, inches."""


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Column -> text of each row as a Markdown table whose columns stand in line."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([row.get(name, "") for name in columns] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |"
        for line in cells
    )


def save(figure: Figure, folder: Path) -> None:
    """``figure.png`` and ``figure.pdf``."""
    with style():
        for form in ("png", "pdf"):
            figure.savefig(folder / f"figure.{form}", dpi=300)


Points = Sequence[tuple[float, Spread]]
"""x and y, ascending in x."""


@dataclass(frozen=True)
class Panel:
    title: str
    ylabel: str
    lines: Mapping[str, Points]
    below_one: str = ""
    """What it means that a line is below 1, where it means something."""


def curves(
    grid: Sequence[Sequence[Panel]],
    xlabel: str,
    marked: tuple[float, str],
    coloured: Sequence[str],
    dashed: Sequence[str],
) -> Figure:
    """Rows of panels with logarithmic axes; bars are quartiles, and every line is named at its right end.

    The lines that a reader looks for are ``coloured``, the first of them black; those that they replace are
    ``dashed``, and all others thin. ``marked`` is a place on the x axis and what it stands for.
    """
    with style():
        most = max(len(panel.lines) for row in grid for panel in row)
        height = max(2.2, 1.1 * LINE_OF_TEXT * most)
        figure = Figure(figsize=(2.1 * COLUMN, (height + 0.7) * len(grid)), layout="constrained")
        axes = figure.subplots(len(grid), len(grid[0]), squeeze=False)
        for panel, place in zip((panel for row in grid for panel in row), axes.flat, strict=True):
            looks = _looks(list(panel.lines), coloured, dashed)
            _draw(panel, place, looks, marked)
            _name_ends(panel, place, looks, LINE_OF_TEXT / height)
            place.set_xlabel(xlabel)
        return figure


def _draw(panel: Panel, axes: Axes, looks: Mapping[str, dict[str, Any]], marked: tuple[float, str]) -> None:
    axes.set(xscale="log", yscale="log", ylabel=panel.ylabel)
    axes.set_title(panel.title, loc="left", pad=10)
    for name, points in panel.lines.items():
        x, middle = [x for x, _ in points], [y.middle for _, y in points]
        reach = [[y.middle - y.low for _, y in points], [y.high - y.middle for _, y in points]]
        axes.errorbar(x, middle, reach, marker="o", elinewidth=0.6, **looks[name])
    drawn = [point for points in panel.lines.values() for point in points]
    ticks = sorted({x for x, _ in drawn})
    axes.set_xticks(ticks, [f"{x:,}" for x in ticks], rotation=45)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    # Set, because matplotlib finds no limits where all is measured at one place.
    axes.set_xlim(ticks[0] / 1.15, ticks[-1] * 1.15)
    axes.set_ylim(min(y.low for _, y in drawn) / 1.5, max(y.high for _, y in drawn) * 1.2)
    if panel.below_one:
        axes.axhspan(axes.get_ylim()[0], 1, color="#EFF5EC", zorder=0)
        axes.annotate(
            panel.below_one, (1, 0), (-3, 3), xycoords="axes fraction", textcoords="offset points",
            ha="right", fontsize=LABEL, color=DARK,
        )  # fmt: skip
    x, text = marked
    if ticks[0] <= x <= ticks[-1]:
        axes.axvline(x, color=DARK, linewidth=0.7, linestyle=":", zorder=1)
        axes.annotate(
            text, (x, 1), (0, 2), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="center", va="bottom", fontsize=LABEL, color=DARK,
        )  # fmt: skip


def _looks(names: Sequence[str], coloured: Sequence[str], dashed: Sequence[str]) -> dict[str, dict[str, Any]]:
    """How to draw each of the lines ``names``."""
    thin = {"color": PALE, "linewidth": 0.6, "markersize": 1.2, "zorder": 2}
    strong = {"linewidth": 1.3, "markersize": 2.5}
    looks = dict.fromkeys(names, thin)
    for name in dashed:
        looks[name] = strong | {"color": DARK, "linestyle": (0, (3, 1.2)), "zorder": 3}
    for number, name in enumerate(dict.fromkeys(name for name in coloured if name in names)):
        colour = COLOURS[(number - 1) % len(COLOURS)] if number else BLACK
        looks[name] = strong | {"color": colour, "linestyle": "-", "zorder": 4}
    return looks


def _name_ends(panel: Panel, axes: Axes, looks: Mapping[str, dict[str, Any]], least: float) -> None:
    """Names at the right, as near to the ends of the lines as ``least``, of the axes' height, allows."""
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = {name: (points[-1][0], points[-1][1].middle) for name, points in panel.lines.items()}
    heights = {name: float(to_axes.transform(end)[1]) for name, end in ends.items()}
    names = sorted(heights, key=heights.__getitem__)
    for name, place in zip(names, apart([heights[name] for name in names], least), strict=True):
        colour = looks[name]["color"]
        leader = {
            "arrowstyle": "-",
            "color": colour,
            "linewidth": 0.4,
            "relpos": (0, 0.5),
            "shrinkA": 1,
            "shrinkB": 2,
        }
        axes.annotate(
            name, ends[name], (1.06, place), xycoords="data", textcoords="axes fraction", va="center",
            fontsize=LABEL, color=DARK if colour == PALE else colour, arrowprops=leader,
        )  # fmt: skip


def apart(wanted: Sequence[float], least: float) -> list[float]:
    """The places in [0, 1], ``least`` apart, that are nearest to ``wanted``, ascending (isotonic regression).

    They go beyond 1 where there is not enough room.
    """
    blocks: list[list[float]] = []
    for number, place in enumerate(wanted):
        blocks.append([place - number * least])
        while len(blocks) > 1 and fmean(blocks[-2]) > fmean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    ceiling = max(0.0, 1 - (len(wanted) - 1) * least)
    places = [min(max(fmean(block), 0.0), ceiling) for block in blocks for _ in block]
    return [place + number * least for number, place in enumerate(places)]


@dataclass(frozen=True)
class Mark:
    """One line of a dot plot."""

    name: str
    spread: Spread
    text: str
    """Beside the dot."""
    ours: bool
    """Or what it is compared with."""


def dots(panels: Mapping[str, Sequence[Mark]], xlabel: str, line: float | None = None) -> Figure:
    """A panel under the other of dots, bars their quartiles; ``line`` is drawn across all of them."""
    with style():
        rows = sum(len(marks) + 2 for marks in panels.values())
        figure = Figure(figsize=(COLUMN * 1.5, 0.3 + 0.17 * rows), layout="constrained")
        heights = [len(marks) + 1 for marks in panels.values()]
        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (title, marks) in zip(grid, panels.items(), strict=True):
            axes.set_title(title, loc="left")
            if line is not None:
                axes.axvline(line, color=DARK, linewidth=0.7, linestyle=":")
            for place, mark in enumerate(marks):
                spread, colour = mark.spread, COLOURS[0] if mark.ours else BLACK
                axes.plot([spread.low, spread.high], [place, place], color=colour, linewidth=1.6, alpha=0.5)
                axes.plot(spread.middle, place, "o", color=colour, markersize=4)
                axes.annotate(
                    mark.text, (spread.high, place), (6, 0), textcoords="offset points", va="center",
                    fontsize=LABEL, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
                )  # fmt: skip
            axes.set_yticks(range(len(marks)), [mark.name for mark in marks])
            axes.set_ylim(len(marks) - 0.5, -0.5)
            axes.grid(axis="y", visible=False)
        most = max(mark.spread.high for marks in panels.values() for mark in marks)
        grid[-1].set(xlim=(0, 1.3 * most), xlabel=xlabel)
        return figure
