"""Figures show the records, and nothing hides a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reports import figures
from reports.tables import build_report
from suite.records import CellFolder


def test_curves_have_a_line_per_row_with_the_recorded_numbers(study_folder: Path) -> None:
    figure = figures.curves(build_report(study_folder))
    assert figure is not None
    accuracy, loss = figure.axes
    lines = {name: line for line in accuracy.lines if not (name := str(line.get_label())).startswith("_")}
    assert list(lines) == [
        "softmax, 9-5-5",
        "adaptive attention span, 9-5-5",
        "adaptive sparse (entmax), 9-5-5\n(failed)",
        "LayerDrop p = 1, 10-6-6\n(started)",
        "span and entmax, 9-5-5",
        "LayerDrop p = 1, 9-5-5",
        "near|window_*, 9-5-5",
        "softmax, 4-2-2",
    ]
    recorded = CellFolder(study_folder / "span-s0").metrics()
    span = lines["adaptive attention span, 9-5-5"]
    assert list(np.asarray(span.get_xdata())) == list(recorded["step"])
    assert list(np.asarray(span.get_ydata())) == list(recorded["accuracy"])
    seeds = [CellFolder(study_folder / f"softmax-s{seed}").metrics()["loss"] for seed in (0, 1)]
    mean = next(line for line in loss.lines if line.get_label() == "softmax, 9-5-5")
    assert list(np.asarray(mean.get_ydata())) == pytest.approx(list((seeds[0] + seeds[1]) / 2))
    looks = {(line.get_color(), str(line.properties()["linestyle"])) for line in lines.values()}
    assert len(looks) == len(lines)


def test_means_stop_where_a_seed_stopped(study_folder: Path) -> None:
    CellFolder(study_folder / "softmax-s1").cut_back(200)
    figure = figures.curves(build_report(study_folder))
    assert figure is not None
    lines = {str(line.get_label()): list(np.asarray(line.get_xdata())) for line in figure.axes[0].lines}
    assert lines["softmax, 9-5-5"] == [50, 100, 150, 200]
    assert 600 in lines["_child0"], "the other seed's own line goes on"


def test_accuracies_name_every_row_and_floor(study_folder: Path) -> None:
    figure = figures.test_accuracy(build_report(study_folder))
    (axes,) = figure.axes
    texts = [text.get_text() for text in axes.texts]
    assert texts == [
        *("92.89", "91.25", "failed", "started", "71.50", "missing", "89.75 (stale)", "90.50", "88.00")
    ]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [
        "floor: question prior, 67.00 %",
        "floor: blind (mean picture) softmax, 9-5-5, 66.80 %",
        "below 75 %: has not learned to look",
    ]


def test_learned_quantities_have_a_panel_per_stack_and_direction(study_folder: Path) -> None:
    report = build_report(study_folder)
    found = [(cell.id, name) for _, cell, name in figures.learned_columns(report)]
    assert found == [
        ("span-s0", "span"),
        ("entmax-s0", "alpha"),
        ("span_entmax-s0", "span"),
        ("span_entmax-s0", "alpha"),
    ]
    row, cell, name = figures.learned_columns(report)[0]
    figure = figures.learned(report, row, cell, name)
    assert [axes.get_title() for axes in figure.axes] == [
        "language: words",
        "vision: boxes",
        "cross: words to boxes",
        "cross: boxes to words",
        "cross: words",
        "cross: boxes",
    ]
    assert len(figure.axes[0].lines) == 9 * (4 + 1)


def test_no_panel_overlaps_the_legend(study_folder: Path) -> None:
    report = build_report(study_folder)
    drawn = [figures.curves(report), figures.test_accuracy(report)]
    drawn += [figures.learned(report, *each) for each in figures.learned_columns(report)[:1]]
    for figure in drawn:
        assert figure is not None
        legend = figure.legends[0].get_window_extent()
        assert all(axes.get_tightbbox().y0 >= legend.y1 for axes in figure.axes)
        assert legend.x0 >= 0
        assert legend.x1 <= figure.bbox.x1
        assert legend.y0 >= 0
