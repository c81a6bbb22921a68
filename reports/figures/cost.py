"""Accuracy against what it costs, each cost in a panel of its own, with the Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reports.costs import Cost
from reports.figures.drawing import Drawn, Look, finish, handle, legend_below, look, named, panels, wrapped
from reports.figures.rows import FURTHER, drawn_interval, row_label
from reports.report import Report, Row
from reports.text import plain
from suite.look import DARK, PALE, STYLE, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Point:
    row: Row
    cost: float
    """In the panel's unit; less is better."""
    accuracy: float
    """Test accuracy, per cent."""


@dataclass(frozen=True)
class Panel:
    """One cost of those rows that have it, all measured in one way on one device."""

    title: str
    """Empty for what no device changes."""
    axis: str
    points: tuple[Point, ...]

    @property
    def front(self) -> list[Point]:
        """The points that no other beats: none is at most as dear and at least as accurate, and better in one."""
        found: list[Point] = []
        for point in sorted(self.points, key=lambda one: (one.cost, -one.accuracy)):
            equal = found and (point.cost, point.accuracy) == (found[-1].cost, found[-1].accuracy)
            if not found or point.accuracy > found[-1].accuracy or equal:
                found.append(point)
        return found


def cost(report: Report) -> Drawn | None:
    """Test accuracy (per cent) against multiply-adds and what was measured; nothing where no row has a result."""
    found = cost_panels(report)
    if not found[0].points:
        return None
    rows = [row for row in report.rows if row.trained]
    shown = _named(rows, found)
    looks = {row.key: look(number) for number, row in enumerate(shown)}
    devices = {panel.title for panel in found if panel.title}
    with style():
        height = 1.45 + 0.1 * max(panel.title.count("\n") for panel in found)
        figure, grid = panels(len(found), height if len(found) > 1 else 2.0, 0.4 + 0.13 * len(shown))
        # Equal rows lie on each other: those below are larger.
        sizes = {row.key: 6.5 - 3 * number / len(shown) for number, row in enumerate(shown)}
        for number, (axes, panel) in enumerate(zip(grid, found, strict=True)):
            _draw(axes, panel, looks, sizes)
            if number % 2 == 0:
                axes.set_ylabel("test accuracy (%)")
        figure.suptitle(named(f"{report.dataset}: accuracy against cost", 60))
        handles = [
            handle(looks[row.key].colour, row_label(row), looks[row.key].marker, "", markersize=sizes[row.key])
            if row.measured
            else handle("none", row_label(row), linestyle="")
            for row in shown
        ]
        handles.append(handle(DARK, "Pareto front", linestyle=(0, (2, 1)), linewidth=0.8))
        if others := len(rows) - len(shown):
            handles.append(handle(PALE, f"{others} further rows", ".", "", markersize=3))
        legend_below(figure, handles)
        measured = (
            " Time, memory and energy were measured alone, a panel per device, batch size and way of measuring."
            if devices
            else " No time, memory or energy has been measured."
        )
        return Drawn(
            "cost",
            "Accuracy against cost",
            f"Accuracy (per cent) on the test split of {plain(report.dataset)} against the multiply-adds of one "
            "question, padded as in the paper, and against what training was measured to cost: a point per row "
            "(mean over seeds; upright lines are 95 % intervals where they are known). The dashed line is the "
            f"Pareto front: no other row is as accurate for less.{measured if report.measured else ''}",
            finish(figure),
        )


def cost_panels(report: Report) -> list[Panel]:
    """Multiply-adds first, then by device time, memory and energy of a training step, where they were measured."""
    rows = [row for row in report.rows if row.trained and row.measured]
    largest = max((row.measured.macs_reference for row in rows if row.measured), default=0.0)
    unit, scale = ("G", 1e9) if largest >= 1e9 else ("M", 1e6)
    found = [
        Panel(
            "",
            f"multiply-adds ({unit})",
            tuple(
                Point(row, row.measured.macs_reference / scale, row.measured.accuracy)
                for row in rows
                if row.measured
            ),
        )
    ]
    # Without what no second run repeats.
    measured = [(row, one) for row in rows for one in row.costs] if report.measured else []
    for device, batch in dict.fromkeys((one.device, one.batch_size) for _, one in measured):
        here = [(row, one) for row, one in measured if (one.device, one.batch_size) == (device, batch)]
        title = f"{device}, batch {batch}"
        found.append(_panel(title, "training step (ms)", here, _milliseconds))
        found.append(_panel(title, "peak memory, training (MiB)", here, lambda one: one.train_memory))
        for source in dict.fromkeys(one.energy_source for _, one in here if one.step_energy is not None):
            same = [(row, one) for row, one in here if one.energy_source == source]
            found.append(_panel(f"{title}; {source}", "energy of a training step (J)", same, _energy))
    return found


def _milliseconds(one: Cost) -> float | None:
    return None if one.step_seconds is None else 1000 * one.step_seconds


def _energy(one: Cost) -> float | None:
    return one.step_energy


def _panel(title: str, axis: str, rows: Sequence[tuple[Row, Cost]], value: Callable[[Cost], float | None]) -> Panel:
    points = [
        Point(row, number, row.measured.accuracy)
        for row, one in rows
        if row.measured and (number := value(one)) is not None
    ]
    return Panel(wrapped(title, 30), axis, tuple(points))


def _named(rows: Sequence[Row], found: Sequence[Panel]) -> list[Row]:
    """The rows that the legend names: the paper's, then those on a front, then others while there is room."""
    fronts = {point.row.key for panel in found for point in panel.front}
    others = sorted((row for row in rows if row.published is None), key=lambda row: row.key not in fronts)
    kept = {row.key for row in others[:FURTHER]}
    return [row for row in rows if row.published is not None or row.key in kept]


def _draw(axes: Axes, panel: Panel, looks: dict[str, Look], sizes: dict[str, float]) -> None:
    front = panel.front
    axes.plot(
        [point.cost for point in front],
        [point.accuracy for point in front],
        color=DARK,
        linestyle=(0, (2, 1)),
        linewidth=0.8,
        drawstyle="steps-post",
        gid="front",
    )
    for point in sorted(panel.points, key=lambda one: one.row.key in looks):
        how, interval = looks.get(point.row.key), drawn_interval(point.row)
        if how is None:
            axes.plot(point.cost, point.accuracy, ".", color=PALE, markersize=3)
            continue
        if interval:
            axes.plot([point.cost] * 2, interval, color=how.colour, linewidth=0.6)
        axes.plot(
            point.cost,
            point.accuracy,
            how.marker,
            color=how.colour,
            markersize=sizes[point.row.key],
            markerfacecolor="white" if point.row.stale else how.colour,
        )
    axes.set_xlabel(panel.axis)
    axes.locator_params(axis="x", nbins=4)
    if panel.title:
        axes.set_title(panel.title, fontsize=STYLE["xtick.labelsize"])
