"""How dense the attention of every head is at the end of training."""

from __future__ import annotations

import math

from reports.figures.drawing import Drawn, finish, named, panels
from reports.figures.rows import row_label, seeds_text
from reports.figures.sites import Place, Recorded, by_place
from reports.layout import plain
from suite.look import style

COLOURS = "cividis"
"""Its lightness rises evenly: it reads in grey and with any kind of colour vision."""


def density(dataset: str, recorded: Recorded, slug: str, further: str) -> Drawn | None:
    """A heat map of heads by layers, a panel per stack and direction, of the row's first evaluated seed.

    Nothing where its sites recorded no density. ``slug`` names the files; ``further`` is what the caption adds.
    """
    step, shares = last_density(recorded)
    if not shares:
        return None
    seeds = f", the first of {len(recorded.cells)}" if len(recorded.cells) > 1 else ""
    with style():
        deepest = max(map(len, shares.values()))
        figure, grid = panels(len(shares), 0.5 + 0.085 * deepest, 0.8)
        image = None
        for number, (axes, (place, layers)) in enumerate(zip(grid, shares.items(), strict=True)):
            heads = max(map(len, layers.values()))
            table = [[*shared, *[math.nan] * (heads - len(shared))] for shared in layers.values()]
            image = axes.pcolormesh(table, cmap=COLOURS, vmin=0, vmax=1, edgecolors="white", linewidth=0.3)
            axes.set_title(place.title)
            axes.set_yticks(*_every(list(layers)))
            axes.set_xticks(*_every(range(heads)))
            axes.invert_yaxis()
            axes.grid(visible=False)
            axes.tick_params(length=0)
            if number >= len(grid) - 2:
                axes.set_xlabel("head")
            if number % 2 == 0:
                axes.set_ylabel("layer")
        bar = figure.colorbar(image, ax=grid, location="bottom", fraction=0.05, aspect=40)
        bar.set_label("share of the keys with a weight above 0")
        figure.suptitle(named(f"{dataset}: {row_label(recorded.row, 200)}", 60))
        return Drawn(
            slug,
            f"Attention density: {plain(recorded.row.short)}",
            "Density of every head by layer, stack and direction (from queries to keys): the share of the keys that "
            "may be attended whose weight is not 0, from 0 to 1, on the same validation questions for every row, at "
            f"the last evaluation (step {step:,}) of {row_label(recorded.row, 200)}, "
            f"{seeds_text(recorded.cells[:1])}{seeds}.{further}",
            finish(figure),
        )


def last_density(recorded: Recorded) -> tuple[int, dict[Place, dict[int, list[float]]]]:
    """The last step that was evaluated, and for each place and layer that ran in it one share per head."""
    lines = recorded.lines[0]
    last = max(line["step"] for line in lines)
    now = by_place([line for line in lines if line["step"] == last], "density")
    return last, {place: {layer: steps[last] for layer, steps in layers.items()} for place, layers in now.items()}


def _every(indices: range | list[int]) -> tuple[list[float], list[str]]:
    """Ticks in the middle of cells, named from 1; every second one where there are many."""
    stride = 1 if len(indices) <= 8 else 2
    places = range(0, len(indices), stride)
    return [place + 0.5 for place in places], [str(indices[place] + 1) for place in places]
