"""Curves over training show what metrics.jsonl and sites.jsonl have, read here by json alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from changed import change, change_accuracy
from figure_records import thin_out
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from reports.figures.curves import curves, regularisation
from reports.figures.density import density, density_by_row
from reports.figures.draw import Options, draw_all
from reports.figures.heads import columns_for, heads_over_training
from reports.figures.layers import layers_over_training
from reports.figures.rows import choose, trained
from reports.figures.sites import Recorded, recorded
from reports.tables import build_report
from suite.look import PALE
from suite.records import CellFolder, StudyFolder

MakeStudy = Callable[..., Path]
PLACES = {
    "language: words": ("language", "words", "words"),
    "vision: boxes": ("vision", "boxes", "boxes"),
    "cross: words to boxes": ("cross", "words", "boxes"),
    "cross: boxes to words": ("cross", "boxes", "words"),
    "cross: words": ("cross", "words", "words"),
    "cross: boxes": ("cross", "boxes", "boxes"),
}


def lines_of(folder: Path, name: str = "sites") -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def site_lines(folder: Path, place: str, layer: int) -> list[dict]:
    stack, queries, keys = PLACES[place]
    return [
        line
        for line in lines_of(folder)
        if (line["stack"], line["queries"], line["keys"], line["index"]) == (stack, queries, keys, layer)
    ]


def found(study: Path, key: str) -> Recorded:
    row = next(row for row in build_report(study).rows if row.key == key)
    one = recorded(row)
    assert one is not None
    return one


def labelled(axes: Axes) -> dict:
    return {name: line for line in axes.lines if not (name := str(line.get_label())).startswith("_")}


def dashes(line: Line2D) -> str:
    """As they are drawn: a line's own name for all of them is the same."""
    return str(line._dash_pattern)


def test_curves_have_a_line_per_row_with_the_recorded_numbers(study_folder: Path) -> None:
    drawn = curves(build_report(study_folder))
    assert drawn is not None
    accuracy, loss = drawn.figure.axes
    lines = labelled(accuracy)
    assert list(lines) == [
        "softmax, 9-5-5",
        "adaptive attention span,\n9-5-5",
        "adaptive sparse (entmax),\n9-5-5 (failed)",
        "LayerDrop p = 1, 10-6-6\n(started)",
        "span and entmax, 9-5-5",
        "LayerDrop p = 1, 9-5-5\n(stale)",
        "near|window_*, 9-5-5",
        "softmax, 4-2-2",
    ]
    recorded = lines_of(study_folder / "span-s0", "metrics")
    span = lines["adaptive attention span,\n9-5-5"]
    assert span.get_xdata().tolist() == [line["step"] for line in recorded]
    assert span.get_ydata().tolist() == [line["accuracy"] for line in recorded]
    seeds = [[line["loss"] for line in lines_of(study_folder / f"softmax-s{seed}", "metrics")] for seed in (0, 1)]
    mean = labelled(loss)["softmax, 9-5-5"]
    assert mean.get_ydata().tolist() == pytest.approx([fmean(pair) for pair in zip(*seeds, strict=True)])
    looks = {(line.get_color(), dashes(line)) for line in lines.values()}
    assert len(looks) == len(lines)
    legend = [text.get_text() for text in drawn.figure.legends[0].get_texts()]
    assert "default (p = 0), 10-6-6\n(missing)" in legend, "a row without a line is named all the same"


def cut_back(cell: Path, step: int) -> None:
    """As if the cell had been trained for ``step`` steps."""
    CellFolder(cell).cut_back(step)
    last = lines_of(cell, "metrics")[-1]
    change(cell / "result.json", steps=last["step"])
    change_accuracy(cell / "result.json", validation=last["accuracy"])


def test_means_stop_where_a_seed_stopped(study_folder: Path) -> None:
    cut_back(study_folder / "softmax-s1", 200)
    drawn = curves(build_report(study_folder))
    assert drawn is not None
    lines = {str(line.get_label()): line.get_xdata().tolist() for line in drawn.figure.axes[0].lines}
    assert lines["softmax, 9-5-5"] == [50, 100, 150, 200]
    assert 600 in lines["_child0"], "the other seed's own line goes on"


def test_layerdrop_stands_out_from_the_rest(study_folder: Path) -> None:
    drawn = regularisation(build_report(study_folder))
    assert drawn is not None
    panels = drawn.figure.axes
    assert [axes.get_ylabel().replace("\n", " ") for axes in panels] == [
        "validation accuracy (%)",
        "validation loss",
        "training loss",
    ]
    for axes, column in zip(panels, ("accuracy", "loss", "train_loss"), strict=True):
        lines = labelled(axes)
        bold = [name for name, line in lines.items() if line.get_color() != PALE]
        assert bold == ["LayerDrop p = 1, 10-6-6\n(started)", "LayerDrop p = 1, 9-5-5\n(stale)"]
        pale = [line for line in lines.values() if line.get_color() == PALE]
        assert len(pale) == 6
        assert len({(dashes(line), line.get_marker()) for line in pale}) == 6
        shallow = lines_of(study_folder / "layerdrop-s0", "metrics")
        assert lines[bold[1]].get_ydata().tolist() == [line[column] for line in shallow]
    legend = [text.get_text().replace("\n", " ") for text in drawn.figure.legends[0].get_texts()]
    assert legend[:4] == [
        "LayerDrop p = 1, 10-6-6 (started)",
        "default (p = 0), 10-6-6 (missing)",
        "LayerDrop p = 1, 9-5-5 (stale)",
        "softmax, 9-5-5",
    ]


