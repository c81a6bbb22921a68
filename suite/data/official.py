"""The official VQA accuracy, as the evaluator of the challenge computes and prints it.

After PythonEvaluationTools/vqaEvaluation/vqaEval.py of https://github.com/GT-Vision-Lab/VQA, in its revision of
11 March 2021 (a013f00) and the one before (458a8b2), with what they do rather than what they were meant to do:

- A mark of punctuation is deleted where the answer has it beside a space, or has a comma between two digits, and
  becomes a space otherwise. Apostrophes and colons stay.
- A period stays before a digit only, and only the first 32 others are deleted: the flag of the expression is
  passed as a count. What should keep a period behind a digit is written so that it matches never.
- Words are lower-cased, number words become digits ("none" becomes 0), articles go, contractions get their
  apostrophe back, all word by word. "somebody'd" loses its own.
- Since 2021 both sides are normalised, where the ten answers differ; where they are equal, an answer must be the
  same text. Before, the prediction was normalised always, and of the humans' answers the punctuation alone where
  they differ: "Two" or "the dog" of a human was never matched.

The evaluator runs on Python 2: a digit is 0 to 9, and a tie is rounded up. Of its Unicode three things are not
followed: the dotted capital I (U+0130), a capital sigma that ends a word, the Mongolian vowel separator (U+180E).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from pathlib import Path
from typing import Literal

import pandas

from suite.data.json_records import load, place
from suite.data.questions import HUMANS, ID, TEXT, read_annotations, read_questions, record_fault
from suite.data.store import DataError
from suite.errors import few, shown

RESULT = {"question_id": ID, "answer": TEXT}  # a record of a result file
Revision = Literal["2021", "before-2021"]
REVISIONS: tuple[Revision, ...] = ("2021", "before-2021")

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
PERIOD = re.compile(r"\.(?!\d)", re.ASCII)
PERIODS = 32  # that are deleted
COMMA_OF_A_NUMBER = re.compile(r"\d,\d", re.ASCII)
ARTICLES = frozenset(("a", "an", "the"))
NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
# Written without one of its apostrophes, each of these gets it back.
CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
    he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't
    must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've
    somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd
    something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll they're
    they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've
    who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll
    y'all'd've you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in CONTRACTED.split()
    for place, mark in enumerate(word)
    if mark == "'"
} | {"somebody'd": "somebodyd"}


@dataclass(frozen=True)
class Scores:
    """Accuracies in per cent, rounded to two decimals as the evaluator prints them."""

    revision: Revision
    overall: float
    answer_types: dict[str, float]
    """By answer type, in the order of the annotations; "" is where they name none."""
    question_types: dict[str, float]
    questions: dict[int, float]
    """By question_id, a share from 0 to 1, not rounded."""

    def per_question(self) -> dict[int, float]:
        """By question_id, in per cent, rounded: the evaluator's evalQA."""
        rounded = {share: _per_cent(share, 1) for share in set(self.questions.values())}
        return {question: rounded[share] for question, share in self.questions.items()}


def normalise(answer: str) -> str:
    """The answer as it is compared: without marks and articles, in lower case, with digits and contractions.

    Both revisions treat a prediction so; they differ in when, and in what they do to the humans' answers.
    """
    return _normalised(_on_one_line(answer))


def score(predictions: Mapping[int, str], questions: pandas.DataFrame, revision: Revision = "2021") -> Scores:
    """Scores of `predictions`, question_id -> answer, against the humans' answers.

    `questions` has the columns question_id, humans (ten answers), answer_type and question_type of a prepared data
    set or of `read_annotations`. A human's answer is compared with the prediction as one of ten, by its place: the
    evaluator tells humans apart by answer_id, and lets equal answers cancel where a file has none.

    Raises DataError for another revision, for a prediction without a question and a question without a prediction,
    and for questions that are no questions: repeated, without their ten answers, or none at all.
    """
    if revision not in REVISIONS:
        raise DataError(f"There is no revision {revision!r} of the evaluator; known: {', '.join(REVISIONS)}.")
    ids = questions["question_id"].tolist()
    _check_ids(predictions, ids)
    shares: dict[int, float] = {}
    by_answer_type: dict[str, list[float]] = {}
    by_question_type: dict[str, list[float]] = {}
    columns = (questions[name].tolist() for name in ("humans", "answer_type", "question_type"))
    for question, humans, answer_type, question_type in zip(ids, *columns, strict=True):
        if len(humans) != HUMANS:
            raise DataError(
                f"question {question}: expected the answers of {HUMANS} humans, got {len(humans)}. The official "
                "accuracy needs official annotations; LXMERT's files have soft scores alone."
            )
        share = _share(_matches(predictions[question], humans, revision))
        shares[question] = share
        by_answer_type.setdefault(answer_type, []).append(share)
        by_question_type.setdefault(question_type, []).append(share)
    return Scores(
        revision=revision,
        overall=_mean(shares.values()),
        answer_types={name: _mean(values) for name, values in by_answer_type.items()},
        question_types={name: _mean(values) for name, values in by_question_type.items()},
        questions=shares,
    )


