"""The paper's claims with their rules: from records of rows to a verdict with its numbers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy

from reports.cells import CellRecord
from reports.claim_seeds import (
    BOTH,
    DEEP,
    ENTMAX,
    FEWEST,
    NO_SEEDS,
    SHALLOW,
    SOFTMAX,
    SPAN,
    Judgement,
    Seed,
    equal_seeds,
    finished,
    over_seeds,
    seed_name,
    unfinished,
    unlike,
)
from reports.claim_sites import (
    ALPHA_CHANGE,
    BELOW,
    DENSITY_CHANGE,
    HALF,
    MOST,
    NOT_BELOW,
    SPAN_LEAST,
    SPAN_SHARE,
    SPARSE,
    middle_cross_spans_rise,
    single_modality_spans_fall,
    sparse_heads_grow_denser,
    visual_alphas_stay_low,
)
from reports.predictions import damage_explained, predictions_file, read_predictions
from reports.published import INTERMEDIATE, WIDTH, is_published_size
from reports.report import Row
from reports.scores import ScoreReader, difference
from reports.statistics import estimates
from suite.files import damaged

MARGIN = 1.0
"""Points below softmax's last validation accuracy at which a cell counts as converged."""
COMPUTE = (2.5, 5.0)
"""Times the compute that are still about 3.5: a factor of the root of 2 either way, rounded."""
FLOPS = 0.5
"""Points that a change of multiply-adds may be off."""
BUDGET = ("protocol.steps", "protocol.batch_size", "protocol.evaluations")
"""What may differ where compute is compared."""
CONFIDENCE = 1.0
"""Points of mean confidence that are a difference."""


@dataclass(frozen=True)
class Statement:
    """A claim before it is held against records."""

    key: str
    text: str
    source: str
    rule: str
    judge: Callable[[Mapping[str, Row]], Judgement]
    """Of the rows that the paper published, by their keys."""


def needs_more_compute(rows: Mapping[str, Row]) -> Judgement:
    dropped = [key for key in (SHALLOW, DEEP) if finished(rows[key])]
    if nothing := unfinished(rows, SOFTMAX) or (None if dropped else unfinished(rows, SHALLOW, DEEP)):
        return nothing
    if different := unlike(rows, SOFTMAX, *dropped, but=BUDGET):
        return different
    seeds = [
        _compute_of(softmax, layerdrop, rows[key].label)
        for key in dropped
        for softmax, layerdrop in equal_seeds(rows[SOFTMAX], rows[key])
    ]
    return over_seeds(seeds) if seeds else NO_SEEDS


def _compute_of(softmax: CellRecord, layerdrop: CellRecord, label: str) -> Seed:
    name, cells = f"{label}, {seed_name(layerdrop)}", (softmax, layerdrop)
    accuracies = _accuracies(softmax)
    if len(accuracies) < FEWEST:
        return Seed(name, None, f"softmax has {len(accuracies)} evaluations, at least {FEWEST} are needed", cells)
    target = accuracies[-1][1] - MARGIN
    (after, by), (later, latest) = _reached(accuracies, target), _reached(_accuracies(layerdrop), target)
    if by is None or by == 0:
        return Seed(name, None, f"softmax has {target:.2f} % from the first evaluation on", cells)
    costs = [
        cell.result["macs_reference"] * cell.configuration["protocol"]["batch_size"]
        for cell in (layerdrop, softmax)
        if cell.result is not None
    ]
    cost = costs[0] / costs[1]
    low = later * cost / by
    high = latest * cost / after if latest is not None and after else math.inf
    least, most = COMPUTE
    holds = True if least <= low and high <= most else False if high < least or low > most else None
    reached = f"after {later:,} to {latest:,}" if latest is not None else f"not within {later:,}"
    times = f"{low:.2f} to {high:.2f} times" if high < math.inf else f"at least {low:.2f} times"
    text = f"{target:.2f} % by softmax after {after:,} to {by:,} steps, by LayerDrop {reached}: {times} the compute"
    return Seed(name, holds, text, cells)


def _accuracies(cell: CellRecord) -> list[tuple[int, float]]:
    """Steps and validation accuracies, per cent, without evaluations that gave no number."""
    return [(line["step"], line["accuracy"]) for line in cell.metrics if line.get("accuracy") is not None]


