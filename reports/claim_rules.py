"""The rules by which the paper's claims are judged: from records of rows to a verdict with its numbers."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import pyarrow
import pyarrow.parquet

from reports.claims import Judgement, Statement
from reports.scores import ScoreReader, difference
from reports.statistics import estimates
from reports.tables import CellRecord, Row
from suite.records import CellFolder, RecordError, read_lines

SOFTMAX, SPAN, ENTMAX, BOTH = "softmax-9-5-5", "span-9-5-5", "entmax-9-5-5", "span-entmax-9-5-5"
SHALLOW, DEEP = "layerdrop-9-5-5", "layerdrop-10-6-6"

MOST, HALF = 0.8, 0.5
"""Of layers or heads: from the one on a claim holds in a seed, below the other it does not."""
FEWEST = 3
"""Evaluations that a course over training needs."""
MARGIN = 1.0
"""Points below softmax's last validation accuracy at which a cell counts as converged."""
COMPUTE = (2.5, 5.0)
"""Times the compute that are still about 3.5: a factor of the root of 2 either way, rounded."""
SPAN_SHARE, SPAN_LEAST = 0.02, 0.5
"""A change of a layer's span is one from this share of its first span on, and from this many tokens on."""
SPARSE = 1.5
"""Of alpha: half way from softmax to sparsemax."""
BELOW, NOT_BELOW = 0.95, 0.8
"""Shares of heads below SPARSE: from the one on a claim holds in a seed, below the other it does not."""
ALPHA_CHANGE, DENSITY_CHANGE = 0.005, 0.01
CONFIDENCE = 1.0
"""Points of mean confidence that are a difference."""


@dataclass(frozen=True)
class Seed:
    """What one seed says of a claim."""

    name: str
    holds: bool | None
    """None where it cannot be told."""
    numbers: str
    cells: tuple[CellRecord, ...]


def over_seeds(seeds: Sequence[Seed]) -> Judgement:
    said = {seed.holds for seed in seeds}
    verdict = "holds" if said == {True} else "does not hold" if said == {False} else "cannot tell"
    cells = dict.fromkeys(cell.id for seed in seeds for cell in seed.cells)
    return Judgement(verdict, "; ".join(f"{seed.name}: {seed.numbers}" for seed in seeds) + ".", tuple(cells))


def unfinished(rows: Mapping[str, Row], *keys: str) -> Judgement | None:
    """Why nothing can be told of a claim about the rows ``keys``; None where each has a finished seed."""
    lacking = [f"{rows[key].label} is {rows[key].state}" for key in keys if not finished(rows[key])]
    return Judgement("cannot tell", f"{'; '.join(lacking)}.") if lacking else None


def finished(row: Row) -> list[CellRecord]:
    return [cell for cell in row.cells if cell.result is not None]


def seed_name(cell: CellRecord) -> str:
    return f"seed {cell.configuration['seed']}"


def equal_seeds(*rows: Row) -> list[tuple[CellRecord, ...]]:
    """The finished cells of ``rows`` side by side, for the seeds that all of them have."""
    by_seed = [{_seeds(cell): cell for cell in finished(row)} for row in rows]
    return [tuple(cells[seed] for cells in by_seed) for seed in by_seed[0] if all(seed in one for one in by_seed)]


def _seeds(cell: CellRecord) -> tuple[int, ...]:
    """Its own seed, its start's, and so on."""
    seeds, configuration = [], cell.configuration
    while configuration:
        seeds.append(configuration["seed"])
        configuration = configuration["start"]
    return tuple(seeds)


NO_SEEDS = Judgement("cannot tell", "No seed is finished in all rows that are compared.")


def needs_more_compute(rows: Mapping[str, Row]) -> Judgement:
    dropped = [key for key in (SHALLOW, DEEP) if finished(rows[key])]
    if nothing := unfinished(rows, SOFTMAX) or (None if dropped else unfinished(rows, SHALLOW, DEEP)):
        return nothing
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
    """Steps and validation accuracies, per cent."""
    return [(line["step"], line["accuracy"]) for line in read_lines(cell.folder / "metrics.jsonl")]


def _reached(accuracies: Sequence[tuple[int, float]], target: float) -> tuple[int, int | None]:
    """The steps between which an accuracy is first at ``target``; None where it never is."""
    before = 0
    for step, accuracy in accuracies:
        if accuracy >= target:
            return before, step
        before = step
    return before, None


Course = Mapping[tuple[str, str, int], list[list[float]]]
"""Stack, modalities (``words``, ``boxes`` or ``both``) and layer -> at each evaluation a number per head."""


