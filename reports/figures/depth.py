"""Test accuracy of trained models at several depths."""

from __future__ import annotations

from collections.abc import Mapping

from reports.figures.drawing import Drawn, finish, handle, legend_below, look, named, wrapped
from reports.figures.rows import FURTHER
from reports.report import Report, Row
from reports.text import plain
from suite.look import COLUMN, DARK, style


def over_depth(report: Report) -> Drawn | None:
    """Test accuracy (per cent) over the layers that run, a line per trained model; filled where it ran as trained.

    Depths stand apart as their multiply-adds do. Nothing where no trained model was evaluated at other depths.
    """
    from matplotlib.figure import Figure

    models: dict[str | None, list[Row]] = {}
    for row in report.rows:
        models.setdefault(row.cells[0].id if row.trained else row.cells[0].start, []).append(row)
    several = [rows for rows in models.values() if any(row.measured and not row.trained for row in rows)]
    if not several:
        return None
    lines = several[:FURTHER]
    depths: dict[float, str] = {}
    with style():
        figure = Figure(figsize=(COLUMN, 2.6 + 0.13 * len(lines)), layout="constrained")
        axes = figure.subplots()
        handles = []
        for number, rows in enumerate(lines):
            how = look(number)
            points = [(row.measured.macs_reference, row.measured, row) for row in rows if row.measured]
            points.sort(key=lambda point: point[0])
            for macs, measured, row in points:
                if keep := row.cells[0].keep:
                    depths[macs] = "-".join(str(len(kept)) for kept in keep)
                shape = {"marker": how.marker, "color": how.colour, "markersize": 4, "zorder": 3}
                axes.plot(macs, measured.accuracy, markerfacecolor=how.colour if row.trained else "white", **shape)
                seeds = measured.accuracies if len(measured.accuracies) > 1 else ()
                axes.plot([macs] * len(seeds), seeds, "_", color=how.colour, markersize=5)
            label = wrapped(rows[0].short, 32)
            missing = len(rows) - len(points)
            label += f" ({missing} of {len(rows)} depths missing)" if missing else ""
            label += " (stale)" if any(row.stale for row in rows) else ""
            x, y = [macs for macs, _, _ in points], [measured.accuracy for _, measured, _ in points]
            axes.plot(x, y, color=how.colour, linestyle=how.dash, label=label)
            handles.append(handle(how.colour, label, how.marker, how.dash))
        handles.append(handle(DARK, "filled: as trained", "o", ""))
        left_out = len(several) - len(lines)
        if left_out:
            handles.append(handle("none", f"{left_out} further models left out", linestyle=""))
        axes.set_xticks(list(depths), _readable(depths), rotation=90)
        axes.set_xlabel("layers that run, spaced by their multiply-adds")
        axes.set_ylabel("test accuracy (%)")
        figure.suptitle(named(f"{report.dataset}: one trained model at several depths", 60))
        legend_below(figure, handles)
        return Drawn(
            "depth",
            "Trained models at several depths",
            f"Accuracy (per cent) on the test split of {plain(report.dataset)} of trained models of which some "
            "layers are left out, over the layers of the language, vision and cross stack that run, spaced by "
            "their multiply-adds: a line per trained model, filled points where it runs as it was trained, short "
            f"lines where seeds are.{f' {left_out} further models are left out.' if left_out else ''}",
            finish(figure),
        )


APART = 0.1
"""Inches that upright labels need from one to the next."""


def _readable(depths: Mapping[float, str]) -> list[str]:
    """The labels of the depths, in their order; empty for one that would lie on its neighbour's."""
    width, last, kept = 0.75 * COLUMN / ((max(depths) - min(depths)) or 1.0), None, {}
    for macs in sorted(depths):
        if last is None or (macs - last) * width >= APART:
            kept[macs], last = depths[macs], macs
    return [kept.get(macs, "") for macs in depths]
