"""Accuracy and loss over training: of all rows, and of LayerDrop against the rest (the paper's figure 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from reports.figures.drawing import DASHES, MARKERS, Drawn, Look, finish, handle, legend_below, named
from reports.figures.rows import Chosen, choose, mean, metrics, row_label, trained
from reports.report import Report, Row
from reports.text import plain
from suite.look import COLUMN, PALE, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

SEEDS = (
    "Where a row has several seeds, a line is their mean at the steps that all of them reached, and thin lines are "
    "its first ten seeds."
)
THIN = 10
"""Seeds of a row that have lines of their own."""


def curves(report: Report) -> Drawn | None:
    """Validation accuracy (per cent) and loss over training steps, one line per row; thin lines are seeds.

    Nothing where no cell has been evaluated yet.
    """
    chosen = choose(trained(report))
    drawn = _evaluated(chosen)
    if not drawn:
        return None
    with style():
        figure, (accuracy, loss) = _stacked(2, len(chosen.rows))
        looks = {one.row.key: chosen.looks[one.row.key] for one in drawn}
        for one in drawn:
            _draw(accuracy, one, "accuracy", looks[one.row.key])
            _draw(loss, one, "loss", looks[one.row.key])
        figure.suptitle(named(f"{report.dataset}: validation over training", 60))
        accuracy.set_ylabel("accuracy (%)")
        # After the lines: it ends the search for limits that hold them.
        loss.set_xlim(left=0)
        loss.set_ylabel("loss")
        handles = [_entry(row, looks.get(row.key)) for row in chosen.rows]
        legend_below(figure, handles + _left_out(chosen))
        return Drawn(
            "training",
            "Validation accuracy and loss over training",
            f"Accuracy (per cent) and loss on the validation split of {plain(report.dataset)} over training steps, "
            f"one line per row. {SEEDS}{chosen.sentence}",
            finish(figure),
        )


HIGHLIGHTED = "layerdrop"
"""How the names of the variants begin that figure 2 is about."""


def regularisation(report: Report) -> Drawn | None:
    """LayerDrop's settings against all other rows, which are pale: accuracy (per cent) and losses over training.

    Nothing where no cell of LayerDrop has been evaluated yet.
    """
    chosen = choose(trained(report))
    drawn = _evaluated(chosen)
    bold = [one for one in drawn if _highlighted(one.row)]
    rest = [one for one in drawn if not _highlighted(one.row)]
    if not bold:
        return None
    with style():
        figure, axes = _stacked(3, len(chosen.rows))
        looks = {one.row.key: _pale(number) for number, one in enumerate(rest)}
        looks |= {one.row.key: chosen.looks[one.row.key] for one in bold}
        names = ("accuracy", "loss", "train_loss")
        titles = ("validation\naccuracy (%)", "validation\nloss", "training\nloss")
        for panel, name, title in zip(axes, names, titles, strict=True):
            for one in (*rest, *bold):
                _draw(panel, one, name, looks[one.row.key], width=1.4 if _highlighted(one.row) else 0.8)
            panel.set_ylabel(title)
            panel.set_xlim(left=0)
        figure.suptitle(named(f"{report.dataset}: LayerDrop against the rest", 60))
        ordered = sorted(chosen.rows, key=lambda row: not _highlighted(row))
        legend_below(figure, [_entry(row, looks.get(row.key)) for row in ordered] + _left_out(chosen))
        return Drawn(
            "layerdrop",
            "LayerDrop's regularisation",
            f"The paper's figure 2 on {plain(report.dataset)}: accuracy (per cent) and loss on the validation "
            "split, and the loss of training, over training steps; LayerDrop's settings in colour, all other rows "
            "pale. p is the number of layers that are dropped from each stack while training. "
            f"{SEEDS}{chosen.sentence}",
            finish(figure),
        )


@dataclass(frozen=True)
class _History:
    """A row that has been evaluated."""

    row: Row
    seeds: list[pd.DataFrame]
    mean: pd.DataFrame


def _evaluated(chosen: Chosen) -> list[_History]:
    return [_History(row, seeds, mean(seeds)) for row in chosen.rows if (seeds := metrics(row))]


def _highlighted(row: Row) -> bool:
    return row.cells[0].configuration["variant"].startswith(HIGHLIGHTED)


def _pale(number: int) -> Look:
    """Grey, told apart by dashes and markers."""
    return Look(PALE, DASHES[number % len(DASHES)], MARKERS[number % len(MARKERS)])


def _stacked(count: int, rows: int) -> tuple[Figure, list[Axes]]:
    """Panels one above the other over the same training steps, with room for a legend of ``rows`` lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(COLUMN, 0.7 + 1.25 * count + 0.13 * rows), layout="constrained")
    panels = list(figure.subplots(count, 1, sharex=True))
    panels[-1].set_xlabel("training steps")
    return figure, panels


def _draw(axes: Axes, history: _History, name: str, how: Look, width: float = 1.1) -> None:
    """One row's line in a panel."""
    if len(history.seeds) > 1:
        for seed in history.seeds[:THIN]:
            axes.plot(seed["step"], seed[name], color=how.colour, linewidth=0.4, alpha=0.5)
    # Grey lines alone have markers: elsewhere colour and dash do.
    marks = {"marker": how.marker, "markersize": 2.2} if how.colour == PALE else {}
    axes.plot(
        history.mean.index,
        history.mean[name],
        color=how.colour,
        linestyle=how.dash,
        linewidth=width,
        label=row_label(history.row),
        **marks,
    )


def _entry(row: Row, how: Look | None) -> Line2D:
    """A row's entry of the legend: without a line where it has not been evaluated."""
    if how is None:
        return handle("none", row_label(row), linestyle="")
    marker = how.marker if how.colour == PALE else ""
    return handle(how.colour, row_label(row), marker, how.dash, markersize=2.2)


def _left_out(chosen: Chosen) -> list[Line2D]:
    return [handle("none", chosen.short, linestyle="")] if chosen.left_out else []
