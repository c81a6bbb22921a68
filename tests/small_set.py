"""A data set of five pictures, before it is written; and one that was changed after it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from suite.data.intact import description_checksum, file_checksum
from suite.data.store import FILES, SMALL

IMAGES, REGIONS, FEATURES = 5, 3, 4
LABELS = [[0], [2, 1], [], [1], [0, 1, 2], [2], [0]]
SPLITS = ["train", "train", "train", "validation", "validation", "test", "test"]


def content(**changes: Any) -> dict[str, Any]:
    """Seven questions about five pictures, with several, one and no scored answers."""
    rng = np.random.default_rng(0)
    count = len(LABELS)
    words = np.zeros((count, 6), dtype=np.int32)
    for row, length in zip(words, [3, 4, 6, 3, 5, 4, 3], strict=True):
        row[:length] = [2, *range(5, 3 + length), 3]
    questions = pandas.DataFrame(
        {
            "question_id": np.arange(count) + 100,
            "image": [0, 0, 1, 2, 2, 3, 4],
            "split": SPLITS,
            "text": [f"question {number}?" for number in range(count)],
            "labels": LABELS,
            "scores": [[0.3 + 0.3 * place for place in range(len(labels))] for labels in LABELS],
            "humans": [["yes"] * 10] * 3 + [[]] * 4,
            "question_type": "",
            "answer_type": "other",
        }
    )
    images = pandas.DataFrame({"image_id": list("abcde"), "width": 640, "height": 480, "picture": ""})
    regions = rng.normal(size=(IMAGES, REGIONS, FEATURES)).astype(np.float16)
    boxes = rng.uniform(size=(IMAGES, REGIONS, 4)).astype(np.float32)
    return {
        "name": "small",
        "title": "small set",
        "preparation": 1,
        "source": "0" * 64,
        "licence": "none",
        "attribution": "nobody",
        "questions": questions,
        "words": words,
        "images": images,
        "pictures": [(regions[:2], boxes[:2]), (regions[2:], boxes[2:])],
        "tokenizer": "{}",
        "vocabulary": 20,
        "answers": ["yes", "no", "red"],
    } | changes


def sealed(folder: Path, **changes: Any) -> None:
    """dataset.json with `changes`, and sizes and checksums of the files as they are: one that a stranger made."""
    information = json.loads((folder / "dataset.json").read_text()) | changes
    information["bytes"] = {file: (folder / file).stat().st_size for file in FILES}
    if "checksums" in information:
        del information["checksums"]
        checksums = {file: file_checksum(folder / file) for file in SMALL}
        information["checksums"] = checksums | {"dataset.json": description_checksum(information)}
    (folder / "dataset.json").write_text(json.dumps(information))


def flipped(path: Path, place: int, bit: int = 0) -> None:
    """One bit of a file is another."""
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))
