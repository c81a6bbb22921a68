"""Accuracy against cost, and by type: the front is that of every pair compared, devices are never mixed."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from figure_records import QUESTIONS, cost_of, estimate_of, finished, with_rows, write_answers
from hypothesis import given
from hypothesis import strategies as st

from reports.costs import Cost
from reports.figures.cost import Panel, Point, cost, cost_panels
from reports.figures.types import MOST, by_type, most_asked
from reports.report import Report
from reports.tables import build_report

numbers = st.integers(0, 6).map(float)


def brute_force(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats, each pair compared."""

    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one != other and one[0] <= other[0] and one[1] >= other[1]

    return sorted(point for point in points if not any(beats(other, point) for other in points))


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12))
def test_the_front_is_that_of_every_pair_compared(points: list[tuple[float, float]]) -> None:
    row: Any = SimpleNamespace()
    panel = Panel("", "", tuple(Point(row, *point) for point in points))
    assert [(point.cost, point.accuracy) for point in panel.front] == brute_force(points)


def costly(study: Path, costs: dict[str, tuple[Cost, ...]]) -> Report:
    report = build_report(study)
    rows = {row.key: dataclasses.replace(row, costs=costs[row.key]) for row in report.rows if row.key in costs}
    return with_rows(report, rows)


def test_without_costs_there_are_multiply_adds_alone(study_folder: Path) -> None:
    report = build_report(study_folder)
    drawn = cost(report)
    assert drawn is not None
    (axes,) = drawn.figure.axes
    assert axes.get_xlabel() == "multiply-adds (M)"
    points = {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in axes.lines if line.get_gid() != "front"
    }
    measured = [row.measured for row in report.rows if row.measured]
    assert points == {(one.macs_reference / 1e6, one.accuracy) for one in measured}
    front = next(line for line in axes.lines if line.get_gid() == "front")
    assert [tuple(point) for point in front.get_xydata().tolist()] == brute_force(list(points))
    assert "No time, memory or energy has been measured." in drawn.caption
    legend = [text.get_text().replace("\n", " ") for text in drawn.figure.legends[0].get_texts()]
    assert {"adaptive sparse (entmax), 9-5-5 (failed)", "default (p = 0), 10-6-6 (missing)"} <= set(legend)
    assert legend[-1] == "Pareto front"


def test_devices_batches_and_sources_of_energy_are_never_in_one_panel(study_folder: Path) -> None:
    one, other = "CPU, 2 threads", "Tesla P100"
    report = costly(
        study_folder,
        {
            "softmax-9-5-5": (cost_of("a", one, 0.2), cost_of("a", other, 0.002)),
            "span-9-5-5": (cost_of("b", one, 0.3), cost_of("b", other, 0.003, energy=None)),
            "layerdrop-9-5-5": (
                cost_of("c", one, 0.1, batch=32),
                dataclasses.replace(cost_of("c", other, 0.001), energy_source="estimate"),
            ),
        },
    )
    found = cost_panels(report)
    costs = {cell.cell: row.key for row in report.rows for cell in row.costs}
    assert costs == {"a": "softmax-9-5-5", "b": "span-9-5-5", "c": "layerdrop-9-5-5"}
    said = [
        (panel.title.replace("\n", " "), panel.axis, [(point.row.key, point.cost) for point in panel.points])
        for panel in found[1:]
    ]
    step, memory, energy = "training step (ms)", "peak memory, training (MiB)", "energy of a training step (J)"
    assert said == [
        (f"{one}, batch 64", step, [("softmax-9-5-5", 200.0), ("span-9-5-5", 300.0)]),
        (f"{one}, batch 64", memory, [("softmax-9-5-5", 180.0), ("span-9-5-5", 270.0)]),
        (f"{one}, batch 64; power counter", energy, [("softmax-9-5-5", 9.5), ("span-9-5-5", 9.5)]),
        (f"{other}, batch 64", step, [("softmax-9-5-5", 2.0), ("span-9-5-5", 3.0), ("layerdrop-9-5-5", 1.0)]),
        (f"{other}, batch 64", memory, [("softmax-9-5-5", 1.8), ("span-9-5-5", 2.7), ("layerdrop-9-5-5", 0.9)]),
        (f"{other}, batch 64; power counter", energy, [("softmax-9-5-5", 9.5)]),
        (f"{other}, batch 64; estimate", energy, [("layerdrop-9-5-5", 9.5)]),
        (f"{one}, batch 32", step, [("layerdrop-9-5-5", 100.0)]),
        (f"{one}, batch 32", memory, [("layerdrop-9-5-5", 90.0)]),
        (f"{one}, batch 32; power counter", energy, [("layerdrop-9-5-5", 9.5)]),
    ]
    unmeasured = dataclasses.replace(report, measured=False)
    assert len(cost_panels(unmeasured)) == 1, "what no second run repeats is left out"


