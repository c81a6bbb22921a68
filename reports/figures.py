"""Pictures of one study: training curves, test accuracies, and what the attention learned.

Every function returns a matplotlib figure of column width; ``encode`` makes bytes of it that depend on the
records alone. matplotlib is imported where it is used, so that tables build without it.
"""

from __future__ import annotations

import io
import itertools
import textwrap
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from reports.layout import plain
from reports.tables import CellRecord, Report, Row
from suite.look import BLACK, COLOURS, COLUMN, STYLE, style
from suite.records import CellFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Format = Literal["pdf", "svg", "png"]
FORMATS: tuple[Format, ...] = ("pdf", "svg", "png")

# In its black the first line stands out, as the reference does.
LINES = (BLACK, *COLOURS)
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)), (0, (7, 2)))


def encode(figure: Figure, form: Format) -> bytes:
    """The figure as a file's bytes, without the date and program that matplotlib would note."""
    empty = {
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        "svg": {"Date": None, "Creator": None},
        "png": {"Software": None},
    }
    file = io.BytesIO()
    with style():
        figure.savefig(file, format=form, dpi=300, metadata=empty[form])
    return file.getvalue()


def _finish(figure: Figure) -> Figure:
    """The figure with its layout computed once and for all formats."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def curves(report: Report) -> Figure | None:
    """Validation accuracy (per cent) and loss over training steps, one line per row; thin lines are seeds.

    Nothing where no cell has been evaluated yet.
    """
    from matplotlib.figure import Figure

    drawn = [(row, seeds) for row in report.rows if row.trained and (seeds := _metrics(row))]
    if not drawn:
        return None
    with style():
        figure = Figure(figsize=(COLUMN, 3.3 + 0.13 * len(drawn)), layout="constrained")
        accuracy, loss = figure.subplots(2, 1, sharex=True)
        handles = []
        for number, (row, seeds) in enumerate(drawn):
            # Both change from row to row: no pair comes twice within 35 rows.
            colour, dash = LINES[number % len(LINES)], DASHES[number % len(DASHES)]
            for axes, name in ((accuracy, "accuracy"), (loss, "loss")):
                if len(seeds) > 1:
                    for seed in seeds:
                        axes.plot(seed["step"], seed[name], color=colour, linewidth=0.5, alpha=0.4)
                mean = _mean(seeds)
                (line,) = axes.plot(mean.index, mean[name], color=colour, linestyle=dash, label=_legend_text(row))
            handles.append(line)
        figure.suptitle(f"{plain(report.dataset)}: validation over training")
        accuracy.set_ylabel("accuracy (%)")
        loss.set_ylabel("loss")
        loss.set_xlabel("training steps")
        loss.set_xlim(left=0)
        _legend_below(figure, handles)
        return _finish(figure)


def test_accuracy(report: Report) -> Figure:
    """Test accuracy (per cent) of every trained row, with the floors as lines; upright ticks are seeds.

    Rows without a result keep their place, with the reason in words.
    """
    from matplotlib.figure import Figure

    rows, floors = [row for row in report.rows if row.trained], _floor_values(report)
    with style():
        figure = Figure(figsize=(COLUMN, 1.3 + 0.25 * max(len(rows), 1)), layout="constrained")
        axes = figure.subplots()
        numbers = [one for row in rows if row.measured for one in row.measured.accuracies]
        low, high = 0.0, 100.0
        if numbers:
            numbers += [value for _, value in floors]
            low, high = min(numbers), max(numbers)
        margin = max(0.1 * (high - low), 0.5)
        axes.set_xlim(low - margin, high + margin)
        for place, row in enumerate(rows):
            _draw_row(axes, place, row, middle=(low + high) / 2)
        axes.set_yticks(range(len(rows)), [textwrap.fill(plain(row.short), 28) for row in rows])
        axes.set_ylim(max(len(rows), 1) - 0.5, -0.9)
        axes.grid(axis="y", visible=False)
        handles = []
        for (label, value), dash in zip(floors, itertools.cycle(DASHES[1:4]), strict=False):
            text = f"floor: {label}, {value:.2f} %"
            handles.append(axes.axvline(value, color="#555555", linestyle=dash, linewidth=0.9, label=text))
        if any(row.looked is False for row in rows):
            text = f"below {report.looked:g} %: has not learned to look"
            handles.append(_handle(NOT_LOOKED, text, marker="o", linestyle=""))
        if handles:
            _legend_below(figure, handles, columns=1)
        axes.set_xlabel("test accuracy (%)")
        figure.suptitle(f"{plain(report.dataset)}: test accuracy")
        return _finish(figure)


def over_depth(report: Report) -> Figure | None:
    """Test accuracy (per cent) over the layers that run, a line per trained model; filled where it ran as trained.

    Depths stand apart as their multiply-adds do. Nothing where no trained model was evaluated at other depths.
    """
    from matplotlib.figure import Figure

    models: dict[str | None, list[Row]] = {}
    for row in report.rows:
        models.setdefault(row.cells[0].id if row.trained else row.cells[0].start, []).append(row)
    lines = [rows for rows in models.values() if any(row.measured and not row.trained for row in rows)]
    if not lines:
        return None
    depths: dict[float, str] = {}
    with style():
        figure = Figure(figsize=(COLUMN, 2.6 + 0.13 * len(lines)), layout="constrained")
        axes = figure.subplots()
        handles = []
        for number, rows in enumerate(lines):
            colour, dash = LINES[number % len(LINES)], DASHES[number % len(DASHES)]
            points = [(row.measured.macs_reference, row.measured, row) for row in rows if row.measured]
            points.sort(key=lambda point: point[0])
            for macs, measured, row in points:
                if keep := row.cells[0].keep:
                    depths[macs] = "-".join(str(len(kept)) for kept in keep)
                inside = colour if row.trained else "white"
                axes.plot(
                    macs, measured.accuracy, "o", color=colour, markersize=4, markerfacecolor=inside, zorder=3
                )
                seeds = measured.accuracies if len(measured.accuracies) > 1 else ()
                axes.plot([macs] * len(seeds), seeds, "_", color=colour, markersize=5)
            label = textwrap.fill(plain(rows[0].short), 32)
            missing = len(rows) - len(points)
            label += f" ({missing} of {len(rows)} depths missing)" if missing else ""
            label += " (stale)" if any(row.stale for row in rows) else ""
            x, y = [macs for macs, _, _ in points], [measured.accuracy for _, measured, _ in points]
            handles += axes.plot(x, y, color=colour, linestyle=dash, label=label)
        handles.append(_handle("#555555", "filled: as trained", marker="o", linestyle=""))
        axes.set_xticks(list(depths), list(depths.values()), rotation=90)
        axes.set_xlabel("layers that run, spaced by their multiply-adds")
        axes.set_ylabel("test accuracy (%)")
        figure.suptitle(f"{plain(report.dataset)}: one trained model at several depths")
        _legend_below(figure, handles)
        return _finish(figure)


NOT_LOOKED = "#A0A0A0"


def _draw_row(axes: Axes, place: int, row: Row, middle: float) -> None:
    """One row of the accuracy figure, ``place`` rows from the top."""
    if row.measured is None:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.text(middle, place, row.state, ha="center", va="center", style="italic", color="#555555", bbox=box)
        return
    colour = NOT_LOOKED if row.looked is False else LINES[1]
    if len(row.measured.accuracies) > 1:
        seeds = row.measured.accuracies
        axes.plot(seeds, [place] * len(seeds), "|", color=colour, markersize=6)
    inside = "white" if row.stale else colour
    axes.plot(row.measured.accuracy, place, "o", color=colour, markersize=4, markerfacecolor=inside)
    text = f"{row.measured.accuracy:.2f}" + (" (stale)" if row.stale else "")
    at = (row.measured.accuracy, place)
    axes.annotate(text, at, (0, 3), textcoords="offset points", ha="center", va="bottom", fontsize=5.8)


def learned_columns(report: Report) -> list[tuple[Row, CellRecord, str]]:
    """What can be drawn of attention: of each row its first evaluated cell, with every per-head column."""
    found = []
    for row in (row for row in report.rows if row.trained):
        for cell in row.cells:
            sites = CellFolder(cell.folder).sites()
            if len(sites):
                found += [(row, cell, name) for name in sites.columns if _is_learned(name, sites[name].dropna())]
                break
    return found


def _is_learned(name: str, values: Iterable[Any]) -> bool:
    """Whether a column of sites.jsonl is a method's own, with a number or one per head."""
    known = ("step", "site", "stack", "queries", "keys", "index", "density")
    return name not in known and all(isinstance(value, list | float | int) for value in values)


