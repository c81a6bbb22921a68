"""Readers of VQA v2's questions and answers, in the forms that people keep them.

- The official form (https://visualqa.org/download.html): a file of questions and, where the answers are public,
  one of annotations, which hold the answers of ten humans to each question.
- LXMERT's form (https://github.com/airsplay/lxmert): one list per split, such as train, nominival, minival and
  test; `label` holds the soft scores of those answers that are in the vocabulary.

The form is recognised by what is in the file. All that is wrong is a DataError that names file, line and record.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from suite.data.json_records import Faults, is_id, is_text, load, uncollected
from suite.data.scoring import vqa_soft_score
from suite.data.store import DataError
from suite.errors import shown

HUMANS = 10  # answers to each question
# data_subtype of the official files -> the set of COCO's pictures
PICTURES = {
    "train2014": "train2014",
    "val2014": "val2014",
    "test2015": "test2015",
    "test-dev2015": "test2015",
}
_IMAGE = re.compile(rf"COCO_({'|'.join(sorted(set(PICTURES.values())))})_[0-9]{{12}}")

Form = Mapping[str, tuple[str, Callable[[Any], bool]]]
ID, TEXT = ("a whole number", is_id), ("text", is_text)
QUESTION: Form = {
    "question_id": ID,
    "image_id": ("a whole number from 0", lambda value: is_id(value) and 0 <= value < 10**12),
    "question": TEXT,
}
ANNOTATION: Form = {"question_id": ID, "answers": ("a list", lambda value: isinstance(value, list))}
LXMERT: Form = {"question_id": ID, "img_id": TEXT, "sent": TEXT}
LXMERT_LABEL: Form = {"label": ("an object of answer -> score", lambda value: isinstance(value, dict))}
TYPES = ("answer_type", "question_type")


@dataclass(frozen=True, eq=False)
class Reading:
    """What was read, and what was left out of it."""

    frame: pandas.DataFrame
    skipped: list[str]
    """A sentence for every record that was left out, with file, line and record. Empty without `skip_bad`."""
    asked: dict[str, int] = field(default_factory=dict)
    """Questions of each split in its files, those that were left out included."""


@uncollected()
def read_questions(files: Mapping[str, Sequence[Path]], *, skip_bad: bool = False) -> Reading:
    """The questions of each split out of its `files`, one row per question, in the order of the files.

    A split has any number of LXMERT's files, or official files of questions with those of annotations, in any
    order. The columns:

    - question_id (int64); split, the key of `files`; text;
    - image_id: the picture's name without its ending, such as COCO_val2014_000000458752, in both forms;
    - humans: the ten answers as they were given; an empty list where the file has none;
    - answer_type, question_type: "" where the file has none;
    - multiple_choice_answer: what most humans said; None where the file has none;
    - soft: answer -> score of at least 0 and at most 1; LXMERT's `label`, or the soft scores of the humans' raw
      answers; None where answers are not public;
    - file, record: where the question was read, the record from 0.

    Raises DataError for what is no such file, for files of a split that do not belong together, and for the first
    record that is wrong: a key that is missing or of another type, a question_id that was there before in any
    file, a question without its annotation or the other way round, other than ten answers, a score outside
    [0, 1], pictures of several of COCO's sets in one file. With `skip_bad` wrong records are left out and listed
    instead; of equal ids the first stays.
    """
    rows, faults, asked = _Rows(), Faults(skip_bad), {}
    for split, paths in files.items():
        sources = [_records(Path(path)) for path in paths]
        asked[split] = sum(len(source.items) for source in sources if source.key != "annotations")
        _read_split(split, sources, rows, faults)
    skipped = faults.sentences()
    if not (frame := rows.frame()).empty:
        return Reading(frame, skipped, asked)
    raise DataError(f"expected at least one question, got none. {' '.join(skipped[:1])}".rstrip())


@uncollected()
def read_annotations(path: Path, *, skip_bad: bool = False) -> Reading:
    """The official annotations, one row per question, without the questions' texts.

    The columns question_id, humans, answer_type, question_type, file, record are those of `read_questions`;
    multiple_choice_answer is what most humans said, None where the file has none. Raises DataError as it does.
    """
    found = _records(Path(path))
    if found.key != "annotations":
        raise DataError(f"{path}: expected official annotations, got a file of questions.")
    faults = Faults(skip_bad)
    columns: dict[str, list] = {
        name: [] for name in ("question_id", "humans", *TYPES, "multiple_choice_answer", "record")
    }
    first: dict[int, int] = {}
    for number, record in enumerate(found.items):
        fault = _annotation_fault(record)
        if fault is None and (before := first.setdefault(record["question_id"], number)) != number:
            fault = f"expected each question_id once, got {record['question_id']} as in record {before + 1}."
        if fault is not None:
            faults.add(found.path, found.key, number, fault)
            continue
        columns["question_id"].append(record["question_id"])
        columns["humans"].append(_humans(record))
        for name in TYPES:
            columns[name].append(record.get(name, ""))
        columns["multiple_choice_answer"].append(record.get("multiple_choice_answer"))
        columns["record"].append(number)
    skipped = faults.sentences()
    if not first:
        raise DataError(f"{path}: expected at least one annotation, got none. {' '.join(skipped[:1])}".rstrip())
    frame = pandas.DataFrame(columns).assign(file=str(found.path))
    return Reading(frame.astype({"question_id": np.int64}), skipped)


@dataclass
class _Rows:
    """The columns of the frame, and which row each question is."""

    question_id: list[int] = field(default_factory=list)
    image_id: list[str] = field(default_factory=list)
    split: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    humans: list[list[str]] = field(default_factory=list)
    answer_type: list[str] = field(default_factory=list)
    question_type: list[str] = field(default_factory=list)
    multiple_choice_answer: list[str | None] = field(default_factory=list)
    soft: list[dict[str, float] | None] = field(default_factory=list)
    file: list[str] = field(default_factory=list)
    record: list[int] = field(default_factory=list)
    row: dict[int, int] = field(default_factory=dict)
    left_out: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.question_id)

    def repeated(self, question_id: int) -> str | None:
        """The fault of a question_id that was there before."""
        if (row := self.row.get(question_id)) is None:
            return None
        return (
            f"expected each question_id once in all files, got {question_id} as in {self.file[row]}, record "
            f"{self.record[row] + 1}."
        )

    def add(
        self, source: _Source, number: int, split: str, question_id: int, image_id: str, text: str,
        types: Mapping[str, Any], soft: dict[str, float] | None,
    ) -> None:  # fmt: skip
        self.row[question_id] = len(self)
        self.question_id.append(question_id)
        self.image_id.append(image_id)
        self.split.append(split)
        self.text.append(text)
        self.humans.append([])
        self.answer_type.append(types.get("answer_type", ""))
        self.question_type.append(types.get("question_type", ""))
        self.multiple_choice_answer.append(None)
        self.soft.append(soft)
        self.file.append(str(source.path))
        self.record.append(number)

    def annotate(self, row: int, annotation: Mapping[str, Any]) -> None:
        self.humans[row] = humans = _humans(annotation)
        self.soft[row] = {answer: vqa_soft_score(count) for answer, count in Counter(humans).items()}
        self.answer_type[row] = annotation.get("answer_type", "")
        self.question_type[row] = annotation.get("question_type", "")
        self.multiple_choice_answer[row] = annotation.get("multiple_choice_answer")

    def frame(self) -> pandas.DataFrame:
        columns = {
            "question_id": np.array(self.question_id, dtype=np.int64),
            "image_id": self.image_id,
            "split": self.split,
            "text": self.text,
            "humans": self.humans,
            "answer_type": self.answer_type,
            "question_type": self.question_type,
            "multiple_choice_answer": pandas.Series(self.multiple_choice_answer, dtype=object),
            "soft": pandas.Series(self.soft, dtype=object),
            "file": pandas.Categorical(self.file),
            "record": np.array(self.record, dtype=np.int64),
        }
        frame = pandas.DataFrame(columns)
        return frame.drop(index=list(self.left_out)).reset_index(drop=True) if self.left_out else frame


@dataclass(frozen=True)
class _Source:
    """The list of records in a file."""

    path: Path
    key: str | None
    """Where the list is in the file's object; None for LXMERT's form, where the file is the list."""
    items: list[Any]
    subtype: str | None
    """data_subtype of the official form."""


def _records(path: Path) -> _Source:
    """The list of records in a file of questions or annotations. Raises DataError for any other file."""
    content = load(path)
    expected = (
        "expected official questions (an object with 'questions' and 'data_subtype'), official annotations "
        "('annotations' and 'data_subtype') or LXMERT's list of question_id, img_id, sent"
    )
    if isinstance(content, list):
        if not any(isinstance(record, dict) and ("sent" in record or "img_id" in record) for record in content):
            raise DataError(f"{path}: {expected}; got a list of {shown(content[0]) if content else 'nothing'}.")
        return _Source(path, None, content, None)
    keys = [key for key in ("questions", "annotations") if isinstance(content, dict) and key in content]
    if len(keys) != 1:
        got = f"the keys {shown(list(content))}" if isinstance(content, dict) else shown(content)
        raise DataError(f"{path}: {expected}; got {got}.")
    (key,) = keys
    if not isinstance(content[key], list) or not content[key]:
        raise DataError(f"{path}: expected {key} as a list of at least one record, got {shown(content[key])}.")
    if content.get("data_type", "mscoco") != "mscoco":
        raise DataError(f"{path}: expected data_type 'mscoco', photographs, got {shown(content['data_type'])}.")
    subtype = content.get("data_subtype")
    if not isinstance(subtype, str) or subtype not in PICTURES:
        raise DataError(f"{path}: expected data_subtype as one of {', '.join(PICTURES)}, got {shown(subtype)}.")
    return _Source(path, key, content[key], subtype)


def _read_split(split: str, sources: list[_Source], rows: _Rows, faults: Faults) -> None:
    questions, annotations = _by_subtype(split, sources, "questions"), _by_subtype(split, sources, "annotations")
    for subtype, source in annotations.items():
        if subtype not in questions:
            raise DataError(
                f"split {split!r}: {source.path} has annotations of {subtype}, expected the questions of {subtype} "
                f"with them, got questions of {', '.join(questions) or 'nothing'}. Give files of one data_subtype."
            )
    answered = {
        source.path: _has_labels(source) if source.subtype is None else source.subtype in annotations
        for source in sources
    }
    if len(set(answered.values())) > 1:
        with_answers, without = (next(path for path in answered if answered[path] is has) for has in (True, False))
        raise DataError(
            f"split {split!r}: expected answers to all of its questions or to none, got {with_answers} with and "
            f"{without} without. Give them as two splits."
        )
    for source in sources:
        if source.subtype is None:
            _read_lxmert(split, source, answered[source.path], rows, faults)
        elif source.key == "questions":
            _read_official(split, source, source.subtype, annotations.get(source.subtype), rows, faults)


def _by_subtype(split: str, sources: list[_Source], key: str) -> dict[str, _Source]:
    """The official files of questions or of annotations among `sources`, one of each data_subtype."""
    found: dict[str, _Source] = {}
    for source in sources:
        if source.key != key or source.subtype is None:
            continue
        if (other := found.setdefault(source.subtype, source)) is not source:
            raise DataError(
                f"split {split!r}: expected one file of {key} of {source.subtype}, got {other.path} and "
                f"{source.path}. Give one of them, or the other as another split."
            )
    return found


def _has_labels(source: _Source) -> bool:
    return any(isinstance(record, dict) and "label" in record for record in source.items)


def _most_pictures(source: _Source) -> str | None:
    """The set of COCO's pictures that most records of an LXMERT file name; None where none names one."""
    names = (record.get("img_id") for record in source.items if isinstance(record, dict))
    found = (_IMAGE.fullmatch(name) for name in names if isinstance(name, str))
    counts = Counter(named[1] for named in found if named)
    return max(counts, key=counts.__getitem__) if counts else None


