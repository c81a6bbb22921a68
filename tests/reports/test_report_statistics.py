"""Intervals that hold what they promise, p values and Holm's rule, against independent references."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from reports.statistics import (
    RESAMPLES,
    Estimate,
    Sample,
    adjust,
    bootstrap,
    bootstrap_variance,
    degrees_of_freedom,
    estimates,
    holm,
)

Numbers = NDArray[numpy.float64]
ROOT = Path(__file__).parents[2]
EXPERIMENTS = 2_000
IMAGES = 120
SEEDS = (3, 5, 10)
RATIOS = (0.0, 1.0, 2.0, 4.0, 8.0)


def experiments(
    chance: numpy.random.Generator, seeds: int, ratio: float, interaction: float, shared: float = 1.0
) -> tuple[Numbers, Numbers]:
    """Sums (EXPERIMENTS, S, I) of a row whose true mean is 0, and the questions (I,) of its images.

    Scores are per image and question: what all seeds share, one number for a seed, and what a seed does to an
    image. ``ratio`` is the seeds' standard deviation over the standard error from what is shared, ``interaction``
    that of a seed's own part.
    """
    questions = 2.0 + numpy.arange(IMAGES) % 5
    # The error of sum(n x) / sum(n) with x independent over images.
    unit = math.sqrt((questions**2).sum()) / questions.sum()
    of_images = shared * chance.normal(size=(EXPERIMENTS, 1, IMAGES))
    of_seeds = ratio * unit * chance.normal(size=(EXPERIMENTS, seeds, 1))
    of_both = interaction * chance.normal(size=(EXPERIMENTS, seeds, IMAGES))
    return questions * (of_images + of_seeds + of_both), questions


def coverage(sums: Numbers, questions: Numbers) -> float:
    """Per cent of the experiments whose interval holds 0."""
    samples = [Sample.of(one, questions, difference=True) for one in sums]
    found = estimates(samples, resamples=1_000)
    return 100 * sum(one.low <= 0 <= one.high for one in found) / len(found)


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("ratio", RATIOS)
def test_intervals_cover_the_truth_at_any_ratio_of_seeds_to_images(seeds: int, ratio: float) -> None:
    chance = numpy.random.default_rng([seeds, int(ratio)])
    covered = coverage(*experiments(chance, seeds, ratio, interaction=0.0))
    assert 93 <= covered <= (99 if ratio == 0 else 97)


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("ratio", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("interaction", [1.0, 4.0])
def test_what_a_seed_does_to_an_image_is_counted_once(seeds: int, ratio: float, interaction: float) -> None:
    chance = numpy.random.default_rng([seeds, int(ratio), int(interaction)])
    covered = coverage(*experiments(chance, seeds, ratio, interaction))
    assert 93 <= covered <= 97


@pytest.mark.parametrize("seeds", SEEDS)
def test_seeds_that_share_nothing_over_images_are_covered(seeds: int) -> None:
    chance = numpy.random.default_rng(seeds)
    covered = coverage(*experiments(chance, seeds, ratio=1.0, interaction=1.0, shared=0.0))
    assert 93 <= covered <= 97.5


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("ratio", RATIOS)
def test_paired_differences_cover_the_truth(seeds: int, ratio: float) -> None:
    """Of right and wrong answers: two rows on the same questions, some of them hard for both."""
    chance = numpy.random.default_rng([seeds, int(ratio), 7])
    questions = 1.0 + numpy.arange(IMAGES) % 3
    asked = numpy.repeat(numpy.arange(IMAGES), questions.astype(int))
    starts = numpy.concatenate([[0], numpy.cumsum(questions)[:-1]]).astype(int)
    hardness = chance.normal(size=(EXPERIMENTS, 1, IMAGES))[:, :, asked]
    hardness = hardness + 0.7 * chance.normal(size=(EXPERIMENTS, 1, len(asked)))
    sides = []
    for _ in range(2):
        method = 0.5 * chance.normal(size=(EXPERIMENTS, 1, IMAGES))[:, :, asked]
        run = 0.02 * ratio * chance.normal(size=(EXPERIMENTS, seeds, 1))
        answers = hardness + method + run + 0.5 * chance.normal(size=(EXPERIMENTS, seeds, len(asked))) < 0.6
        sides.append(numpy.add.reduceat(answers.astype(float), starts, axis=2))
    covered = coverage(sides[0] - sides[1], questions)
    assert 93 <= covered <= (99 if ratio == 0 else 97)


def test_two_seeds_are_covered_too() -> None:
    for ratio in RATIOS:
        chance = numpy.random.default_rng([2, int(ratio)])
        assert 92.5 <= coverage(*experiments(chance, 2, ratio, interaction=0.0)) <= 98.5


def a_sample(seeds: int = 3, images: int = 40, difference: bool = True, number: int = 0) -> Sample:
    chance = numpy.random.default_rng(number)
    questions = chance.integers(1, 9, images).astype(float)
    return Sample.of(chance.random((seeds, images)) * questions - 0.4 * questions, questions, difference)


def test_the_bootstrap_is_numpys_on_the_same_draws() -> None:
    sample = a_sample(seeds=1, images=57)
    columns = numpy.stack([sample.sums, sample.sums[::-1]], axis=1)
    ours = numpy.concatenate(list(bootstrap(columns, sample.questions, 500)))
    chance = numpy.random.Generator(numpy.random.PCG64(20200515))
    for resample in ours:
        drawn = chance.integers(0, 57, 57)
        expected = [column[drawn].sum() / sample.questions[drawn].sum() for column in columns.T]
        assert resample == pytest.approx(expected, abs=1e-12)
    variance = bootstrap_variance(columns, sample.questions, 500)
    assert variance == pytest.approx(ours.var(axis=0, ddof=1) * 57 / 56, rel=1e-12)


def test_the_bootstrap_agrees_with_scipys() -> None:
    from scipy import stats

    questions, sums = numpy.full(80, 4.0), numpy.random.default_rng(1).random(80) * 4
    theirs = stats.bootstrap(
        (sums,), numpy.mean, n_resamples=20_000, method="percentile", random_state=numpy.random.default_rng(2)
    )
    ours = numpy.concatenate(list(bootstrap(sums[:, None], questions, 20_000)))[:, 0] * 4
    interval = theirs.confidence_interval
    assert numpy.percentile(ours, [2.5, 97.5]) == pytest.approx([interval.low, interval.high], abs=0.01)
    assert ours.std(ddof=1) == pytest.approx(theirs.standard_error, rel=0.02)


@pytest.mark.parametrize("images", [25, 400])
def test_the_bootstraps_error_is_the_cluster_robust_one(images: int) -> None:
    sample = a_sample(seeds=1, images=images)
    mean = sample.sums.sum() / sample.questions.sum()
    residuals = sample.sums - mean * sample.questions
    analytic = images / (images - 1) * (residuals**2).sum() / sample.questions.sum() ** 2
    (bootstrapped,) = bootstrap_variance(sample.sums[:, None], sample.questions, 20_000)
    assert math.sqrt(bootstrapped) == pytest.approx(math.sqrt(analytic), rel=0.06 if images == 25 else 0.02)


def test_the_cluster_robust_error_is_larger_than_that_of_independent_questions() -> None:
    """Ten equal answers an image are one piece of information, not ten."""
    chance = numpy.random.default_rng(3)
    sums = 10.0 * (chance.random(500) < 0.8)
    questions = numpy.full(500, 10.0)
    (estimate,) = estimates([Sample.of(sums[None], questions, difference=False)])
    naive = 100 * math.sqrt(0.8 * 0.2 / 5000)
    assert estimate.error == pytest.approx(math.sqrt(10) * naive, rel=0.05)


def test_an_estimate_is_its_definition_by_hand() -> None:
    from scipy import stats

    sample = a_sample(seeds=4)
    (found,) = estimates([sample], resamples=800)
    variance = float(numpy.concatenate(list(bootstrap(sample.sums[:, None], sample.questions, 800))).var(ddof=1))
    of_images = variance * 40 / 39 - sample.interaction / 4
    of_seeds = sample.means.var(ddof=1) / 4
    error = math.sqrt(of_seeds + of_images)
    share = of_seeds / error**2
    narrow, wide = stats.t.ppf(0.975, 39), stats.t.ppf(0.975, 3)
    quantile = math.sqrt(narrow**2 + (wide**2 - narrow**2) * share**1.5)
    assert found.value == pytest.approx(sample.means.mean(), rel=1e-12)
    assert found.error == pytest.approx(error, rel=1e-12)
    assert (found.low, found.high) == pytest.approx(
        (found.value - quantile * error, found.value + quantile * error), rel=1e-9
    )
    assert stats.t.ppf(0.975, found.freedom) == pytest.approx(quantile, rel=1e-9)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(found.value) / error, found.freedom), rel=1e-12)
    assert found.detectable == pytest.approx((quantile + stats.t.ppf(0.8, found.freedom)) * error, rel=1e-9)
    assert (found.seeds, found.images, found.adjusted) == (4, 40, None)


def test_with_seeds_alone_it_is_the_t_test() -> None:
    from scipy import stats

    runs = numpy.array([1.0, 1.4, 0.7, 1.6, 1.1])
    questions = numpy.full(30, 5.0)
    (found,) = estimates([Sample.of(runs[:, None] * questions / 100, questions, difference=True)])
    theirs = stats.ttest_1samp(runs, 0.0)
    interval = theirs.confidence_interval()
    assert (found.p, found.freedom) == pytest.approx((theirs.pvalue, 4), rel=1e-6)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_one_seed_is_over_images_alone() -> None:
    from scipy import stats

    (found,) = estimates([a_sample(seeds=1, images=300)])
    assert (found.seeds, found.freedom) == (1, 299)
    assert found.half == pytest.approx(stats.t.ppf(0.975, 299) * found.error, rel=1e-12)


def test_a_level_has_no_p() -> None:
    (level,) = estimates([a_sample(difference=False)])
    assert (level.p, level.adjusted, level.detectable) == (None, None, None)


@pytest.mark.parametrize(("everywhere", "p"), [(0.0, 1.0), (0.2, 1.0), (0.25, 2**-15)])
def test_rows_that_differ_nowhere_or_everywhere_the_same(everywhere: float, p: float) -> None:
    questions = numpy.full(16, 4.0)
    (found,) = estimates([Sample.of(numpy.full((3, 16), 4 * everywhere), questions, difference=True)])
    assert (found.error, found.p) == (0.0, p)
    assert found.value == pytest.approx(100 * everywhere)
    assert (found.low <= 0 <= found.high) == (p == 1)
    # What happens to none of 16 images has at most this chance, with 97.5 % on one side (Clopper and Pearson 1934).
    from scipy import stats

    chance = stats.binomtest(0, 16).proportion_ci(0.95, "exact").high
    assert found.half == pytest.approx(100 * chance, rel=1e-12)
    assert found.detectable is None


def test_no_wrong_answer_is_no_certainty() -> None:
    questions = numpy.full(1000, 9.0)
    (level,) = estimates([Sample.of(numpy.full((1, 1000), 9.0), questions, difference=False)])
    assert (level.value, level.high) == (100, 100)
    assert level.half == pytest.approx(0.368, abs=5e-4)


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("score", [0.3, 0.6, 0.9])
def test_equal_partial_scores_are_no_certainty_either(score: float, runs: int) -> None:
    """Sums of 0.3 are not exact: what is left of them is no spread."""
    images = [number % 50 for number in range(350)]
    one = numpy.bincount(images, [score] * 350)
    two = numpy.bincount(images, [score - 0.3] * 350)
    level, none = (
        estimates([Sample.of(numpy.stack([sums] * runs), numpy.full(50, 7.0), difference)])[0]
        for sums, difference in ((one, False), (one - (two + 0.3 * 7), True))
    )
    assert level.value == pytest.approx(100 * score)
    assert (level.error, none.error, none.p) == (0.0, 0.0, 1.0)
    assert min(level.half, none.half) > 5


def test_no_accuracy_is_beyond_0_or_100() -> None:
    chance = numpy.random.default_rng(5)
    for share in (0.02, 0.98):
        sums = (chance.random((2, 40)) < share).astype(float)
        sums[:, 0] = 1 - round(share), round(share)
        (level,) = estimates([Sample.of(sums, numpy.ones(40), difference=False)])
        assert 0 <= level.low < level.value < level.high <= 100
        assert level.half == max(level.value - level.low, level.high - level.value)


def test_an_interval_of_few_images_says_so() -> None:
    questions = numpy.full(1000, 9.0)
    for count, telling in ((1, 1), (19, 19), (20, None)):
        sums = numpy.zeros((1, 1000))
        sums[0, :count] = 1
        difference, low, high = estimates(
            [
                Sample.of(sums, questions, True),
                Sample.of(sums, questions, False),
                Sample.of(9 - sums, questions, False),
            ]
        )
        assert difference.telling == low.telling == high.telling == telling


def test_the_detectable_difference_is_found_four_times_in_five() -> None:
    chance = numpy.random.default_rng(11)
    sums, questions = experiments(chance, 5, ratio=2.0, interaction=0.5)
    probe = estimates([Sample.of(one, questions, difference=True) for one in sums], resamples=500)
    detectable = [one.detectable for one in probe if one.detectable is not None]
    true = float(numpy.mean(detectable)) / 100
    found = estimates(
        [Sample.of(one + true * questions, questions, difference=True) for one in sums], resamples=500
    )
    power = numpy.mean([one.p is not None and one.p < 0.05 for one in found])
    assert 0.74 <= power <= 0.88


@given(
    share=st.floats(0, 1), runs=st.integers(2, 30), images=st.integers(2, 50_000), more=st.floats(0, 1)
)  # fmt: skip
@settings(deadline=None, max_examples=300)
def test_degrees_of_freedom_lie_between_those_of_seeds_and_images(
    share: float, runs: int, images: int, more: float
) -> None:
    freedom = degrees_of_freedom(share, runs, images)
    least, most = sorted((runs - 1, images - 1))
    assert least <= freedom <= most
    further = degrees_of_freedom(share + (1 - share) * more, runs, images)
    assert further <= freedom * (1 + 1e-6) if runs <= images else further >= freedom * (1 - 1e-6)


probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(family=probabilities)
@settings(deadline=None, max_examples=300)
def test_holm_is_its_definition_and_keeps_the_order(family: list[float]) -> None:
    adjusted = holm(family)
    for one, place in zip(adjusted, family, strict=True):
        # max over all p at most as large of (how many are at least as far down the list) x p, at most 1.
        ranks = [min(1.0, (len(family) - rank) * p) for rank, p in enumerate(sorted(family)) if p <= place]
        assert one == max(ranks)
        assert place <= one <= min(1.0, len(family) * place) or math.isclose(one, place)
    ordered = [adjusted[place] for place in sorted(range(len(family)), key=family.__getitem__)]
    assert ordered == sorted(ordered)


def test_holm_rejects_what_a_published_example_does() -> None:
    """Holm 1979's rule on 0.01, 0.04, 0.03 and 0.005 at 5 %: the third is stopped, and with it the fourth."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_keeps_the_rate_of_false_finds_of_a_family() -> None:
    chance = numpy.random.default_rng(5)
    false = [min(holm(list(chance.random(8)))) < 0.05 for _ in range(4_000)]
    assert 0.035 <= numpy.mean(false) <= 0.06


