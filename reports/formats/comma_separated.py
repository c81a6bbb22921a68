"""The numbers of the tables as comma-separated values: raw, unrounded, for programs."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import unicodedata
from collections.abc import Mapping, Sequence
from statistics import fmean

from reports.layout import COMPARISONS
from reports.report import Comparison, Report, Row
from reports.statistics import Estimate
from reports.text import plain

COLUMNS = (
    "table",
    "label",
    "variant",
    "arguments",
    "layers",
    "keep",
    "published_test_dev",
    "published_test_std",
    "published_difference",
    "published_flops_change",
    "published_source",
    "published_origin",
    "state",
    "stale",
    "seeds_finished",
    "seeds",
    "test_accuracy",
    "test_accuracies",
    "base_accuracies",
    "official_accuracy",
    "server_test_dev",
    "server_test_std",
    "estimate_low",
    "estimate_high",
    "standard_error",
    "degrees_of_freedom",
    "difference",
    "difference_low",
    "difference_high",
    "difference_standard_error",
    "difference_degrees_of_freedom",
    "difference_seeds",
    "p",
    "p_adjusted",
    "detectable",
    "verdict",
    "verdict_reason",
    "looked",
    "macs",
    "macs_reference",
    "macs_reference_change",
    "uncounted_operators",
    "parameters",
    "seconds",
    "cells",
    "notes",
)


def comma_separated(report: Report) -> str:
    """Raw, unrounded numbers, a line per row of the tables and floor; where one is missing, the state says why.

    Accuracies in per cent, differences in points, changes in per cent; lists have spaces between. ``low`` and
    ``high`` are of 95 % intervals, ``p_adjusted`` is p after Holm, ``detectable`` in points. A change has the
    accuracies of its finished pairs with it and, as ``base_accuracies``, without it.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = [column for column in COLUMNS if report.measured or column != "seconds"]
    writer.writerow(columns)
    for block in report.blocks:
        for row in block.rows:
            writer.writerow(_line(_row(block.title, row), columns))
    prior: dict[str, object] = {"table": "Floors", "label": "question prior", "state": "not known"}
    if report.question_prior is not None:
        prior |= {"state": "finished", "test_accuracy": report.question_prior}
    writer.writerow(_line(prior, columns))
    for row in report.floors:
        writer.writerow(_line(_row("Floors", row), columns))
    for line in report.comparisons:
        writer.writerow(_line(_change(line), columns))
    return file.getvalue()


TYPE_COLUMNS = ("key", "label", "kind", "type", "questions", "accuracy", "score")


def types_comma_separated(report: Report) -> str | None:
    """A line per row and type, unrounded, accuracy in per cent; None where no question has a type.

    ``score`` is ``official``, or ``soft`` for LXMERT's soft score.
    """
    if report.by_type is None:
        return None
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(TYPE_COLUMNS)
    score = "official" if report.by_type.official else "soft"
    for row in report.rows:
        for one in report.by_type.rows.get(row.key, ()):
            values = {"key": row.key, "label": row.label, "score": score} | dataclasses.asdict(one)
            writer.writerow(_line(values, TYPE_COLUMNS))
    return file.getvalue()


CLAIM_COLUMNS = ("key", "text", "source", "rule", "verdict", "seeds", "stale", "evidence", "cells")


def claims_comma_separated(report: Report) -> str | None:
    """A line per claim of the paper's; None where the study repeats none of its rows."""
    if not report.claims:
        return None
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CLAIM_COLUMNS)
    for claim in report.claims:
        writer.writerow(_line(dataclasses.asdict(claim) | {"cells": " ".join(claim.cells)}, CLAIM_COLUMNS))
    return file.getvalue()


COST_COLUMNS = (
    "key",
    "label",
    "cell",
    "device",
    "batch_size",
    "step_seconds",
    "step_low",
    "step_high",
    "relative",
    "questions_per_second",
    "latency_p50",
    "latency_p99",
    "train_memory",
    "predict_memory",
    "step_energy",
    "question_energy",
    "energy_source",
    "target_accuracy",
    "to_target",
    "other_cores",
    "engine",
)


