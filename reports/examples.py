"""The test questions that finished cells keep whole, as the figures and the page show them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reports.cells import told_of
from reports.text import shortened
from suite.files import damaged
from suite.records import OWN_NAME, CellFolder

LONGEST = 2000
"""Characters of a question, and of an answer, that a report has room for."""
LARGEST = 1 << 29
"""Bytes of attention weights that a report reads of one cell: LXMERT's examples have some ten million."""


@dataclass(frozen=True)
class Example:
    """One question with its picture and what a cell answered."""

    question_id: str | int
    image_id: str | int
    split: str
    text: str
    words: tuple[str, ...]
    """Its word pieces, [CLS] and [SEP] included."""
    boxes: tuple[tuple[float, float, float, float], ...]
    """x0, y0, x1, y1, from 0 to 1."""
    width: int
    """Of the picture, pixels."""
    height: int
    picture: Path | None
    """None where the data set has no pictures, or they were not where the cell ran."""
    answers: Mapping[str, float]
    """The answers that score, with their scores from 0 to 1."""
    top_answers: tuple[str, ...]
    """The cell's best five, the most confident first."""
    top_confidences: tuple[float, ...]


def read_examples(record: CellFolder) -> tuple[Example, ...]:
    """Those of a cell; none where its record has none. RecordError names a file that is damaged."""
    read = []
    path = record.path / "examples" / "questions.json"
    for plain in record.examples():
        name = plain["picture"]
        # Another file than one of its own beside it would be published with the report.
        if name and not OWN_NAME.fullmatch(name):
            raise damaged(path, f"{name[:80]!r} is no picture beside it")
        picture = path.with_name(name) if name else None
        if picture is not None and not picture.is_file():
            raise damaged(picture, f"{path.name} names it, and it is missing")
        with told_of(path):
            read.append(
                Example(
                    question_id=plain["question_id"],
                    image_id=plain["image_id"],
                    split=plain["split"],
                    text=shortened(plain["text"], LONGEST),
                    words=tuple(plain["words"]),
                    boxes=tuple((float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in plain["boxes"]),
                    width=plain["width"],
                    height=plain["height"],
                    picture=picture,
                    answers={
                        shortened(answer, LONGEST): float(score) for answer, score in plain["answers"].items()
                    },
                    top_answers=tuple(shortened(answer, LONGEST) for answer in plain["top_answers"]),
                    top_confidences=tuple(map(float, plain["top_confidences"])),
                )
            )
        if len(read[-1].top_answers) != len(read[-1].top_confidences):
            raise damaged(path, "it has not as many confidences as answers")
    return tuple(read)


def read_attention(record: CellFolder) -> Mapping[str, np.ndarray]:
    """Site and direction -> weights (E, H, Q, K) of the examples of a cell, float16."""
    path = record.path / "examples" / "attention.npz"
    with told_of(path):
        with zipfile.ZipFile(io.BytesIO(record.read("examples/attention.npz"))) as members:
            size = sum(member.file_size for member in members.infolist())
        if size > LARGEST:
            raise damaged(path, f"it unpacks to {size:,} bytes, where at most {LARGEST:,} are expected")
        return record.attention()
