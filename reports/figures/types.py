"""Accuracy by the type of the answer and of the question."""

from __future__ import annotations

from reports.by_type import KINDS, ByType, Kind
from reports.figures.bands import band_height, draw_bands, entries
from reports.figures.drawing import Drawn, finish, legend_below, named, wrapped
from reports.figures.rows import choose
from reports.report import Report
from reports.text import plain
from suite.look import COLUMN, style

MOST = 8
"""Types of one kind that have room."""
FEW = 5
"""Rows beside the paper's that have room."""
TITLES: dict[Kind, str] = {"answer_type": "type of answer", "question_type": "type of question"}


def by_type(report: Report) -> Drawn | None:
    """Test accuracy (per cent), a band per type and in it a point per row; None where nothing has a type."""
    from matplotlib.figure import Figure

    if report.by_type is None:
        return None
    chosen = choose([row for row in report.rows if row.trained], FEW)
    rows = [row for row in chosen.rows if row.key in report.by_type.rows]
    kinds: dict[Kind, list[str]] = {
        kind: most_asked(report.by_type, kind) for kind in KINDS if report.by_type.types(kind)
    }
    if not rows:
        return None
    with style():
        heights = [band_height(len(rows)) * len(names) + 0.35 for names in kinds.values()]
        figure = Figure(figsize=(COLUMN, 0.6 + sum(heights) + 0.13 * len(chosen.rows)), layout="constrained")
        grid = figure.subplots(len(kinds), 1, sharex=True, squeeze=False, height_ratios=heights).ravel()
        for axes, (kind, names) in zip(grid, kinds.items(), strict=True):
            counts = report.by_type.types(kind)
            values = {row.key: [report.by_type.accuracy(row.key, kind, name) for name in names] for row in rows}
            draw_bands(axes, [_name(name, counts[name]) for name in names], chosen, values)
            axes.set_title(TITLES[kind])
        score = "official accuracy" if report.by_type.official else "soft score"
        grid[-1].set_xlabel(f"test accuracy (%): {score}")
        figure.suptitle(named(f"{report.dataset}: accuracy by type", 60))
        legend_below(figure, entries(chosen, report.by_type.rows))
        parts = [
            f" Of {len(report.by_type.types(kind))} {TITLES[kind].replace('type', 'types')} the {MOST} most "
            "asked are drawn."
            for kind, names in kinds.items()
            if len(names) < len(report.by_type.types(kind))
        ]
        return Drawn(
            "types",
            "Accuracy by type",
            f"Accuracy (per cent; {score}) on the test split of {plain(report.dataset)} by type of answer and of "
            "question, with the number of questions in brackets: a band per type, in it a point per row, the mean "
            f"over its seeds.{''.join(parts)}{chosen.sentence}",
            finish(figure),
        )


def most_asked(found: ByType, kind: Kind) -> list[str]:
    """The types of one kind that are drawn, in the tables' order; where there are many, those asked most."""
    types = found.types(kind)
    most = sorted(types, key=lambda name: -(types[name] or 0))[:MOST]
    return [name for name in types if name in most]


def _name(name: str, questions: int | None) -> str:
    count = f"\n({questions:,})" if questions is not None else ""
    return wrapped(name or "untyped", 18, 2) + count
