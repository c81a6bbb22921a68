"""What rows cost, in the report: numbers from cost.json alone, and never two devices in one column."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from reports.checks import checks
from reports.claims import claims
from reports.costs import Costs, read_costs
from reports.formats.comma_separated import comma_separated, costs_comma_separated
from reports.formats.latex import latex
from reports.formats.markdown import markdown
from reports.formats.terminal import terminal
from reports.layout import lay_out
from reports.report import Report, Row
from reports.tables import build_report
from reports.text import TextTable
from suite.records import CellFolder, RecordError

SOFTMAX, SPAN = "softmax, 9-5-5", "adaptive attention span, 9-5-5"
CPU, OTHER = "AMD EPYC 7B13, 2 threads", "NVIDIA A100, 8 threads"


def measurement(number: int, device: str = CPU, **changed: Any) -> dict[str, Any]:
    """One that differs with ``number`` in every field."""
    step = 0.1 + number / 1000
    return {
        "device": device,
        "kind": "cpu",
        "threads": 2,
        "measured": "2026-11-27 12:00:00 +0000",
        "load": [0.1, 1.2],
        "other_cores": 0.01,
        "rounds": 5,
        "batch_size": 32,
        "train_step_seconds": {"median": step, "low": step - 0.01, "high": step + 0.02, "samples": 20},
        "questions_per_second": {"median": 2000.5 + number, "low": 1900.0, "high": 2100.0, "samples": 5},
        "latency_ms": {"p50": 11.25 + number, "p99": 31.5 + number, "samples": 300},
        "train_memory_mib": 150.5 + number,
        "predict_memory_mib": 50.25 + number,
        "step_joules": 1.5 + number / 100,
        "question_joules": 0.0123 + number / 10000,
        "energy_source": "processor: RAPL counter (codecarbon 3.3.2; the whole machine, no memory)",
        "packages": {},
        "code": {"commit": "0" * 40, "changes": None, "engine": "engine-of-today"},
    } | changed


def write(study: Path, cell: str, *measurements: dict[str, Any]) -> None:
    for one in measurements:
        CellFolder(study / cell).write_cost(one)


def row_of(report: Report, cell: str) -> Row:
    return next(row for row in report.rows if cell in {one.id for one in row.cells})


def tables_of(report: Report) -> list[TextTable]:
    return [table for table in lay_out(report).tables if table.title.startswith("Measured cost")]


def column(table: TextTable, side: str, title: str) -> dict[str, str]:
    """Label without its marks -> text."""
    place = next(
        number for number, column in enumerate(table.columns) if (column.side, column.title) == (side, title)
    )
    return {re.sub(r" \[[M\d,]+\]$", "", row[0]): row[place] for row in table.rows}


def test_a_report_without_measurements_says_nothing_of_cost(study_folder: Path) -> None:
    report = build_report(study_folder)
    assert tables_of(report) == []
    assert "bench cost" not in markdown(report)
    assert all(row.costs == () for row in report.rows)


def test_every_number_is_that_of_the_file(study_folder: Path) -> None:
    write(study_folder, "softmax-s0", measurement(0))
    write(study_folder, "span-s0", measurement(40))
    (table,) = tables_of(build_report(study_folder))
    assert table.title == f"Measured cost on {CPU}"
    expected = {
        ("training", "batch"): ("32", "32"),
        ("training", "step (ms)"): ("100.0", "140.0"),
        ("training", "quartiles"): ("90.0-120.0", "130.0-160.0"),
        ("training", "vs softmax"): ("1.00", "1.40"),
        ("training", "MiB"): ("150.5", "190.5"),
        ("training", "J"): ("1.500", "1.900"),
        ("prediction", "questions/s"): ("2,000", "2,040"),
        ("prediction", "p50 (ms)"): ("11.25", "51.25"),
        ("prediction", "p99 (ms)"): ("31.50", "71.50"),
        ("prediction", "MiB"): ("50.25", "90.25"),
        ("prediction", "J"): ("0.01230", "0.01630"),
    }
    labels = {row.cells[0].id: row.label for row in build_report(study_folder).rows}
    assert (labels["softmax-s0"], labels["span-s0"]) == (SOFTMAX, SPAN)
    for (side, title), (one, other) in expected.items():
        shown = column(table, side, title)
        assert (shown[SOFTMAX], shown[SPAN]) == (one, other), title


def test_devices_have_tables_of_their_own(study_folder: Path) -> None:
    write(study_folder, "softmax-s0", measurement(0))
    write(study_folder, "span-s0", measurement(10), measurement(500, OTHER))
    write(study_folder, "softmax-s1", measurement(900, OTHER))
    report = build_report(study_folder)
    one, other = tables_of(report)
    assert [table.title for table in (one, other)] == [f"Measured cost on {device}" for device in (CPU, OTHER)]
    assert column(one, "training", "step (ms)")[SOFTMAX] == "100.0"
    # The second seed was measured there, the first was not.
    assert column(other, "training", "step (ms)")[SOFTMAX] == "1,000"
    assert column(other, "training", "vs softmax")[SPAN] == "0.60"
    assert [cost.device for cost in row_of(report, "span-s0").costs] == [CPU, OTHER]


def test_a_row_is_never_against_softmax_on_another_device_or_batch(study_folder: Path) -> None:
    write(study_folder, "softmax-s0", measurement(0))
    write(study_folder, "span-s0", measurement(10, OTHER))
    write(study_folder, "window-s0", measurement(20, batch_size=64))
    report = build_report(study_folder)
    assert [row_of(report, cell).costs[0].relative for cell in ("softmax-s0", "span-s0", "window-s0")] == [
        1,
        None,
        None,
    ]
    _, other = tables_of(report)
    assert column(other, "training", "batch")[SOFTMAX] == "not measured"
    assert column(other, "training", "step (ms)")[SOFTMAX] == "-"
    assert column(other, "training", "vs softmax")[SPAN] == "-"


def test_the_first_measured_seed_speaks_for_its_row(study_folder: Path) -> None:
    write(study_folder, "softmax-s1", measurement(1))
    assert row_of(build_report(study_folder), "softmax-s1").costs[0].cell == "softmax-s1"
    write(study_folder, "softmax-s0", measurement(0))
    assert row_of(build_report(study_folder), "softmax-s1").costs[0].cell == "softmax-s0"


def first_step_at(study: Path, cell: str, target: float) -> int:
    lines = (study / cell / "metrics.jsonl").read_text().splitlines()
    return next(line["step"] for line in map(json.loads, lines) if line["accuracy"] >= target)


def test_time_to_target_is_steps_of_the_record_times_the_measured_step(study_folder: Path) -> None:
    write(study_folder, "softmax-s0", measurement(0))
    write(study_folder, "window-s0", measurement(20))
    write(study_folder, "span_entmax-s0", measurement(30))  # It stays near 71 %.
    report = build_report(study_folder)
    # Both seeds' last validation accuracy, of result.json.
    results = [json.loads((study_folder / f"softmax-s{seed}/result.json").read_text()) for seed in (0, 1)]
    target = sum(result["accuracy"]["validation"] for result in results) / 2 - 1
    cost = row_of(report, "softmax-s0").costs[0]
    assert cost.target is not None
    assert cost.target.accuracy == pytest.approx(target)
    assert row_of(report, "span_entmax-s0").costs[0].to_target is None
    (table,) = tables_of(report)
    both = row_of(report, "span_entmax-s0").label
    assert column(table, "training", "target (s)")[both] == "not reached"
    page = " ".join(terminal(report).split())
    assert f"Target: {target:.2f} % on validation, the softmax row's last accuracy there minus one point" in page

    easier = Costs([], 80.0)
    (window,) = easier.of(row_of(report, "window-s0").cells)
    steps = first_step_at(study_folder, "window-s0", 80.0)
    assert steps > 0
    assert window.to_target == pytest.approx(steps * 0.12)


def test_a_row_whose_start_has_the_target_needs_no_step(study_folder: Path) -> None:
    write(study_folder, "softmax-s0", measurement(0))
    metrics = study_folder / "softmax-s0" / "metrics.jsonl"
    metrics.write_text(json.dumps({"step": 0, "accuracy": 99.0}) + "\n" + metrics.read_text())
    report = build_report(study_folder)
    assert row_of(report, "softmax-s0").costs[0].to_target == 0
    (table,) = tables_of(report)
    assert column(table, "training", "target (s)")[SOFTMAX] == "at start"


def test_without_softmax_the_target_is_the_studys_threshold(make_study: Callable[..., Path]) -> None:
    study = make_study(names=("start-s0", "span-s0"))
    write(study, "span-s0", measurement(0))
    report = build_report(study)
    (cost,) = row_of(report, "span-s0").costs
    assert cost.target is not None
    assert cost.target.accuracy == 75.0
    assert cost.relative is None
    assert cost.to_target == pytest.approx(first_step_at(study, "span-s0", 75.0) * 0.1)
    assert "threshold of having learned to look" in terminal(report).replace("\n", " ")


def test_a_cell_that_is_evaluated_only_has_no_numbers_of_training(study_folder: Path) -> None:
    only = measurement(0, train_step_seconds=None, train_memory_mib=None, step_joules=None)
    write(study_folder, "softmax-s0", measurement(0))
    write(study_folder, "window-s0", only)
    (cost,) = row_of(build_report(study_folder), "window-s0").costs
    assert (cost.step_seconds, cost.train_memory, cost.step_energy, cost.to_target) == (None,) * 4
    (table,) = tables_of(build_report(study_folder))
    row = next(row for row in table.rows if row[0].startswith("near"))
    assert row[1:8] == ("-",) * 7
    assert "-" not in row[8:]


def test_no_mark_is_of_two_notes(study_folder: Path) -> None:
    write(study_folder, "softmax-s0", measurement(0))
    report = build_report(study_folder)
    report = replace(report, claims=claims(report), findings=checks(report))
    marks = [note.mark for note in lay_out(report).notes]
    assert {"M1", "C1", "a"} <= set(marks)
    assert len(marks) == len(set(marks))


def test_notes_say_where_energy_is_from_and_what_disturbed(study_folder: Path) -> None:
    unknown = "not measured: codecarbon, the extra 'energy', is not installed"
    write(study_folder, "softmax-s0", measurement(0))
    absent = measurement(10, step_joules=None, question_joules=None, energy_source=unknown, other_cores=0.75)
    write(study_folder, "span-s0", absent)
    (table,) = tables_of(build_report(study_folder))
    notes = {note.mark: note.text for note in table.notes}
    labels = [row[0] for row in table.rows]
    assert f"{SOFTMAX} [M1]" in labels
    assert f"{SPAN} [M2,M3]" in labels
    assert "RAPL counter" in notes["M1"]
    assert unknown in notes["M2"]
    assert "0.8 processors busy" in notes["M3"]
    assert column(table, "training", "J")[SPAN] == "-"
    write(study_folder, "span-s0", measurement(10, code={"engine": "of-tomorrow"}))
    (table,) = tables_of(build_report(study_folder))
    assert any("with the engine of-tomorrow" in note.text for note in table.notes)


def test_remarks_say_what_is_in_no_number(study_folder: Path) -> None:
    write(study_folder, "softmax-s0", measurement(0))
    page = " ".join(terminal(build_report(study_folder)).split())
    assert "the detector that makes them is in no number" in page
    assert "MACs leave out softmax, which take time" in page


def test_csv_reads_back_into_the_measurements(study_folder: Path) -> None:
    for cell, step in (("softmax-s0", 0), ("span-s0", 10)):
        write(study_folder, cell, measurement(step))
    report = build_report(study_folder)
    text = costs_comma_separated(report)
    assert text is not None
    table = pd.read_csv(io.StringIO(text)).set_index("cell")
    costs = [cost for row in report.rows for cost in row.costs]
    assert list(table.index) == [cost.cell for cost in costs] == ["softmax-s0", "span-s0"]
    for cost in costs:
        line = table.loc[cost.cell]
        assert (line["step_low"], line["step_high"]) == cost.step_quartiles
        for name in ("device", "step_seconds", "relative", "latency_p99", "predict_memory", "energy_source"):
            assert line[name] == getattr(cost, name), name
    assert costs_comma_separated(build_report(study_folder, measured=False)) is None


def test_without_what_is_measured_nothing_of_it_is_shown(study_folder: Path) -> None:
    def pages() -> list[str]:
        report = build_report(study_folder, measured=False)
        return [render(report) for render in (markdown, latex, terminal, comma_separated)]

    before = pages()
    write(study_folder, "softmax-s0", measurement(0))
    assert pages() == before


@pytest.mark.parametrize("render", [markdown, latex, terminal])
def test_every_format_has_the_numbers_and_no_line_of_the_devices_own(
    study_folder: Path, render: Callable[[Report], str]
) -> None:
    write(study_folder, "softmax-s0", measurement(0, "\x1b[31m[red]|$x$ & 50% #1\n, 2 threads"))
    page = render(build_report(study_folder))
    assert "100.0" in page
    assert "\x1b" not in page
    assert "Measured cost on" in page


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"device": ""}, "device a text, received ''"),
        ({"batch_size": 0}, "batch_size a number of at least 1, received 0"),
        ({"batch_size": True}, "batch_size a number"),
        ({"train_step_seconds": 0.1}, "train_step_seconds an object, received 0.1"),
        ({"train_step_seconds": {"median": 0.1}}, "low a value, received 'nothing'"),
        ({"questions_per_second": {"median": -1}}, "median a number of at least 0, received -1"),
        ({"latency_ms": {"p50": "fast", "p99": 1}}, "p50 a number of at least 0, received 'fast'"),
        ({"predict_memory_mib": None}, "predict_memory_mib a number"),
        ({"step_joules": "much"}, "step_joules a number"),
        ({"code": {}}, "engine a value"),
    ],
)
def test_a_wrong_field_is_an_error_that_names_the_file(
    study_folder: Path, changed: dict[str, Any], said: str
) -> None:
    write(study_folder, "softmax-s0", measurement(0, **changed))
    with pytest.raises(RecordError, match="measure again") as raised:
        build_report(study_folder)
    assert f"{study_folder / 'softmax-s0' / 'cost.json'}: expected for {said}" in str(raised.value)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"measurements": 3}', '{"measurements": [3]}'])
def test_a_file_of_something_else_is_an_error_that_names_it(study_folder: Path, text: str) -> None:
    file = study_folder / "softmax-s0" / "cost.json"
    file.write_text(text)
    with pytest.raises(RecordError, match=re.escape(str(file))):
        read_costs(CellFolder(file.parent))


def test_two_measurements_of_one_device_are_an_error(study_folder: Path) -> None:
    file = study_folder / "softmax-s0" / "cost.json"
    file.write_text(json.dumps({"measurements": [measurement(0), measurement(1)]}))
    with pytest.raises(RecordError, match="one for each device"):
        read_costs(CellFolder(file.parent))
