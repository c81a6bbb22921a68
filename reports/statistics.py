"""How sure a number is: paired differences, intervals over images and seeds, and Holm's adjustment.

A mean accuracy varies for two reasons. Another draw of images gives other questions: the bootstrap resamples
images, with all questions of each, since those are correlated. Another run of the training gives another model: its
variance is seen over seeds alone, however many questions there are. The variance of a mean over S seeds is

    s^2 / S + V - W / S

with s^2 the variance over seeds of their means, V the bootstrap's variance of the seeds' mean, and W that of one
seed's deviations from this mean, image by image, which both s^2 and V hold and must count once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray
from scipy.special import stdtr, stdtridf, stdtrit

Numbers = NDArray[numpy.float64]

LEVEL = 0.95
"""Of every interval."""
POWER = 0.8
RESAMPLES = 10_000
FEW = 20
"""Images that differ from all others, below which the normal approximation holds less than it says: by simulation
intervals over 3 to 15 such images cover 85 to 93 %."""
NOTHING = 1e-9
"""Points: a smaller error is that of sums of binary fractions such as 0.3."""
CHUNK = 2**21
"""Numbers of resamples that are in memory at a time: 16 MiB."""


@dataclass(frozen=True)
class Estimate:
    """A mean accuracy, or a paired difference of two, with how sure it is. Per cent and points."""

    value: float
    low: float
    """Of the 95 % interval."""
    high: float
    error: float
    """Standard error."""
    freedom: float
    """Degrees of freedom of the t distribution behind the interval."""
    seeds: int
    """With 1 the interval holds for the questions alone, and says nothing of another run."""
    images: int
    p: float | None = None
    """Two-sided, against no difference; None for a level."""
    adjusted: float | None = None
    """p after Holm, over the family of rows that are compared with the softmax row."""
    detectable: float | None = None
    """The least true difference that would be found with a power of 80 %, points."""
    telling: int | None = None
    """Images that differ from all others, where these are fewer than FEW: the interval is rough."""

    @property
    def half(self) -> float:
        """Half the width of the interval, which is symmetric but where an accuracy would pass 0 or 100 %."""
        return max(self.value - self.low, self.high - self.value)


@dataclass(frozen=True)
class Sample:
    """What S runs, or S pairs of runs, scored on the same I images; per cent, differences in points."""

    means: Numbers
    """(S,): of each run over all questions."""
    sums: Numbers
    """(I,): each image's sum over its questions, mean over the runs."""
    questions: Numbers
    """(I,): how many each image has. Samples with the same array are resampled together."""
    interaction: float
    """Variance of one run's mean over images that its deviations from ``sums`` bring."""
    difference: bool

    @staticmethod
    def of(sums: Numbers, questions: Numbers, difference: bool) -> Sample:
        """From each run's ``sums`` (S, I) of scores from 0 to 1, or of their differences; at least two images."""
        sums = 100.0 * sums
        runs, images = sums.shape
        assert runs >= 1
        assert images >= 2
        total = questions.sum()
        means, together = sums.sum(axis=1) / total, sums.mean(axis=0)
        interaction = 0.0
        if runs > 1:
            left = sums - together - (means - means.mean())[:, None] * questions
            interaction = float((left**2).sum() / (runs - 1) * images / (images - 1) / total**2)
        return Sample(means, together, questions, interaction, difference)


def estimates(samples: Sequence[Sample], resamples: int = RESAMPLES) -> list[Estimate]:
    """One estimate per sample; those on the same questions see the same resampled images."""
    together: dict[int, list[int]] = {}
    for place, sample in enumerate(samples):
        together.setdefault(id(sample.questions), []).append(place)
    found: dict[int, Estimate] = {}
    for places in together.values():
        columns = numpy.stack([samples[place].sums for place in places], axis=1)
        variances = bootstrap_variance(columns, samples[places[0]].questions, resamples)
        for place, variance in zip(places, variances, strict=True):
            found[place] = _estimate(samples[place], float(variance))
    return [found[place] for place in range(len(samples))]


def _estimate(sample: Sample, variance: float) -> Estimate:
    """``variance`` is the bootstrap's, of the mean over the sample's runs."""
    runs, images = len(sample.means), len(sample.sums)
    of_seeds = float(sample.means.var(ddof=1)) / runs if runs > 1 else 0.0
    of_images = max(variance - sample.interaction / runs, 0.0)
    error = math.sqrt(of_seeds + of_images)
    if error < NOTHING:
        return _certain(sample)
    freedom = degrees_of_freedom(of_seeds / error**2, runs, images)
    value, quantile = float(sample.means.mean()), _quantile(0.5 + LEVEL / 2, freedom)
    low, high = _limits(sample, value, quantile * error)
    estimate = Estimate(value, low, high, error, freedom, runs, images, telling=_telling(sample))
    if not sample.difference:
        return estimate
    p = 2 * float(stdtr(freedom, -abs(value) / error))
    return dataclasses.replace(estimate, p=p, detectable=(quantile + _quantile(POWER, freedom)) * error)


