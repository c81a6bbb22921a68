"""The official accuracy: equal to what the evaluator itself gave on hard cases, in both of its revisions.

official_cases.json says how it was made.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suite.data.official import REVISIONS, Revision, normalise, read_results, score, score_file
from suite.data.scoring import vqa_soft_score
from suite.data.store import DataError

CASES: dict[str, Any] = json.loads((Path(__file__).parent / "official_cases.json").read_text())


def asked(case: dict[str, Any]) -> list[dict[str, Any]]:
    """The questions of one of the evaluator's runs."""
    if "of" not in case:
        return case["questions"]
    common = {"humans": ["yes"] * 10, "question_type": "is the", "answer_type": "yes/no"}
    return [common | {"answer": "yes" if number < case["right"] else "no"} for number in range(case["of"])]


def frame_of(questions: list[dict[str, Any]]) -> tuple[dict[int, str], pandas.DataFrame]:
    frame = pandas.DataFrame(questions).assign(question_id=np.arange(1, len(questions) + 1))
    return {number: question["answer"] for number, question in enumerate(questions, 1)}, frame


def files_of(folder: Path, questions: list[dict[str, Any]], ids: bool = True) -> tuple[Path, Path]:
    """A result file and its annotations in the official form."""
    results = [{"question_id": number, "answer": case["answer"]} for number, case in enumerate(questions, 1)]
    records = [
        {
            "question_id": number,
            "image_id": 9,
            "answers": [
                {"answer": answer, "answer_confidence": "yes"} | ({"answer_id": place} if ids else {})
                for place, answer in enumerate(case["humans"], 1)
            ],
            "question_type": case["question_type"],
            "answer_type": case["answer_type"],
        }
        for number, case in enumerate(questions, 1)
    ]
    paths = folder / "results.json", folder / "annotations.json"
    paths[0].write_text(json.dumps(results))
    paths[1].write_text(json.dumps({"data_subtype": "val2014", "annotations": records}))
    return paths


def test_normalised_as_by_the_evaluator() -> None:
    assert len(CASES["normalised"]) > 1000
    wrong = {
        answer: (normalise(answer), expected)
        for answer, expected in CASES["normalised"]
        if normalise(answer) != expected
    }
    assert wrong == {}


@pytest.mark.parametrize("revision", REVISIONS)
def test_scores_of_the_evaluator(revision: Revision) -> None:
    """To the last of the printed decimals, ties of rounding included, one question and all of them."""
    for case in CASES["sets"]:
        scores = score(*frame_of(asked(case)), revision)
        expected = case["expected"][revision]
        assert scores.overall == expected["overall"]
        assert scores.answer_types == expected["answer_types"]
        assert scores.question_types == expected["question_types"]
        if "questions" in expected:
            assert list(scores.per_question().values()) == expected["questions"]


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("ids", [True, False])
def test_files_score_as_by_the_evaluator(revision: Revision, ids: bool, tmp_path: Path) -> None:
    """Without answer_id too: a human is one of ten, and equal answers do not cancel."""
    questions = [question for case in CASES["sets"] if "questions" in case for question in case["questions"]]
    assert len(questions) > 400
    results, annotations = files_of(tmp_path, questions, ids)
    scores, _ = score_file(results, annotations, revision=revision)
    expected = CASES["whole"][revision]
    assert scores.overall == expected["overall"]
    assert scores.answer_types == expected["answer_types"]
    assert scores.question_types == expected["question_types"]


def test_the_revisions_differ_on_the_cases() -> None:
    first, second = (CASES["whole"][revision]["overall"] for revision in REVISIONS)
    assert abs(first - second) > 10


@given(matches=st.integers(0, 10), order=st.permutations(range(10)))
def test_a_count_of_matches_is_the_soft_score(matches: int, order: list[int]) -> None:
    humans = ["yes"] * matches + [f"no {number}" for number in range(10 - matches)]
    questions = [
        {
            "humans": [humans[place] for place in order],
            "answer": "yes",
            "question_type": "",
            "answer_type": "",
        }
    ]
    scores = score(*frame_of(questions))
    assert scores.questions[1] == pytest.approx(vqa_soft_score(matches), abs=1e-12)
    assert scores.per_question()[1] == round(100 * vqa_soft_score(matches), 2)


