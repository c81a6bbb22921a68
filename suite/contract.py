"""What every variant promises, as checks that run on any of them: `ablate variants check NAME`.

Each check builds the variant in a small LXMERT with random weights and raises BrokenPromise where it fails. A
method that others published with a defect declares in ``Variant.breaks`` what it must fail.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from suite import flops
from suite.attention import Depth, Positions, Tokens, Variant, Weights
from suite.errors import UserError, unknown
from suite.models.lxmert import LxmertConfig, LxmertForQuestionAnswering, is_variants_own
from suite.training import answer_loss, penalty, varied

Check = Callable[[Variant], None]

SIZE = LxmertConfig(
    vocabulary=50, answers=7, features=10, width=16, heads=4, intermediate=24, layers=(3, 2, 2),
    hidden_dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
QUESTIONS, WORDS, REGIONS = 5, 9, 6
# Batching changes the order of sums, no more.
ROUNDING = 1e-5
SITE_COLUMNS = ("step", "site", "stack", "queries", "keys", "index", "density")


class BrokenPromise(UserError):
    """A variant does not do what every variant must."""


def check(variant: Variant) -> list[str]:
    """Runs every check; a line for each with what it found. Raises BrokenPromise as ``check_one`` does."""
    known = [promise.__name__ for promise in CHECKS]
    for name in variant.breaks:
        if name not in known:
            raise unknown("check in breaks", name, known)
    return [check_one(variant, promise) for promise in CHECKS]


def check_one(variant: Variant, promise: Check) -> str:
    """Runs one check; what it found, in a line.

    Raises BrokenPromise where the check fails, or where it passes although the variant's ``breaks`` has it.
    """
    title = (promise.__doc__ or promise.__name__).splitlines()[0]
    reason = variant.breaks.get(promise.__name__)
    if reason is None:
        promise(variant)
        return f"kept: {title}"
    try:
        promise(variant)
    except BrokenPromise:
        return f"broken, as declared: {title} {reason}"
    raise BrokenPromise(
        f"Expected: {promise.__name__} fails, as the variant declares. Received: it passes. Take it out of breaks."
    )


def weights_are_non_negative(variant: Variant) -> None:
    """No weight is below zero or not a number."""
    _expect_non_negative(_model(variant))


def rows_sum_to_one(variant: Variant) -> None:
    """Rows of weights sum to 1 where the method says so; a row without a key to attend is zeros."""
    _expect_rows(_model(variant))


def masked_keys_get_nothing(variant: Variant) -> None:
    """A key that may not be attended has a weight of exactly 0."""
    for name, weights, mask, _ in _attention(_model(variant)):
        most = weights.masked_fill(mask.expand_as(weights), 0).max()
        _expect(most == 0, f"{name} gives a masked key a weight of {most:.3g}")


def attend_follows_the_weights(variant: Variant) -> None:
    """A faster way to attend gives the context of the weights themselves."""
    model, inputs = _model(variant), _inputs()
    fast, plain = model(**inputs), model.outputs(**inputs).logits
    _close(fast, plain, "the logits with and without the weights written out")


def batch_equals_its_rows(variant: Variant) -> None:
    """A batch gives what its questions give one by one, without their padding."""
    model, inputs = _model(variant), _inputs()
    together = model(**inputs)
    for row in range(QUESTIONS):
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        length = int(alone["word_mask"].sum())
        alone["words"], alone["word_mask"] = alone["words"][:, :length], alone["word_mask"][:, :length]
        _close(model(**alone), together[row : row + 1], f"question {row} alone and in its batch")


def evaluation_is_deterministic(variant: Variant) -> None:
    """Two evaluations give the same bits, whatever the random generators did between."""
    model, inputs = _model(variant), _inputs()
    first = model(**inputs)
    torch.manual_seed(1)
    torch.rand(10)
    _expect(torch.equal(first, model(**inputs)), "two evaluations of one batch differ")


def gradients_are_finite(variant: Variant) -> None:
    """A training step gives finite gradients, one for every parameter of the method."""
    model = _model(variant).train()
    targets = torch.rand(QUESTIONS, SIZE.answers)
    loss = answer_loss(model(**_inputs(), generator=torch.Generator().manual_seed(0)), targets)
    (loss + penalty(model)).backward()
    for name, weight in model.named_parameters():
        _expect(weight.grad is None or weight.grad.isfinite().all(), f"{name} has a gradient that is not finite")
    reached = {type(part) for part in varied(model) if all(w.grad is not None for w in part.parameters())}
    for part in varied(model):
        _expect(type(part) in reached, f"{type(part).__name__} has parameters that no gradient reaches")


def projection_keeps_the_weights_valid(variant: Variant) -> None:
    """After large steps and ``project`` the logits are finite and the weights still keep their promises."""
    model = _model(variant).train()
    if not any(True for part in varied(model) for _ in part.parameters(recurse=False)):
        return
    with torch.no_grad():
        for part in varied(model):
            for weight in part.parameters(recurse=False):
                weight.add_(100 * torch.randn_like(weight))
            part.project()
    _expect(model(**_inputs()).isfinite().all(), "after a large step and project the logits are not finite")
    _expect_non_negative(model)
    _expect_rows(model)


def arguments_survive_json(variant: Variant) -> None:
    """The arguments are plain values: JSON gives back an equal variant."""
    arguments = dataclasses.asdict(variant)
    again = type(variant)(**json.loads(json.dumps(arguments, allow_nan=False)))
    _expect(again == variant, f"{arguments} does not survive JSON")


def checkpoint_adds_only_its_own(variant: Variant) -> None:
    """The model has LXMERT's parameters, and new ones only under the method's own modules."""
    plain = LxmertForQuestionAnswering(SIZE, Variant()).state_dict()
    own = _model(variant).state_dict()
    missing = [name for name in plain if name not in own]
    foreign = [name for name in own if name not in plain and not is_variants_own(name)]
    _expect(not missing, f"the model lacks {missing}")
    _expect(not foreign, f"the model has {foreign} outside the method's own modules")


def statistics_are_plain(variant: Variant) -> None:
    """Statistics are numbers, or one number per head."""
    for part in varied(_model(variant)):
        for name, value in part.stats().items():
            numbers = value if isinstance(value, list) else [value]
            _expect(name not in SITE_COLUMNS, f"a statistic is called {name}, as a column of every site is")
            _expect(
                all(isinstance(x, int | float) and math.isfinite(x) for x in numbers), f"{name} holds {value!r}"
            )
            _expect(len(numbers) in (1, SIZE.heads), f"{name} has {len(numbers)} numbers for {SIZE.heads} heads")


def multiply_adds_are_counted(variant: Variant) -> None:
    """fvcore counts every product of matrices, with the weights written out and without."""
    for count in (flops.count_reference, flops.count_answer):
        try:
            count(_model(variant), WORDS, REGIONS)
        except UserError as error:
            raise BrokenPromise(str(error)) from None


def layers_follow_the_generator(variant: Variant) -> None:
    """The layers of a step ascend, are at least one, and are drawn from the step's generator alone."""
    for stack, module in _model(variant).train().lxmert.encoder.depth.items():
        depth = cast(Depth, module)
        draws = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            generator = torch.Generator().manual_seed(0)
            draws.append([list(depth.keep(generator)) for _ in range(5)])
        _expect(draws[0] == draws[1], f"the {stack} stack runs other layers for the same generator")
        for kept in draws[0]:
            valid = kept and kept == sorted(set(kept)) and set(kept) <= set(range(depth.layers))
            _expect(valid, f"the {stack} stack of {depth.layers} layers runs {kept}")