def _read_lxmert(split: str, source: _Source, labelled: bool, rows: _Rows, faults: Faults) -> None:
    form = {**LXMERT, **LXMERT_LABEL} if labelled else LXMERT
    pictures = _most_pictures(source)
    for number, record in enumerate(source.items):
        fault = record_fault(record, form) or _type_fault(record, TYPES)
        if fault is None and labelled:
            fault = _label_fault(record["label"])
        if fault is None:
            named = _IMAGE.fullmatch(record["img_id"])
            if named is None:
                fault = f"expected img_id such as COCO_val2014_000000458752, got {shown(record['img_id'])}."
            elif named[1] != pictures:
                fault = f"expected pictures of {pictures}, as most are in this file, got {record['img_id']}."
        fault = fault or rows.repeated(record["question_id"])
        if fault is not None:
            faults.add(source.path, source.key, number, fault)
            continue
        soft = record["label"] if labelled else None
        rows.add(
            source, number, split, record["question_id"], record["img_id"], record["sent"], types=record, soft=soft
        )


def _read_official(
    split: str, source: _Source, subtype: str, annotations: _Source | None, rows: _Rows, faults: Faults
) -> None:
    start = len(rows)
    prefix = f"COCO_{PICTURES[subtype]}"
    for number, record in enumerate(source.items):
        fault = record_fault(record, QUESTION) or rows.repeated(record["question_id"])
        if fault is not None:
            faults.add(source.path, source.key, number, fault)
            continue
        image_id = f"{prefix}_{record['image_id']:012}"
        rows.add(source, number, split, record["question_id"], image_id, record["question"], types={}, soft=None)
    if annotations is None:
        return
    for number, record in enumerate(annotations.items):
        fault = _annotation_fault(record)
        if fault is None:
            row = rows.row.get(record["question_id"], -1)
            if row < start:
                fault = f"expected a question {record['question_id']} in {source.path}, got none."
            elif rows.soft[row] is not None:
                fault = f"expected one annotation of question {record['question_id']}, got another."
            elif "image_id" in record and f"{prefix}_{record['image_id']:012}" != rows.image_id[row]:
                fault = f"expected the question's picture {rows.image_id[row]}, got image_id {record['image_id']}."
            else:
                rows.annotate(row, record)
        if fault is not None:
            faults.add(annotations.path, annotations.key, number, fault)
    for row in range(start, len(rows)):
        if rows.soft[row] is None:
            without = f"expected an annotation of question {rows.question_id[row]} in {annotations.path}, got none."
            faults.add(source.path, source.key, rows.record[row], without)
            rows.left_out.add(row)