def test_rows_without_a_p_are_no_part_of_the_family() -> None:
    def tested(p: float) -> Estimate:
        return Estimate(1.0, 0.0, 2.0, 0.5, 10.0, 3, 100, p=p)

    level = Estimate(90.0, 89.0, 91.0, 0.5, 10.0, 3, 100)
    adjusted = adjust([tested(0.02), None, level, tested(0.03)])
    assert [one and one.adjusted for one in adjusted] == pytest.approx([0.04, None, None, 0.04])


@pytest.mark.parametrize("threads", ["1", "2"])
def test_estimates_are_the_same_to_the_last_bit_for_any_number_of_threads(threads: str) -> None:
    code = (
        "import numpy; from reports.statistics import Sample, estimates\n"
        "chance = numpy.random.default_rng(0); questions = chance.integers(1, 9, 700).astype(float)\n"
        "made = [Sample.of(chance.random((3, 700)) * questions, questions, True) for _ in range(40)]\n"
        "print(*[(one.error.hex(), one.low.hex()) for one in estimates(made, 300)])\n"
    )
    environment = os.environ | {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    chance = numpy.random.default_rng(0)
    questions = chance.integers(1, 9, 700).astype(float)
    made = [Sample.of(chance.random((3, 700)) * questions, questions, True) for _ in range(40)]
    assert done.stdout.strip() == " ".join(str((one.error.hex(), one.low.hex())) for one in estimates(made, 300))


def test_ten_thousand_paired_resamples_of_vqa_2_are_quick() -> None:
    chance = numpy.random.default_rng(0)
    questions = numpy.full(40_504, 5.0)
    questions[: 214_354 - int(questions.sum())] += 1
    sums = chance.random((1, 40_504)) - 0.5
    sample = Sample.of(sums, questions, difference=True)
    # A quarter of them in a quarter of 10 s; time of this process, not of others that share the machine.
    before = time.process_time()
    estimates([sample], RESAMPLES // 4)
    assert time.process_time() - before < 10 / 4


def test_the_truth_costs_no_more_memory_than_a_chunk() -> None:
    code = (
        "import resource, numpy; from reports.statistics import Sample, estimates\n"
        "questions = numpy.full(40_504, 5.0)\n"
        "made = [Sample.of(numpy.ones((1, 40_504)), questions, True) for _ in range(24)]\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "estimates(made, 200)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200 * 1024
