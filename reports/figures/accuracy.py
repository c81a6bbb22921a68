"""Test accuracy of every row: seeds as points, the mean, its 95 % interval, and the floors as lines."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reports.figures.breaks import Part, broken
from reports.figures.drawing import DASHES, LINES, Drawn, finish, handle, legend_below, named, wrapped
from reports.figures.rows import choose, drawn_interval, state_text, trained
from reports.report import Report, Row
from reports.text import plain
from suite.look import BLACK, COLUMN, DARK, PALE, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def test_accuracy(report: Report) -> Drawn:
    """Test accuracy (per cent) of every trained row, with the floors as lines.

    Rows without a result keep their place, with the reason in words.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    chosen, floors = choose(trained(report)), _floors(report)
    rows = chosen.rows
    with style():
        figure = Figure(figsize=(COLUMN, 1.4 + 0.27 * max(len(rows), 1)), layout="constrained")
        parts = broken(rows, [value for _, value in floors]) or (Part(*_range(rows, floors), 1.0),)
        columns = figure.subplots(
            1, len(parts), sharey=True, squeeze=False, width_ratios=[part.share for part in parts]
        )[0]
        for axes, part in zip(columns, parts, strict=True):
            axes.set_xlim(part.low, part.high)
            axes.grid(axis="y", visible=False)
            if len(parts) > 1:
                bins = max(2, round(5 * part.share))
                axes.xaxis.set_major_locator(MaxNLocator(bins, steps=[1, 2, 5, 10], min_n_ticks=1))
        widest = columns[max(range(len(parts)), key=lambda place: parts[place].share)]
        for place, row in enumerate(rows):
            on = _holding(columns, parts, row.measured.accuracy) if row.measured else widest
            _draw(on, place, row)
        columns[0].set_yticks(range(len(rows)), [wrapped(row.short, 28, 2) for row in rows])
        columns[0].set_ylim(max(len(rows), 1) - 0.5, -0.9)
        if len(parts) > 1:
            _mark_break(*columns)
        handles = []
        for (label, value), dash in zip(floors, itertools.cycle(DASHES[1:4]), strict=False):
            text = wrapped(f"floor: {label}, {value:.2f} %", 60)
            on = _holding(columns, parts, value)
            handles.append(on.axvline(value, color=DARK, linestyle=dash, linewidth=0.9, label=text))
        if any(row.estimate for row in rows):
            handles.append(handle(LINES[1], "95 % interval of the mean"))
        if any(row.measured and len(row.measured.accuracies) > 1 for row in rows):
            handles.append(handle(LINES[1], "seeds", "o", "", markersize=2, markerfacecolor="none"))
        if any(row.looked is False for row in rows):
            handles.append(handle(PALE, f"below {report.looked:g} %: has not learned to look", "X", ""))
        if chosen.left_out:
            handles.append(handle("none", chosen.short, linestyle=""))
        legend_below(figure, handles, columns=1)
        widest.set_xlabel("test accuracy (%)")
        figure.suptitle(named(f"{report.dataset}: test accuracy", 60))
        return Drawn(
            "test-accuracy",
            "Test accuracy",
            f"Accuracy (per cent) on the test split of {plain(report.dataset)}: large points are means over seeds, "
            "small ones seeds, horizontal lines 95 % intervals of the mean where predictions were recorded (cut at "
            "the edge); hollow large points come from an engine that has changed since. Vertical lines are floors: "
            "what can be reached without looking at the pictures."
            f"{BROKEN if len(parts) > 1 else ''}{chosen.sentence}",
            finish(figure),
        )


BROKEN = " Two strokes mark where the axis leaves out what holds nothing; the sides have scales of their own."


def _holding(columns: Sequence[Axes], parts: Sequence[Part], value: float) -> Axes:
    return next(axes for axes, part in zip(columns, parts, strict=True) if part.holds(value))


def _mark_break(left: Axes, right: Axes) -> None:
    right.spines["left"].set_visible(False)
    right.tick_params(left=False)
    stroke = {"marker": [(-0.6, -1), (0.6, 1)], "markersize": 5, "color": BLACK, "linestyle": "", "clip_on": False}
    left.plot([1], [0], transform=left.transAxes, markeredgewidth=0.6, **stroke)
    right.plot([0], [0], transform=right.transAxes, markeredgewidth=0.6, **stroke)


def _range(rows: Sequence[Row], floors: Sequence[tuple[str, float]]) -> tuple[float, float]:
    """Of the axis, per cent."""
    numbers = [one for row in rows if row.measured for one in row.measured.accuracies]
    if not numbers:
        return -0.5, 100.5
    numbers += [value for _, value in floors]
    low, high = min(numbers), max(numbers)
    # That of two seeds may be wider than all else, which it must not press together: it is cut.
    wide = max(high - low, 1.0)
    far = [end for row in rows for end in drawn_interval(row) or ()]
    low, high = (
        min([low, *(max(end, low - wide) for end in far)]),
        max([high, *(min(end, high + wide) for end in far)]),
    )
    margin = max(0.1 * (high - low), 0.5)
    return low - margin, high + margin


def _draw(axes: Axes, place: int, row: Row) -> None:
    """One row of the figure, ``place`` rows from the top."""
    if row.measured is None:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        middle = sum(axes.get_xlim()) / 2
        axes.text(middle, place, row.state, ha="center", va="center", style="italic", color=DARK, bbox=box)
        return
    colour = PALE if row.looked is False else LINES[1]
    if interval := drawn_interval(row):
        axes.plot(interval, [place, place], color=colour, linewidth=0.9, marker="|")
    if len(row.measured.accuracies) > 1:
        seeds = row.measured.accuracies
        # Below the line, where the mean and the interval do not cover them.
        below = [place + 0.24] * len(seeds)
        axes.plot(seeds, below, "o", color=colour, markersize=2, markerfacecolor="none", markeredgewidth=0.6)
    inside, marker = "white" if row.stale else colour, "X" if row.looked is False else "o"
    axes.plot(row.measured.accuracy, place, marker, color=colour, markersize=4, markerfacecolor=inside)
    text = f"{row.measured.accuracy:.2f}{state_text(row)}"
    at = (row.measured.accuracy, place)
    axes.annotate(text, at, (0, 2.5), textcoords="offset points", ha="center", va="bottom", fontsize=6)


def _floors(report: Report) -> list[tuple[str, float]]:
    """Name and test accuracy (per cent) of every floor that is known."""
    prior = [] if report.question_prior is None else [("question prior", report.question_prior)]
    return prior + [(plain(row.short), row.measured.accuracy) for row in report.floors if row.measured]
