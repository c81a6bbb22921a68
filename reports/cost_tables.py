"""What rows cost as tables of a report: one for each device, whose numbers never stand beside another's."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reports.costs import Cost
from reports.report import Report
from reports.text import Column, Note, TextTable, plain

BUSY = 0.1
"""Processors that others kept busy while it was measured, from which on a reader is told."""


def cost_tables(report: Report) -> list[TextTable]:
    """What the rows cost, a table for each device on which one was measured; none where nothing was."""
    training = ("batch", "step (ms)", "quartiles", "vs softmax", "MiB", "J", "target (s)")
    prediction = ("questions/s", "p50 (ms)", "p99 (ms)", "MiB", "J")
    columns = (
        Column("", "Method"),
        *(Column("training", title) for title in training),
        *(Column("prediction", title) for title in prediction),
    )
    marks: dict[str, str] = {}
    """Note -> its mark, the same in all tables."""
    tables = []
    for device in dict.fromkeys(cost.device for row in report.rows for cost in row.costs):
        measured = {row.key: cost for row in report.rows for cost in row.costs if cost.device == device}
        texts = dict(zip(measured, _texts(list(measured.values())), strict=True))
        rows, used = [], {}
        for row in (row for row in report.rows if row.measured):
            label = plain(row.label) + (" (stale)" if row.stale else "")
            if row.key not in measured:
                rows.append((label, "not measured", *["-"] * (len(columns) - 2)))
                continue
            notes = _notes(measured[row.key], list(measured.values()))
            used |= {text: marks.setdefault(text, f"M{len(marks) + 1}") for text in notes}
            rows.append((f"{label} [{','.join(marks[text] for text in notes)}]", *texts[row.key]))
        notes = tuple(Note(mark, plain(text)) for text, mark in used.items())
        tables.append(
            TextTable(f"Measured cost on {plain(device)}", columns, tuple(rows), notes, (1 + len(training),))
        )
    return tables


def _texts(costs: Sequence[Cost]) -> list[tuple[str, ...]]:
    """The numbers of each row as they are shown, each column in one precision."""
    steps = _column([cost.step_seconds and 1e3 * cost.step_seconds for cost in costs])
    quartiles = [
        _column([cost.step_quartiles and 1e3 * cost.step_quartiles[side] for cost in costs]) for side in (0, 1)
    ]
    columns = [
        [f"{cost.batch_size}" if cost.step_seconds else "-" for cost in costs],
        steps,
        ["-" if low == "-" else f"{low}-{high}" for low, high in zip(*quartiles, strict=True)],
        ["-" if cost.relative is None else f"{cost.relative:.2f}" for cost in costs],
        _column([cost.train_memory for cost in costs]),
        _column([cost.step_energy for cost in costs]),
        [_target(cost) for cost in costs],
        _column([cost.questions_per_second for cost in costs]),
        _column([cost.latency_p50 for cost in costs]),
        _column([cost.latency_p99 for cost in costs]),
        _column([cost.predict_memory for cost in costs]),
        _column([cost.question_energy for cost in costs]),
    ]
    return list(zip(*columns, strict=True))


def _column(numbers: Sequence[float | None]) -> list[str]:
    """Four digits of the largest, and as many decimals of the others."""
    largest = max((number for number in numbers if number), default=1.0)
    decimals = min(max(3 - math.floor(math.log10(largest)), 0), 6)
    return ["-" if number is None else f"{number:,.{decimals}f}" for number in numbers]


def _target(cost: Cost) -> str:
    if cost.target is None or cost.step_seconds is None:
        return "-"
    if cost.to_target is None:
        return "not reached"
    return f"{cost.to_target:,.1f}" if cost.to_target else "at start"


def _notes(cost: Cost, all_of_device: Sequence[Cost]) -> list[str]:
    """What a reader must know of one row's numbers."""
    notes = [f"Energy: {cost.energy_source}."]
    if cost.other_cores > BUSY:
        busy = f"{cost.other_cores:.1f} processors busy"
        notes.append(f"Measured while other processes kept {busy}: they slowed it down.")
    if len({other.engine for other in all_of_device}) > 1:
        notes.append(f"Measured with the engine {cost.engine}, and others of this table with another.")
    return notes


def cost_remarks(report: Report) -> list[str]:
    """What the numbers of ``cost_tables`` are, and what they do not say."""
    rows = [row for row in report.rows if row.costs]
    if not rows:
        return []
    target = rows[0].costs[0].target
    remarks = [
        "Cost: measured by `ablate bench cost`, one seed a row, alone on the machine that the table names and in "
        "turn with the others; medians, with quartiles of the step. A step is that of the row's own batch and "
        "optimiser; p50 and p99 are of one question alone. J is the energy of one step, and of one question; MiB "
        "the peak of memory, on a processor above what libraries and data set take.",
        "Cost counts from stored features of the pictures: the detector that makes them is in no number.",
    ]
    if target is not None:
        remarks.append(
            f"Target: {target.accuracy:.2f} % on validation, {target.rule}. Its time is that of the steps up to "
            "the first evaluation that has it, without evaluations and without the training of a start."
        )
    return remarks
