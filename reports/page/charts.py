"""What the interactive charts of the index know of each row; its curves are in the files of its cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports.layout import plain
from reports.page.data import number
from reports.tables import Report, Row


def row_data(report: Report, learned: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Rows, floors and the threshold of having looked; accuracies in per cent.

    ``learned`` has per cell the columns of its attention sites.
    """
    prior = [] if report.question_prior is None else [["question prior", number(report.question_prior)]]
    floors = [[plain(row.label), number(row.measured.accuracy)] for row in report.floors if row.measured]
    return {
        "dataset": plain(report.dataset),
        "rows": [_row(row, learned) for row in report.rows],
        "floors": prior + floors,
        "looked": report.looked,
    }


def _row(row: Row, learned: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    measured, estimate = row.measured, row.estimate
    finished = [cell for cell in row.cells if cell.result is not None]
    return {
        "label": plain(row.label),
        "short": plain(row.short),
        "state": row.state,
        "stale": row.stale,
        "trained": row.trained,
        "looked": row.looked,
        "cells": [cell.id for cell in row.cells],
        "seeds": [[cell.id, number(cell.accuracy)] for cell in finished],
        "accuracy": number(measured.accuracy) if measured else None,
        "interval": [number(estimate.low), number(estimate.high)] if estimate else None,
        "macs": number(measured.macs_reference) if measured else None,
        "learned": next((learned[cell.id] for cell in row.cells if learned[cell.id]), []),
        "learner": next((cell.id for cell in row.cells if learned[cell.id]), None),
    }
