"""Which rows of a study are drawn, what they are called, and what their cells have recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from reports.figures.drawing import Look, look, wrapped
from reports.report import Report, Row

FURTHER = 12
"""Rows beside the paper's that a figure has room for."""


@dataclass(frozen=True)
class Chosen:
    rows: tuple[Row, ...]
    left_out: int

    @property
    def looks(self) -> dict[str, Look]:
        """By the row's key: the same in every figure."""
        return {row.key: look(number) for number, row in enumerate(self.rows)}

    @property
    def sentence(self) -> str:
        """What a caption says of the rows that are not drawn; empty where all are."""
        if not self.left_out:
            return ""
        further = sum(row.published is None for row in self.rows)
        verb = "rows are" if self.left_out > 1 else "row is"
        return f" Beside the paper's rows the first {further} are drawn; {self.left_out} further {verb} left out."

    @property
    def short(self) -> str:
        """The same for a legend."""
        return f"{self.left_out} further row{'s' if self.left_out > 1 else ''} left out"


def choose(rows: Sequence[Row], further: int = FURTHER) -> Chosen:
    """The paper's rows and the first ``further`` others, in the study's order."""
    others = {row.key for row in [row for row in rows if row.published is None][:further]}
    kept = tuple(row for row in rows if row.published is not None or row.key in others)
    return Chosen(kept, len(rows) - len(kept))


def trained(report: Report) -> list[Row]:
    return [row for row in report.rows if row.trained]


def row_label(row: Row, width: int = 27) -> str:
    """A row's name for a legend, with its state unless that is finished."""
    return wrapped(row.short + state_text(row), width)


def state_text(row: Row) -> str:
    """`` (failed)``, `` (2 of 3 seeds)``, `` (stale)``; empty where all of a row is finished, by today's engine."""
    state = "" if row.state == "finished" else f" ({row.state})"
    if 0 < row.finished < len(row.cells):
        state = f" ({row.finished} of {len(row.cells)} seeds)"
    return state + (" (stale)" if row.stale else "")


def drawn_interval(row: Row) -> tuple[float, float] | None:
    """The 95 % interval of a row's test accuracy, per cent, without what lies below 0 or above 100, where no
    accuracy is."""
    return (max(row.estimate.low, 0.0), min(row.estimate.high, 100.0)) if row.estimate else None


def metrics(row: Row) -> list[pd.DataFrame]:
    """The evaluations of each cell of a row that has any."""
    return [pd.DataFrame(cell.metrics) for cell in row.cells if cell.metrics]


def mean(seeds: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Means by step, where every seed got so far: a mean over fewer would jump."""
    shared = set.intersection(*(set(seed["step"]) for seed in seeds))
    kept = [seed[seed["step"].isin(sorted(shared))] for seed in seeds]
    return pd.DataFrame(pd.concat(kept).groupby("step").mean())
