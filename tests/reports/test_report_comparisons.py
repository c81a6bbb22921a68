"""The table of a study's pairs: what each change is worth, in every format."""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path

import pytest

from reports.formats.comma_separated import comma_separated
from reports.formats.latex import escape_latex, latex
from reports.formats.markdown import markdown
from reports.formats.terminal import terminal
from reports.layout import COMPARISONS, lay_out
from reports.report import Report
from reports.tables import build_report
from reports.text import TextTable
from suite.records import read_json, write_json

SOFTMAX = (92.123456, 93.654321)
PAIRS = [
    # label, cell without the change, cell with it
    ("span *of its own*", "softmax-s0", "span-s0"),
    ("no LayerDrop", "layerdrop-s0", "softmax-s0"),
    ("no LayerDrop", "layerdrop-s0", "softmax-s1"),
    ("entmax", "softmax-s0", "entmax-s0"),
    ("entmax & span", "entmax-s0", "span_entmax-s0"),
    ("depth", "layerdrop-deep-s0", "default-deep-s0"),
]
TABLE = [
    ("span *of its own*", "92.12", "91.25", "-0.87", "-", "1"),
    ("no LayerDrop", "89.75 (stale)", "92.89", "+3.14", "-", "2"),
    ("entmax", "92.12", "failed", "-", "-", "0 of 1"),
    ("entmax & span", "failed", "71.50 †", "-", "-", "0 of 1"),
    ("depth", "started", "missing", "-", "-", "0 of 1"),
]


@pytest.fixture
def report(study_folder: Path) -> Report:
    path = study_folder / "study.json"
    pairs = [dict(zip(("label", "base", "changed"), pair, strict=True)) for pair in PAIRS]
    write_json(path, read_json(path) | {"comparisons": pairs})
    return build_report(study_folder)


def table(report: Report) -> TextTable:
    found = lay_out(report).tables[-1]
    assert found.title == COMPARISONS
    return found


def test_a_change_is_worth_the_mean_difference_of_its_pairs(report: Report) -> None:
    by_label = {line.label: line for line in report.comparisons}
    assert by_label["span *of its own*"].difference == pytest.approx(91.25 - SOFTMAX[0])
    assert by_label["no LayerDrop"].difference == pytest.approx(sum(SOFTMAX) / 2 - 89.75)
    assert by_label["no LayerDrop"].finished == [(89.75, SOFTMAX[0]), (89.75, SOFTMAX[1])]
    assert [by_label[label].difference for label in ("entmax", "entmax & span", "depth")] == [None] * 3


def test_only_finished_pairs_count(report: Report, study_folder: Path) -> None:
    (study_folder / "softmax-s1" / "result.json").unlink()
    again = build_report(study_folder)
    assert [line.difference for line in again.comparisons][1] == pytest.approx(SOFTMAX[0] - 89.75)
    assert table(again).rows[1][1:] == ("89.75 (stale)", "92.12", "+2.37", "-", "1 of 2")


def test_the_table_has_each_side_the_difference_and_the_seeds(report: Report) -> None:
    assert list(table(report).rows) == TABLE
    assert [note.text for note in table(report).notes] == ["Below 75 % on easy-VQA: has not learned to look."]


def test_equal_labels_of_other_cells_are_not_averaged(report: Report, study_folder: Path) -> None:
    path = study_folder / "study.json"
    study = read_json(path)
    for pair in study["comparisons"]:
        pair["label"] = "all"
    write_json(path, study)
    assert [len(line.base) for line in build_report(study_folder).comparisons] == [1, 2, 1, 1, 1]


def test_markdown_and_latex_have_the_table(report: Report) -> None:
    lines = markdown(report).partition(f"### {COMPARISONS}\n\n")[2].splitlines()[:7]
    assert (
        lines[0] == "| Change | ours: test without | ours: test with | ours: diff. | ours: p (Holm) | ours: seeds |"
    )
    assert lines[2] == r"| span \*of its own\* | 92.12 | 91.25 | -0.87 | - | 1 |"
    assert len(lines[1].split("|")) == 8
    tables = latex(report).split("\\begin{table*}")
    assert f"\\caption{{{COMPARISONS}." in tables[-1]
    assert f"{escape_latex('span *of its own*')} & 92.12 & 91.25 & $-0.87$ & -- & 1 \\\\" in tables[-1]
    assert "\\multicolumn{5}{c}{ours}" in tables[-1]
    assert "\\textdagger{}" in tables[-1]
    assert "has not learned to look" in tables[-1]


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_the_terminal_shows_the_whole_table_once(report: Report, width: int) -> None:
    text = terminal(report, width)
    assert text.count(COMPARISONS) == 1
    # Up to the floors, word by word: long labels take several lines.
    shown = text.partition(COMPARISONS)[2].partition("Floor, question prior")[0].split()
    for row in TABLE:
        assert not Counter(" ".join(row).split()) - Counter(shown)
    if width >= 80:
        assert max(map(len, text.splitlines())) <= width


def test_csv_has_the_pairs_unrounded(report: Report) -> None:
    lines = [
        line for line in csv.DictReader(io.StringIO(comma_separated(report))) if line["table"] == COMPARISONS
    ]  # fmt: skip
    assert [line["label"] for line in lines] == [label for label, *_ in TABLE]
    assert [float(text) for text in lines[1]["test_accuracies"].split()] == list(SOFTMAX)
    assert [float(text) for text in lines[1]["base_accuracies"].split()] == [89.75, 89.75]
    assert float(lines[1]["test_accuracy"]) == pytest.approx(sum(SOFTMAX) / 2, rel=1e-15)
    assert float(lines[1]["difference"]) == pytest.approx(sum(SOFTMAX) / 2 - 89.75, rel=1e-12)
    assert lines[1]["cells"] == "layerdrop-s0 softmax-s0 layerdrop-s0 softmax-s1"
    assert [line["state"] for line in lines] == [
        "finished", "finished", "finished, failed", "failed, finished", "started, missing",
    ]  # fmt: skip
    assert [line["stale"] for line in lines] == ["False", "True", "False", "False", "False"]


def test_a_study_without_pairs_has_no_such_table(study_folder: Path) -> None:
    assert COMPARISONS not in terminal(build_report(study_folder))
