"""The examples of every row as the page's browser reads them: pictures once, answers per question, weights per row.

Weights are kept in 256 steps: what is not 0 stays at least 1, since that a method gives exactly 0 is its point.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reports.cells import CellRecord, told_of
from reports.examples import Example, read_attention, read_examples
from reports.page.data import number
from reports.report import Report, Row
from reports.text import plain
from suite.errors import clean
from suite.files import damaged

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
"""Pictures that a browser shows and that hold no script."""


@dataclass(frozen=True)
class Source:
    """The cell that stands for a row: its first finished one that has examples."""

    row: Row
    cell: CellRecord
    examples: Mapping[str, tuple[int, Example]]
    """By ``_key``: place in the cell's record, and the example."""


class Examples:
    """What of the browser each file holds; ``files`` reads the weights of one row at a time."""

    def __init__(self, report: Report) -> None:
        self.sources = [source for row in report.rows if (source := _source(row))]
        self.questions: dict[str, Example] = {}
        for source in self.sources:
            for key, (_, example) in source.examples.items():
                self.questions.setdefault(key, example)

    def listed(self) -> dict[str, Any]:
        """The questions to choose from, and the rows that answered them with the cell that stands for each."""
        return {
            "questions": [clean(example.text) for example in self.questions.values()],
            "answering": [[plain(one.row.label), one.cell.id] for one in self.sources],
        }

    def files(self) -> Iterator[tuple[str, Any]]:
        """Name and value of each: ``examples/3`` the fourth question, ``attention/0-3`` the first row's weights."""
        for place, (key, example) in enumerate(self.questions.items()):
            yield f"examples/{place}", self._question(key, example)
        for row, source in enumerate(self.sources):
            attention = read_attention(source.cell.record)
            path = source.cell.folder / "examples" / "attention.npz"
            for place, key in enumerate(self.questions):
                if key in source.examples:
                    at, example = source.examples[key]
                    with told_of(path):
                        value = weights(attention, at, example, path)
                    yield f"attention/{row}-{place}", value

    def pictures(self) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of each picture, once."""
        for example in self.questions.values():
            if example.picture is not None and (name := picture_name(example.picture)):
                yield name, example.picture.read_bytes()

    def _question(self, key: str, example: Example) -> dict[str, Any]:
        picture = picture_name(example.picture) if example.picture else None
        answers = []
        for row, source in enumerate(self.sources):
            if key in source.examples:
                _, one = source.examples[key]
                top = zip(one.top_answers, one.top_confidences, strict=True)
                scored = [[clean(answer), number(sure), one.answers.get(answer, 0.0)] for answer, sure in top]
                answers.append({"row": row, "top": scored})
        return {
            "question": clean(str(example.question_id)),
            "image": clean(str(example.image_id)),
            "split": clean(example.split),
            "text": clean(example.text),
            "words": [clean(word) for word in example.words],
            "boxes": [[number(side) for side in box] for box in example.boxes],
            "width": example.width,
            "height": example.height,
            "picture": picture,
            "truth": [[clean(answer), score] for answer, score in example.answers.items()],
            "answers": answers,
        }


def weights(attention: Mapping[str, np.ndarray], at: int, example: Example, path: Path) -> dict[str, Any]:
    """Every site's weights (heads, Q, K) of the example at place ``at``, without padding, as bytes in base64."""
    lengths = {"words": len(example.words), "boxes": len(example.boxes)}
    sites = []
    for site, array in attention.items():
        queries, keys = site.rpartition(".")[2].split("-")
        one = np.asarray(array[at, :, : lengths[queries], : lengths[keys]], dtype=np.float32)
        if not np.isfinite(one).all():
            raise damaged(path, f"its weights of {site[:80]} are not finite")
        scale = max(1.0, float(one.max(initial=0.0)))
        steps = quantised(one, scale)
        text = base64.b64encode(steps.tobytes()).decode("ascii")
        sites.append({"site": site, "shape": list(one.shape), "scale": number(scale), "steps": text})
    return {"sites": sites}


def quantised(weights: np.ndarray, scale: float) -> np.ndarray:
    """Steps of ``scale`` / 255 as bytes; what is not 0 is at least 1."""
    steps = np.clip(np.rint(weights * (255 / scale)), 0, 255).astype(np.uint8)
    return np.where((weights != 0) & (steps == 0), np.uint8(1), steps)


def picture_name(path: Path) -> str | None:
    """Named by content, so that all rows share one; None where a browser shows no such picture."""
    suffix = path.suffix.lower()
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] + suffix if suffix in PICTURES else None


def _source(row: Row) -> Source | None:
    for cell in row.cells:
        if cell.result is not None and (examples := read_examples(cell.record)):
            return Source(row, cell, {_key(one): (place, one) for place, one in enumerate(examples)})
    return None


def _key(example: Example) -> str:
    return f"{example.split}/{example.question_id}"
