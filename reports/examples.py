"""The test questions that finished cells keep whole, as the figures and the page show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from suite.records import CellFolder, RecordError


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


def read_examples(folder: Path) -> tuple[Example, ...]:
    """Those of the cell at ``folder``; none where its record has none. RecordError names a file that is damaged."""
    read = []
    path = folder / "examples" / "questions.json"
    for plain in CellFolder(folder).examples():
        try:
            picture = folder / "examples" / Path(plain["picture"]).name if plain["picture"] else None
            read.append(
                Example(
                    **{
                        **plain,
                        "words": tuple(plain["words"]),
                        "boxes": tuple(tuple(map(float, box)) for box in plain["boxes"]),
                        "picture": picture,
                        "top_answers": tuple(plain["top_answers"]),
                        "top_confidences": tuple(plain["top_confidences"]),
                    }
                )
            )
        except (TypeError, KeyError, ValueError) as error:
            raise RecordError(
                f"{path} is not a list of examples ({error!r}). Delete that cell's folder and run again."
            ) from None
        if picture is not None and not picture.is_file():
            raise RecordError(
                f"{picture}, which {path.name} names, is missing. Delete that cell's folder and run again."
            )
    return tuple(read)


def read_attention(folder: Path) -> Mapping[str, np.ndarray]:
    """Site and direction -> weights (E, H, Q, K) of the examples of the cell at ``folder``, float16."""
    try:
        return CellFolder(folder).attention()
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        path = folder / "examples" / "attention.npz"
        raise RecordError(f"{path} cannot be read ({error}). Delete that cell's folder and run again.") from None
