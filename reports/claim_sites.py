"""The rules for claims about what attention learned: spans and alphas of each site over training."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from reports.cells import CellRecord, is_per_head, told_of
from reports.claim_seeds import ENTMAX, FEWEST, SPAN, Judgement, Seed, finished, over_seeds, seed_name, unfinished
from reports.report import Row
from suite.files import damaged
from suite.records import CellFolder

MOST, HALF = 0.8, 0.5
"""Of layers or heads: from the one on a claim holds in a seed, below the other it does not."""
SPAN_SHARE, SPAN_LEAST = 0.02, 0.5
"""A change of a layer's span is one from this share of its first span on, and from this many tokens on."""
SPARSE = 1.5
"""Of alpha: half way from softmax to sparsemax."""
BELOW, NOT_BELOW = 0.95, 0.8
"""Shares of heads below SPARSE: from the one on a claim holds in a seed, below the other it does not."""
ALPHA_CHANGE, DENSITY_CHANGE = 0.005, 0.01


Course = Mapping[tuple[str, str, int], list[list[float]]]
"""Stack, modalities (``words``, ``boxes`` or ``both``) and layer -> at each evaluation a number per head."""


@functools.lru_cache(maxsize=256)
def courses(record: CellFolder, *columns: str) -> tuple[Course, ...]:
    """How each of the ``columns`` of sites.jsonl went over training; kept, since several claims are about one cell.

    LXMERT's cross block serves both directions with the same parameters: its numbers are their means.
    """
    found: list[dict[tuple[str, str, int], dict[int, list[list[float]]]]] = [{} for _ in columns]
    path = record.path / "sites.jsonl"
    for number, line in enumerate(record.lines("sites"), 1):
        modalities = line["queries"] if line["queries"] == line["keys"] else "both"
        for column, sites in zip(columns, found, strict=True):
            if line.get(column) is None:
                continue
            if not is_per_head(line[column]):
                raise damaged(Path(f"{path}:{number}"), f"its {column} is expected to be a list of numbers")
            steps = sites.setdefault((line["stack"], modalities, line["index"]), {})
            steps.setdefault(line["step"], []).append(line[column])
    with told_of(path):  # Each side has as many heads.
        return tuple(
            {
                site: [[fmean(heads) for heads in zip(*sides, strict=True)] for sides in steps.values()]
                for site, steps in sites.items()
            }
            for sites in found
        )


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
        (spans_of,) = courses(cell.record, "span")
        layers = _layers(spans_of)
        for (stack, *_), spans in layers.items():
            if spans[0] > SPAN_LEAST:  # What is nothing cannot fall.
                stacks.setdefault(stack, []).append(spans)
        if not {"language", "vision"} <= set(stacks):
            return _too_few(cell)
        if not _spans_moved(layers):
            return _still(cell, "span", STILL_SPANS)
        shares = {stack: fmean(map(falls, stacks[stack])) for stack in ("language", "vision")}
        text = ", ".join(
            f"{stack} {sum(map(falls, courses))} of {len(courses)} layers fall, mean {_from_to(courses)}"
            for stack, courses in stacks.items()
            if stack in shares
        )
        return Seed(seed_name(cell), _by_share(min(shares.values())), text, (cell,))

    return unfinished(rows, SPAN) or over_seeds([judge(cell) for cell in finished(rows[SPAN])])


def middle_cross_spans_rise(rows: Mapping[str, Row]) -> Judgement:
    def judge(cell: CellRecord) -> Seed:
        (spans_of,) = courses(cell.record, "span")
        every = _layers(spans_of)
        cross = {
            index: spans
            for (stack, modalities, index), spans in every.items()
            if stack == "cross" and modalities == "both"
        }
        layers = [spans for index, spans in cross.items() if 0 < index < max(cross)]
        if not layers:
            return _too_few(cell)
        if not _spans_moved(every):
            return _still(cell, "span", STILL_SPANS)
        text = f"{sum(map(rises, layers))} of {len(layers)} layers rise, mean {_from_to(layers)}"
        return Seed(seed_name(cell), _by_share(fmean(map(rises, layers))), text, (cell,))

    return unfinished(rows, SPAN) or over_seeds([judge(cell) for cell in finished(rows[SPAN])])


def _from_to(layers: Sequence[Sequence[float]]) -> str:
    first, last = (fmean(spans[at] for spans in layers) for at in (0, -1))
    return f"{first:.1f} to {last:.1f} tokens"


def _by_share(share: float) -> bool | None:
    return True if share >= MOST else False if share < HALF else None


STILL_SPANS = f"{100 * SPAN_SHARE:.0f} % of a layer's first and {SPAN_LEAST} tokens"


def _spans_moved(layers: Mapping[tuple[str, str, int], Sequence[float]]) -> bool:
    """Whether training went on long enough for the mean span of any layer to change, whichever way."""
    return any(max(spans) - min(spans) > _noise(spans) for spans in layers.values())


def _alphas_moved(alphas: Course) -> bool:
    """The same of the alpha of any head."""
    heads = [one for evaluations in alphas.values() for one in zip(*evaluations, strict=True)]
    return any(max(one) - min(one) > ALPHA_CHANGE for one in heads)


def _still(cell: CellRecord, what: str, noise: str) -> Seed:
    text = f"no {what} anywhere in the model moved by more than {noise}, the training was too short to tell"
    return Seed(seed_name(cell), None, text, (cell,))


def _too_few(cell: CellRecord) -> Seed:
    text = f"no site of these has the {FEWEST} evaluations that a course over training needs"
    return Seed(seed_name(cell), None, text, (cell,))


def visual_alphas_stay_low(rows: Mapping[str, Row]) -> Judgement:
    def judge(cell: CellRecord) -> Seed:
        alphas, _ = courses(cell.record, "alpha", "density")
        sites = [one for (_, modalities, _), one in alphas.items() if modalities == "boxes"]
        if not sites or len(sites[0]) < FEWEST:
            return _too_few(cell)
        if not _alphas_moved(alphas):
            return _still(cell, "alpha", f"{ALPHA_CHANGE}")
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
        alphas, densities = courses(cell.record, "alpha", "density")
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
        if not _alphas_moved(alphas):
            return _still(cell, "alpha", f"{ALPHA_CHANGE}")
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