def _reached(accuracies: Sequence[tuple[int, float]], target: float) -> tuple[int, int | None]:
    """The steps between which an accuracy is first at ``target``; None where it never is."""
    before = 0
    for step, accuracy in accuracies:
        if accuracy >= target:
            return before, step
        before = step
    return before, None


def entmax_most_confident(rows: Mapping[str, Row]) -> Judgement:
    def judge(cells: tuple[CellRecord, ...]) -> Seed:
        confident = [_confidence(cell) for cell in cells]
        known = [one for one in confident if one is not None]
        if len(known) < len(cells):
            return Seed(seed_name(cells[0]), None, "not every cell has predictions", cells)
        entmax, *others = known
        lead = entmax - max(others)
        text = "entmax {:.2f} %, span {:.2f} %, LayerDrop {:.2f} %".format(*known)
        holds = True if lead > CONFIDENCE else False if lead < -CONFIDENCE else None
        return Seed(seed_name(cells[0]), holds, text, cells)

    if nothing := unfinished(rows, ENTMAX, SPAN, DEEP) or unlike(rows, ENTMAX, SPAN, DEEP):
        return nothing
    seeds = [judge(cells) for cells in equal_seeds(rows[ENTMAX], rows[SPAN], rows[DEEP])]
    return over_seeds(seeds) if seeds else NO_SEEDS


def _confidence(cell: CellRecord) -> float | None:
    """Mean confidence in the answer given over the test questions, per cent; None without predictions."""
    table = read_predictions(cell.record, ["top_confidences"])
    if table is None:
        return None
    with damage_explained(cell.record):
        lists = table.column(0).combine_chunks()
        begins = lists.offsets.to_numpy()
        # The first of each: the most confident. As arrays, since lists of them take most of the time of all claims.
        first = lists.values.to_numpy(zero_copy_only=False)[begins[:-1]]
        if not (begins[1:] > begins[:-1]).all() or not numpy.isfinite(first).all():
            raise damaged(predictions_file(cell.record), "it has questions without a confidence")
        return 100 * fmean(first.tolist())


def more_accurate(better: str, worse: str, rows: Mapping[str, Row]) -> Judgement:
    """Whether the row ``better`` is, by the interval of the difference, question by question and seed by seed."""
    if nothing := unfinished(rows, better, worse) or unlike(rows, better, worse):
        return nothing
    pairs = equal_seeds(rows[better], rows[worse])
    if not pairs:
        return NO_SEEDS
    cells = tuple(cell.id for pair in pairs for cell in pair)
    levels = [fmean(cell.accuracy for cell in side) for side in zip(*pairs, strict=True)]
    means = f"{levels[0]:.2f} % against {levels[1]:.2f} %"
    reader = ScoreReader()
    sample = difference([(reader.read(one.record), reader.read(other.record)) for one, other in pairs])
    if sample is None:
        return Judgement("cannot tell", f"{means}, without predictions of two images that give an interval.", cells)
    found = estimates([sample])[0]
    verdict = "holds" if found.low > 0 else "does not hold" if found.high < 0 else "cannot tell"
    evidence = f"{means}: {found.value:+.2f} ({found.low:+.2f} to {found.high:+.2f}), seeds {found.seeds}."
    alone = " With one seed nothing is said of another run." if found.seeds == 1 else ""
    return Judgement(verdict, evidence + alone, cells, len(pairs))


def costs(changed: str, stated: float, rows: Mapping[str, Row]) -> Judgement:
    """Whether multiply-adds of the row ``changed`` are ``stated`` per cent from those of softmax."""
    # How long a model was trained, and on which questions, is no part of what it costs.
    trained = ("protocol.", "start", "train", "validation", "test", "pictures")
    if nothing := unfinished(rows, SOFTMAX, changed) or unlike(rows, SOFTMAX, changed, but=trained):
        return nothing
    one, other = (finished(rows[key])[0] for key in (changed, SOFTMAX))
    found = rows[changed].macs_change
    assert found is not None
    model = other.configuration["model"]
    near = "holds" if abs(found - stated) <= FLOPS else "does not hold"
    # What does not shrink with the layers, the words' and boxes' first maps, weighs more in a narrow model: a
    # change that is near the stated one there is so by accident. None at all is none at any size.
    verdict = near if is_published_size(model) or not stated else "cannot tell"
    text = f"{rows[changed].label}: {found:+.2f} % where {stated:+.2f} % is stated, at width {model['width']}."
    return Judgement(verdict, text, (one.id, other.id))


