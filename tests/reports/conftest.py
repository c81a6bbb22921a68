"""A small study folder with every state that a cell can be in, written with suite.records."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from changed import write_lines

from suite.config import Cell, ModelSize, Protocol, to_plain
from suite.files import write_json
from suite.records import CellFolder, StudyFolder

ENGINE = "engine-of-today"
START = Cell(
    variant="softmax",
    dataset="easy-vqa",
    protocol=Protocol(steps=1200, batch_size=64),
    model=ModelSize(width=64, heads=4, intermediate=256),
)
ROW = dataclasses.replace(START, start=START, protocol=Protocol(steps=600, batch_size=32))
SPAN = {"limit": 1024, "ramp": 32, "penalty": 5e-6, "boxes": "rank", "renormalise": True}
LAYERDROP = {"p": 1, "pruning": "every_other"}

HOSTILE = "\x1b[31m[red]loss|is *NaN*\n_at_ $step$ #4 & 50% {of} <b>it</b> \\end{tabular} ~^ `x`\u202e"


def cell_of(
    variant: str, arguments: dict | None = None, layers: tuple = (9, 5, 5), seed: int = 0, **fields: Any
) -> Cell:
    return dataclasses.replace(ROW, variant=variant, arguments=arguments or {}, layers=layers, seed=seed, **fields)


CELLS: dict[str, tuple[str, Cell, float | None]] = {
    # id -> role, cell, final test accuracy in per cent (None: not finished)
    "start-s0": ("start", START, 80.0),
    "softmax-s0": ("row", cell_of("softmax"), 92.123456),
    "softmax-s1": ("row", cell_of("softmax", seed=1), 93.654321),
    "span-s0": ("row", cell_of("span", SPAN), 91.25),
    "entmax-s0": ("row", cell_of("entmax", {"initial": "random"}), None),
    "layerdrop-deep-s0": ("row", cell_of("layerdrop", LAYERDROP, (10, 6, 6)), None),
    "span_entmax-s0": ("row", cell_of("span_entmax", SPAN), 71.5),
    "default-deep-s0": ("row", cell_of("layerdrop", LAYERDROP | {"p": 0}, (10, 6, 6)), None),
    "layerdrop-s0": ("row", cell_of("layerdrop", LAYERDROP), 89.75),
    "window-s0": ("row", cell_of("near|window_*", {"reach": 3, "note": "=1+1"}), 90.5),
    "softmax-small-s0": (
        "row",
        cell_of("softmax", layers=(4, 2, 2), protocol=Protocol(steps=300, batch_size=32)),
        88.0,
    ),
    "softmax-blind-s0": ("floor", cell_of("softmax", pictures="mean"), 66.8),
}
STATES = {"entmax-s0": "failed", "layerdrop-deep-s0": "started", "default-deep-s0": "missing"}
STALE = "layerdrop-s0"


def result_of(cell: Cell, accuracy: float, number: int) -> dict:
    reference = 11_000_000 * sum(cell.layers) * (cell.layers[0] - int(cell.arguments.get("p", 0))) // cell.layers[0]
    return {
        "accuracy": {"validation": accuracy + 0.5, "test": accuracy},
        "macs": reference - 123_457,
        "macs_reference": reference,
        "uncounted_operators": {"aten::softmax": 24},
        "parameters": 90_001 * sum(cell.layers),
        "steps": cell.protocol.steps,
        "seconds": 100.125 + number,
    }


def write_study(path: Path, names: Collection[str] = CELLS, run: bool = True) -> Path:
    """The folder of a study as a launch leaves it, with the cells ``names``, run or not.

    The files have neither checks nor digests, as those of older engines, and say less of the cell: tests change
    them.
    """
    study, cells = StudyFolder(path), {name: CELLS[name] for name in names}
    path.mkdir(parents=True, exist_ok=True)
    write_json(
        path / "study.json",
        {
            "name": "small",
            "question": "What does each method cost?",
            "engine": ENGINE,
            "dataset": {
                "name": "easy-vqa",
                "title": "easy-VQA",
                "splits": {
                    "train": {"questions": 38575, "images": 4000},
                    "validation": {"questions": 4800, "images": 500},
                    "test": {"questions": 9673, "images": 1000},
                },
                "answers": 13,
            },
            "floors": {"question_prior": 67.0, "looked": 75.0},
            "cells": [
                {
                    "id": name,
                    "role": role,
                    "start": "start-s0" if cell.start and "start-s0" in cells else None,
                    "cell": to_plain(cell),
                }
                for name, (role, cell, _) in cells.items()
            ],
        },
    )
    for number, (name, (_, cell, accuracy)) in enumerate(cells.items()):
        state = STATES.get(name, "finished") if run else "missing"
        if state == "missing":
            continue
        record = study.cell(name)
        record.path.mkdir(exist_ok=True)
        write_json(
            record.path / "config.json",
            {
                "id": name,
                "placement": {"threads": 1, "gpus": 0.0},
                "code": {"commit": "0" * 40, "changes": None, "engine": "older" if name == STALE else ENGINE},
                "packages": {},
                "hardware": {},
            },
        )
        write_curves(record, cell, accuracy or 85.0, number, part=1.0 if state == "finished" else 0.5)
        if state == "failed":
            failure = {"kind": "ValueError", "message": HOSTILE, "log": "log.txt"}
            write_json(record.path / "failure.json", failure)
        if state == "finished":
            assert accuracy is not None
            write_json(record.path / "result.json", result_of(cell, accuracy, number))
    return path


def write_curves(record: CellFolder, cell: Cell, final: float, number: int, part: float) -> None:
    """Curves of the usual shape: flat at the question prior, then up."""
    noise = random.Random(number)
    steps = [step for step in cell.protocol.evaluation_steps() if step <= part * cell.protocol.steps]
    metrics, sites = [], []
    for step in steps:
        done = 1 / (1 + math.exp(-8 * (step / cell.protocol.steps - 0.35 - 0.02 * (number % 5))))
        accuracy = 66 + (final - 66) * done + noise.gauss(0, 0.4)
        if step == cell.protocol.steps:  # As the result has it.
            accuracy = final + 0.5
        metrics.append(
            {
                "step": step,
                "seconds": step * 0.2,
                "train_loss": 1.0 - 0.8 * done,
                "penalty": 0.0,
                "loss": 1.1 - 0.009 * accuracy + noise.gauss(0, 0.004),
                "accuracy": accuracy,
                "learning_rate": 1e-4,
            }
        )
        sites += [line_of(site, step, cell, noise) for site in sites_of(cell)]
    write_lines(record.path / "metrics.jsonl", metrics)
    write_lines(record.path / "sites.jsonl", sites)


def sites_of(cell: Cell) -> list[tuple[str, str, str, int]]:
    language, vision, cross = cell.layers
    return [
        *(("language", "words", "words", index) for index in range(language)),
        *(("vision", "boxes", "boxes", index) for index in range(vision)),
        *(
            ("cross", queries, keys, index)
            for queries, keys in (
                ("words", "boxes"),
                ("boxes", "words"),
                ("words", "words"),
                ("boxes", "boxes"),
            )
            for index in range(cross)
        ),
    ]


def line_of(site: tuple[str, str, str, int], step: int, cell: Cell, noise: random.Random) -> dict:
    stack, queries, keys, index = site
    heads, share = range(cell.model.heads), step / cell.protocol.steps
    line = {
        "step": step,
        "site": f"{stack}.{index}.{queries}-{keys}",
        "stack": stack,
        "queries": queries,
        "keys": keys,
        "index": index,
        "density": [1.0 for _ in heads],
    }
    if "span" in cell.variant:
        line["span"] = [max(0.0, 300 - 120 * share * (1 + index / 4) + noise.gauss(0, 10)) for _ in heads]
    if "entmax" in cell.variant:
        line["alpha"] = [1.5 + 0.06 * share * (index - 3 + 0.5 * (head - 1)) for head in heads]
    return line


@pytest.fixture(scope="module")
def small_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study for a whole module of tests, to add to but not to change."""
    return write_study(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., Path]:
    """Writes the study, or a part of it, to a folder of the test's."""
    return lambda **options: write_study(tmp_path / "runs" / "small", **options)


@pytest.fixture
def study_folder(tmp_path: Path) -> Path:
    return write_study(tmp_path / "runs" / "small")


@pytest.fixture
def one_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds write their figures as SVG alone: encoding them is most of a build's time."""
    monkeypatch.setattr("reports.figures.write.FORMATS", ("svg",))


@pytest.fixture(scope="session")
def write_small() -> Callable[..., Path]:
    """Writes the study to a folder that many tests share."""
    return write_study
