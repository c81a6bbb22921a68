"""The tables of what to believe: the paper's claims with their verdicts, and cells that should not be trusted."""

from __future__ import annotations

from reports.report import Report
from reports.text import Column, Note, TextTable, plain

CLAIMS = "What the paper says in words, held against our records"
FINDINGS = "Cells that should not be trusted"


CLAIMS_REMARK = (
    "Claims: a verdict is of our records, on the data, at the size and with the training that the heading names, "
    "and not of the paper's own; (1 seed) = of one run of each row, not of another; (stale) = by an engine that "
    "has changed since. Cells that differ in more than is compared, or are below the question prior, cannot tell."
)


def trust_tables(report: Report) -> list[TextTable]:
    """A table of claims and one of findings, each only where there are any."""
    return [
        *([_claims_table(report)] if report.claims else []),
        *([_findings_table(report)] if report.findings else []),
    ]


def _claims_table(report: Report) -> TextTable:
    columns = (Column("", "Claim"), Column("paper", "where"), Column("ours", "verdict"), Column("ours", "cells"))
    rows, notes = [], []
    for number, claim in enumerate(report.claims, 1):
        mark = f"C{number}"
        rows.append((f"{plain(claim.text)} [{mark}]", claim.source, claim.said, str(len(claim.cells))))
        notes.append(Note(mark, f"{plain(claim.rule)} Found: {plain(claim.evidence)}"))
    return TextTable(CLAIMS, columns, tuple(rows), tuple(notes))


def _findings_table(report: Report) -> TextTable:
    columns = (Column("", "Cell"), Column("ours", "check"))
    rows, notes = [], []
    for number, finding in enumerate(report.findings, 1):
        mark = f"F{number}"
        rows.append((f"{plain(finding.cell)} [{mark}]", finding.check))
        notes.append(Note(mark, plain(finding.message)))
    return TextTable(FINDINGS, columns, tuple(rows), tuple(notes))
