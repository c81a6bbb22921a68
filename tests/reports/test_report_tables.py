"""Tables as data: the paper's rows, our means, and words where there is no number."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from changed import change, change_accuracy

from reports.published import load_paper
from reports.report import Report, Row
from reports.tables import build_report
from suite.records import RecordError, StudyFolder, read_json, write_json

MakeStudy = Callable[..., Path]
PAPER = [
    ("BUTD", 65.32, 65.67),
    ("ViLBERT", 70.55, 70.92),
    ("VL-BERT", 71.16, None),
    ("VisualBERT", 70.80, 71.00),
    ("UNITER", 72.27, 72.46),
    ("softmax, 9-5-5", 72.42, 72.54),
    ("adaptive attention span, 9-5-5", 71.62, 71.72),
    ("adaptive sparse (entmax), 9-5-5", 71.73, 71.97),
    ("LayerDrop p = 1, 10-6-6", 66.4, 66.72),
    ("span and entmax, 9-5-5", 63.07, 63.33),
    ("default (p = 0), 10-6-6", 66.35, 66.57),
    ("LayerDrop p = 1, 9-5-5", 66.51, 66.81),
]


def row(report: Report, cell_id: str) -> Row:
    return next(row for row in report.rows if cell_id in [cell.id for cell in row.cells])


def test_published_rows_are_the_papers_in_its_order() -> None:
    tables = load_paper().tables
    assert [(entry.label, entry.test_dev, entry.test_std) for table in tables for entry in table.rows] == PAPER
    assert [len(table.rows) for table in tables] == [9, 3]


def test_published_differences_are_against_the_softmax_row() -> None:
    rows = {entry.key: entry.difference for table in load_paper().tables for entry in table.rows}
    assert rows["span-9-5-5"] == -0.8
    assert rows["softmax-9-5-5"] == 0.0


def test_every_cell_meets_its_published_row(study_folder: Path) -> None:
    report = build_report(study_folder)
    cells = {row.published.key: [cell.id for cell in row.cells] for row in report.rows if row.published}
    assert cells == {
        "softmax-9-5-5": ["softmax-s0", "softmax-s1"],
        "span-9-5-5": ["span-s0"],
        "entmax-9-5-5": ["entmax-s0"],
        "layerdrop-10-6-6": ["layerdrop-deep-s0"],
        "span-entmax-9-5-5": ["span_entmax-s0"],
        "default-10-6-6": ["default-deep-s0"],
        "layerdrop-9-5-5": ["layerdrop-s0"],
    }


def test_numbers_are_means_over_seeds(study_folder: Path) -> None:
    softmax = row(build_report(study_folder), "softmax-s0")
    results = [StudyFolder(study_folder).cell(f"softmax-s{seed}").result() or {} for seed in (0, 1)]
    assert softmax.finished == 2
    assert softmax.measured is not None
    assert softmax.measured.accuracy == pytest.approx(sum(one["accuracy"]["test"] for one in results) / 2)
    assert softmax.measured.seconds == pytest.approx(sum(one["seconds"] for one in results) / 2)
    assert softmax.measured.macs_reference == results[0]["macs_reference"]


def test_differences_are_over_the_seeds_that_both_rows_have_and_changes_against_the_softmax_row(
    study_folder: Path,
) -> None:
    report = build_report(study_folder)
    layerdrop, softmax = row(report, "layerdrop-s0"), row(report, "softmax-s0")
    assert layerdrop.measured
    assert softmax.measured
    assert layerdrop.difference == pytest.approx(89.75 - 92.123456)
    assert (
        "Its difference to the softmax row is over the seeds that both have: 0 (of 1 here and 2 there)."
        in layerdrop.notes
    )
    assert layerdrop.macs_change == pytest.approx(-100 / 9, abs=1e-4)
    assert softmax.difference == 0
    assert softmax.macs_change == 0


@pytest.mark.parametrize("cell", ["entmax-s0", "layerdrop-deep-s0", "default-deep-s0"])
def test_a_row_without_a_result_says_why(study_folder: Path, cell: str) -> None:
    states = {"entmax-s0": "failed", "layerdrop-deep-s0": "started", "default-deep-s0": "missing"}
    unfinished = row(build_report(study_folder), cell)
    assert (unfinished.state, unfinished.measured, unfinished.difference) == (states[cell], None, None)


def test_a_published_row_that_the_study_lacks_is_kept(make_study: MakeStudy) -> None:
    report = build_report(make_study(names=["softmax-s0", "span-s0"]))
    states = [row.state for block in report.blocks for row in block.rows]
    assert states == ["not run"] * 5 + ["finished"] * 2 + ["not in study"] * 5


def test_seeds_that_did_not_finish_are_counted(study_folder: Path) -> None:
    (study_folder / "softmax-s1" / "result.json").unlink()
    softmax = row(build_report(study_folder), "softmax-s0")
    assert (softmax.finished, len(softmax.cells), softmax.state) == (1, 2, "finished")
    assert softmax.measured
    assert softmax.measured.accuracy == 92.123456
    assert "1 of 2 seeds started: softmax-s1." in softmax.notes


def test_other_layers_and_plug_ins_are_further_variants(study_folder: Path) -> None:
    further = build_report(study_folder).blocks[2]
    assert further.title == "Further variants"
    assert [row.label for row in further.rows] == [
        "near|window_*, reach = 3, note = =1+1, 9-5-5",
        "softmax, 4-2-2",
    ]
    assert any("protocol.steps 300 (there 600)" in note for note in further.rows[1].notes)


def test_equal_methods_with_other_settings_are_not_averaged(study_folder: Path) -> None:
    study = read_json(study_folder / "study.json")
    entry = next(entry for entry in study["cells"] if entry["id"] == "softmax-s1")
    entry["cell"]["protocol"]["learning_rate"] = 0.5
    write_json(study_folder / "study.json", study)
    report = build_report(study_folder)
    assert [cell.id for cell in row(report, "softmax-s0").cells] == ["softmax-s0"]
    other = row(report, "softmax-s1")
    assert other.published is None
    assert any("learning_rate 0.5 (there 0.0001)" in note for note in other.notes)


def test_a_scaled_down_study_compares_with_its_own_softmax(make_study: MakeStudy) -> None:
    report = build_report(make_study(names=["softmax-small-s0"]))
    assert row(report, "softmax-small-s0").difference == 0
    assert "softmax, 4-2-2" in report.reference


def test_without_a_finished_softmax_no_difference_is_given(study_folder: Path) -> None:
    for seed in (0, 1):
        (study_folder / f"softmax-s{seed}" / "result.json").unlink()
    report = build_report(study_folder)
    assert row(report, "span-s0").difference is None
    assert "is started" in report.reference


def test_stale_and_blind_rows_are_marked(study_folder: Path) -> None:
    report = build_report(study_folder)
    assert [row.cells[0].id for row in report.rows if row.stale] == ["layerdrop-s0"]
    assert [row.cells[0].id for row in report.rows if row.looked is False] == ["span_entmax-s0"]
    assert report.question_prior == 67.0
    assert [(row.label, row.measured and row.measured.accuracy) for row in report.floors] == [
        ("blind (mean picture) softmax, 9-5-5", 66.8)
    ]


def test_the_heading_states_data_and_budget(study_folder: Path) -> None:
    heading = build_report(study_folder).heading
    for part in (
        "easy-VQA (9,673 test questions)",
        "width 64",
        "4 heads",
        "1,200 steps x batch 64",
        "600 steps x batch 32",
        "seeds 0, 1",
        "VQA 2.0: compare differences, never levels",
    ):
        assert part in heading


def test_a_result_without_the_test_split_names_the_file(study_folder: Path) -> None:
    path = study_folder / "span-s0" / "result.json"
    change(path, accuracy={"validation": 91.75})
    with pytest.raises(
        RecordError,
        match=r"span-s0/result\.json is damaged: it has no accuracy for the split 'test', only: validation",
    ):
        build_report(study_folder)


def evaluate_first(study_folder: Path, trained: str) -> None:
    """Puts an evaluation of the cell ``trained`` with one layer of each stack before all other cells."""
    study = read_json(study_folder / "study.json")
    entry = next(entry for entry in study["cells"] if entry["id"] == trained)
    cell = entry["cell"] | {"start": entry["cell"], "keep": [[0], [0], [0]]}
    study["cells"].insert(0, {"id": "kept-s0", "role": "row", "start": trained, "cell": cell})
    write_json(study_folder / "study.json", study)
    shutil.copytree(study_folder / trained, study_folder / "kept-s0")
    change(study_folder / "kept-s0" / "config.json", id="kept-s0")
    change_accuracy(study_folder / "kept-s0" / "result.json", test=50.0)


def test_a_published_row_is_met_by_a_trained_cell_and_not_by_its_evaluations(study_folder: Path) -> None:
    before = build_report(study_folder)
    evaluate_first(study_folder, "softmax-s0")
    report = build_report(study_folder)
    assert report.blocks[:-1] == before.blocks
    assert (report.heading, report.reference) == (before.heading, before.reference)
    assert report.blocks[-1].title == "Trained models at other depths"
    (kept,) = report.blocks[-1].rows
    assert kept.label == "softmax, 9-5-5 at 1-1-1 without 1,2,3,4,5,6,7,8/1,2,3,4/1,2,3,4"
    assert not kept.trained
    assert kept.difference == pytest.approx(50 - 92.123456)
    assert kept.notes == (
        "Evaluated only: one trained model without the layers named, counted from 0.",
        "Its difference to the softmax row is over the seeds that both have: 0 (of 1 here and 2 there).",
    )


def test_no_evaluation_is_what_differences_are_against(make_study: MakeStudy) -> None:
    folder = make_study(names=["softmax-small-s0"])
    evaluate_first(folder, "softmax-small-s0")
    report = build_report(folder)
    assert "softmax, 4-2-2." in report.reference
    assert row(report, "softmax-small-s0").difference == 0
    assert row(report, "kept-s0").difference == 50 - 88
