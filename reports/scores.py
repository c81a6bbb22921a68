"""What cells scored, image by image: read from their predictions, aligned so that runs can be paired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy
import pandas
import pyarrow

from reports.predictions import damage_explained, predictions_file, read_predictions
from reports.statistics import Numbers, Sample
from suite.files import damaged
from suite.records import CellFolder, RecordError


@dataclass(frozen=True, eq=False)
class Questions:
    """The questions that one or more cells were tested on; cells with equal ones share this object."""

    ids: pyarrow.Array
    images: pyarrow.Array
    """Id of each question's image."""
    places: numpy.ndarray
    """(Q,): the image of each question, counted from 0."""
    per_image: Numbers
    """(I,): how many questions each image has."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Of one finished cell."""

    record: CellFolder
    questions: Questions
    sums: Numbers
    """(I,): the scores of each image's questions added up, each from 0 to 1."""
    official: float | None
    """Per cent: the mean of the evaluator's scores, NaN where not every question has one; None in records of older
    engines."""

    @property
    def accuracy(self) -> float:
        """Per cent."""
        return 100 * float(self.sums.sum() / self.questions.per_image.sum())


class ScoreReader:
    """Reads predictions; keeps nothing of a question but the id and image that equal cells share."""

    def __init__(self) -> None:
        self._known: list[Questions] = []

    def read(self, record: CellFolder) -> Scores | None:
        """The scores of a finished cell; None where it has no predictions.

        Raises RecordError for predictions that cannot be read, lack a score or have a question twice.
        """
        columns = ["question_id", "image_id", "score"]
        table = read_predictions(record, columns, optional=["official"])
        if table is None:
            return None
        with damage_explained(record):
            ids, images, score = (_array(table.column(name)) for name in columns)
            scores = _numbers(score)
            known = int(numpy.isfinite(scores).sum())
            if not known or known < len(scores):
                why = f"expected a score for every question, got {known} for {len(scores)}"
                raise damaged(predictions_file(record), why)
            official = None
            if "official" in table.column_names:
                official = 100 * float(_numbers(_array(table.column("official"))).mean())
            questions, order = self._questions(record, ids, images)
            places = questions.places if order is None else questions.places[order]
            sums = numpy.bincount(places, scores, minlength=len(questions.per_image)).astype(numpy.float64)
        return Scores(record, questions, sums, official)

    def _questions(
        self, record: CellFolder, ids: pyarrow.Array, images: pyarrow.Array
    ) -> tuple[Questions, numpy.ndarray | None]:
        """Those already known that have these ids, and where each id stands there; None where in the same order."""
        for known in self._known:
            if ids.equals(known.ids) and images.equals(known.images):
                return known, None
        if len(ids.unique()) != len(ids):
            raise damaged(predictions_file(record), "it has a question twice")
        for known in self._known:
            if len(ids) != len(known.ids) or ids.type != known.ids.type:
                continue
            found = pandas.Index(known.ids.to_pandas()).get_indexer(pandas.Index(ids.to_pandas()))
            if (found >= 0).all() and images.equals(known.images.take(pyarrow.array(found))):
                return known, found
        coded = images.dictionary_encode()
        places = coded.indices.to_numpy()
        questions = Questions(ids, images, places, numpy.bincount(places).astype(numpy.float64))
        self._known.append(questions)
        return questions, None


def _numbers(scores: pyarrow.Array) -> Numbers:
    return scores.cast(pyarrow.float64()).to_numpy(zero_copy_only=False)


def _array(column: pyarrow.ChunkedArray) -> pyarrow.Array:
    return cast(pyarrow.Array, pyarrow.concat_arrays(column.chunks)) if column.num_chunks != 1 else column.chunk(0)


def check_paired(cells: Sequence[Scores]) -> None:
    """Raises RecordError where two of the cells were tested on different questions: no pairing of them is true."""
    for other in cells[1:]:
        one = cells[0]
        if other.questions is one.questions:
            continue
        names = f"{one.record.id} and {other.record.id}"
        advice = f"move the one whose data have changed out of {one.record.path.parent} and run again."
        here, there = (set(each.questions.ids.to_pylist()) for each in (one, other))
        if different := here ^ there:
            first = min(different, key=str)
            raise RecordError(
                f"{names} should be compared question by question, but were not tested on the same questions: "
                f"{len(here - there)} are in the first alone, {len(there - here)} in the second, such as {first}. "
                f"To compare them, {advice}"
            )
        raise RecordError(
            f"{names} should be compared question by question, but the same questions are of other images there. "
            f"To compare them, {advice}"
        )


def level(cells: Sequence[Scores | None]) -> Sample | None:
    """Of the cells of one row; None where one has no predictions, or there is only one image."""
    found = [cell for cell in cells if cell is not None]
    if not found or len(found) < len(cells):
        return None
    check_paired(found)
    return _sample([cell.sums for cell in found], found[0].questions, difference=False)


def difference(pairs: Sequence[tuple[Scores | None, Scores | None]]) -> Sample | None:
    """The first minus the second of each pair; None where one of them has no predictions, or there is one image."""
    found = [(one, other) for one, other in pairs if one is not None and other is not None]
    if not found or len(found) < len(pairs):
        return None
    check_paired([cell for pair in found for cell in pair])
    sums = [one.sums - other.sums for one, other in found]
    return _sample(sums, found[0][0].questions, difference=True)


def _sample(sums: Sequence[Numbers], questions: Questions, difference: bool) -> Sample | None:
    if len(questions.per_image) < 2:
        return None
    return Sample.of(numpy.stack(sums), questions.per_image, difference)
