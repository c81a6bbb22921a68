"""The vocabulary of answers: read from both of LXMERT's files or rebuilt; the real labels exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suite.data.answers import frequent_answers, read_answers, to_labels
from suite.data.official import normalise
from suite.data.questions import read_annotations, read_questions
from suite.data.store import DataError

SAMPLES = Path(__file__).parents[3] / "shared" / "data"
LABELS = SAMPLES / "lxmert" / "trainval_label2ans.json"
ANSWERS = SAMPLES / "lxmert" / "trainval_ans2label.json"
MINIVAL = SAMPLES / "lxmert" / "minival_303images_rebuilt.json"
OFFICIAL = [SAMPLES / "vqa2" / "questions.json", SAMPLES / "vqa2" / "annotations.json"]
needs_samples = pytest.mark.skipif(not LABELS.is_file(), reason="the real samples are not here")


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@needs_samples
def test_the_3129_answers() -> None:
    answers = read_answers(LABELS)
    assert len(answers) == 3129
    assert answers == tuple(json.loads(LABELS.read_text()))
    assert answers == read_answers(ANSWERS)


@needs_samples
def test_the_3129_answers_are_normalised() -> None:
    """They were made by the published procedure; normalising them again by ours must change none."""
    assert [answer for answer in read_answers(LABELS) if normalise(answer) != answer] == []


@needs_samples
def test_the_minival_labels() -> None:
    labels = to_labels(read_questions({"minival": [MINIVAL]}).frame, read_answers(LABELS))
    label_of = json.loads(ANSWERS.read_text())
    expected = [record["label"] for record in json.loads(MINIVAL.read_text())]
    assert labels.labels == [[label_of[answer] for answer in label] for label in expected]
    assert labels.scores == [list(label.values()) for label in expected]
    assert sum(map(len, labels.labels)) == 3240
    assert (labels.dropped, labels.without, labels.skipped) == (0, 40, [])


@needs_samples
def test_official_answers_outside_are_dropped_and_counted() -> None:
    answers = read_answers(LABELS)
    labels = to_labels(read_questions({"train": OFFICIAL}).frame, answers)
    found = [
        {answers[label]: score for label, score in zip(*pair, strict=True)}
        for pair in zip(labels.labels, labels.scores, strict=True)
    ]
    # "netting" and "mesh" were too rare.
    assert found == [{"net": 1.0, "pitcher": 0.3, "orange": 0.3}, {"pitcher": 1.0, "catcher": 0.3}, {"orange": 1.0}]
    assert (labels.dropped, labels.without, labels.skipped) == (2, 0, [])


def lxmert(path: Path, *labels: dict[str, float] | None) -> Path:
    records = [
        {"question_id": number, "img_id": "COCO_val2014_000000000001", "sent": "?"}
        | ({} if label is None else {"label": label})
        for number, label in enumerate(labels)
    ]
    return write(path, "[\n" + ",\n".join(map(json.dumps, records)) + "\n]")


def test_a_label_outside_the_vocabulary_is_an_error(tmp_path: Path) -> None:
    path = lxmert(tmp_path / "l.json", {"yes": 1}, {"maybe": 0.3, "no": 0.9}, {})
    frame = read_questions({"val": [path]}).frame
    fault = r"l.json, line 3, record 2: expected answers of the vocabulary of 2, got 'maybe'"
    with pytest.raises(DataError, match=fault):
        to_labels(frame, ["no", "yes"])
    labels = to_labels(frame, ["no", "yes"], skip_bad=True)
    assert (labels.labels, labels.scores) == ([[1], [0], []], [[1.0], [0.9], []])
    assert (labels.dropped, labels.without, len(labels.skipped)) == (0, 1, 1)


def test_questions_without_answers_have_no_labels(tmp_path: Path) -> None:
    labels = to_labels(read_questions({"test": [lxmert(tmp_path / "l.json", None, None)]}).frame, ["yes"])
    assert (labels.labels, labels.scores, labels.without) == ([[], []], [[], []], 0)


def test_rebuilt_from_annotations(tmp_path: Path) -> None:
    """Nine questions, spelt as people do, make an answer; eight do not."""
    given = ["Yes", "yes.", "the yes", "yes!", "Yes", "yes", "YES", "a yes", "yes "]
    given += ["none"] * 5 + ["0"] * 4 + ["two dogs"] * 8 + ["a"] * 9
    records = [
        {
            "question_id": number,
            "answers": [{"answer": answer}] * 10,
            "multiple_choice_answer": answer,
        }
        for number, answer in enumerate(given)
    ]
    path = write(tmp_path / "a.json", {"data_subtype": "train2014", "annotations": records})
    assert frequent_answers(read_annotations(path).frame["multiple_choice_answer"]) == ("", "0", "yes")
    assert frequent_answers(given, at_least=8) == ("", "0", "2 dogs", "yes")
    with pytest.raises(DataError, match="at least 9 questions have, got 8 questions"):
        frequent_answers(["yes"] * 8)
    with pytest.raises(DataError, match="question 2 has none"):
        frequent_answers(["yes", None])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"got \[\]"),
        ("{}", r"got \{\}"),
        ('"yes"', "got 'yes'"),
        ('["yes",\n3]', "line 2, record 2: expected an answer as text, got 3"),
        ('["yes",\n"no",\n"yes"]', "line 3, record 3: expected each answer once, got 'yes' as in record 1"),
        ('["\\ud800"]', "expected an answer as text"),
        ('{"yes": 0, "no": 0}', "expected each label once, got 0 for 'yes' and 'no'"),
        ('{"yes": 0, "no": 2}', "expected the labels 0 to 1, as many as answers, got 2 for 'no'"),
        ('{"yes": false, "no": 1}', "got False for 'yes'"),
        ('{"yes": -1, "no": 0}', "got -1 for 'yes'"),
        ('{"yes": 1, "yes": 2}', "got 2 for 'yes'"),
        ('["yes"', "expected JSON"),
    ],
)
def test_a_file_that_is_no_vocabulary(content: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "answers.json", content)
    with pytest.raises(DataError, match=message) as raised:
        read_answers(path)
    assert str(path) in str(raised.value)


@pytest.mark.fuzz
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(
        st.lists(st.one_of(st.text(max_size=2), st.integers(), st.none()), max_size=4),
        st.dictionaries(st.text(max_size=2), st.one_of(st.integers(-1, 4), st.none(), st.text()), max_size=4),
    ),
    cut=st.one_of(st.none(), st.integers(0, 20)),
)
def test_mutated_vocabularies(content: Any, cut: int | None, tmp_path: Path) -> None:
    path = write(tmp_path / "answers.json", json.dumps(content, indent=1)[:cut])
    try:
        answers = read_answers(path)
    except DataError:
        return
    assert len(set(answers)) == len(answers) >= 1
    labels = {answer: label for label, answer in enumerate(answers)}
    assert json.loads(path.read_text()) in (list(answers), labels)