def score_file(
    results: Path, annotations: Path, questions: Path | None = None, revision: Revision = "2021"
) -> tuple[Scores, pandas.DataFrame]:
    """Scores of a result file as it is sent to the server, and the questions that they are of.

    Annotations are official ones of any pictures: those of OK-VQA, or of TextVQA and VizWiz in VQA's form, too.
    With `questions`, the file of the questions in that form, it is checked too that annotations belong to it.
    Raises DataError, with file, line and record, for whatever is wrong with one of the files.
    """
    if questions is not None:
        read_questions({"scored": [questions, annotations]}, of_coco=False)
    frame = read_annotations(annotations, of_coco=False).frame
    records = read_results(results)
    known = set(frame["question_id"].tolist())
    for number, question in enumerate(records):
        if question not in known:
            raise DataError(
                f"{place(results, None, number)}: expected a question of {annotations}, got {question}; it has "
                f"{few(sorted(known), 3)}. Results and annotations must be of the same questions."
            )
    missing = [question for question in known if question not in records]
    if missing:
        raise DataError(
            f"{results}: expected an answer to each of the {len(known)} questions of {annotations}, got "
            f"{len(records)}; the first without is {min(missing)}. Answer all of them."
        )
    return score(records, frame, revision), frame


def read_results(path: Path) -> dict[int, str]:
    """A result file, a list of {question_id, answer}, as question_id -> answer in the order of the file.

    Raises DataError, with file, line and record, for any other file, and for a question with two answers.
    """
    content = load(Path(path))
    if not isinstance(content, list) or not content:
        raise DataError(f"{path}: expected a list of {{question_id, answer}}, got {shown(content)}.")
    answers: dict[int, str] = {}
    for number, record in enumerate(content):
        fault = record_fault(record, RESULT)
        if fault is None and answers.get(record["question_id"], record["answer"]) != record["answer"]:
            fault = f"expected one answer to each question, got another to {record['question_id']}."
        if fault is not None:
            raise DataError(f"{place(Path(path), None, number)}: {fault}")
        answers[record["question_id"]] = record["answer"]
    return answers


def _check_ids(predictions: Mapping[int, str], ids: Sequence[int]) -> None:
    known = set(ids)
    if not known or len(known) != len(ids):
        raise DataError(f"expected at least one question, each once, got {len(ids)} of {len(known)} ids.")
    unknown = [question for question in predictions if question not in known]
    if unknown:
        raise DataError(f"expected answers to the {len(known)} questions alone, got one to question {unknown[0]}.")
    missing = [question for question in ids if question not in predictions]
    if missing:
        raise DataError(
            f"expected an answer to each of {len(known)} questions, got {len(predictions)}; the first without is "
            f"{missing[0]}."
        )


def _matches(prediction: str, humans: Sequence[str], revision: Revision) -> tuple[bool, ...]:
    """Whether each human's answer is the predicted one."""
    if revision == "2021":
        humans, prediction = [_on_one_line(human) for human in humans], _on_one_line(prediction)
        if len(set(humans)) > 1:
            humans, prediction = [_normalised(human) for human in humans], _normalised(prediction)
    else:
        prediction = normalise(prediction)
        if len(set(humans)) > 1:
            humans = [_without_marks(human) for human in humans]
    return tuple(human == prediction for human in humans)


@lru_cache(maxsize=2**HUMANS)
def _share(matches: tuple[bool, ...]) -> float:
    """Mean over the humans of min(1, matches among the others / 3), added in their order as the evaluator does."""
    total = 0.0
    for match in matches:
        total += min(1.0, (sum(matches) - match) / 3)
    return total / len(matches)


def _mean(shares: Iterable[float]) -> float:
    # A loop: `sum` rounds differently since Python 3.12.
    total, count = 0.0, 0
    for share in shares:
        total, count = total + share, count + 1
    return _per_cent(total, count)


def _per_cent(total: float, count: int) -> float:
    return float(Decimal(100 * total / count).quantize(Decimal("0.01"), ROUND_HALF_UP))


def _on_one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=2**18)
def _normalised(answer: str) -> str:
    words = (NUMBERS.get(word, word) for word in _without_marks(answer).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


@lru_cache(maxsize=2**18)
def _without_marks(answer: str) -> str:
    in_number = COMMA_OF_A_NUMBER.search(answer) is not None
    kept = answer
    for mark in PUNCTUATION:
        if mark in answer:
            beside_space = f"{mark} " in answer or f" {mark}" in answer
            kept = kept.replace(mark, "" if in_number or beside_space else " ")
    return PERIOD.sub("", kept, count=PERIODS)
