"""What the paper claims in words, each held against the records by a stated rule.

A claim is judged seed by seed: it holds where every finished seed bears it out, does not hold where every seed
speaks against it, and cannot be told otherwise. Differences of accuracy are judged by their intervals instead.
``reports.claim_rules`` has the rules.
"""

from __future__ import annotations

from reports.claim_rules import STATEMENTS
from reports.report import Claim, Report


def claims(report: Report) -> tuple[Claim, ...]:
    """Every claim with its verdict; none where no cell of the study repeats a published row."""
    rows = {row.published.key: row for block in report.blocks for row in block.rows if row.published}
    if not any(row.cells for row in rows.values()):
        return ()
    found = [(statement, statement.judge(rows)) for statement in STATEMENTS]
    return tuple(
        Claim(one.key, one.text, one.source, one.rule, told.verdict, told.evidence, told.cells)
        for one, told in found
    )
