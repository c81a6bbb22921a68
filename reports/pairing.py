"""Which runs are compared with which: cells of equal seeds on the same questions, with their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from reports.cells import ROUNDING, CellRecord, Group, Pair
from reports.scores import ScoreReader, Scores, difference, level
from reports.statistics import Estimate, Sample, estimates
from suite.files import damaged


class Reader:
    """The scores of finished cells, each read once."""

    def __init__(self) -> None:
        self._reader, self._read = ScoreReader(), dict[str, Scores | None]()

    def level(self, group: Group) -> Sample | None:
        return level([self._scores(cell) for cell in group if cell.result is not None])

    def difference(self, pairs: Sequence[Pair]) -> Sample | None:
        return difference([(self._scores(one), self._scores(other)) for one, other in pairs])

    def _scores(self, cell: CellRecord) -> Scores | None:
        if cell.id not in self._read:
            scores = self._reader.read(cell.record)
            if scores is not None:
                _check_one(cell, "mean score", scores.accuracy, "accuracy", cell.accuracy)
                if scores.official is not None and cell.official is not None:
                    _check_one(cell, "mean official score", scores.official, "official accuracy", cell.official)
            self._read[cell.id] = scores
        return self._read[cell.id]


def _check_one(cell: CellRecord, mean: str, of_scores: float, accuracy: str, of_result: float) -> None:
    # Not a number is not near one either.
    if not abs(of_scores - of_result) <= ROUNDING:
        raise damaged(
            cell.folder,
            f"predictions.parquet has a {mean} of {of_scores:.4f} %, result.json an {accuracy} of "
            f"{of_result:.4f} %: expected one number",
        )


def estimate(samples: Mapping[tuple[str, str], Sample | None]) -> dict[tuple[str, str], Estimate | None]:
    """An estimate of each sample, None for those that there are none of."""
    found = {key: sample for key, sample in samples.items() if sample is not None}
    return dict.fromkeys(samples) | dict(zip(found, estimates(list(found.values())), strict=True))


def pairs_of(group: Group, reference: Group) -> list[Pair]:
    """Finished cells of ``group``, each with the one of ``reference`` with its seed; none across test splits."""
    if not group or not reference or _tested(group) != _tested(reference):
        return []
    ours, theirs = _by_seed(group), _by_seed(reference)
    return [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]


def _by_seed(group: Group) -> dict[int, CellRecord]:
    """Seed -> finished cell, of the seeds that only one cell has: others differ in their starts' seeds."""
    seeds = [cell.configuration["seed"] for cell in group]
    return {
        seed: cell
        for seed, cell in zip(seeds, group, strict=True)
        if cell.result is not None and seeds.count(seed) == 1
    }


def _tested(group: Group) -> tuple[str, str]:
    return group[0].configuration["dataset"], group[0].configuration["test"]


def mean_difference(group: Group, reference: Group, pairs: Sequence[Pair]) -> float | None:
    """Accuracy of ``group`` minus that of ``reference``, points: over the pairs, or without any of the means.

    None where one has no result, or they were tested on other data: such a difference is of the data too.
    """
    if pairs:
        return fmean(one.accuracy - other.accuracy for one, other in pairs)
    if not group or not reference or _tested(group) != _tested(reference):
        return None
    ours, theirs = ([cell.accuracy for cell in cells if cell.result is not None] for cells in (group, reference))
    return fmean(ours) - fmean(theirs) if ours and theirs else None


def pairing(group: Group, reference: Group, pairs: Sequence[Pair]) -> list[str]:
    """Which seeds the difference of a row is over, where that is not all that both rows have."""
    finished = [sum(cell.result is not None for cell in each) for each in (group, reference)]
    if not pairs:
        if _tested(group) != _tested(reference):
            return ["It has no difference to the softmax row, which was tested on other data."]
        why = "no seed is finished once in both rows"
        return [f"Its difference to the softmax row is of two means and has no interval: {why}."]
    if finished == [len(pairs), len(pairs)]:
        return []
    seeds = ", ".join(str(one.configuration["seed"]) for one, _ in pairs)
    return [
        f"Its difference to the softmax row is over the seeds that both have: {seeds} "
        f"(of {finished[0]} here and {finished[1]} there)."
    ]
