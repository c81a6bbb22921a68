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
_IMAGE = re.compile(
    rf"(?:.*/)?(COCO_(?:{'|'.join(sorted(set(PICTURES.values())))})_[0-9]{{12}})(?i:\.(?:jpe?g|png))?"
)

Form = Mapping[str, tuple[str, Callable[[Any], bool]]]
ID, TEXT = ("a whole number", is_id), ("text", is_text)
COCO_ID = ("a whole number from 0", lambda value: is_id(value) and 0 <= value < 10**12)
ANY_ID = ("text or a whole number", lambda value: is_id(value) or is_text(value))
QUESTION: Form = {"question_id": ID, "image_id": COCO_ID, "question": TEXT}
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
def read_questions(files: Mapping[str, Sequence[Path]], *, skip_bad: bool = False, of_coco: bool = True) -> Reading:
    """The questions of each split out of its `files`, one row per question, in the order of the files.

    A split has any number of LXMERT's files, or official files of questions with those of annotations, in any
    order. The columns:

    - question_id (int64); split, the key of `files`; text;
    - image_id: the picture's name without its ending, such as COCO_val2014_000000458752, in both forms; of
      pictures that are not COCO's, the id as it is;
    - humans: the ten answers as they were given; an empty list where the file has none;
    - answer_type, question_type: "" where the file has none;
    - multiple_choice_answer: what most humans said; None where the file has none;
    - soft: answer -> score of at least 0 and at most 1; LXMERT's `label`, or the soft scores of the humans' raw
      answers; None where answers are not public;
    - file, record: where the question was read, the record from 0.

    Raises DataError for what is no such file, for files of a split that do not belong together, and for the first
    record that is wrong: a key that is missing or of another type, a question_id that was there before in any
    file, a question without its annotation or the other way round, other than ten answers, a score outside
    [0, 1]. With `skip_bad` wrong records are left out and listed instead; of equal ids the first stays. A record
    that a split has twice, all the same, is one. Without `of_coco` official files may be of any pictures.
    """
    rows, faults, asked = _Rows(), Faults(skip_bad), {}
    for split, paths in files.items():
        sources = [_records(Path(path), of_coco) for path in paths]
        asked[split] = sum(len(source.items) for source in sources if source.key != "annotations")
        equal = rows.equal
        _read_split(split, sources, rows, faults)
        asked[split] -= rows.equal - equal
    skipped = faults.sentences()
    if not (frame := rows.frame()).empty:
        return Reading(frame, skipped, asked)
    raise DataError(f"expected at least one question, got none. {' '.join(skipped[:1])}".rstrip())


@uncollected()
def read_annotations(path: Path, *, skip_bad: bool = False, of_coco: bool = True) -> Reading:
    """The official annotations, one row per question, without the questions' texts.

    The columns question_id, humans, answer_type, question_type, file, record are those of `read_questions`;
    multiple_choice_answer is what most humans said, None where the file has none. Raises DataError as it does.
    """
    found = _records(Path(path), of_coco)
    if found.key != "annotations":
        raise DataError(f"{path}: expected official annotations, got a file of questions.")
    faults = Faults(skip_bad)
    columns: dict[str, list] = {
        name: [] for name in ("question_id", "humans", *TYPES, "multiple_choice_answer", "record")
    }
    first: dict[int, int] = {}
    for number, record in enumerate(found.items):
        fault = _annotation_fault(record, of_coco)
        if fault is None and (before := first.setdefault(record["question_id"], number)) != number:
            if record == found.items[before]:
                continue
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
    frame = pandas.DataFrame(columns).assign(file=_paths([str(found.path)] * len(columns["record"])))
    return Reading(frame.astype({"question_id": np.int64}), skipped)


