"""What cells scored, image by image: read from their predictions, aligned so that runs can be paired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy
import pandas
import pyarrow

from reports.predictions import damage_explained, predictions_file, read_predictions
from reports.statistics import Numbers, Sample
from suite.records import RecordError


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

    folder: Path
    questions: Questions
    sums: Numbers
    """(I,): the scores of each image's questions added up, each from 0 to 1."""

    @property
    def accuracy(self) -> float:
        """Per cent."""
        return 100 * float(self.sums.sum() / self.questions.per_image.sum())


class ScoreReader:
    """Reads predictions; keeps nothing of a question but the id and image that equal cells share."""

    def __init__(self) -> None:
        self._known: list[Questions] = []

    def read(self, folder: Path) -> Scores | None:
        """The scores of the cell at ``folder``; None where it has no predictions.

        Raises RecordError for predictions that cannot be read, lack a score or have a question twice.
        """
        columns, path = ["question_id", "image_id", "score"], predictions_file(folder)
        table = read_predictions(folder, columns)
        if table is None:
            return None
        ids, images, score = (_array(table.column(name)) for name in columns)
        with damage_explained(folder):
            score = score.cast(pyarrow.float64())
        scores: Numbers = score.to_numpy(zero_copy_only=False)
        if not len(scores) or not numpy.isfinite(scores).all():
            raise RecordError(
                f"{path}: expected a score for every question, got {int(numpy.isfinite(scores).sum())} for "
                f"{len(scores)}. Delete that cell's folder and run again."
            )
        questions, order = self._questions(path, ids, images)
        places = questions.places if order is None else questions.places[order]
        sums = numpy.bincount(places, scores, minlength=len(questions.per_image)).astype(numpy.float64)
        return Scores(folder, questions, sums)

    def _questions(
        self, path: Path, ids: pyarrow.Array, images: pyarrow.Array
    ) -> tuple[Questions, numpy.ndarray | None]:
        """Those already known that have these ids, and where each id stands there; None where in the same order."""
        for known in self._known:
            if ids.equals(known.ids) and images.equals(known.images):
                return known, None
        if len(ids.unique()) != len(ids):
            raise RecordError(f"{path} has a question twice. Delete that cell's folder and run again.")
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


def _array(column: pyarrow.ChunkedArray) -> pyarrow.Array:
    return cast(pyarrow.Array, pyarrow.concat_arrays(column.chunks)) if column.num_chunks != 1 else column.chunk(0)


def check_paired(cells: Sequence[Scores]) -> None:
    """Raises RecordError where two of the cells were tested on different questions: no pairing of them is true."""
    for other in cells[1:]:
        one = cells[0]
        if other.questions is one.questions:
            continue
        names = f"{one.folder.name} and {other.folder.name}"
        advice = f"delete the folder of the one whose data have changed (in {one.folder.parent}) and run again."
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