def record_fault(record: Any, form: Form) -> str | None:
    """What is wrong with the keys of a record; None where all are there and of their type."""
    if not isinstance(record, dict):
        return f"expected an object with {', '.join(form)}, got {shown(record)}."
    for name, (what, holds) in form.items():
        if name not in record:
            return f"expected the key {name!r}, got {shown(list(record))}."
        if not holds(record[name]):
            return f"expected {name} as {what}, got {shown(record[name])}."
    return None


def _type_fault(record: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """What is wrong with the texts that may be left out of a record."""
    for name in names:
        if name in record and not is_text(record[name]):
            return f"expected {name} as text, got {shown(record[name])}."
    return None


def _label_fault(label: Mapping[str, Any]) -> str | None:
    for answer, score in label.items():
        if not is_text(answer):
            return f"expected answers as text, got {shown(answer)}."
        if type(score) not in (int, float) or not 0 <= score <= 1:
            return f"expected a score from 0 to 1 for the answer {shown(answer)}, got {shown(score)}."
    return None


def _annotation_fault(record: Any) -> str | None:
    fault = record_fault(record, ANNOTATION) or _type_fault(record, (*TYPES, "multiple_choice_answer"))
    if fault is None and not QUESTION["image_id"][1](record.get("image_id", 0)):
        fault = f"expected image_id as {QUESTION['image_id'][0]}, got {shown(record['image_id'])}."
    if fault is not None:
        return fault
    answers = record["answers"]
    if len(answers) != HUMANS:
        return f"expected the answers of {HUMANS} humans, got {len(answers)}."
    for answer in answers:
        if not isinstance(answer, dict) or not is_text(answer.get("answer")):
            return f"expected each of the answers as an object with the text 'answer', got {shown(answer)}."
    ids = [answer["answer_id"] for answer in answers if "answer_id" in answer]
    if not all(map(is_id, ids)) or len(set(ids)) != len(ids):
        return f"expected answer_id as another whole number for each human, got {shown(ids)}."
    return None


def _humans(annotation: Mapping[str, Any]) -> list[str]:
    # Ten answers to each of 650,000 questions are few different ones.
    return [sys.intern(answer["answer"]) for answer in annotation["answers"]]