CHECKS: tuple[Check, ...] = (
    weights_are_non_negative,
    rows_sum_to_one,
    masked_keys_get_nothing,
    attend_follows_the_weights,
    batch_equals_its_rows,
    evaluation_is_deterministic,
    gradients_are_finite,
    projection_keeps_the_weights_valid,
    arguments_survive_json,
    checkpoint_adds_only_its_own,
    statistics_are_plain,
    multiply_adds_are_counted,
    layers_follow_the_generator,
)


def _model(variant: Variant) -> LxmertForQuestionAnswering:
    torch.manual_seed(0)
    return LxmertForQuestionAnswering(SIZE, variant).eval().requires_grad_(True)


def _inputs() -> dict[str, Any]:
    """Questions of every length, the last without padding, and pictures that lack a region."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.linspace(2, WORDS, QUESTIONS).long()
    word_mask = torch.arange(WORDS) < lengths[:, None]
    region_mask = torch.ones(QUESTIONS, REGIONS, dtype=torch.bool)
    region_mask[::2, -1] = False
    return {
        "words": torch.randint(1, SIZE.vocabulary, (QUESTIONS, WORDS), generator=generator) * word_mask,
        "regions": torch.randn(QUESTIONS, REGIONS, SIZE.features, generator=generator),
        "boxes": torch.rand(QUESTIONS, REGIONS, 4, generator=generator),
        "word_mask": word_mask,
        "region_mask": region_mask,
    }


def _expect_non_negative(model: LxmertForQuestionAnswering) -> None:
    for name, weights, _, _ in _attention(model):
        _expect((weights >= 0).all(), f"{name} has a weight of {weights.min():.3g}")


def _expect_rows(model: LxmertForQuestionAnswering) -> None:
    for name, weights, mask, normalised in _attention(model):
        attended = mask.any(-1).expand(weights.shape[:-1])
        sums = weights.sum(-1)
        _expect(not sums[~attended].any(), f"{name} gives weight in a row with nothing to attend")
        if normalised:
            error = (sums[attended] - 1).abs().max()
            _expect(error < ROUNDING, f"{name} has a row that misses a sum of 1 by {error:.3g}")


@torch.no_grad()
def _attention(model: LxmertForQuestionAnswering) -> list[tuple[str, Tensor, Tensor, bool]]:
    """Weights, mask and whether rows sum to 1, of every site over small and large scores with every mask."""
    found = []
    generator = torch.Generator().manual_seed(0)
    for training in (False, True):
        for site, weights in model.sites():
            weights.train(training)
            queries = "words" if site.queries == "both" else site.queries
            keys = "boxes" if site.keys == "both" else site.keys
            positions = Positions(_tokens(queries, generator), _tokens(keys, generator))
            for scale in (0.01, 1.0, 30.0):
                scores = scale * torch.randn(QUESTIONS, SIZE.heads, WORDS, WORDS, generator=generator)
                mask = torch.rand(QUESTIONS, 1, 1, WORDS, generator=generator) < 0.6
                mask[0], mask[1] = False, True
                made = _made(weights, scores, mask, positions)
                found.append((f"{site.stack}.{site.index} at scores of {scale}", made, mask, weights.normalised))
    return found


def _made(weights: Weights, scores: Tensor, mask: Tensor, positions: Positions) -> Tensor:
    made = weights(scores, mask, positions)
    _expect(made.shape == scores.shape, f"scores {tuple(scores.shape)} became weights {tuple(made.shape)}")
    _expect(not made.isnan().any(), "a weight is not a number")
    return made


def _tokens(modality: str, generator: torch.Generator) -> Tokens:
    boxes = torch.rand(QUESTIONS, WORDS, 4, generator=generator) if modality == "boxes" else None
    return Tokens(modality, None, torch.arange(WORDS), boxes)  # type: ignore[arg-type]


def _close(one: Tensor, other: Tensor, what: str) -> None:
    error = (one - other).abs().max()
    _expect(error < ROUNDING, f"{what} differ by {error:.3g}")


def _expect(kept: object, otherwise: str) -> None:
    if not kept:
        raise BrokenPromise(f"Expected: every variant keeps its promises. Received: {otherwise}. Mend the variant.")
