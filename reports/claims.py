"""What the paper claims in words, each held against the records by a stated rule.

A claim is judged seed by seed: it holds where every finished seed bears it out, does not hold where every seed
speaks against it, and cannot be told otherwise. Differences of accuracy are judged by their intervals instead.
Of cells that have not learned nothing is told but what they cost. ``reports.claim_rules`` has the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from reports.tables import CellRecord, Report, Row

Told = Literal["holds", "does not hold", "cannot tell"]


@dataclass(frozen=True)
class Claim:
    key: str
    text: str
    """As the paper says it, shortened."""
    source: str
    """Section, table or figure of the paper."""
    rule: str
    """When it holds, when it does not; anything else cannot be told."""
    verdict: Told
    evidence: str
    """The numbers that the rule was applied to."""
    cells: tuple[str, ...]
    """Ids of the cells that the numbers are from."""
    seeds: int = 0
    """How many the verdict is over; 0 where none counts, as in what a model costs."""
    stale: bool = False
    """Whether a number comes from an engine that has changed since."""

    @property
    def said(self) -> str:
        """The verdict with what a reader must not miss: ``holds (1 seed)``."""
        aside = ", ".join([*(["1 seed"] if self.seeds == 1 else []), *(["stale"] if self.stale else [])])
        return f"{self.verdict} ({aside})" if aside and self.verdict != "cannot tell" else self.verdict


@dataclass(frozen=True)
class Judgement:
    verdict: Told
    evidence: str
    cells: tuple[str, ...] = ()
    seeds: int = 0
    """0 where no seed counts."""


@dataclass(frozen=True)
class Statement:
    """A claim before it is held against records."""

    key: str
    text: str
    source: str
    rule: str
    judge: Callable[[Mapping[str, Row]], Judgement]
    """Of the rows that the paper published, by their keys."""


def claims(report: Report) -> tuple[Claim, ...]:
    """Every claim with its verdict; none where no cell of the study repeats a published row."""
    from reports.claim_rules import STATEMENTS  # Rules read tables, and tables have claims.

    rows = {row.published.key: row for block in report.blocks for row in block.rows if row.published}
    if not any(row.cells for row in rows.values()):
        return ()
    cells = {cell.id: cell for row in rows.values() for cell in row.cells}

    def claim(one: Statement) -> Claim:
        told = one.judge(rows)
        from_cells = [cells[cell] for cell in told.cells]
        told = _of_learned(told, from_cells, report.question_prior)
        stale = [cell.id for cell in from_cells if cell.stale]
        evidence = told.evidence + (f" Stale, the engine has changed since: {', '.join(stale)}." if stale else "")
        return Claim(
            one.key, one.text, one.source, one.rule, told.verdict, evidence, told.cells, told.seeds, bool(stale)
        )

    return tuple(map(claim, STATEMENTS))


def _of_learned(told: Judgement, cells: Sequence[CellRecord], prior: float | None) -> Judgement:
    """Nothing is told of what cells learned that are no better than the most frequent answer to each question."""
    poor = [cell.id for cell in cells if prior is not None and cell.accuracy < prior]
    if not poor or not told.seeds or told.verdict == "cannot tell":
        return told
    why = f" Not judged: below the {prior:.2f} % of knowing the question alone: {', '.join(poor)}."
    return replace(told, verdict="cannot tell", evidence=told.evidence + why)
