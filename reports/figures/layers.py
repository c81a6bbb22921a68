"""A quantity of every layer over training, by stack and direction: spans are the paper's figure 1."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from reports.figures.drawing import Drawn, finish, handle, legend_below, look, named, panels, wrapped
from reports.figures.rows import row_label
from reports.figures.sites import Heads, Place, Recorded, by_place
from reports.text import plain
from suite.look import style

UNITS = {"span": "span (tokens)"}
"""Titles of axes; any other quantity has its column's name."""


def layers_over_training(dataset: str, recorded: Recorded, name: str, slug: str, further: str) -> Drawn:
    """The column ``name`` of sites.jsonl, a line per layer: its mean over heads and seeds; bands are seeds' range.

    ``slug`` names the files; ``further`` is what the caption adds.
    """
    curves = averages(recorded, name)
    layers = sorted({layer for panel in curves.values() for layer in panel})
    several = len(recorded.cells) > 1
    with style():
        figure, grid = panels(len(curves), 1.15, 0.75 + 0.13 * -(-len(layers) // 5))
        for axes in grid[1:]:
            axes.sharex(grid[0])
            axes.sharey(grid[0])
        for axes, (place, panel) in zip(grid, curves.items(), strict=True):
            axes.set_title(place.title)
            for layer, steps in panel.items():
                how, seeds = look(layers.index(layer)), list(steps.values())
                axes.plot(list(steps), list(map(fmean, seeds)), color=how.colour, linestyle=how.dash)
                if several:
                    low, high = list(map(min, seeds)), list(map(max, seeds))
                    axes.fill_between(list(steps), low, high, color=how.colour, alpha=0.15, linewidth=0)
        grid[0].set_xlim(left=0)
        for number, axes in enumerate(grid):
            if number >= len(grid) - 2:
                axes.set_xlabel("training steps")
            else:
                axes.tick_params(labelbottom=False)
            if number % 2 == 0:
                axes.set_ylabel(wrapped(UNITS.get(name, name), 24))
            else:
                axes.tick_params(labelleft=False)
        figure.suptitle(named(f"{dataset}: {row_label(recorded.row, 200)}", 60))
        looks = {layer: look(number) for number, layer in enumerate(layers)}
        handles = [handle(how.colour, str(layer + 1), "", how.dash) for layer, how in looks.items()]
        legend_below(figure, handles, columns=5, title="layer (mean over its heads)")
        paper = "As in the paper's figure 1: " if name == "span" else ""
        bands = (
            ", lines are means over seeds and bands reach from the lowest to the highest seed" if several else ""
        )
        return Drawn(
            slug,
            f"{plain(name)} per layer over training: {plain(recorded.row.short)}",
            f"{paper}{plain(UNITS.get(name, name))} over training steps, the mean over the heads of each layer, by "
            f"stack and direction (from queries to keys), of {row_label(recorded.row, 200)}, "
            f"{recorded.seeds}{bands}.{further}",
            finish(figure),
        )


def averages(recorded: Recorded, name: str) -> dict[Place, dict[int, dict[int, list[float]]]]:
    """Of each place, layer and step that every seed has: the mean over the heads, one per seed."""
    seeds = [by_place(lines, name) for lines in recorded.lines]
    found = {}
    for place, layers in seeds[0].items():
        found[place] = {
            layer: _shared([seed[place][layer] for seed in seeds if layer in seed.get(place, {})])
            for layer in layers
        }
    return found


def _shared(seeds: Sequence[Heads]) -> dict[int, list[float]]:
    """Steps that all ``seeds`` have -> the mean over heads, one per seed."""
    return {step: [fmean(seed[step]) for seed in seeds] for step in seeds[0] if all(step in one for one in seeds)}
