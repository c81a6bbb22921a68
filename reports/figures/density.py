"""How dense the attention of every head is at the end of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from reports.figures.bands import band_height, draw_bands, entries
from reports.figures.drawing import SMALL, Drawn, finish, legend_below, named, wrapped
from reports.figures.rows import Chosen, row_label
from reports.figures.sites import Lines, Place, Recorded, by_place
from reports.text import plain
from suite.look import COLUMN, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = "cividis"
"""Its lightness rises evenly: it reads in grey and with any kind of colour vision."""
# A solver of layouts would take longer than the drawing: everything has its place, in inches.
LEFT, WIDTH, GAP, TOP, TITLE, LAYER, HEADS, BAR = 0.36, 1.32, 0.27, 0.25, 0.18, 0.11, 0.3, 0.55


def density_by_row(dataset: str, found: Sequence[Recorded], chosen: Chosen) -> Drawn | None:
    """The mean density of each stack and direction, a point per row; nothing where no row recorded a density."""
    from matplotlib.figure import Figure

    means = {one.row.key: mean_density(one) for one in found}
    rows = [one.row for one in found if means[one.row.key]]
    places = list(dict.fromkeys(place for one in means.values() for place in one))
    if not rows:
        return None
    with style():
        height = 0.9 + band_height(len(rows)) * len(places) + 0.13 * len(chosen.rows)
        figure = Figure(figsize=(COLUMN, height), layout="constrained")
        axes = figure.subplots()
        values = {row.key: [means[row.key].get(place) for place in places] for row in rows}
        draw_bands(axes, [wrapped(place.title, 18) for place in places], chosen, values)
        axes.set_xlabel("share of the keys with a weight above 0")
        figure.suptitle(named(f"{dataset}: attention density", 60))
        legend_below(figure, entries(chosen, values))
        return Drawn(
            "density",
            "Attention density by row",
            f"Density of the attention on {plain(dataset)} at the last evaluation: the share of the keys that may "
            "be attended whose weight is not 0, from 0 to 1. A band per stack and direction (from queries to "
            "keys), in it a point per row, the mean over layers, heads and seeds (at most ten). Rows that are 1 "
            f"throughout have no figure by layer and head.{chosen.sentence}",
            finish(figure),
        )


def density(dataset: str, recorded: Recorded, slug: str, further: str) -> Drawn | None:
    """A heat map of layers by heads, a panel per stack and direction, of the row's first evaluated seed.

    Nothing where every head attends to every key, or no density was recorded. ``slug`` names the files; ``further``
    is what the caption adds.
    """
    step, shares = last_density(recorded.lines[0])
    if all(share == 1 for layers in shares.values() for heads in layers.values() for share in heads):
        return None
    with style():
        return Drawn(
            slug,
            f"Attention density: {plain(recorded.row.short)}",
            "Density of every head by layer, stack and direction (from queries to keys): the share of the keys "
            "that may be attended whose weight is not 0, from 0 to 1, on the same validation questions for every "
            f"row, at the last evaluation (step {step:,}) of {row_label(recorded.row, 200)}, "
            f"{recorded.first}.{further}",
            _draw(f"{dataset}: {row_label(recorded.row, 200)}", shares),
        )


def mean_density(recorded: Recorded) -> dict[Place, float]:
    """By place the mean over layers and heads of each seed's last evaluation, and over the seeds."""
    seeds: dict[Place, list[float]] = {}
    for lines in recorded.lines:
        for place, layers in last_density(lines)[1].items():
            seeds.setdefault(place, []).append(fmean(share for heads in layers.values() for share in heads))
    return {place: fmean(shares) for place, shares in seeds.items()}


def last_density(lines: Lines) -> tuple[int, dict[Place, dict[int, list[float]]]]:
    """The last step that was evaluated, and for each place and layer that ran in it one share per head."""
    last = max(line["step"] for line in lines)
    now = by_place([line for line in lines if line["step"] == last], "density")
    return last, {place: {layer: steps[last] for layer, steps in layers.items()} for place, layers in now.items()}


def _draw(title: str, shares: dict[Place, dict[int, list[float]]]) -> Figure:
    from matplotlib.figure import Figure

    panels = list(shares.items())
    pairs = [panels[first : first + 2] for first in range(0, len(panels), 2)]
    tall = [LAYER * max(len(layers) for _, layers in pair) for pair in pairs]
    height = TOP + sum(TITLE + one + HEADS for one in tall) + BAR
    figure = Figure(figsize=(COLUMN, height))
    figure.suptitle(named(title, 60), y=1 - 0.06 / height, va="top")
    image, top = None, TOP
    for pair, one in zip(pairs, tall, strict=True):
        for column, (place, layers) in enumerate(pair):
            left, own = LEFT + column * (WIDTH + GAP), LAYER * len(layers)
            axes = figure.add_axes((left / COLUMN, 1 - (top + TITLE + own) / height, WIDTH / COLUMN, own / height))
            heads = max(map(len, layers.values()))
            table = [[*shared, *[math.nan] * (heads - len(shared))] for shared in layers.values()]
            image = axes.pcolormesh(table, cmap=COLOURS, vmin=0, vmax=1, edgecolors="white", linewidth=0.3)
            axes.set_title(place.title, pad=3)
            axes.set_yticks(*_every(list(layers)))
            axes.set_xticks(*_every(range(heads)))
            axes.invert_yaxis()
            axes.grid(visible=False)
            axes.tick_params(length=0, labelsize=SMALL, pad=2)
            axes.set_xlabel("head", fontsize=SMALL, labelpad=1)
            if column == 0:
                axes.set_ylabel("layer", fontsize=SMALL, labelpad=2)
        top += TITLE + one + HEADS
    assert image is not None
    bar = figure.colorbar(
        image,
        cax=figure.add_axes((LEFT / COLUMN, 0.36 / height, (2 * WIDTH + GAP) / COLUMN, 0.07 / height)),
        orientation="horizontal",
        label="share of the keys with a weight above 0",
    )
    # Drawn as lines and areas, like all else; edges of their own colour leave no gaps.
    assert bar.solids is not None
    bar.solids.set(rasterized=False, edgecolor="face")
    bar.ax.tick_params(labelsize=SMALL, length=2, pad=1.5)
    return figure


def _every(indices: Sequence[int]) -> tuple[list[float], list[str]]:
    """Ticks in the middle of cells, named from 1; every second one where there are many."""
    places = range(0, len(indices), 1 if len(indices) <= 12 else 2)
    return [place + 0.5 for place in places], [str(indices[place] + 1) for place in places]