QUANTITIES = {"span": "span (tokens)"}


def learned(report: Report, row: Row, cell: CellRecord, name: str) -> Figure:
    """A per-head quantity over training steps, one panel per stack and direction, one colour per layer.

    Bold lines are means over a layer's heads, thin ones are heads.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    panels: dict[str, dict[int, dict[int, list[float]]]] = {}
    for line in CellFolder(cell.folder).sites().dropna(subset=[name]).to_dict("records"):
        queries, keys, value = line["queries"], line["keys"], line[name]
        title = f"{line['stack']}: {queries}" if queries == keys else f"{line['stack']}: {queries} to {keys}"
        heads = value if isinstance(value, list) else [value]
        panels.setdefault(title, {}).setdefault(line["index"], {})[line["step"]] = heads
    layers = sorted({layer for panel in panels.values() for layer in panel})
    with style():
        lines = (len(panels) + 1) // 2
        figure = Figure(figsize=(COLUMN, 0.8 + 1.15 * lines), layout="constrained")
        grid = figure.subplots(lines, 2, sharex=True, sharey=True, squeeze=False).ravel()
        shades = [colormaps["viridis"](0.92 * at / max(len(layers) - 1, 1)) for at in range(len(layers))]
        colours = dict(zip(layers, shades, strict=True))
        for axes, (title, panel) in zip(grid, panels.items(), strict=False):
            axes.set_title(plain(title))
            for layer, evaluations in sorted(panel.items()):
                steps, heads = list(evaluations), list(evaluations.values())
                axes.plot(steps, heads, color=colours[layer], linewidth=0.4, alpha=0.5)
                axes.plot(steps, list(map(fmean, heads)), color=colours[layer], linewidth=1.3)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        for axes in grid[max(len(panels) - 2, 0) : len(panels)]:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("training steps")
        grid[0].set_xlim(left=0)
        figure.supylabel(plain(QUANTITIES.get(name, name)), fontsize=STYLE["axes.labelsize"])
        figure.suptitle(f"{plain(report.dataset)}: {plain(row.short)}")
        handles = [_handle(colours[layer], str(layer + 1)) for layer in layers]
        _legend_below(figure, handles, columns=10, title="layer (bold: mean over heads; thin: heads)")
        return _finish(figure)


def _metrics(row: Row) -> list[pd.DataFrame]:
    """The evaluations of each cell of a row that has any."""
    tables = (CellFolder(cell.folder).metrics() for cell in row.cells)
    return [table for table in tables if len(table)]


def _mean(seeds: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Means by step, where every seed got so far: a mean over fewer would jump."""
    shared = set.intersection(*(set(seed["step"]) for seed in seeds))
    kept = [seed[seed["step"].isin(sorted(shared))] for seed in seeds]
    return pd.DataFrame(pd.concat(kept).groupby("step").mean())


def _legend_text(row: Row) -> str:
    state = "" if row.state == "finished" else f" ({row.state})"
    return textwrap.fill(plain(row.short) + state, 32)


def _floor_values(report: Report) -> list[tuple[str, float]]:
    """Name and test accuracy (per cent) of every floor that is known."""
    prior = [] if report.question_prior is None else [("question prior", report.question_prior)]
    return prior + [(plain(row.short), row.measured.accuracy) for row in report.floors if row.measured]


def _handle(colour: Any, label: str, marker: str = "", linestyle: Any = "-") -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, label=label, marker=marker, linestyle=linestyle, markersize=4)


def _legend_below(figure: Figure, handles: Sequence[Line2D], columns: int = 2, title: str = "") -> None:
    """Below the panels, where it hides no data."""
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(columns, len(handles)),
        title=title,
        title_fontsize=STYLE["legend.fontsize"],
        frameon=False,
        handlelength=2.6 if columns < 3 else 1.2,
        columnspacing=1.0,
        labelspacing=0.3,
    )