def test_intervals_are_upright_lines(study_folder: Path) -> None:
    report = build_report(study_folder)
    row = next(row for row in report.rows if row.key == "span-9-5-5")
    drawn = cost(with_rows(report, {row.key: dataclasses.replace(row, estimate=estimate_of(91.25, 0.75))}))
    assert drawn is not None
    lines = [line.get_ydata() for line in drawn.figure.axes[0].lines if line.get_gid() != "front"]
    assert [list(line) for line in lines if len(line) == 2] == [[90.5, 92.0]]


def test_many_rows_keep_those_on_the_front_by_name(study_folder: Path) -> None:
    report = build_report(study_folder)
    row = next(row for row in report.rows if row.key == "span-entmax-9-5-5")
    assert row.measured is not None
    copies = []
    for number in range(200):
        measured = dataclasses.replace(row.measured, accuracy=50.0 if number != 150 else 99.0)
        copies.append(
            dataclasses.replace(
                row, key=f"copy-{number}", short=f"copy {number}", published=None, measured=measured
            )
        )
    blocks = (*report.blocks[:-1], dataclasses.replace(report.blocks[-1], rows=tuple(copies)))
    drawn = cost(dataclasses.replace(report, blocks=blocks))
    assert drawn is not None
    legend = [text.get_text() for text in drawn.figure.legends[0].get_texts()]
    assert "copy 150" in legend
    assert legend[-1] == "188 further rows"


@pytest.fixture
def typed(make_study: Callable[..., Path]) -> Path:
    study = make_study()
    for record in finished(study):
        write_answers(record, kept=0)
    return study


def test_types_are_a_band_each_with_a_point_per_row(typed: Path) -> None:
    report = build_report(typed)
    drawn = by_type(report)
    assert drawn is not None
    assert [axes.get_title() for axes in drawn.figure.axes] == ["type of answer", "type of question"]
    predictions = {record.id: record.predictions() for record in finished(typed)}
    for axes, column in zip(drawn.figure.axes, ("answer_type", "question_type"), strict=True):
        names = [text.get_text().partition("\n")[0] for text in axes.get_yticklabels()]
        counts = {text.get_text().partition("\n")[2] for text in axes.get_yticklabels()}
        assert counts == {"(20)", "(10)"} if column == "answer_type" else {"(10)"}
        lines = {str(line.get_label()): line for line in axes.lines}
        for label, cells in (
            ("adaptive attention span,\n9-5-5", ["span-s0"]),
            ("softmax, 9-5-5", ["softmax-s0", "softmax-s1"]),
        ):
            tables = [predictions[cell] for cell in cells]
            expected = [
                sum(100 * table[table[column] == name]["score"].mean() for table in tables) / len(tables)
                for name in names
            ]
            assert lines[label].get_xdata().tolist() == pytest.approx(expected)
            assert [round(place) for place in lines[label].get_ydata()] == list(range(len(names)))
        heights = [line.get_ydata()[0] for line in axes.lines]
        assert all(one < other for one, other in itertools.pairwise(heights)), "no row hides another"
    assert len(QUESTIONS) == 30


def test_many_types_are_cut_to_the_most_asked(typed: Path) -> None:
    record = next(record for record in finished(typed) if record.id == "span-s0")
    for record in finished(typed):
        table = record.predictions()
        table["question_type"] = [f"type {min(number // 2, 12)}" for number in range(len(table))]
        record.write_predictions(table)
    report = build_report(typed)
    assert report.by_type is not None
    shown = most_asked(report.by_type, "question_type")
    assert len(shown) == MOST
    assert "type 12" in shown
    drawn = by_type(report)
    assert drawn is not None
    assert f"Of 13 types of question the {MOST} most asked are drawn." in drawn.caption


def test_untyped_records_have_no_such_figure(study_folder: Path) -> None:
    assert by_type(build_report(study_folder)) is None