def _certain(sample: Sample) -> Estimate:
    """Where nothing varies, as with no wrong answer at all: what was seen in none of I images may be in others.

    In how many at the most, with Clopper and Pearson's limit (1934): 1 - 0.025^(1/I), some 3.7 / I.
    """
    value, images = float(sample.means.mean()), len(sample.sums)
    low, high = _limits(sample, value, 100.0 * (1.0 - ((1.0 - LEVEL) / 2) ** (1.0 / images)))
    estimate = Estimate(value, low, high, 0.0, float(images - 1), len(sample.means), images)
    # Images that all differ alike are a sign test; it must not find what the interval does not.
    p = 1.0 if low <= 0 <= high else 2.0 ** (1 - images)
    return dataclasses.replace(estimate, p=p) if sample.difference else estimate


def _limits(sample: Sample, value: float, half: float) -> tuple[float, float]:
    """Of the interval: no accuracy is below 0 or above 100 %."""
    if sample.difference:
        return value - half, value + half
    return max(value - half, min(0.0, value)), min(value + half, max(100.0, value))


def _telling(sample: Sample) -> int | None:
    """How many images are not as most of them are, all right or all wrong, or equal in both rows; None for many."""
    usual = (0.0,) if sample.difference else (0.0, 100.0)
    count = min(int((abs(sample.sums - one * sample.questions) > NOTHING).sum()) for one in usual)
    return count if count < FEW and count < len(sample.sums) else None


def degrees_of_freedom(share: float, runs: int, images: int) -> float:
    """Those of the t distribution behind an interval, where ``share`` of its variance is that over ``runs`` seeds.

    Between images - 1 and runs - 1: such that the square of the 97.5 % quantile is between those of the two, at
    share^1.5 of the way. Found by simulation: with it 95 % intervals cover 94 to 97.5 % for 2 to 10 seeds,
    whatever the share. Satterthwaite's degrees of freedom, which trust a variance over seeds that is small by
    chance, cover 87 % with 2 seeds and 92 % with 3.
    """
    if runs == 1 or share == 0:
        return float(images - 1)
    above = 0.5 + LEVEL / 2
    of_images, of_seeds = (_quantile(above, count - 1) ** 2 for count in (images, runs))
    quantile = math.sqrt(of_images + (of_seeds - of_images) * share**1.5)
    least, most = sorted((images - 1, runs - 1))
    return float(min(max(stdtridf(above, quantile), least), most))


def _quantile(probability: float, freedom: float) -> float:
    return float(stdtrit(freedom, probability))


def bootstrap_variance(sums: Numbers, questions: Numbers, resamples: int = RESAMPLES) -> Numbers:
    """(K,): of the mean over questions of each column of ``sums`` (I, K), over resampled images.

    Times I / (I - 1), which is what resampling I images falls short of drawing new ones.
    """
    images, centre = len(questions), sums.sum(axis=0) / questions.sum()
    total, squares = numpy.zeros(sums.shape[1]), numpy.zeros(sums.shape[1])
    for means in bootstrap(sums, questions, resamples):
        away = means - centre
        total += away.sum(axis=0)
        squares += (away**2).sum(axis=0)
    variance = (squares - total**2 / resamples) / (resamples - 1)
    return numpy.maximum(variance, 0.0) * images / (images - 1)


def bootstrap(sums: Numbers, questions: Numbers, resamples: int) -> Iterator[Numbers]:
    """Means over questions of each column of ``sums`` (I, K) for resampled images, (R, K) at a time.

    Each resample draws I of the I images, with all the questions of each, for all columns at once. Sums are of
    whole numbers, and so exact: they are equal for any number of threads and any order of summation.
    """
    images, (whole, scale) = len(questions), _whole(numpy.column_stack([sums, questions]))
    rows = max(1, CHUNK // max(whole.shape))
    chance = numpy.random.Generator(numpy.random.PCG64(20200515))
    drawn = numpy.empty((min(rows, resamples), images))
    for first in range(0, resamples, rows):
        count = min(rows, resamples - first)
        for times in drawn[:count]:
            times[:] = numpy.bincount(chance.integers(0, images, images), minlength=images)
        totals = (drawn[:count] @ whole) / scale
        yield totals[:, :-1] / totals[:, -1:]


def _whole(columns: Numbers) -> tuple[Numbers, Numbers]:
    """The columns (I, K) as whole numbers, and each column's scale: no sum of I of them is above 2^53."""
    largest = numpy.abs(columns).max(axis=0) * len(columns)
    scale = 2.0 ** (52 - numpy.ceil(numpy.log2(numpy.maximum(largest, 1.0))))
    return numpy.rint(columns * scale), scale


def holm(family: Sequence[float]) -> list[float]:
    """p values adjusted by Holm's step-down rule, in their order."""
    adjusted, least = [0.0] * len(family), 0.0
    for rank, place in enumerate(sorted(range(len(family)), key=lambda place: family[place])):
        least = max(least, min(1.0, (len(family) - rank) * family[place]))
        adjusted[place] = least
    return adjusted


def adjust(family: Sequence[Estimate | None]) -> list[Estimate | None]:
    """The same estimates with their p values adjusted over all of them that have one."""
    adjusted = iter(holm([one.p for one in family if one is not None and one.p is not None]))
    return [
        one if one is None or one.p is None else dataclasses.replace(one, adjusted=next(adjusted))
        for one in family
    ]  # fmt: skip