_MOVES = f"by more than {100 * SPAN_SHARE:.0f} % of its first span and {SPAN_LEAST} tokens"
_SHARES = f"at least {100 * MOST:.0f} % do, does not if less than {100 * HALF:.0f} % do"


def _above(change: str) -> str:
    return (
        f"Holds if the 95 % interval of test accuracy, {change}, paired by questions and seeds, lies above 0, does "
        "not if it lies below."
    )


STATEMENTS = (
    Statement(
        "layerdrop-compute",
        "LayerDrop needs about 3.5 times the compute to converge.",
        "section 4, figure 2",
        "Steps x batch x multiply-adds until validation first has softmax's last accuracy less "
        f"{MARGIN:g} point, over softmax's; each lies between two evaluations, so that the quotient is a range. "
        f"Holds if it is within {COMPUTE[0]:g} to {COMPUTE[1]:g}, does not if it is all below or all above.",
        needs_more_compute,
    ),
    Statement(
        "layerdrop-flops",
        "LayerDrop with p = 1 reduces the FLOPs of 9-5-5 by 17.54 %.",
        "section 4",
        f"Multiply-adds against softmax 9-5-5. Holds within {FLOPS} points, does not beyond; it cannot be told at "
        f"another width than {WIDTH} (inner {INTERMEDIATE}).",
        functools.partial(costs, SHALLOW, -17.54),
    ),
    Statement(
        "layerdrop-same-flops",
        "LayerDrop 10-6-6 with p = 1 has the FLOPs of 9-5-5.",
        "section 4",
        f"Multiply-adds against softmax 9-5-5. Holds within {FLOPS} points, does not beyond.",
        functools.partial(costs, DEEP, 0.0),
    ),
    Statement(
        "single-spans-fall",
        "Spans of the language and vision stacks fall monotonically.",
        "section 4, figure 1",
        f"Of layers that begin with more than {SPAN_LEAST} tokens. One falls if its mean span ends lower {_MOVES}, "
        f"and never rises so from its lowest. Holds if in both stacks {_SHARES} in one; cannot be told if no layer "
        "of the model moves.",
        single_modality_spans_fall,
    ),
    Statement(
        "middle-cross-spans-rise",
        "Where both modalities attend, spans of the intermediate layers rise.",
        "section 4, figure 1",
        f"Cross blocks but the first and the last layer's; one rises if its mean span ends higher {_MOVES}. "
        f"Holds if {_SHARES}; cannot be told if no layer of the model moves.",
        middle_cross_spans_rise,
    ),
    Statement(
        "visual-alphas-low",
        "Alpha stays below 1.5 for visual inputs.",
        "section 4, figure 3",
        "Heads from boxes to boxes in the second half of the training. Holds if at every evaluation "
        f"{100 * BELOW:.0f} % are below {SPARSE}, does not if less than {100 * NOT_BELOW:.0f} % are at the last; "
        f"cannot be told if no alpha of the model moves by more than {ALPHA_CHANGE}.",
        visual_alphas_stay_low,
    ),
    Statement(
        "sparse-heads-denser",
        "Where vision takes part, heads that began sparse grow denser.",
        "section 4, figure 3",
        f"Heads with boxes whose alpha began above {SPARSE}. One grows denser if alpha falls by more than "
        f"{ALPHA_CHANGE}, or stays within that and density rises by more than {100 * DENSITY_CHANGE:.0f} point. "
        f"Holds if {_SHARES}; cannot be told if no alpha of the model moves by more than that.",
        sparse_heads_grow_denser,
    ),
    Statement(
        "entmax-confident",
        "Entmax makes the most confident predictions.",
        "section 4, figure 4",
        "Mean confidence in the answer given, over all test questions. Holds if entmax's is above span's and "
        f"LayerDrop 10-6-6's by more than {CONFIDENCE:g} point, does not if it is below one of them by more.",
        entmax_most_confident,
    ),
    Statement(
        "span-needs-dense",
        "Adaptive span works better with dense weights than with entmax's.",
        "section 5, table 2",
        _above("span minus span and entmax"),
        functools.partial(more_accurate, SPAN, BOTH),
    ),
    Statement(
        "shallow-layerdrop-better",
        "With LayerDrop the shallower network (9-5-5) is better than the deeper (10-6-6).",
        "section 5, table 2",
        _above("9-5-5 minus 10-6-6"),
        functools.partial(more_accurate, SHALLOW, DEEP),
    ),
)
