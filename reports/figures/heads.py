"""A quantity of every head over training, a small panel per layer: alphas are the paper's figure 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reports.figures.drawing import SMALL, Drawn, handle, look, named
from reports.figures.rows import row_label
from reports.figures.sites import Layers, Place, Recorded, by_place
from reports.text import plain
from suite.look import COLUMN, STYLE, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 6
"""Heads that the paper's figure shows."""
WIDEST = 6
"""Panels that have room beside each other, and entries of the legend."""
# A solver of layouts takes seconds for so many panels: everything has its place, in inches.
LEFT, RIGHT, TOP, STEPS, LEGEND, ENTRY = 0.45, 0.1, 0.22, 0.28, 0.18, 0.13
TITLE, NAME, PANEL, GAP = 0.2, 0.12, 0.38, 0.07


def heads_over_training(
    dataset: str, recorded: Recorded, name: str, slug: str, all_heads: bool, further: str
) -> Drawn:
    """The column ``name`` of sites.jsonl, a line per head, of the row's first evaluated seed.

    The first six heads, as in the paper, or ``all_heads``. ``slug`` names the files; ``further`` is what the
    caption adds.
    """
    from matplotlib.figure import Figure

    places = by_place(recorded.lines[0], name)
    evaluations = [
        (step, one) for layers in places.values() for steps in layers.values() for step, one in steps.items()
    ]
    heads = max(len(one) for _, one in evaluations)
    shown = heads if all_heads else min(heads, SHOWN)
    numbers = [number for _, one in evaluations for number in one[:shown]]
    depths = [len(layers) for layers in places.values()]
    columns = columns_for(depths)
    heights = [TITLE + -(-depth // columns) * (NAME + PANEL + GAP) for depth in depths]
    legend = LEGEND + ENTRY * -(-shown // WIDEST)
    with style():
        figure = Figure(figsize=(COLUMN, TOP + sum(heights) + STEPS + legend))
        panels: list[Axes] = []
        for number, (place, layers) in enumerate(places.items()):
            panels += _draw(figure, TOP + sum(heights[:number]), place, layers, columns, shown)
        margin = 0.06 * (max(numbers) - min(numbers)) or 0.05
        for axes in panels:
            axes.set_ylim(min(numbers) - margin, max(numbers) + margin)
            axes.set_xlim(0, max(step for step, _ in evaluations))
        _label_steps(panels[-((depths[-1] - 1) % columns) - 1 :])
        _around(figure, f"{dataset}: {row_label(recorded.row, 200)}", plain(name), legend, shown)
        which = f"the first {shown} of {heads} heads" if shown < heads else f"all {heads} heads"
        paper = "As in the paper's figure 3: " if name == "alpha" else ""
        return Drawn(
            slug,
            f"{plain(name)} per head over training: {plain(recorded.row.short)}",
            f"{paper}{plain(name)} over training steps, a panel per layer and a line per head, by stack and "
            f"direction (from queries to keys), of {row_label(recorded.row, 200)}: {which}, "
            f"{recorded.first}.{further}",
            figure,
        )


def columns_for(depths: Sequence[int]) -> int:
    """How many layers stand beside each other, so that all stacks take the fewest lines, and are widest."""
    return min(range(1, WIDEST + 1), key=lambda columns: (sum(-(-depth // columns) for depth in depths), columns))


def _draw(figure: Figure, top: float, place: Place, layers: Layers, columns: int, shown: int) -> list[Axes]:
    """The panels of one stack, ``top`` inches below the figure's edge."""
    width, height = figure.get_size_inches()
    panel = (width - LEFT - RIGHT - GAP * (columns - 1)) / columns
    figure.text(
        0.5, 1 - (top + TITLE / 2) / height, place.title, ha="center", va="center", fontsize=STYLE["axes.titlesize"]
    )  # fmt: skip
    drawn = []
    for number, (layer, steps) in enumerate(layers.items()):
        line, column = divmod(number, columns)
        left, below = LEFT + column * (panel + GAP), top + TITLE + line * (NAME + PANEL + GAP) + NAME + PANEL
        axes = figure.add_axes((left / width, 1 - below / height, panel / width, PANEL / height))
        axes.set_title(f"layer {layer + 1}", fontsize=SMALL, pad=1.5)
        for head in range(shown):
            how = look(head)
            evaluated = [(step, values[head]) for step, values in steps.items() if head < len(values)]
            axes.plot(*zip(*evaluated, strict=True), color=how.colour, linestyle=how.dash, linewidth=0.8)
        axes.locator_params(axis="y", nbins=3)
        axes.tick_params(labelbottom=False, labelleft=column == 0, labelsize=SMALL, length=2, pad=1.5)
        axes.set_xticks([])
        drawn.append(axes)
    return drawn


def _label_steps(panels: Sequence[Axes]) -> None:
    """The first and the last step, at the ends of each of the lowest panels."""
    for axes in panels:
        first, last = axes.get_xlim()
        axes.set_xticks([first, last], [f"{first:g}", f"{last:.0f}"])
        axes.tick_params(labelbottom=True)
        for text, side in zip(axes.get_xticklabels(), ("left", "right"), strict=True):
            text.set_horizontalalignment(side)


def _around(figure: Figure, title: str, quantity: str, legend: float, shown: int) -> None:
    """Title, names of the axes, and the legend of the heads."""
    width, height = figure.get_size_inches()
    size = STYLE["axes.labelsize"]
    figure.suptitle(named(title, 60), y=1 - 0.06 / height, va="top")
    figure.text(0.03 / width, 0.5, quantity, rotation=90, ha="left", va="center", fontsize=size)
    figure.text(0.5, (legend + 0.02) / height, "training steps", ha="center", va="bottom", fontsize=size)
    figure.legend(
        handles=[handle(look(head).colour, str(head + 1), "", look(head).dash) for head in range(shown)],
        loc="lower center",
        bbox_to_anchor=(0.5, 0),
        ncols=WIDEST,
        title="head",
        title_fontsize=STYLE["legend.fontsize"],
        frameon=False,
        handlelength=2.2,
        handletextpad=0.4,
        columnspacing=0.9,
        labelspacing=0.2,
        borderpad=0.2,
    )
