"""What the paper claims in words, each held against the records by a stated rule.

A claim is judged seed by seed: it holds where every finished seed bears it out, does not hold where every seed
speaks against it, and cannot be told otherwise. Differences of accuracy are judged by their intervals instead.
``reports.claim_rules`` has the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from reports.tables import Report, Row

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


@dataclass(frozen=True)
class Judgement:
    verdict: Told
    evidence: str
    cells: tuple[str, ...] = ()


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
    found = [(statement, statement.judge(rows)) for statement in STATEMENTS]
    return tuple(
        Claim(one.key, one.text, one.source, one.rule, told.verdict, told.evidence, told.cells)
        for one, told in found
    )