def test_two_hundred_thousand_questions_in_seconds() -> None:
    rng = np.random.default_rng(0)
    words = [f"{word}{mark}" for word in ("the cat", "dont", "two") for mark in ",.-"]
    answers = np.array([f"{word} {number}" for word in words for number in range(500)])
    count = 200_000
    humans = answers[rng.integers(0, len(answers), (count, 3))]
    picks = humans[np.arange(count)[:, None], rng.integers(0, 3, (count, 10))]
    frame = pandas.DataFrame(
        {"question_id": np.arange(count), "humans": picks.tolist(), "answer_type": "other", "question_type": "what"}
    )
    predictions = dict(enumerate(humans[:, 0].tolist()))
    start = time.process_time()
    scores = score(predictions, frame)
    assert time.process_time() - start < 10
    assert 50 < scores.overall < 100


def test_mistakes_with_ids_are_named() -> None:
    predictions, frame = frame_of(CASES["sets"][1]["questions"])
    with pytest.raises(DataError, match=r"one to question 999"):
        score(predictions | {999: "yes"}, frame)
    with pytest.raises(DataError, match=r"the first without is 1\."):
        score({}, frame)
    with pytest.raises(DataError, match="at least one question, each once"):
        score({}, frame.iloc[:0])
    with pytest.raises(DataError, match="at least one question, each once"):
        score(predictions, pandas.concat([frame, frame]))
    with pytest.raises(DataError, match="LXMERT's files have soft scores alone"):
        score(predictions, frame.assign(humans=[[]] * len(frame)))
    with pytest.raises(DataError, match="no revision '2020' of the evaluator; known: 2021, before-2021"):
        score(predictions, frame, "2020")  # type: ignore[arg-type]


QUESTIONS = [
    {"humans": ["yes"] * 9 + ["no"], "answer": "Yes.", "question_type": "is the", "answer_type": "yes/no"},
    {
        "humans": ["2"] * 2 + ["two"] + ["3"] * 7,
        "answer": "two",
        "question_type": "how many",
        "answer_type": "number",
    },
    {"humans": ["red"] * 10, "answer": "Red", "question_type": "what color", "answer_type": "other"},
]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '[{"question_id": 1, "answer": "yes"},\n{"question_id": 1, "answer": "no"}]',
            "record 2: .* another to 1",
        ),
        (
            '[{"question_id": 1, "answer": "yes"},\n{"question_id": 7, "answer": "no"}]',
            "line 2, record 2: .* got 7",
        ),
        (
            '[{"question_id": 1, "answer": "yes"}]',
            r"each of the 3 questions of .*annotations.json, got 1",
        ),
        (
            '[{"question_id": "1", "answer": "yes"}]',
            "question_id as a whole number, got '1'",
        ),
        ('[\n{"question_id": 1}]', "line 2, record 1: expected the key 'answer'"),
        ('[{"question_id": 1, "answer": 2}]', "expected answer as text, got 2"),
        ('["yes"]', "expected an object with question_id, answer, got 'yes'"),
        ('{"1": "yes"}', r"expected a list of \{question_id, answer\}, got"),
        ("[]", r"expected a list of \{question_id, answer\}, got \[\]"),
        ('[{"question_id": 1,\n', "line 2: expected JSON"),
    ],
)
def test_faults_of_result_files(content: str, message: str, tmp_path: Path) -> None:
    results, annotations = files_of(tmp_path, QUESTIONS)
    results.write_text(content)
    with pytest.raises(DataError, match=message) as raised:
        score_file(results, annotations)
    assert str(results) in str(raised.value)


