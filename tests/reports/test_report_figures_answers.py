"""The figure of one question: whose answers, which question, and what it says where records are missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from figure_records import QUESTIONS, TEXT, finished, write_answers

from reports.build import build
from reports.figures.answers import answers
from reports.figures.questions import ask
from reports.tables import build_report
from suite.cli import main
from suite.errors import UserError
from suite.records import RecordError, StudyFolder

MakeStudy = Callable[..., Path]


@pytest.fixture
def answered(make_study: MakeStudy) -> Path:
    study = make_study()
    for record in finished(study):
        write_answers(record)
    return study


def test_the_default_is_the_first_example_on_which_rows_differ(answered: Path) -> None:
    asked = ask(build_report(answered), None)
    assert asked is not None
    tables = [record.predictions() for record in finished(answered) if record.id in ("span-s0", "softmax-s0")]
    assert {table["answer"][0] for table in tables} == {"circle"}, "alike on the first"
    assert tables[0]["answer"][1] != tables[1]["answer"][1]
    assert asked.question_id == QUESTIONS[1]


def test_the_first_is_asked_where_nobody_differs(make_study: MakeStudy) -> None:
    study = make_study(names=["softmax-s0", "softmax-small-s0"])
    for record in finished(study):
        write_answers(record, QUESTIONS[:1])
    asked = ask(build_report(study), None)
    assert asked is not None
    assert asked.question_id == QUESTIONS[0]


def test_rows_are_the_papers_three_then_others_that_answer(answered: Path, make_study: MakeStudy) -> None:
    asked = ask(build_report(answered), None)
    assert asked is not None
    assert [(one.row.key, bool(one.answers)) for one in asked.answered] == [
        ("entmax-9-5-5", False),
        ("span-9-5-5", True),
        ("layerdrop-10-6-6", False),
        ("softmax-9-5-5", True),
        ("span-entmax-9-5-5", True),
    ]
    study = StudyFolder(answered)
    plain = study.study()
    for entry in plain["cells"]:
        if entry["id"] in ("span-s0", "layerdrop-s0"):
            entry["cell"]["layers"] = [2, 2, 2]
    study.write_study(plain)
    scaled = ask(build_report(answered), None)
    assert scaled is not None
    variants = [one.row.cells[0].configuration["variant"] for one in scaled.answered]
    assert variants[:3] == ["entmax", "span", "layerdrop"], "a study that is scaled down has the same variants"


def test_bars_are_the_recorded_confidences(answered: Path) -> None:
    question = QUESTIONS[3]
    drawn = answers(build_report(answered), question)
    assert drawn is not None
    picture, _, span, *_ = drawn.figure.axes
    plain = StudyFolder(answered).cell("span-s0").predictions().set_index("question_id").loc[question]
    assert [bar.get_width() for bar in span.patches] == list(plain["top_confidences"])
    assert [text.get_text() for text in span.get_yticklabels()] == list(plain["top_answers"])
    full = [bar.get_facecolor() for bar in span.patches]
    right = [answer in ("circle", "yes") for answer in plain["top_answers"]]
    assert len(set(full)) == 2
    assert [colour == full[right.index(True)] for colour in full] == right
    assert span.get_xlim() == (0, 1)
    assert len(picture.images) == 1
    # Each box is drawn twice: white, and a colour on it.
    corners = {(box.get_x(), box.get_y(), box.get_width(), box.get_height()) for box in picture.patches}
    assert corners == {(0.0, 0.0, 1.0, 1.0), (0.2, 0.15, 0.65 - 0.2, 0.8 - 0.15)}
    assert picture.get_ylim() == (1, 0)
    said = " ".join(text.get_text().replace("\n", " ") for text in drawn.figure.texts)
    assert TEXT in said
    assert "circle (1), yes (0.3)" in said
    assert TEXT in drawn.caption
    missing = drawn.figure.axes[1]
    assert [text.get_text() for text in missing.texts] == ["failed"]


def test_a_picture_that_was_not_there_is_told(answered: Path) -> None:
    drawn = answers(build_report(answered), QUESTIONS[5])
    assert drawn is not None
    picture = drawn.figure.axes[0]
    assert not picture.images
    assert len(picture.patches) == 4
    assert [text.get_text() for text in picture.texts] == ["picture not\nin the records"]
    assert "Its picture is not in the records." in drawn.caption


def test_a_question_that_nobody_kept_has_its_answers(answered: Path) -> None:
    drawn = answers(build_report(answered), QUESTIONS[20])
    assert drawn is not None
    assert not drawn.figure.axes[0].images
    assert len(drawn.figure.axes[1].patches) == 5
    assert "Its picture and text are not in the records" in drawn.caption
    legend = [text.get_text() for text in drawn.figure.legends[0].get_texts()]
    assert "not known" in legend


def test_records_of_older_engines_keep_no_examples(make_study: MakeStudy) -> None:
    study = make_study(names=["softmax-s0", "span-s0"])
    for record in finished(study):
        write_answers(record, kept=0)
    asked = ask(build_report(study), None)
    assert asked is not None
    assert (asked.question_id, asked.example) == (QUESTIONS[1], None)


def test_an_unknown_question_is_told_with_close_ones(answered: Path, tmp_path: Path) -> None:
    report = build_report(answered)
    with pytest.raises(UserError, match=r"no question '1004/7' among the 30 .* Close to it: 100\d/\d, "):
        answers(report, "1004/7")
    with pytest.raises(UserError, match=r"The first are 1000/0, 1000/1"):
        answers(report, "zebra")
    with pytest.raises(UserError):
        build(answered, tmp_path / "report", question="zebra")
    assert not (tmp_path / "report").exists(), "nothing is written for a mistake"


def test_a_question_before_anything_was_answered(study_folder: Path) -> None:
    assert answers(build_report(study_folder)) is None
    with pytest.raises(UserError, match="has predictions yet"):
        answers(build_report(study_folder), "1000/0")


@pytest.mark.parametrize("broken", ["predictions.parquet", "examples/0.png"])
def test_a_damaged_record_is_named(answered: Path, broken: str) -> None:
    for record in finished(answered):
        (record.path / broken).write_bytes(b"nothing of the kind")
    with pytest.raises(RecordError, match=r"is damaged: .* Restore it from a copy"):
        answers(build_report(answered))


def test_numbers_are_ids_too(make_study: MakeStudy) -> None:
    """VQA 2.0's questions have numbers."""
    study = make_study(names=["span-s0"])
    for record in finished(study):
        write_answers(record)
        table = record.predictions()
        table["question_id"] = range(458752000, 458752000 + len(table))
        record.write_predictions(table)
        path = record.path / "examples" / "questions.json"
        kept = json.loads(path.read_text())
        path.write_text(json.dumps([one | {"question_id": 458752000 + n} for n, one in enumerate(kept)]))
    asked = ask(build_report(study), "458752003")
    assert asked is not None
    assert asked.example is not None
    assert asked.answered[0].answers


def test_the_command_passes_the_question_on(answered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = ["--runs", str(answered.parent)]
    assert main(["report", "small", "--question", "zebra", *runs]) == 2
    assert "There is no question 'zebra'" in capsys.readouterr().err
