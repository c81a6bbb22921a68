"""Tables and figures of the benches. Figures have the look of the project's others."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from suite.bench.measure import Row, Spread, digits

COLUMN = 3.35
"""Width of a column of a two-column page, inches."""
# Okabe and Ito's, told apart with the common kinds of colour blindness; their yellow is too pale for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
GREYS = ("#000000", "#555555", "#8C8C8C")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7.0,
    "axes.titlesize": 7.0,
    "axes.labelsize": 7.0,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.1,
    "text.parse_math": False,
    "pdf.fonttype": 42,
}
LABEL = 5.8


@dataclass(frozen=True)
class Mark:
    """One line of a dot plot."""

    name: str
    spread: Spread
    text: str
    """Beside the dot."""


Lines = Mapping[str, Sequence[tuple[float, Spread]]]
"""Name -> points (x, y), ascending in x."""


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's own defaults with STYLE on top: a user's matplotlibrc must not change a figure."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Column -> text of each row as a Markdown table whose columns stand in line."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([row.get(name, "") for name in columns] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |"
        for line in cells
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


def mebibytes(row: Row) -> str:
    """A row's peak memory."""
    return digits(row.facts["peak_bytes"] / 2**20)


def save(figure: Figure, folder: Path) -> None:
    """``figure.png`` and ``figure.pdf``."""
    with style():
        for form in ("png", "pdf"):
            figure.savefig(folder / f"figure.{form}", dpi=300)


def curves(panels: Mapping[str, Lines], xlabel: str, marked: Mapping[float, str], ours: Sequence[str]) -> Figure:
    """Panels with logarithmic axes; bars are quartiles, and every line is named at its end.

    Lines in ``ours`` are coloured, others grey; ``marked`` are places on the x axis and what they stand for.
    """
    with style():
        figure = Figure(figsize=(2 * COLUMN, 3.4), layout="constrained")
        for axes, (ylabel, lines) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
            axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
            looks = _looks(lines, ours)
            for name, points in lines.items():
                x, middle = [x for x, _ in points], [y.middle for _, y in points]
                reach = [[y.middle - y.low for _, y in points], [y.high - y.middle for _, y in points]]
                axes.errorbar(x, middle, reach, **looks[name], marker="o", markersize=2, elinewidth=0.6)
            ticks = sorted({x for points in lines.values() for x, _ in points})
            axes.set_xticks(ticks, [f"{x:,}" for x in ticks], rotation=45)
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,g}"))
            for x, text in marked.items():
                axes.axvline(x, color="#555555", linewidth=0.7, linestyle=DASHES[2])
                axes.annotate(
                    text, (x, 1), (2, -2), xycoords=("data", "axes fraction"), textcoords="offset points",
                    va="top", fontsize=LABEL, color="#555555",
                )  # fmt: skip
            _name_ends(axes, lines, {name: look["color"] for name, look in looks.items()})
        return figure


def _looks(lines: Lines, ours: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and dash of each line, no pair twice among a dozen."""
    looks = {}
    for names, colours in ((list(ours), COLOURS), ([name for name in lines if name not in ours], GREYS)):
        for number, name in enumerate(names):
            turn, place = divmod(number, len(colours))
            dash = DASHES[(turn + (colours is GREYS)) % len(DASHES)]
            looks[name] = {"color": colours[place], "linestyle": dash}
    return looks


def _name_ends(axes: Axes, lines: Lines, colours: Mapping[str, str]) -> None:
    """Names at the right, in the order of the lines' ends and far enough apart to read."""
    axes.set_ylim(axes.get_ylim())
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = sorted(
        (float(to_axes.transform((points[-1][0], points[-1][1].middle))[1]), name) for name, points in lines.items()
    )
    least = 0.045
    places = [height for height, _ in ends]
    for number in range(1, len(places)):
        places[number] = max(places[number], places[number - 1] + least)
    # Those that were pushed out at the top push back down.
    ceiling = max(1.0, least * (len(places) - 1))
    for number in reversed(range(len(places))):
        places[number] = min(places[number], ceiling)
        ceiling = places[number] - least
    for place, (_, name) in zip(places, ends, strict=True):
        x, y = lines[name][-1]
        axes.annotate(
            name, (x, y.middle), (1.05, place), xycoords="data", textcoords="axes fraction", va="center",
            fontsize=LABEL, color=colours[name],
            arrowprops={"arrowstyle": "-", "color": colours[name], "linewidth": 0.4, "shrinkA": 1, "shrinkB": 2},
        )  # fmt: skip


def dots(panels: Mapping[str, Sequence[Mark]], xlabel: str, line: float | None) -> Figure:
    """A panel under the other of dots from 0 on, bars their quartiles; ``line`` is drawn across all of them."""
    with style():
        rows = sum(len(marks) + 2 for marks in panels.values())
        figure = Figure(figsize=(COLUMN * 1.5, 0.3 + 0.17 * rows), layout="constrained")
        heights = [len(marks) + 1 for marks in panels.values()]
        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (title, marks) in zip(grid, panels.items(), strict=True):
            axes.set_title(title, loc="left")
            for place, mark in enumerate(marks):
                spread, colour = mark.spread, COLOURS[0] if place else GREYS[0]
                axes.plot([spread.low, spread.high], [place, place], color=colour, linewidth=1.6, alpha=0.5)
                axes.plot(spread.middle, place, "o", color=colour, markersize=4)
                axes.annotate(
                    mark.text, (spread.high, place), (5, 0), textcoords="offset points", va="center", fontsize=LABEL
                )
            axes.set_yticks(range(len(marks)), [mark.name for mark in marks])
            axes.set_ylim(len(marks) - 0.5, -0.5)
            axes.grid(axis="y", visible=False)
            if line is not None:
                axes.axvline(line, color="#555555", linewidth=0.7, linestyle=DASHES[1])
        most = max(mark.spread.high for marks in panels.values() for mark in marks)
        grid[-1].set(xlim=(0, 1.25 * most), xlabel=xlabel)
        return figure
