"""Accuracies by the type of the answer and of the question, from the predictions of finished cells."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import numpy
import pyarrow

from reports.predictions import damage_explained, read_predictions
from suite.records import CellFolder, RecordError

Kind = Literal["answer_type", "question_type"]
KINDS: tuple[Kind, ...] = ("answer_type", "question_type")
USUAL = ("yes/no", "number", "other")
"""VQA 2.0's types of answers, in the order in which the field prints them."""


@dataclass(frozen=True)
class TypeAccuracy:
    """Accuracy on the questions of one type, as the mean over a row's seeds."""

    kind: Kind
    type: str
    """Empty for questions that have none."""
    questions: int
    accuracy: float
    """Per cent."""


@dataclass(frozen=True)
class ByType:
    official: bool
    """Whether accuracies are the official evaluator's; else LXMERT's soft score. One of them for all rows."""
    rows: Mapping[str, tuple[TypeAccuracy, ...]]
    """By the row's key: types of answers, then of questions. Rows whose records have no types are left out."""

    def types(self, kind: Kind) -> dict[str, int | None]:
        """Type -> its number of questions, or None where rows were tested on different questions."""
        found: dict[str, set[int]] = {}
        for one in (one for row in self.rows.values() for one in row if one.kind == kind):
            found.setdefault(one.type, set()).add(one.questions)
        return {name: min(found[name]) if len(found[name]) == 1 else None for name in sorted(found, key=_place)}

    def accuracy(self, key: str, kind: Kind, name: str) -> float | None:
        """Per cent; None where the row's records do not have it."""
        found = (one.accuracy for one in self.rows.get(key, ()) if (one.kind, one.type) == (kind, name))
        return next(found, None)


def by_type(rows: Mapping[str, Iterable[CellFolder]]) -> ByType | None:
    """Of each row, by its key, the records of the finished cells -> accuracies; None where no question has a type.

    The official accuracy counts where every cell has it for every question: rows of one table are to be compared.
    Raises RecordError for predictions that cannot be read.
    """
    read = {key: {record: means for record in records if (means := _read(record))} for key, records in rows.items()}
    every = [mean for seeds in read.values() for means in seeds.values() for mean in means.values()]
    if not every:
        return None
    official = all(mean.official is not None for mean in every)
    return ByType(official, {key: _accuracies(seeds, official) for key, seeds in read.items() if seeds})


@dataclass(frozen=True)
class _Mean:
    """Of one cell over the questions of one type, from 0 to 1."""

    questions: int
    soft: float
    official: float | None
    """None where it is not known for all questions of the cell."""


def _read(record: CellFolder) -> dict[tuple[Kind, str], _Mean]:
    """The means of one cell by kind and type; none where it has no predictions, or no type in them."""
    table, means = read_predictions(record, ["score"], optional=[*KINDS, "official"]), {}
    if table is None:
        return means
    kinds: list[Kind] = [kind for kind in KINDS if kind in table.column_names]
    with damage_explained(record):
        for kind in kinds:
            types = table.column(kind).cast(pyarrow.string()).fill_null("").combine_chunks().dictionary_encode()
            if any(types.dictionary.to_pylist()):
                means |= _means(kind, types, table)
    return means


def _means(kind: Kind, types: pyarrow.DictionaryArray, columns: pyarrow.Table) -> dict[tuple[Kind, str], _Mean]:
    """Of the questions of each of the ``types``, one per question."""
    places = types.indices.to_numpy()
    counts = numpy.bincount(places)

    def shares(name: str) -> list[float]:
        scores = columns.column(name).cast(pyarrow.float64()).to_numpy()
        return (numpy.bincount(places, scores) / counts).tolist()

    soft = shares("score")
    official = shares("official") if "official" in columns.column_names else [math.nan] * len(soft)
    # One question without an official accuracy leaves none to its cell.
    complete = not any(map(math.isnan, official))
    return {
        (kind, name): _Mean(int(counts[place]), soft[place], official[place] if complete else None)
        for place, name in enumerate(types.dictionary.to_pylist())
    }


def _accuracies(
    found: Mapping[CellFolder, Mapping[tuple[Kind, str], _Mean]], official: bool
) -> tuple[TypeAccuracy, ...]:
    """The means over a row's cells, which were all tested on the same questions.

    Raises RecordError where these have other types in one cell than in another.
    """
    records, seeds = list(found), list(found.values())
    counts = [{key: mean.questions for key, mean in means.items()} for means in seeds]
    for record, count in zip(records, counts, strict=True):
        if count != counts[0]:
            raise RecordError(
                f"{record.id} and {records[0].id} differ in their seeds alone: expected as many questions of "
                "each type, found others. Move the one whose data have changed out of "
                f"{record.path.parent} and run again."
            )
    keys = sorted(seeds[0], key=lambda key: (KINDS.index(key[0]), _place(key[1])))
    return tuple(
        TypeAccuracy(
            kind=kind,
            type=name,
            questions=seeds[0][kind, name].questions,
            accuracy=100 * fmean(_share(means[kind, name], official) for means in seeds),
        )
        for kind, name in keys
    )


def _share(mean: _Mean, official: bool) -> float:
    if not official:
        return mean.soft
    assert mean.official is not None
    return mean.official


def _place(name: str) -> tuple[int, str]:
    """The usual types first, the others by name, none last."""
    if name in USUAL:
        return USUAL.index(name), ""
    return len(USUAL) + (not name), name
