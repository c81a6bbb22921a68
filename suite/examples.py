"""A fixed sample of test questions that a finished cell keeps whole: the picture, its boxes, every site's weights.

The same questions for every cell of a study, so that what their attention does can be seen side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from suite.config import Cell
from suite.data.store import DataSet
from suite.models.lxmert import LxmertForQuestionAnswering
from suite.records import CellFolder

EXAMPLES = 8
"""A cell of LXMERT's size keeps some 3 MB of them."""


def chosen(rows: np.ndarray) -> np.ndarray:
    """Of the test split's ``rows`` (N,), ascending, those that are kept, (E,): spread evenly from first to last."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, EXAMPLES).round().astype(np.int64))]


@torch.no_grad()
def record_examples(
    record: CellFolder, model: LxmertForQuestionAnswering, dataset: DataSet, cell: Cell, predictions: pd.DataFrame
) -> None:
    """Keeps the chosen test questions with the answers of ``predictions``, whose index is the data set's rows."""
    rows = chosen(dataset.rows(cell.test))
    asked = dataset.questions("text", rows=rows)["text"].tolist()
    images = dataset.images().iloc[dataset.image[rows]]
    boxes = dataset.batch(rows).boxes
    position, labels, scores = dataset.scored_answers(rows)
    questions, pictures = [], {}
    for place, (row, words) in enumerate(zip(rows, dataset.tokens(rows), strict=True)):
        predicted, image = predictions.loc[row], images.iloc[place]
        # A blind cell never saw it: it must not stand beside its weights.
        picture = dataset.picture(int(dataset.image[row])) if cell.pictures == "given" else None
        name = f"{place}{picture.suffix.lower()}" if picture else ""
        if picture:
            pictures[name] = picture.read_bytes()
        questions.append(
            {
                "question_id": _plain(predicted["question_id"]),
                "image_id": _plain(predicted["image_id"]),
                "split": cell.test,
                "text": asked[place],
                "words": words,
                "boxes": boxes[place].tolist(),
                "width": int(image["width"]),
                "height": int(image["height"]),
                "picture": name,
                "answers": {
                    dataset.answers[label]: float(score)
                    for label, score in zip(labels[position == place], scores[position == place], strict=True)
                },
                "top_answers": list(predicted["top_answers"]),
                "top_confidences": list(map(float, predicted["top_confidences"])),
            }
        )
    record.write_examples(questions, _attention(model, dataset, cell, rows), pictures)


def _attention(
    model: LxmertForQuestionAnswering, dataset: DataSet, cell: Cell, rows: np.ndarray
) -> Mapping[str, np.ndarray]:
    """Site and direction -> weights (E, H, Q, K), float16; zeros where a question has no such word."""
    model.eval()
    device = next(model.parameters()).device
    batch = dataset.batch(rows)
    present = {"words": batch.word_mask, "boxes": np.ones(batch.boxes.shape[:2], dtype=bool)}
    names = ("words", "regions", "boxes", "word_mask")
    inputs: dict[str, Any] = {name: torch.from_numpy(getattr(batch, name)).to(device) for name in names}
    with torch.autocast(device.type, torch.bfloat16, enabled=cell.protocol.precision == "bfloat16"):
        recorded = model.outputs(**inputs).attention
    return {
        name: weights.float().cpu().numpy().astype(np.float16)
        * present[name.rpartition(".")[2].partition("-")[0]][:, None, :, None]
        for name, weights in recorded.items()
    }


def _plain(value: Any) -> Any:
    """A number of numpy's as Python's, which JSON knows."""
    return value.item() if isinstance(value, np.generic) else value