def course(cell: CellRecord, column: str) -> Course:
    """How ``column`` of sites.jsonl went over training.

    LXMERT's cross block serves both directions with the same parameters: its numbers are their means.
    """
    found: dict[tuple[str, str, int], dict[int, list[list[float]]]] = {}
    for line in read_lines(cell.folder / "sites.jsonl"):
        if line.get(column) is None:
            continue
        modalities = line["queries"] if line["queries"] == line["keys"] else "both"
        steps = found.setdefault((line["stack"], modalities, line["index"]), {})
        steps.setdefault(line["step"], []).append(line[column])
    return {
        site: [[fmean(heads) for heads in zip(*sides, strict=True)] for sides in steps.values()]
        for site, steps in found.items()
    }


def _layers(spans: Course) -> dict[tuple[str, str, int], list[float]]:
    """Of each site the mean span over its heads at each evaluation, where there are enough of these."""
    return {site: [fmean(heads) for heads in one] for site, one in spans.items() if len(one) >= FEWEST}


def _noise(spans: Sequence[float]) -> float:
    return max(SPAN_SHARE * spans[0], SPAN_LEAST)


def falls(spans: Sequence[float]) -> bool:
    """Whether ``spans`` end lower than they began, and never rise from their lowest by more than noise."""
    lowest, noise = spans[0], _noise(spans)
    for span in spans:
        if span > lowest + noise:
            return False
        lowest = min(lowest, span)
    return spans[-1] < spans[0] - noise


def rises(spans: Sequence[float]) -> bool:
    return spans[-1] > spans[0] + _noise(spans)


def single_modality_spans_fall(rows: Mapping[str, Row]) -> Judgement:
    def judge(cell: CellRecord) -> Seed:
        stacks: dict[str, list[list[float]]] = {}
        for (stack, *_), spans in _layers(course(cell, "span")).items():
            if spans[0] > SPAN_LEAST:  # What is nothing cannot fall.
                stacks.setdefault(stack, []).append(spans)
        if not {"language", "vision"} <= set(stacks):
            return _too_few(cell)
        shares = {stack: fmean(map(falls, stacks[stack])) for stack in ("language", "vision")}
        text = ", ".join(
            f"{stack} {sum(map(falls, layers))} of {len(layers)} layers fall, mean {_from_to(layers)}"
            for stack, layers in stacks.items()
            if stack in shares
        )
        return Seed(seed_name(cell), _by_share(min(shares.values())), text, (cell,))

    return unfinished(rows, SPAN) or over_seeds([judge(cell) for cell in finished(rows[SPAN])])


def middle_cross_spans_rise(rows: Mapping[str, Row]) -> Judgement:
    def judge(cell: CellRecord) -> Seed:
        cross = {
            index: spans
            for (stack, modalities, index), spans in _layers(course(cell, "span")).items()
            if stack == "cross" and modalities == "both"
        }
        layers = [spans for index, spans in cross.items() if 0 < index < max(cross)]
        if not layers:
            return _too_few(cell)
        text = f"{sum(map(rises, layers))} of {len(layers)} layers rise, mean {_from_to(layers)}"
        return Seed(seed_name(cell), _by_share(fmean(map(rises, layers))), text, (cell,))

    return unfinished(rows, SPAN) or over_seeds([judge(cell) for cell in finished(rows[SPAN])])


def _from_to(layers: Sequence[Sequence[float]]) -> str:
    first, last = (fmean(spans[at] for spans in layers) for at in (0, -1))
    return f"{first:.1f} to {last:.1f} tokens"


def _by_share(share: float) -> bool | None:
    return True if share >= MOST else False if share < HALF else None


def _too_few(cell: CellRecord) -> Seed:
    text = f"no site of these has the {FEWEST} evaluations that a course over training needs"
    return Seed(seed_name(cell), None, text, (cell,))


