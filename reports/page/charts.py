"""What the interactive charts of the index know of each row; its curves are a file of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from reports.figures.breaks import broken
from reports.figures.rows import drawn_interval, trained
from reports.page.cells import POINTS
from reports.page.data import number, thinned
from reports.report import Report, Row
from reports.text import plain

SEEDS = 10
"""Seeds of one row that are drawn beside their mean."""
CURVES = ("accuracy", "loss", "train_loss")


def row_data(report: Report, learned: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Rows, floors, the parts of their axis where it is broken, and the threshold of having looked; per cent.

    ``learned`` has per cell the columns of its attention sites.
    """
    prior = [] if report.question_prior is None else [["question prior", number(report.question_prior)]]
    floors = [[plain(row.label), number(row.measured.accuracy)] for row in report.floors if row.measured]
    parts = broken(trained(report), [value for _, value in prior + floors]) or ()
    return {
        "dataset": plain(report.dataset),
        "parts": [[number(part.low), number(part.high), part.share] for part in parts] or None,
        "rows": [_row(row, learned) for row in report.rows],
        "floors": prior + floors,
        "looked": report.looked,
    }


def _row(row: Row, learned: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    measured, interval = row.measured, drawn_interval(row)
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
        "interval": list(map(number, interval)) if interval else None,
        "macs": number(measured.macs_reference) if measured else None,
        "learned": next((learned[cell.id] for cell in row.cells if learned[cell.id]), []),
        "learner": next((cell.id for cell in row.cells if learned[cell.id]), None),
    }


def row_curves(row: Row) -> dict[str, Any] | None:
    """The curves of a row over training: the mean over its seeds, and its first seeds; None where there are none.

    The mean is where every seed has been evaluated: over fewer it would jump.
    """
    seeds = {cell.id: {line["step"]: line for line in cell.metrics} for cell in row.cells if cell.metrics}
    if not row.trained or not seeds:
        return None
    shared = sorted(set.intersection(*(set(lines) for lines in seeds.values())))
    means = [
        {"step": step} | {name: _mean([lines[step].get(name) for lines in seeds.values()]) for name in CURVES}
        for step in shared
    ]
    drawn = list(seeds.items())[:SEEDS] if len(seeds) > 1 else []
    return {
        "seeds": len(seeds),
        "evaluations": len(shared),
        "mean": _columns(means),
        "drawn": [{"cell": cell} | _columns(list(lines.values())) for cell, lines in drawn],
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def _columns(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    kept = thinned(lines, POINTS)
    columns: dict[str, list[float | None]] = {name: [number(line.get(name)) for line in kept] for name in CURVES}
    return {"step": [line["step"] for line in kept]} | columns
