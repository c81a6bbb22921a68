"""All figures of one study, the paper's four first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from reports.figures.accuracy import test_accuracy
from reports.figures.answers import answers
from reports.figures.cost import cost
from reports.figures.curves import curves, regularisation
from reports.figures.density import density, density_by_row
from reports.figures.depth import over_depth
from reports.figures.drawing import Drawn
from reports.figures.heads import heads_over_training
from reports.figures.layers import layers_over_training
from reports.figures.rows import choose, trained
from reports.figures.sites import Recorded, recorded
from reports.figures.types import by_type
from reports.report import Report

BY_HEAD = ("alpha",)
"""Quantities that are drawn for each head, as in the paper's figure 3; others as means over a layer's heads."""
OWN = 5
"""Rows beside the paper's that have figures of their own."""


@dataclass(frozen=True)
class Options:
    """What a reader may ask for."""

    question: str | None = None
    """Id of the question that the figure of answers shows; by default one that tells the rows apart."""
    all_heads: bool = False
    """Every head in the figures by head; else the first six, as in the paper."""


def draw_all(report: Report, options: Options = Options()) -> list[Drawn]:
    """Every figure that the records allow.

    Raises UserError for a question that is not in the records, RecordError for a record that cannot be read.
    """
    # The question first: a mistake in its id should be told at once.
    asked = answers(report, options.question)
    chosen, own = choose(trained(report)), choose(trained(report), OWN)
    attention = [found for row in chosen.rows if (found := recorded(row)) is not None]
    each = [found for found in attention if found.row.key in own.looks]
    learned = [one for found in each for one in _learned(report, found, options, own.sentence)]
    dense = (density(report.dataset, found, f"density-{slug(found.row.key)}", own.sentence) for found in each)
    drawn = [
        *(one for one in learned if one.name.startswith("span-")),
        regularisation(report),
        *(one for one in learned if not one.name.startswith("span-")),
        asked,
        test_accuracy(report),
        curves(report),
        cost(report),
        by_type(report),
        over_depth(report),
        density_by_row(report.dataset, attention, chosen),
        *dense,
    ]
    return [one for one in drawn if one is not None]


def _learned(report: Report, found: Recorded, options: Options, further: str) -> Iterator[Drawn]:
    """The figures of what one row's method learned."""
    for name in found.quantities:
        place = f"{slug(name)}-{slug(found.row.key)}"
        if name in BY_HEAD:
            yield heads_over_training(report.dataset, found, name, place, options.all_heads, further)
        else:
            yield layers_over_training(report.dataset, found, name, place, further)


def slug(text: str) -> str:
    """``text`` as part of a file name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.") or "unnamed"