def costs_comma_separated(report: Report) -> str | None:
    """A line per row and device: seconds, milliseconds of latency, MiB, joules; None where nothing was measured.

    ``step_low`` and ``step_high`` are quartiles; ``relative`` is to the softmax row on the same device.
    """
    lines = [(row, cost) for row in report.rows for cost in row.costs]
    if not lines:
        return None
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COST_COLUMNS)
    for row, cost in lines:
        low, high = cost.step_quartiles or (None, None)
        values = {"key": row.key, "label": row.label, "step_low": low, "step_high": high}
        values |= {"target_accuracy": cost.target.accuracy if cost.target else None}
        writer.writerow(_line(dataclasses.asdict(cost) | values, COST_COLUMNS))
    return file.getvalue()


def _change(line: Comparison) -> dict[str, object]:
    states = dict.fromkeys(cell.state for cell in (*line.base, *line.changed))
    return {
        "table": COMPARISONS,
        "label": line.label,
        "state": "finished" if line.finished else ", ".join(states),
        "stale": any(cell.stale for cell in (*line.base, *line.changed)),
        "seeds_finished": len(line.finished),
        "seeds": len(line.base),
        "test_accuracy": fmean(changed for _, changed in line.finished) if line.finished else None,
        "test_accuracies": " ".join(repr(changed) for _, changed in line.finished),
        "base_accuracies": " ".join(repr(base) for base, _ in line.finished),
        "difference": line.difference,
        **_difference(line.paired),
        "cells": " ".join(f"{base.id} {changed.id}" for base, changed in zip(line.base, line.changed, strict=True)),
    }


def _row(table: str, row: Row) -> dict[str, object]:
    published, measured = row.published, row.measured
    configuration = row.cells[0].configuration if row.cells else None
    values: dict[str, object] = {
        "table": table,
        "label": row.label,
        "variant": configuration["variant"] if configuration else None,
        "arguments": json.dumps(configuration["arguments"], sort_keys=True) if configuration else None,
        "layers": "-".join(map(str, configuration["layers"])) if configuration else None,
        "keep": None if row.trained else json.dumps(row.cells[0].keep),
        "state": row.state,
        "stale": row.stale,
        "seeds_finished": row.finished,
        "seeds": len(row.cells),
        "difference": row.difference,
        **_difference(row.paired),
        "verdict": row.verdict.word if row.verdict else None,
        "verdict_reason": row.verdict.reason if row.verdict else None,
        "looked": row.looked,
        "macs_reference_change": row.macs_change,
        "cells": " ".join(cell.id for cell in row.cells),
        "notes": " ".join(row.notes),
    }
    if published:
        values |= {
            "published_test_dev": published.test_dev,
            "published_test_std": published.test_std,
            "published_difference": published.difference,
            "published_flops_change": published.flops_change,
            "published_source": published.source,
            "published_origin": published.origin,
        }
    if measured:
        values |= {
            "test_accuracy": measured.accuracy,
            "test_accuracies": " ".join(map(repr, measured.accuracies)),
            "official_accuracy": measured.official,
            "server_test_dev": measured.server.get("test-dev"),
            "server_test_std": measured.server.get("test-std"),
            "macs": measured.macs,
            "macs_reference": measured.macs_reference,
            "uncounted_operators": json.dumps(measured.uncounted_operators, sort_keys=True),
            "parameters": measured.parameters,
            "seconds": measured.seconds if row.trained else None,
        }
    if row.estimate:
        values |= {
            "estimate_low": row.estimate.low,
            "estimate_high": row.estimate.high,
            "standard_error": row.estimate.error,
            "degrees_of_freedom": row.estimate.freedom,
        }
    return values


def _difference(paired: Estimate | None) -> dict[str, object]:
    if paired is None:
        return {}
    return {
        "difference_low": paired.low,
        "difference_high": paired.high,
        "difference_standard_error": paired.error,
        "difference_degrees_of_freedom": paired.freedom,
        "difference_seeds": paired.seeds,
        "p": paired.p,
        "p_adjusted": paired.adjusted,
        "detectable": paired.detectable,
    }


def _line(values: Mapping[str, object], columns: Sequence[str]) -> list[str]:
    return [_cell(values.get(column)) for column in columns]


FORMULA = ("=", "+", "-", "@", "\N{MINUS SIGN}", "\t", "\r")
"""What a formula begins with."""


def _cell(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        return repr(value)
    text = plain(value)
    # A spreadsheet would run such a text as a formula, also where the sign is a wide or a raised one.
    first = unicodedata.normalize("NFKC", text[:1])
    return f"'{text}" if first.startswith(FORMULA) else text
