"""What our numbers say of the published ones: one stated rule for levels, one for differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from scipy.special import stdtrit

from reports.published import Published
from reports.statistics import LEVEL, Estimate, Verdict

LEVELS = (
    "Verdict, where the test server answered for two seeds or more (test-dev, else test-std): agrees = the "
    "published accuracy lies where 95 % of further runs of ours would, by the spread of our seeds; higher, lower = "
    "ours is above or below it."
)
DIFFERENCES = (
    "Verdict of the differences to the softmax row, theirs on test-dev and ours with its 95 % interval: "
    "agrees = the same sign, and our interval holds the published difference and not 0; same sign, opposite sign = "
    "our interval does not hold 0; cannot tell = it holds 0, or there is none; (1 seed) = of two runs and their "
    "questions, not of another run."
)


def verdict(
    published: Published, reference: Published, paired: Estimate | None, server: Mapping[str, Sequence[float]]
) -> Verdict | None:
    """Of a row that is measured; None for the softmax row where only differences can be compared.

    ``paired`` is our difference to the softmax row, ``server`` the test server's answers, one a seed, by split.
    """
    for split, theirs in published.accuracies.items():
        if len(server.get(split, ())) >= 2:
            return _of_levels(split, theirs, server[split])
    if published.key == reference.key:
        return None
    return _of_differences(published.difference, paired)


def _of_levels(split: str, theirs: float, ours: Sequence[float]) -> Verdict:
    mean, seeds = fmean(ours), len(ours)
    half = float(stdtrit(seeds - 1, 0.5 + LEVEL / 2)) * stdev(ours) * math.sqrt(1 + 1 / seeds)
    word = "agrees" if abs(theirs - mean) <= half else "higher" if mean > theirs else "lower"
    return Verdict(
        word,
        f"Published {theirs:.2f} on {split}; ours {mean:.2f} over {seeds} seeds, of which a further run would lie "
        f"in [{mean - half:.2f}, {mean + half:.2f}] (95 %).",
    )


def _of_differences(theirs: float, paired: Estimate | None) -> Verdict:
    if paired is None:
        return Verdict("cannot tell", f"Published {theirs:+.2f} to softmax; ours has no interval.")
    interval = f"[{paired.low:+.2f}, {paired.high:+.2f}]"
    told = f"Published {theirs:+.2f} to softmax; ours {paired.value:+.2f}, 95 % {interval}"
    holds = paired.low <= theirs <= paired.high
    if paired.low <= 0 <= paired.high:
        word, why = "cannot tell", f"the interval holds 0 and {'holds' if holds else 'does not hold'} the published"
    elif paired.value * theirs < 0:
        word, why = "opposite sign", "the interval does not hold 0"
    elif holds:
        word, why = "agrees", "the interval holds the published and not 0"
    else:
        word, why = "same sign", "the interval holds neither the published nor 0"
    if paired.seeds == 1:
        word, why = f"{word} (1 seed)", f"{why}; of two runs, and says nothing of another"
    return Verdict(word, f"{told} over {paired.seeds} seed{'s' * (paired.seeds > 1)}: {why}.")