@pytest.mark.parametrize(
    ("head", "images"),
    [
        ({"data_type": "mscoco", "data_subtype": "val2014"}, [9, 9, 9]),
        ({"data_type": "textvqa", "data_subtype": "val"}, ["003a", "003a", "1f"]),
        ({"data_subtype": "vizwiz_val"}, [f"VizWiz_val_0000000{number}.jpg" for number in range(3)]),
        ({"data_type": "abstract_v002", "data_subtype": "val2015"}, [9, 9, 9]),
        ({}, [9, 9, 9]),
    ],
    ids=["OK-VQA", "TextVQA", "VizWiz", "abstract scenes", "nothing said"],
)
def test_annotations_of_any_pictures_are_scored(head: dict[str, str], images: list[Any], tmp_path: Path) -> None:
    """Those that others have in VQA's form, with what they add; with the questions, which must be theirs."""
    results, annotations = files_of(tmp_path, QUESTIONS)
    expected, _ = score_file(results, annotations)
    records = json.loads(annotations.read_text())["annotations"]
    for record, image in zip(records, images, strict=True):
        record |= {"image_id": image, "confidence": 3, "answerable": 1}
        record["answers"] = [answer | {"raw_answer": "?"} for answer in record["answers"]]
    annotations.write_text(json.dumps(head | {"annotations": records}))
    asked = [{"question_id": number, "image_id": image, "question": "?"} for number, image in enumerate(images, 1)]
    questions = tmp_path / "questions.json"
    questions.write_text(json.dumps(head | {"questions": asked}))
    for beside in (None, questions):
        scores, _ = score_file(results, annotations, beside)
        assert scores == expected
    asked[1]["image_id"] = "another" if isinstance(images[1], str) else 8
    questions.write_text(json.dumps(head | {"questions": asked}))
    with pytest.raises(DataError, match=r"annotations.json, line 1, record 2: expected the question's picture"):
        score_file(results, annotations, questions)


def test_answers_that_are_equal_are_one_and_the_unknown_is_told_with_the_known(tmp_path: Path) -> None:
    results, annotations = files_of(tmp_path, QUESTIONS)
    expected, _ = score_file(results, annotations)
    content = json.loads(results.read_text())
    results.write_text(json.dumps([*content, content[0]]))
    assert score_file(results, annotations)[0] == expected
    results.write_text(json.dumps([{"question_id": 262148000, "answer": "yes"}]))
    with pytest.raises(DataError, match=r"got 262148000; it has 1, 2, 3\. Results and annotations"):
        score_file(results, annotations)


def ablate(*arguments: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "suite", "score", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == expect, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_the_command(tmp_path: Path) -> None:
    """By hand: 1, then .9 for three matches, then "Red" against ten "red"."""
    results, annotations = files_of(tmp_path, QUESTIONS)
    lines = ablate(results, "--annotations", annotations).stdout.splitlines()
    assert [line.split()[-2:] for line in lines[2:]] == [
        ["3", "63.33"],
        ["1", "90.00"],
        ["1", "0.00"],
        ["1", "100.00"],
        ["1", "90.00"],
        ["1", "100.00"],
        ["1", "0.00"],
    ]
    before = json.loads(ablate(results, "--annotations", annotations, "--json", "--revision", "before-2021").stdout)
    # "two" becomes "2" and meets two of the humans, whose "two" stays; "Red" becomes "red".
    assert before == {
        "revision": "before-2021",
        "questions": 3,
        "overall": 86.67,
        "perAnswerType": {"yes/no": 100.0, "number": 60.0, "other": 100.0},
        "perQuestionType": {"is the": 100.0, "how many": 60.0, "what color": 100.0},
    }
    questions = tmp_path / "questions.json"
    records = [{"question_id": number, "image_id": 9, "question": "?"} for number in (1, 2)]
    questions.write_text(json.dumps({"data_subtype": "val2014", "questions": records}))
    done = ablate(results, "--annotations", annotations, "--questions", questions, expect=2)
    assert "annotations.json, line 1, record 3: expected a question 3" in done.stderr
    assert ablate(results, "--annotations", tmp_path / "none.json", expect=2).stderr.startswith("ablate: ")


@pytest.mark.fuzz
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.lists(
        st.one_of(
            st.fixed_dictionaries({"question_id": st.integers(1, 3), "answer": st.text(max_size=3)}),
            st.fixed_dictionaries(
                {},
                optional={
                    "question_id": st.one_of(st.none(), st.integers(), st.text(max_size=1)),
                    "answer": st.one_of(st.none(), st.integers(), st.text(max_size=1)),
                },
            ),
            st.text(max_size=2),
        ),
        max_size=4,
    ),
    cut=st.one_of(st.none(), st.integers(0, 60)),
)
def test_mutated_result_files(content: list[Any], cut: int | None, tmp_path: Path) -> None:
    results, annotations = files_of(tmp_path, QUESTIONS)
    results.write_text(json.dumps(content)[:cut])
    try:
        scores, _ = score_file(results, annotations)
    except DataError:
        return
    assert read_results(results).keys() == scores.questions.keys() == {1, 2, 3}
    assert 0 <= scores.overall <= 100
