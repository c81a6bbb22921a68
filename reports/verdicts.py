"""What our numbers say of the published ones: one stated rule for levels, one for differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.special import stdtrit

from reports.published import Published
from reports.statistics import LEVEL, Estimate

LEVELS = (
    "Verdict, where the test server answered for two seeds or more (test-dev, else test-std): agrees = the "
    "published accuracy lies where 95 % of further runs of ours would, by the spread of our seeds; higher, lower = "
    "ours is above or below it."
)
DIFFERENCES = (
    "Verdict of the differences to the softmax row, theirs on test-dev and ours: cannot tell = our p (Holm) is "
    "0.05 or more, or there is none; else same sign or opposite sign, and agrees = of the same sign, and our 95 % "
    "interval holds the published difference; (1 seed) = of two runs and their questions, not of another run."
)


@dataclass(frozen=True)
class Verdict:
    """What our number says of the published one, by a stated rule."""

    word: str
    """Short enough for a column: agrees, same sign, opposite sign, cannot tell, and so on."""
    reason: str
    """The rule with the numbers that it was applied to."""


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
    published = "holds the published" if holds else "does not hold the published"
    assert paired.adjusted is not None
    if paired.adjusted >= 1 - LEVEL:
        word = "cannot tell"
    elif paired.value * theirs < 0:
        word = "opposite sign"
    else:
        word = "agrees" if holds else "same sign"
    seeds = f"{paired.seeds} seeds" if paired.seeds > 1 else "1 seed, which says nothing of another run"
    return Verdict(
        f"{word} (1 seed)" if paired.seeds == 1 and word != "cannot tell" else word,
        f"{told} over {seeds}, p {paired.adjusted:.2g} (Holm): the interval {published}.",
    )
