"""What our numbers say of the published ones: one stated rule for levels, one for differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.special import stdtrit

from reports.published import Published
from reports.statistics import LEVEL, Estimate

WIDE = 0.5
"""Points that a further run may lie from our mean, beyond which holding the published level says nothing: the
paper's span and entmax rows are 0.8 and 0.7 points from softmax."""
LEVELS = (
    "Verdict, where the test server answered for two seeds or more (test-dev, else test-std): agrees = the "
    "published accuracy lies where 95 % of further runs of ours would, by the spread of our seeds, and these lie "
    f"within {WIDE} points of our mean; cannot tell = it lies there, and they do not; higher, lower = ours is "
    "above or below it."
)


@dataclass(frozen=True)
class Verdict:
    """What our number says of the published one, by a stated rule."""

    word: str
    """Short enough for a column: agrees, same sign, opposite sign, cannot tell, and so on."""
    reason: str
    """The rule with the numbers that it was applied to."""


def differences_rule(comparable: bool) -> str:
    """The rule for differences to the softmax row; for ``comparable`` see ``verdict``."""
    sizes = "How large they are is not compared: our data, or the size of our model, are not the paper's. "
    if comparable:
        sizes = (
            "Further, agrees = of the same sign, and our 95 % interval holds the published difference; not seen = "
            "p is 0.05 or more, and our interval does not hold the published difference. "
        )
    return (
        "Verdict of the differences to the softmax row, theirs on test-dev and ours: same sign or opposite sign = "
        f"our p (Holm) is below 0.05; else cannot tell. {sizes}"
        "(1 seed) = of two runs and their questions, not of another run."
    )


def verdict(
    published: Published,
    reference: Published,
    paired: Estimate | None,
    server: Mapping[str, Sequence[float]],
    comparable: bool,
) -> Verdict | None:
    """Of a row that is measured; None for the softmax row where only differences can be compared.

    ``paired`` is our difference to the softmax row, ``server`` the test server's answers, one a seed, by split.
    Only where data and size of model are the paper's, ``comparable``, can more than signs be compared.
    """
    for split, theirs in published.accuracies.items():
        if len(server.get(split, ())) >= 2:
            return _of_levels(split, theirs, server[split])
    if published.key == reference.key:
        return None
    return _of_differences(published.difference, paired, comparable)


def _of_levels(split: str, theirs: float, ours: Sequence[float]) -> Verdict:
    mean, seeds = fmean(ours), len(ours)
    half = float(stdtrit(seeds - 1, 0.5 + LEVEL / 2)) * stdev(ours) * math.sqrt(1 + 1 / seeds)
    if abs(theirs - mean) > half:
        word = "higher" if mean > theirs else "lower"
    else:
        word = "agrees" if half <= WIDE else "cannot tell"
    return Verdict(
        word,
        f"Published {theirs:.2f} on {split}; ours {mean:.2f} over {seeds} seeds, of which a further run would lie "
        f"in [{mean - half:.2f}, {mean + half:.2f}] (95 %).",
    )


def _of_differences(theirs: float, paired: Estimate | None, comparable: bool) -> Verdict:
    if paired is None:
        return Verdict("cannot tell", f"Published {theirs:+.2f} to softmax; ours has no interval.")
    interval = f"[{paired.low:+.2f}, {paired.high:+.2f}]"
    told = f"Published {theirs:+.2f} to softmax; ours {paired.value:+.2f}, 95 % {interval}"
    holds = paired.low <= theirs <= paired.high
    published = "holds the published" if holds else "does not hold the published"
    assert paired.adjusted is not None
    if paired.adjusted >= 1 - LEVEL:
        word = "not seen" if comparable and not holds else "cannot tell"
    elif paired.value * theirs < 0:
        word = "opposite sign"
    else:
        word = "agrees" if comparable and holds else "same sign"
    seeds = f"{paired.seeds} seeds" if paired.seeds > 1 else "1 seed, which says nothing of another run"
    return Verdict(
        f"{word} (1 seed)" if paired.seeds == 1 and word != "cannot tell" else word,
        f"{told} over {seeds}, p {paired.adjusted:.2g} (Holm): the interval {published}.",
    )
