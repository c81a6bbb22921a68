"""What the paper claims in words, each held against the records by a stated rule.

A claim is judged seed by seed: it holds where every finished seed bears it out, does not hold where every seed
speaks against it, and cannot be told otherwise. Differences of accuracy are judged by their intervals instead.
Of cells that have not learned nothing is told but what they cost. ``reports.claim_rules`` has the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reports.cells import CellRecord, told_of
from reports.claim_rules import STATEMENTS, Statement
from reports.claim_seeds import Judgement
from reports.report import Claim, Report


def claims(report: Report) -> tuple[Claim, ...]:
    """Every claim with its verdict; none where no cell of the study repeats a published row."""
    rows = {row.published.key: row for block in report.blocks for row in block.rows if row.published}
    if not any(row.cells for row in rows.values()):
        return ()
    cells = {cell.id: cell for row in rows.values() for cell in row.cells}

    def claim(one: Statement) -> Claim:
        with told_of(next(iter(cells.values())).folder.parent):
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