def visual_alphas_stay_low(rows: Mapping[str, Row]) -> Judgement:
    def judge(cell: CellRecord) -> Seed:
        sites = [one for (_, modalities, _), one in course(cell, "alpha").items() if modalities == "boxes"]
        if not sites or len(sites[0]) < FEWEST:
            return _too_few(cell)
        # One list of all heads per evaluation; what the first half of the training does is not yet a preference.
        evaluations = [[alpha for heads in parts for alpha in heads] for parts in zip(*sites, strict=True)]
        late = evaluations[len(evaluations) // 2 :]
        shares = [fmean(alpha < SPARSE for alpha in heads) for heads in late]
        holds = True if min(shares) >= BELOW else False if shares[-1] < NOT_BELOW else None
        below, heads = sum(alpha < SPARSE for alpha in late[-1]), late[-1]
        text = (
            f"{below} of {len(heads)} heads end below {SPARSE}, mean {fmean(heads):.3f}, highest {max(heads):.3f}"
        )
        return Seed(seed_name(cell), holds, text, (cell,))

    return unfinished(rows, ENTMAX) or over_seeds([judge(cell) for cell in finished(rows[ENTMAX])])


def sparse_heads_grow_denser(rows: Mapping[str, Row]) -> Judgement:
    def judge(cell: CellRecord) -> Seed:
        alphas, densities = course(cell, "alpha"), course(cell, "density")
        changes = [
            (last - first, dense_last - dense_first)
            for site, alpha in alphas.items()
            if site[1] != "words" and len(alpha) >= FEWEST
            for first, last, dense_first, dense_last in zip(
                alpha[0], alpha[-1], densities[site][0], densities[site][-1], strict=True
            )
            if first > SPARSE
        ]
        if not changes:
            text = f"no head began above {SPARSE}, or fewer than {FEWEST} evaluations"
            return Seed(seed_name(cell), None, text, (cell,))
        denser = [
            alpha < -ALPHA_CHANGE or (alpha <= ALPHA_CHANGE and density > DENSITY_CHANGE)
            for alpha, density in changes
        ]
        alpha, density = (fmean(change) for change in zip(*changes, strict=True))
        text = (
            f"{sum(denser)} of {len(denser)} heads grow denser, on average alpha {alpha:+.3f}, "
            f"density {100 * density:+.1f} points"
        )
        return Seed(seed_name(cell), _by_share(fmean(denser)), text, (cell,))

    return unfinished(rows, ENTMAX) or over_seeds([judge(cell) for cell in finished(rows[ENTMAX])])


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

    if nothing := unfinished(rows, ENTMAX, SPAN, DEEP):
        return nothing
    seeds = [judge(cells) for cells in equal_seeds(rows[ENTMAX], rows[SPAN], rows[DEEP])]
    return over_seeds(seeds) if seeds else NO_SEEDS


def _confidence(cell: CellRecord) -> float | None:
    """Mean confidence in the answer given over the test questions, per cent; None without predictions."""
    path = CellFolder(cell.folder).path / "predictions.parquet"
    if not path.exists():
        return None
    try:
        lists = pyarrow.parquet.read_table(path, columns=["top_confidences"]).column(0).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise RecordError(f"{path} cannot be read ({reason}). Delete that cell's folder and run again.") from None
    return 100 * fmean(confidences[0] for confidences in lists)


def more_accurate(better: str, worse: str, rows: Mapping[str, Row]) -> Judgement:
    """Whether the row ``better`` is, by the interval of the difference, question by question and seed by seed."""
    if nothing := unfinished(rows, better, worse):
        return nothing
    pairs = equal_seeds(rows[better], rows[worse])
    if not pairs:
        return NO_SEEDS
    cells = tuple(cell.id for pair in pairs for cell in pair)
    levels = [fmean(cell.accuracy for cell in side) for side in zip(*pairs, strict=True)]
    means = f"{levels[0]:.2f} % against {levels[1]:.2f} %"
    reader = ScoreReader()
    sample = difference([(reader.read(one.folder), reader.read(other.folder)) for one, other in pairs])
    if sample is None:
        return Judgement("cannot tell", f"{means}, without predictions of two images that give an interval.", cells)
    found = estimates([sample])[0]
    verdict = "holds" if found.low > 0 else "does not hold" if found.high < 0 else "cannot tell"
    evidence = f"{means}: {found.value:+.2f} ({found.low:+.2f} to {found.high:+.2f}), seeds {found.seeds}."
    alone = " With one seed nothing is said of another run." if found.seeds == 1 else ""
    return Judgement(verdict, evidence + alone, cells)


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
        "single-spans-fall",
        "Spans of the language and vision stacks fall monotonically.",
        "section 4, figure 1",
        f"Of layers that begin with more than {SPAN_LEAST} tokens. One falls if its mean span ends lower {_MOVES}, "
        f"and never rises so from its lowest. Holds if in both stacks {_SHARES} in one.",
        single_modality_spans_fall,
    ),
    Statement(
        "middle-cross-spans-rise",
        "Where both modalities attend, spans of the intermediate layers rise.",
        "section 4, figure 1",
        f"Cross blocks but the first and the last layer's; one rises if its mean span ends higher {_MOVES}. "
        f"Holds if {_SHARES}.",
        middle_cross_spans_rise,
    ),
    Statement(
        "visual-alphas-low",
        "Alpha stays below 1.5 for visual inputs.",
        "section 4, figure 3",
        "Heads from boxes to boxes in the second half of the training. Holds if at every evaluation "
        f"{100 * BELOW:.0f} % are below {SPARSE}, does not if less than {100 * NOT_BELOW:.0f} % are at the last.",
        visual_alphas_stay_low,
    ),
    Statement(
        "sparse-heads-denser",
        "Where vision takes part, heads that began sparse grow denser.",
        "section 4, figure 3",
        f"Heads with boxes whose alpha began above {SPARSE}. One grows denser if alpha falls by more than "
        f"{ALPHA_CHANGE}, or stays within that and density rises by more than {100 * DENSITY_CHANGE:.0f} point. "
        f"Holds if {_SHARES}.",
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
