"""What figures need beside the records of tests/reports/conftest.py: predictions, examples, densities, costs."""

from __future__ import annotations

import dataclasses
import random
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from reports.costs import Cost
from reports.report import Report, Row
from reports.statistics import Estimate
from suite.records import CellFolder, read_lines, write_json, write_text

QUESTIONS = [f"{1000 + number // 3}/{number % 3}" for number in range(30)]
ANSWERS = ("circle", "triangle", "yes", "no", "blue", "light_brown $x^2$", "grey & <b>")
TEXT = "Is there a $blue$ circle, or is it rather the case that there is a triangle?"
TRUTH = {"circle": 1.0, "yes": 0.3}


def finished(study: Path) -> list[CellFolder]:
    return [CellFolder(path.parent) for path in sorted(study.glob("*/result.json"))]


def write_answers(record: CellFolder, questions: Sequence[str] = QUESTIONS, kept: int = 8) -> None:
    """Predictions of a cell, and ``kept`` of its questions whole; the first one all cells answer alike."""
    chance, rows = random.Random(record.id), []
    for number, question in enumerate(questions):
        top = list(ANSWERS[:5]) if number == 0 else chance.sample(ANSWERS, 5)
        rows.append(
            {
                "question_id": question,
                "image_id": question.partition("/")[0],
                "question_type": ("shape", "color", "presence")[number % 3],
                "answer_type": ("other", "other", "yes/no")[number % 3],
                "answer": top[0],
                "score": float(chance.random() < 0.7),
                "official": float("nan"),
                "top_answers": top,
                "top_confidences": sorted((chance.random() for _ in top), reverse=True),
            }
        )
    result = record.result()
    assert result is not None
    # Their mean is the recorded accuracy, as in every record.
    level, mean = result["accuracy"]["test"] / 100, sum(row["score"] for row in rows) / len(rows)
    for row in rows:
        row["score"] = level + min(level, 1 - level) * (row["score"] - mean)
    record.write_predictions(pd.DataFrame(rows))
    if not kept:
        return
    folder = record.path / "examples"
    folder.mkdir()
    (folder / "0.png").write_bytes(picture(96, 64))
    write_json(
        folder / "questions.json",
        [
            {
                "question_id": row["question_id"],
                "image_id": row["image_id"],
                "split": "test",
                "text": TEXT,
                "words": ["[CLS]", "is", "[SEP]"],
                "boxes": [[0.0, 0.0, 1.0, 1.0], [0.2, 0.15, 0.65, 0.8]],
                "width": 96,
                "height": 64,
                "picture": "0.png" if number < 4 else "",
                "answers": TRUTH,
                "top_answers": row["top_answers"],
                "top_confidences": row["top_confidences"],
            }
            for number, row in enumerate(rows[:kept])
        ],
    )


def picture(width: int, height: int) -> bytes:
    """A PNG in which every pixel differs from its neighbours."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    rows = b"".join(b"\0" + pixels[line].tobytes() for line in range(height))

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    )


def thin_out(record: CellFolder, heads: int = 0) -> None:
    """Rewrites a cell's sites with densities below 1, and with ``heads`` of everything if that is given."""
    chance, lines = random.Random(record.id), []
    for line in read_lines(record.path / "sites.jsonl"):
        line["density"] = [round(chance.random(), 3) for _ in line["density"]]
        for name in ("density", "span", "alpha"):
            if heads and name in line:
                line[name] = [line[name][0] + 0.01 * chance.random() for _ in range(heads)]
        lines.append(line)
    write_text(record.path / "sites.jsonl", pd.DataFrame(lines).to_json(orient="records", lines=True))


def with_rows(report: Report, change: dict[str, Row]) -> Report:
    """The report with the rows of these keys changed."""
    blocks = tuple(
        dataclasses.replace(block, rows=tuple(change.get(row.key, row) for row in block.rows))
        for block in report.blocks
    )
    return dataclasses.replace(report, blocks=blocks)


def cost_of(cell: str, device: str, step: float, batch: int = 64, energy: float | None = 9.5) -> Cost:
    return Cost(
        cell=cell,
        device=device,
        batch_size=batch,
        step_seconds=step,
        questions_per_second=1 / step,
        latency_p50=3.0,
        latency_p99=5.0,
        train_memory=900 * step,
        predict_memory=300.0,
        step_energy=energy,
        question_energy=None,
        energy_source="power counter" if energy is not None else "none",
    )


def estimate_of(value: float, half: float) -> Estimate:
    return Estimate(value, value - half, value + half, half / 2, 20.0, seeds=1, images=100)


def with_high_accuracies(report: Report, half: float = 0.1) -> Report:
    """The report with every row that was measured between 99.7 and 100 %, where easy questions leave them."""
    changed = {}
    for number, row in enumerate(row for row in report.rows if row.measured):
        accuracy = 99.99 - 0.27 * number / 10
        measured = dataclasses.replace(row.measured, accuracy=accuracy, accuracies=(accuracy,))
        changed[row.key] = dataclasses.replace(row, measured=measured, estimate=estimate_of(accuracy, half))
    return with_rows(report, changed)
