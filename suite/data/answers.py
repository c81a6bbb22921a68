"""The vocabulary of answers that a model chooses from, and the answers of questions as labels in it.

VQA 2.0's has 3,129 answers: those that are, normalised, the most frequent human answer of at least nine questions
of train and val. The rule is that of bottom-up-attention-vqa (https://arxiv.org/abs/1708.02711), from which
LXMERT's files were made; the order of labels in those is that of a hash table, so it is read and not rebuilt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas

from suite.data.json_records import Faults, is_text, load, place
from suite.data.official import normalise
from suite.data.store import DataError
from suite.errors import shown

AT_LEAST = 9  # questions that an answer of the vocabulary has


@dataclass(frozen=True, eq=False)
class Labels:
    """The scored answers of each question as labels, in the order of the questions."""

    labels: list[list[int]]
    """Positions in the vocabulary; none for a question whose answers are all outside, or not public."""
    scores: list[list[float]]
    dropped: int
    """Answers of humans that are outside of the vocabulary."""
    without: int
    """Questions that have answers, and none in the vocabulary."""
    skipped: list[str]
    """A sentence for every label of LXMERT's that was left out. Empty without `skip_bad`."""


def read_answers(path: Path) -> tuple[str, ...]:
    """The vocabulary in LXMERT's trainval_label2ans.json or trainval_ans2label.json; a label is a position in it.

    Raises DataError for any other file, and where answers and labels from 0 on are not one to one.
    """
    content = load(Path(path))
    if isinstance(content, list) and content:
        first: dict[str, int] = {}
        for label, answer in enumerate(content):
            if not is_text(answer):
                raise DataError(f"{place(path, None, label)}: expected an answer as text, got {shown(answer)}.")
            if (before := first.setdefault(answer, label)) != label:
                raise DataError(
                    f"{place(path, None, label)}: expected each answer once, got {shown(answer)} as in record "
                    f"{before + 1}."
                )
        return tuple(content)
    if not isinstance(content, dict) or not content:
        raise DataError(
            f"{path}: expected a list of answers or an object of answer -> label, got {shown(content)}."
        )
    answers: list[str | None] = [None] * len(content)
    for answer, label in content.items():
        if not is_text(answer) or type(label) is not int or not 0 <= label < len(answers):
            raise DataError(
                f"{path}: expected the labels 0 to {len(answers) - 1}, as many as answers, got {shown(label)} for "
                f"{shown(answer)}."
            )
        if answers[label] is not None:
            raise DataError(
                f"{path}: expected each label once, got {label} for {shown(answers[label])} and {shown(answer)}."
            )
        answers[label] = answer
    return tuple(answer for answer in answers if answer is not None)


def frequent_answers(given: Iterable[str | None], at_least: int = AT_LEAST) -> tuple[str, ...]:
    """The vocabulary rebuilt, by the alphabet, from the multiple_choice_answer of each question of train and val.

    Raises DataError where a question has none, and where no answer is that of `at_least` questions.
    """
    counts: Counter[str] = Counter()
    for number, answer in enumerate(given):
        if answer is None:
            raise DataError(
                f"expected annotations with multiple_choice_answer, question {number + 1} has none. Give the "
                "official annotations, or LXMERT's trainval_label2ans.json."
            )
        counts[normalise(answer)] += 1
    kept = sorted(answer for answer, count in counts.items() if count >= at_least)
    if not kept:
        raise DataError(
            f"expected answers that at least {at_least} questions have, got {counts.total()} questions and none "
            "such answer. Give the annotations of train and val, or LXMERT's trainval_label2ans.json."
        )
    return tuple(kept)


def to_labels(frame: pandas.DataFrame, answers: Sequence[str], *, skip_bad: bool = False) -> Labels:
    """The column `soft` of `read_questions` as labels in the vocabulary `answers`.

    Answers of humans that are outside of it are dropped and counted: most different ones are. LXMERT's labels
    were made with a vocabulary, so one outside is a DataError that names file, line and record; with `skip_bad`
    it is left out and listed, and its question stays.
    """
    label_of = {answer: label for label, answer in enumerate(answers)}
    faults = Faults(skip_bad)
    labels: list[list[int]] = []
    scores: list[list[float]] = []
    dropped = without = 0
    for soft, humans, file, record in zip(
        *(frame[name].tolist() for name in ("soft", "humans", "file", "record")), strict=True
    ):
        inside = {label_of[answer]: float(score) for answer, score in (soft or {}).items() if answer in label_of}
        labels.append(list(inside))
        scores.append(list(inside.values()))
        if soft is None:
            continue
        without += not inside
        if humans:
            dropped += len(soft) - len(inside)
            continue
        for answer in soft:
            if answer not in label_of:
                fault = f"expected answers of the vocabulary of {len(answers)}, got {shown(answer)}. Give its own."
                faults.add(Path(file), None, record, fault)
    return Labels(labels, scores, dropped, without, faults.sentences())