def _paths(paths: list[str]) -> pandas.Series:
    # Objects: pandas' own texts take no name that is no UTF-8.
    return pandas.Series(paths, dtype=object)


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
    equal: int = 0
    """Questions that were there before, all the same, and stay one."""

    def __len__(self) -> int:
        return len(self.question_id)

    def add(
        self, source: _Source, number: int, split: str, question_id: int, image_id: str, text: str,
        types: Mapping[str, Any], soft: dict[str, float] | None,
    ) -> str | None:  # fmt: skip
        """Takes a question, or says the fault of another with its question_id; one that is there already is one."""
        if (row := self.row.get(question_id)) is not None:
            before = [column[row] for column in (self.split, self.image_id, self.text, self.soft)]
            same_types = [self.answer_type[row], self.question_type[row]] == [types.get(name, "") for name in TYPES]
            if same_types and before == [split, image_id, text, soft]:
                self.equal += 1
                return None
            return (
                f"expected each question_id once in all files, got {question_id} as in {self.file[row]}, record "
                f"{self.record[row] + 1}."
            )
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
        return None

    def annotate(self, row: int, image_id: str, annotation: Mapping[str, Any]) -> str | None:
        """Takes a question's annotation, or says the fault of another than it has, or of another picture's."""
        humans, same_picture = _humans(annotation), image_id == self.image_id[row]
        types = annotation.get("answer_type", ""), annotation.get("question_type", "")
        most = annotation.get("multiple_choice_answer")
        if self.soft[row] is not None:
            same_types = types == (self.answer_type[row], self.question_type[row])
            same = same_picture and same_types and humans == self.humans[row]
            if same and most == self.multiple_choice_answer[row]:
                return None
            return f"expected one annotation of question {self.question_id[row]}, got another."
        if not same_picture:
            return f"expected the question's picture {self.image_id[row]}, got {image_id}."
        self.humans[row] = humans
        self.answer_type[row], self.question_type[row] = types
        self.multiple_choice_answer[row] = most
        self.soft[row] = {answer: vqa_soft_score(count) for answer, count in Counter(humans).items()}
        return None

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
            "file": _paths(self.file),
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


def _records(path: Path, of_coco: bool) -> _Source:
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
    if not of_coco:
        return _Source(path, key, content[key], str(content.get("data_subtype", "")))
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
            _read_official(split, source, annotations.get(source.subtype), rows, faults)


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


def _read_lxmert(split: str, source: _Source, labelled: bool, rows: _Rows, faults: Faults) -> None:
    form = {**LXMERT, **LXMERT_LABEL} if labelled else LXMERT
    for number, record in enumerate(source.items):
        fault = record_fault(record, form) or _type_fault(record, TYPES)
        if fault is None and labelled:
            fault = _label_fault(record["label"])
        if fault is None:
            # Pictures of either set may be in one file: VQA-CP deals train and val anew.
            if named := _IMAGE.fullmatch(record["img_id"]):
                question, soft = record["question_id"], record["label"] if labelled else None
                fault = rows.add(source, number, split, question, named[1], record["sent"], types=record, soft=soft)
            else:
                fault = f"expected img_id such as COCO_val2014_000000458752, got {shown(record['img_id'])}."
        if fault is not None:
            faults.add(source.path, source.key, number, fault)


def _read_official(split: str, source: _Source, annotations: _Source | None, rows: _Rows, faults: Faults) -> None:
    start, pictures = len(rows), PICTURES.get(source.subtype or "")
    of_coco = pictures is not None

    def picture(image_id: int | str) -> str:
        return f"COCO_{pictures}_{image_id:012}" if of_coco and isinstance(image_id, int) else str(image_id)

    form = QUESTION if of_coco else {**QUESTION, "image_id": ANY_ID}
    for number, record in enumerate(source.items):
        fault = record_fault(record, form)
        if fault is None:
            question, image_id = record["question_id"], picture(record["image_id"])
            fault = rows.add(source, number, split, question, image_id, record["question"], types={}, soft=None)
        if fault is not None:
            faults.add(source.path, source.key, number, fault)
    if annotations is None:
        return
    for number, record in enumerate(annotations.items):
        fault = _annotation_fault(record, of_coco)
        if fault is None:
            row = rows.row.get(record["question_id"], -1)
            if row < start:
                fault = f"expected a question {record['question_id']} in {source.path}, got none."
            else:
                named = picture(record["image_id"]) if "image_id" in record else rows.image_id[row]
                fault = rows.annotate(row, named, record)
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
        if not holds(value := record[name]):
            quoted = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20
            advice = " Write it without quotes." if quoted and holds(int(value)) else ""
            return f"expected {name} as {what}, got {shown(value)}.{advice}"
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


def _annotation_fault(record: Any, of_coco: bool) -> str | None:
    fault = record_fault(record, ANNOTATION) or _type_fault(record, (*TYPES, "multiple_choice_answer"))
    what, holds = COCO_ID if of_coco else ANY_ID
    if fault is None and not holds(record.get("image_id", 0)):
        fault = f"expected image_id as {what}, got {shown(record['image_id'])}."
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
