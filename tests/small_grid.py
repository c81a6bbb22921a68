"""The demo grid small enough to be run many times, and what two runs of it must have in common."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from suite.config import Cell, Protocol, to_plain
from suite.data.store import write_dataset
from suite.data.wordpieces import make_tokenizer
from suite.records import StudyFolder

SPLITS = {"start": 40, "train": 40, "validation": 24, "test": 24}
WORDS, REGIONS, FEATURES, ANSWERS, VOCABULARY = 6, 3, 5, 4, 16

SETTINGS = {"layers": "2,2,2", "width": 16, "heads": 2, "intermediate": 16, "batch_size": 8}
VARIANTS = "softmax,span"
"""These rows and their starts, at two seeds each, are six cells: two can begin at once."""


def write_small_data(folder: Path, picture: str = "") -> Path:
    """A folder of prepared data sets, whose ``easy_vqa`` is small: each answer shows in its regions.

    ``picture`` is the reference of every image's picture.
    """
    rng = np.random.default_rng(0)
    split = np.repeat(list(SPLITS), list(SPLITS.values()))
    count = len(split)
    words = np.zeros((count, WORDS), dtype=np.int32)
    for row, length in zip(words, rng.integers(3, WORDS + 1, count), strict=True):
        row[:length] = [2, *rng.integers(5, VOCABULARY, length - 2), 3]
    answer = rng.integers(0, ANSWERS, count)
    regions = rng.normal(size=(count, REGIONS, FEATURES)).astype(np.float32)
    regions[np.arange(count), :, answer] += 3
    write_dataset(
        folder / "easy_vqa",
        name="easy_vqa",
        title="A stand-in for easy-VQA",
        preparation=1,
        source="0" * 64,
        licence="none",
        attribution="nobody",
        questions=pd.DataFrame(
            {
                "question_id": np.arange(count) + 100,
                "image": np.arange(count),
                "split": split,
                "text": [f"question {number % 7}?" for number in range(count)],
                "labels": [[label] for label in answer],
                "scores": [[1.0]] * count,
                "humans": [["yes"] * 10] * count,
                "question_type": "",
                "answer_type": "other",
            }
        ),
        words=words,
        images=pd.DataFrame(
            {"image_id": [f"picture {n}" for n in range(count)], "width": 64, "height": 64, "picture": picture}
        ),
        pictures=[(regions, rng.uniform(size=(count, REGIONS, 4)).astype(np.float32))],
        tokenizer=make_tokenizer(["is it red or blue?"]).to_str(),
        vocabulary=VOCABULARY,
        answers=["yes", "no", "red", "blue"],
    )
    return folder


def run_command(
    runs: Path, data: Path, *more: object, variants: str = VARIANTS, report: bool = False, **settings: object
) -> list[str]:
    """`ablate run` of the small grid; ``settings`` are fields of every cell."""
    parts = [f"--set={name}={value}" for name, value in (SETTINGS | settings).items()]
    command = [sys.executable, "-m", "suite", "run", f"--runs={runs}", f"--data={data}", f"--variants={variants}"]
    return [*command, *parts, *map(str, more), *([] if report else ["--no-report"])]


def cells(study: Path) -> dict[str, Path]:
    """The folders of the cells that were to be run, of which each has a configuration."""
    listed = [cell["id"] for cell in StudyFolder(study).study()["cells"]]
    return {name: study / name for name in listed if (study / name).exists()}


def content(cell: Path) -> dict[str, Any]:
    """Everything that a finished cell's record says but when, where and how long."""
    result = json.loads((cell / "result.json").read_text())
    metrics = [json.loads(line) for line in (cell / "metrics.jsonl").read_text().splitlines()]
    models = sorted(cell.glob("checkpoint/step-*/model.safetensors"))
    return {
        "config": json.loads((cell / "config.json").read_text()),
        "result": lasting(result),
        "metrics": [lasting(line) for line in metrics],
        "sites": (cell / "sites.jsonl").read_text(),
        "predictions": (cell / "predictions.parquet").read_bytes(),
        "examples": {path.name: path.read_bytes() for path in (cell / "examples").iterdir()},
        "models": [path.read_bytes() for path in models],
    }


def lasting(plain: dict[str, Any]) -> dict[str, Any]:
    """Without what no second run repeats, or one under another name: how long it took, and digests of that."""
    return {name: value for name, value in plain.items() if name not in ("seconds", "check", "files", "id")}


def write_thin_study(path: Path, *ids: str, cell: Cell | None = None) -> StudyFolder:
    """A study's folder whose cells are all of one configuration, without any record."""
    folder, plain = (
        StudyFolder(path),
        to_plain(cell or Cell("softmax", "easy_vqa", Protocol(steps=8, batch_size=4))),
    )
    folder.write_study(
        {
            "name": path.name,
            "question": "Which?",
            "engine": "now",
            "dataset": {"name": "easy_vqa", "title": "easy-VQA", "splits": {}},
            "floors": {"question_prior": None, "looked": None},
            "cells": [{"id": one, "role": "row", "start": None, "cell": plain} for one in ids],
        }
    )
    return folder


def differences(study: Path, expected: Path) -> list[str]:
    """What the cells of two runs do not have in common, in words."""
    ours, theirs = cells(study), cells(expected)
    found = [f"{name} is in one run only" for name in ours.keys() ^ theirs.keys()]
    for name in ours.keys() & theirs.keys():
        if not (ours[name] / "result.json").exists():
            found.append(f"{name} is not finished")
            continue
        one, other = content(ours[name]), content(theirs[name])
        found += [f"{part} of {name}" for part in one if one[part] != other[part]]
    return found


def left_over(study: Path) -> list[str]:
    """What a run should not leave in a study's folder: leases, markers, probes, temporary files."""
    names = ("lease", "drain", "live.json")
    left = [path for path in study.rglob("*") if path.name in names or path.name.startswith(".")]
    return [str(path.relative_to(study)) for path in left]


def nodes(study: Path) -> set[str]:
    """Those on which the cells ran."""
    lines = [line for cell in cells(study).values() for line in (cell / "segments.jsonl").read_text().splitlines()]
    return {json.loads(line)["node"] for line in lines}
