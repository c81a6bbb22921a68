"""Records for the pages: examples with pictures and weights, hostile texts, and a thousand cells."""

from __future__ import annotations

import dataclasses
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from suite.config import Cell, ModelSize, Protocol, to_plain
from suite.records import CellFolder, StudyFolder, write_bytes, write_json, write_text

SCRIPT = "</script><script>window.harmed = 1</script>"
IMAGE = '<img src=x onerror="window.harmed = 2">'
TURNED = "\u202eesrever\u202c \u05e9\u05dc\u05d5\u05dd"
QUESTIONS = (
    "is there a blue circle in the image?",
    f"what {IMAGE} is this {SCRIPT}?",
    f"which {TURNED} \u2028 shape & colour?",
)
BOXES = 6
CELL = Cell(
    variant="span",
    dataset="easy-vqa",
    protocol=Protocol(steps=600, batch_size=32),
    model=ModelSize(width=64, heads=4, intermediate=256),
)


def picture(place: int) -> bytes:
    """A PNG of 96 x 64 pixels with one shape."""
    image = Image.new("RGB", (96, 64), (238, 236, 228))
    at = (24 + 12 * place, 14, 60 + 12 * place, 50)
    (ImageDraw.Draw(image).ellipse if place % 2 else ImageDraw.Draw(image).rectangle)(at, fill=(0, 114, 178))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def boxes_of(count: int, noise: random.Random) -> list[list[float]]:
    corners = ((noise.uniform(0, 0.7), noise.uniform(0, 0.6)) for _ in range(count))
    return [[x, y, x + noise.uniform(0.1, 0.3), y + noise.uniform(0.15, 0.4)] for x, y in corners]


def heads_of(record: CellFolder) -> int:
    cells = StudyFolder(record.path.parent).study()["cells"]
    return next(entry["cell"]["model"]["heads"] for entry in cells if entry["id"] == record.id)


def write_examples(record: CellFolder, number: int, boxes: int = BOXES) -> dict[str, np.ndarray]:
    """Examples of every question for the finished cell ``record``, the ``number``th; returns the weights.

    The third question has no picture. Of each query the last key has a weight of exactly 0, the first one a weight
    that is nearly 0.
    """
    folder, heads = record.path / "examples", heads_of(record)
    folder.mkdir()
    noise, questions = random.Random(7), []
    for place, text in enumerate(QUESTIONS):
        words = ["[CLS]", *text.split(), "[SEP]"]
        if place < 2:
            write_bytes(folder / f"{place}.png", picture(place))
        sure = [0.5 + 0.1 * number, 0.2, 0.1, 0.05, 0.01]
        questions.append(
            {
                "question_id": place,
                "image_id": f"image-{place}",
                "split": "test",
                "text": text,
                "words": words,
                "boxes": boxes_of(boxes, noise),
                "width": 96,
                "height": 64,
                "picture": f"{place}.png" if place < 2 else "",
                "answers": {"yes": 1.0, SCRIPT: 0.3},
                "top_answers": ["yes", "no", SCRIPT, TURNED, "circle"],
                "top_confidences": sure,
            }
        )
    write_json(folder / "questions.json", questions)
    lengths = {"words": [len(one["words"]) for one in questions], "boxes": [boxes] * len(questions)}
    random_weights, attention = np.random.default_rng(number), {}
    for site in dict.fromkeys(record.sites()["site"]):
        queries, keys = site.rpartition(".")[2].split("-")
        shape = (len(questions), heads, max(lengths[queries]), max(lengths[keys]))
        array = np.zeros(shape, np.float16)
        for place in range(len(questions)):
            rows, columns = lengths[queries][place], lengths[keys][place]
            one = random_weights.exponential(size=(heads, rows, columns)) ** 2
            one[..., 0], one[..., -1] = 1e-6 * one.sum(-1), 0.0
            array[place, :, :rows, :columns] = one / one.sum(-1, keepdims=True)
        attention[site] = array
    with (folder / "attention.npz").open("wb") as file:
        np.savez_compressed(file, **attention)
    return attention


def fill(path: Path) -> Path:
    """Gives the small study at ``path`` examples in three rows, a log, segments, a submission, and hostile text."""
    study = StudyFolder(path)
    for number, name in enumerate(("softmax-s0", "span-s0", "layerdrop-s0")):
        write_examples(study.cell(name), number)
    plain = study.study()
    study.write_study(plain | {"question": f"What does each method cost? {IMAGE}{TURNED}"})
    record = study.cell("softmax-s0")
    record.write_config(
        record.config()
        | {"packages": {"torch": "2.13.0", "ray": None}, "hardware": {"host": "node-1", "cores": 8, "gpus": []}}
    )
    record.append("segments", [{"step": 0, "node": "a" * 12, "device": "cpu", "start": {"id": "start-s0"}}])
    record.append("segments", [{"step": 300, "node": "b" * 12, "device": "cpu", "start": None}])
    record.append(
        "submissions", [{"split": "test-dev", "questions": 9673, "sha256": "0" * 64, "file": "/x/dev.json"}]
    )
    write_text(record.log, "".join(f"line {number} {IMAGE}\x1b[31m\n" for number in range(250)) + "x" * 5000 + "\n")
    return path


def write_large(path: Path, count: int = 1000, name: str = "span") -> Path:
    """A study of ``count`` finished cells, two seeds per row, with the shortest records that a cell can have."""
    path.mkdir(parents=True)
    entries: list[dict[str, Any]] = []
    for number in range(count):
        cell = dataclasses.replace(CELL, arguments={"limit": 16 + number // 2, "ramp": 8}, seed=number % 2)
        cell_id = f"{name}-s{number % 2}-{number:04}"
        entries.append({"id": cell_id, "role": "row", "start": None, "cell": to_plain(cell)})
        record = CellFolder(path / cell_id)
        record.path.mkdir()
        config = {
            "id": cell_id,
            "cell": to_plain(cell),
            "code": {"engine": "engine-of-today"},
            "packages": {},
            "hardware": {},
        }
        result = {"macs": 9e7, "macs_reference": 1e8 + number, "uncounted_operators": {}, "parameters": 1e6}
        result |= {"steps": 600, "seconds": 1.0}
        metrics = {"step": 600, "seconds": 1.0, "train_loss": 0.5, "loss": 0.5, "accuracy": 90.0}
        for file, value in (
            ("config.json", config),
            ("metrics.jsonl", metrics),
            ("result.json", result | {"accuracy": {"validation": 90.0, "test": 80 + 15 * number / count}}),
        ):
            (record.path / file).write_text(json.dumps(value) + "\n", encoding="utf-8")
    splits = {name: {"questions": 1000, "images": 100} for name in ("train", "validation", "test")}
    StudyFolder(path).write_study(
        {
            "name": "large",
            "question": "Which of a thousand?",
            "engine": "engine-of-today",
            "dataset": {"name": "easy-vqa", "title": "easy-VQA", "splits": splits, "answers": 13},
            "floors": {"question_prior": 67.0, "looked": 75.0},
            "cells": entries,
        }
    )
    return path