def test_a_study_without_layerdrop_has_no_such_figure(make_study: MakeStudy) -> None:
    assert regularisation(build_report(make_study(names=["softmax-s0", "span-s0"]))) is None


def test_spans_are_means_over_the_heads_of_each_layer(study_folder: Path) -> None:
    drawn = layers_over_training("easy-VQA", found(study_folder, "span-9-5-5"), "span", "span", "")
    panels = drawn.figure.axes
    assert [axes.get_title() for axes in panels] == list(PLACES)
    for axes in panels:
        assert len(axes.lines) == (9 if axes.get_title() == "language: words" else 5)
        assert not axes.collections, "one seed has no band"
        for layer, line in enumerate(axes.lines):
            expected = site_lines(study_folder / "span-s0", axes.get_title(), layer)
            assert line.get_xdata().tolist() == [one["step"] for one in expected]
            assert line.get_ydata().tolist() == pytest.approx([fmean(one["span"]) for one in expected])
    assert "tokens" in panels[0].get_ylabel()
    assert [text.get_text() for text in drawn.figure.legends[0].get_texts()] == list("123456789")


def test_seeds_are_a_band_around_their_mean(study_folder: Path) -> None:
    for seed, add in ((0, 5.0), (1, 9.0)):
        path = study_folder / f"softmax-s{seed}" / "sites.jsonl"
        lines = [line | {"span": [add, add + 2 * line["step"]]} for line in lines_of(path.parent)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    cut_back(study_folder / "softmax-s1", 500)
    drawn = layers_over_training("easy-VQA", found(study_folder, "softmax-9-5-5"), "span", "span", "")
    axes = drawn.figure.axes[0]
    steps = list(range(50, 501, 50))
    assert axes.lines[0].get_xdata().tolist() == steps
    assert axes.lines[0].get_ydata().tolist() == [7.0 + step for step in steps]
    (band, *_) = axes.collections
    corners = {tuple(corner) for corner in np.asarray(band.get_paths()[0].vertices).tolist()}
    assert {(step, add + step) for step in steps for add in (5.0, 9.0)} <= corners
    assert "2 seeds" in drawn.caption


def test_alphas_are_the_first_six_heads_or_all_of_them(study_folder: Path) -> None:
    thin_out(StudyFolder(study_folder).cell("span_entmax-s0"), heads=12)
    entmax = found(study_folder, "span-entmax-9-5-5")
    for all_heads, shown in ((False, 6), (True, 12)):
        drawn = heads_over_training("easy-VQA", entmax, "alpha", "alpha", all_heads, "")
        stacks = [text.get_text() for text in drawn.figure.texts if text.get_text() in PLACES]
        assert stacks == list(PLACES)
        panels = iter(drawn.figure.axes)
        for place in stacks:
            for layer in range(9 if place == "language: words" else 5):
                axes = next(panels)
                assert axes.get_title() == f"layer {layer + 1}"
                expected = site_lines(study_folder / "span_entmax-s0", place, layer)
                assert len(axes.lines) == shown
                for head, line in enumerate(axes.lines):
                    assert line.get_xdata().tolist() == [one["step"] for one in expected]
                    assert line.get_ydata().tolist() == [one["alpha"][head] for one in expected]
        assert next(panels, None) is None
        legend = [text.get_text() for text in drawn.figure.legends[0].get_texts()]
        assert legend == [str(head + 1) for head in range(shown)]
        said = "all 12 heads" if all_heads else "the first 6 of 12 heads"
        assert said in drawn.caption


def test_all_heads_are_drawn_where_they_are_asked_for(make_study: MakeStudy) -> None:
    study = make_study(names=["entmax-s0"])
    thin_out(StudyFolder(study).cell("entmax-s0"), heads=8)
    found = draw_all(build_report(study), Options(all_heads=True))
    (one,) = [one for one in found if one.name.startswith("alpha-")]
    assert "all 8 heads" in one.caption


@pytest.mark.parametrize(
    ("depths", "columns"),
    [
        ((9, 5, 5, 5, 5, 5), 5),
        ((10, 6, 6, 6, 6, 6), 6),
        ((2, 2, 2, 2, 2, 2), 2),
        ((4, 2, 2), 4),
        ((12,), 6),
        ((1,), 1),
    ],
)
def test_layers_stand_beside_each_other_in_the_fewest_lines(depths: tuple[int, ...], columns: int) -> None:
    assert columns_for(depths) == columns


def test_densities_are_those_of_the_last_evaluation(study_folder: Path) -> None:
    thin_out(StudyFolder(study_folder).cell("entmax-s0"))
    entmax = found(study_folder, "entmax-9-5-5")
    drawn = density("easy-VQA", entmax, "density", "")
    assert drawn is not None
    *panels, bar = drawn.figure.axes
    assert [axes.get_title() for axes in panels] == list(PLACES)
    assert bar.get_xlim() == (0, 1)
    for axes in panels:
        (mesh,) = axes.collections
        expected = [
            line["density"]
            for layer in range(9 if axes.get_title() == "language: words" else 5)
            for line in site_lines(study_folder / "entmax-s0", axes.get_title(), layer)
            if line["step"] == 300
        ]
        assert np.asarray(mesh.get_array()).tolist() == expected
        assert mesh.get_clim() == (0, 1)
        assert [text.get_text() for text in axes.get_yticklabels()] == [str(n + 1) for n in range(len(expected))]
    assert "step 300" in drawn.caption


def test_rows_whose_heads_attend_to_every_key_are_points_alone(study_folder: Path) -> None:
    thin_out(StudyFolder(study_folder).cell("softmax-s1"))
    thin_out(StudyFolder(study_folder).cell("span-s0"))
    chosen = choose(trained(build_report(study_folder)))
    every = [one for row in chosen.rows if (one := recorded(row)) is not None]
    assert density("easy-VQA", found(study_folder, "layerdrop-9-5-5"), "density", "") is None
    drawn = density_by_row("easy-VQA", every, chosen)
    assert drawn is not None
    (axes,) = drawn.figure.axes
    points = {str(line.get_label()): line.get_xdata().tolist() for line in axes.lines}
    assert points["LayerDrop p = 1, 9-5-5\n(stale)"] == [1.0] * 6
    for place, title in enumerate(PLACES):
        depth = 9 if title == "language: words" else 5
        sparse = {
            name: fmean(
                share
                for layer in range(depth)
                for line in site_lines(study_folder / name, title, layer)
                if line["step"] == 600
                for share in line["density"]
            )
            for name in ("span-s0", "softmax-s1")
        }
        assert points["adaptive attention span,\n9-5-5"][place] == pytest.approx(sparse["span-s0"])
        assert points["softmax, 9-5-5"][place] == pytest.approx((1 + sparse["softmax-s1"]) / 2)


def test_a_methods_own_numbers_are_drawn_for_nothing(make_study: MakeStudy) -> None:
    """A column that reports have never heard of: one number per head, or one alone; texts are not drawn."""
    study = make_study(names=["softmax-s0"])
    path = study / "softmax-s0" / "sites.jsonl"
    lines = [
        line | {"gain": [1.0, 2.0], "heat": 0.5, "note": "x", "mixed": [1, "a"]} for line in lines_of(path.parent)
    ]
    lines[0]["heat"] = None
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    names = [one.name for one in draw_all(build_report(study))]
    assert names == ["gain-softmax-9-5-5", "heat-softmax-9-5-5", "test-accuracy", "training", "cost", "density"]


def test_stacks_and_directions_come_in_the_same_order_for_any_records(study_folder: Path) -> None:
    path = study_folder / "span-s0" / "sites.jsonl"
    lines = sorted(
        lines_of(path.parent), key=lambda line: (line["stack"] == "cross", line["keys"], line["queries"])
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines if line["stack"] != "language"))
    drawn = layers_over_training("easy-VQA", found(study_folder, "span-9-5-5"), "span", "span", "")
    *panels, unused = drawn.figure.axes
    assert [axes.get_title() for axes in panels] == list(PLACES)[1:]
    assert not unused.axison


def test_a_hundred_seeds_are_cut_to_ten(study_folder: Path) -> None:
    report = build_report(study_folder)
    row = next(row for row in report.rows if row.key == "span-9-5-5")
    one = recorded(dataclasses.replace(row, cells=row.cells * 100))
    assert one is not None
    assert len(one.lines) == 10
    assert one.seeds == "the first 10 of 100 seeds"
    assert one.first == "seed 0, the first of 100"


def test_two_layers_a_stack_and_a_stack_of_another_model(make_study: MakeStudy) -> None:
    study = make_study(names=["entmax-s0", "span-s0"])
    for name in ("entmax-s0", "span-s0"):
        path = study / name / "sites.jsonl"
        lines = [line | {"stack": "tower $x$"} for line in lines_of(path.parent) if line["index"] < 2]
        kept = [line for line in lines if line["queries"] == line["keys"] == "words"]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))
    by_name = {one.name: one.figure for one in draw_all(build_report(study))}
    (axes,) = by_name["span-span-9-5-5"].axes
    assert axes.get_title() == "tower $x$: words"
    assert len(axes.lines) == 2
    assert [axes.get_title() for axes in by_name["alpha-entmax-9-5-5"].axes] == ["layer 1", "layer 2"]
