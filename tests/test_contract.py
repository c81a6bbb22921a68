"""The promises of a variant: every registered one keeps them, and each check can fail.

Each variant below breaks one promise, and only that one, so that a check that is always satisfied would show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from suite import registry
from suite.attention import Depth, Site, SoftmaxWeights, Variant, Weights
from suite.contract import CHECKS, BrokenPromise, Check, check, check_one
from suite.errors import UserError

TOP_K = '''
"""Attention to the k highest scores (Zhao et al. 2019, 1912.11637)."""
from dataclasses import dataclass

import torch

from suite.attention import Variant, Weights
from suite.registry import register


class TopKWeights(Weights):
    def __init__(self, k):
        super().__init__()
        self.k = k

    def forward(self, scores, mask, positions):
        lowest = torch.finfo(scores.dtype).min
        if mask is not None:
            scores = scores.masked_fill(~mask, lowest)
        least = scores.topk(min(self.k, scores.shape[-1])).values[..., -1:]
        weights = scores.masked_fill(scores < least, lowest).softmax(-1)
        return weights if mask is None else weights.masked_fill(~mask, 0.0)


@register("top_k")
@dataclass(frozen=True)
class TopK(Variant):
    k: int = 3

    def weights(self, site):
        return TopKWeights(self.k)
'''


def by_name(kept: Check) -> str:
    return kept.__name__


@pytest.mark.parametrize("kept", CHECKS, ids=by_name)
@pytest.mark.parametrize("name", registry.names("variant"))
def test_every_registered_variant_keeps_every_promise_but_those_it_declares(name: str, kept: Check) -> None:
    check_one(registry.find("variant", name)(), kept)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("layerdrop", {"p": 0}),
        ("layerdrop", {"pruning": "search_on_valid"}),
        ("layerdrop", {"pruning": "data_driven"}),
        ("span", {"renormalise": False}),
    ],
)
def test_other_arguments_of_registered_variants_keep_every_promise(name: str, arguments: dict) -> None:
    check(registry.find("variant", name)(**arguments))


def test_the_variant_of_a_plugin_file_keeps_every_promise(plugin: Callable[..., Path]) -> None:
    registry.load_plugin(plugin(TOP_K))
    assert len(check(registry.find("variant", "top_k")())) == len(CHECKS)


class OwnParameter(SoftmaxWeights):
    """Softmax at a learned temperature of 1: a method with a parameter of its own that breaks nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, scores, mask, positions):
        return super().forward(scores * self.temperature, mask, positions)

    attend = Weights.attend

    def project(self) -> None:
        with torch.no_grad():
            self.temperature.clamp_(0, 2)


class Negative(Weights):
    def forward(self, scores, mask, positions):
        flat, sharp = (SoftmaxWeights()(scale * scores, mask, positions) for scale in (1, 2))
        return 2 * sharp - flat


class Doubled(Weights):
    def forward(self, scores, mask, positions):
        return 2 * SoftmaxWeights()(scores, mask, positions)


class FullyMaskedRowsFilled(Weights):
    """Where nothing may be attended every key is: what softmax does with a mask of finite numbers."""

    def forward(self, scores, mask, positions):
        if mask is None:
            return scores.softmax(-1)
        weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
        return weights.masked_fill(~mask & mask.any(-1, keepdim=True), 0.0)


class MaskLeaks(Weights):
    """By less than the rounding that the other checks allow."""

    def forward(self, scores, mask, positions):
        weights = SoftmaxWeights()(scores, mask, positions)
        return weights if mask is None else weights + 1e-9 * (~mask & mask.any(-1, keepdim=True))


class OtherAttend(SoftmaxWeights):
    def attend(self, query, key, value, mask, positions):
        return 1.01 * super().attend(query, key, value, mask, positions)


class SharperWithPadding(Weights):
    def forward(self, scores, mask, positions):
        return SoftmaxWeights()(scores * scores.shape[-1], mask, positions)


class Noisy(Weights):
    """By less than the rounding that the other checks allow."""

    def forward(self, scores, mask, positions):
        return SoftmaxWeights()(scores + 1e-6 * torch.randn_like(scores), mask, positions)


class Unreached(OwnParameter):
    def forward(self, scores, mask, positions):
        return SoftmaxWeights()(scores, mask, positions)


class InfiniteGradient(OwnParameter):
    def penalty(self) -> Tensor:
        return (self.temperature - self.temperature.detach()).sqrt()


class Unprojected(OwnParameter):
    """exp keeps the temperature positive, and overflows."""

    def forward(self, scores, mask, positions):
        return SoftmaxWeights()(scores * (self.temperature - 1).exp(), mask, positions)

    def project(self) -> None:
        pass


class GrowsWithItsParameter(OwnParameter):
    """Finite after any step, but its rows sum to 1 only where it starts."""

    def forward(self, scores, mask, positions):
        return SoftmaxWeights()(scores, mask, positions) * self.temperature

    def project(self) -> None:
        pass


class TensorStatistics(SoftmaxWeights):
    def stats(self) -> dict[str, Any]:
        return {"mean": torch.ones(())}


class TwoStatistics(SoftmaxWeights):
    """Neither one number nor one per head."""

    def stats(self) -> dict[str, Any]:
        return {"range": [0.0, 1.0]}


class InfiniteStatistics(SoftmaxWeights):
    """JSON has no such number: the records of a cell could not be written."""

    def stats(self) -> dict[str, Any]:
        return {"range": float("inf")}


class StatisticsOfTheRecord(SoftmaxWeights):
    """The name of a column that every site has: its own number would take that one's place."""

    def stats(self) -> dict[str, Any]:
        return {"density": 0.0}


class HiddenProduct(torch.autograd.Function):
    """Multiplies by the identity where fvcore does not look."""

    @staticmethod
    def forward(ctx, scores):
        return scores @ torch.eye(scores.shape[-1])

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class HidesProducts(Weights):
    def forward(self, scores, mask, positions):
        return SoftmaxWeights()(HiddenProduct.apply(scores), mask, positions)


class HidesProductsInAttend(SoftmaxWeights):
    def attend(self, query, key, value, mask, positions):
        return HiddenProduct.apply(super().attend(query, key, value, mask, positions))


def with_weights(kind: type[Weights]) -> Variant:
    """A variant whose every site has ``kind``."""

    @dataclass(frozen=True)
    class Fixed(Variant):
        def weights(self, site: Site) -> Weights:
            return kind()

    Fixed.__name__ = kind.__name__
    return Fixed()


@dataclass(frozen=True)
class TupleArgument(Variant):
    spans: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class MoreLayers(Variant):
    def configure(self, model_config):
        return replace(model_config, layers=(4, 2, 2))


@dataclass(frozen=True)
class FewerLayers(Variant):
    def configure(self, model_config):
        return replace(model_config, layers=(2, 2, 2))


class OtherGenerator(Depth):
    """Drops a layer that the global generator draws: workers of one cell would drop different ones."""

    def keep(self, generator: torch.Generator | None) -> Sequence[int]:
        return sorted(torch.randperm(self.layers).tolist()[1:]) if self.training else range(self.layers)


@dataclass(frozen=True)
class DropsFromAnotherGenerator(Variant):
    def depth(self, stack: str, layers: int) -> Depth:
        return OtherGenerator(layers)


class UnsortedLayers(Depth):
    def keep(self, generator: torch.Generator | None) -> Sequence[int]:
        return range(self.layers)[::-1]


@dataclass(frozen=True)
class RunsTheLayersBackwards(Variant):
    def depth(self, stack: str, layers: int) -> Depth:
        return UnsortedLayers(layers)


BROKEN: list[tuple[str, Variant]] = [
    ("weights_are_non_negative", with_weights(Negative)),
    ("rows_sum_to_one", with_weights(Doubled)),
    ("masked_keys_get_nothing", with_weights(MaskLeaks)),
    ("attend_follows_the_weights", with_weights(OtherAttend)),
    ("batch_equals_its_rows", with_weights(SharperWithPadding)),
    ("evaluation_is_deterministic", with_weights(Noisy)),
    ("gradients_are_finite", with_weights(Unreached)),
    ("gradients_are_finite", with_weights(InfiniteGradient)),
    ("projection_keeps_the_weights_valid", with_weights(Unprojected)),
    ("projection_keeps_the_weights_valid", with_weights(GrowsWithItsParameter)),
    ("arguments_survive_json", TupleArgument()),
    ("checkpoint_adds_only_its_own", MoreLayers()),
    ("checkpoint_adds_only_its_own", FewerLayers()),
    ("statistics_are_plain", with_weights(TensorStatistics)),
    ("statistics_are_plain", with_weights(TwoStatistics)),
    ("statistics_are_plain", with_weights(InfiniteStatistics)),
    ("statistics_are_plain", with_weights(StatisticsOfTheRecord)),
    ("layers_follow_the_generator", DropsFromAnotherGenerator()),
    ("layers_follow_the_generator", RunsTheLayersBackwards()),
    ("multiply_adds_are_counted", with_weights(HidesProducts)),
    ("multiply_adds_are_counted", with_weights(HidesProductsInAttend)),
]


def refused(variant: Variant) -> list[str]:
    """The checks that ``variant`` does not pass."""
    names = []
    for kept in CHECKS:
        try:
            kept(variant)
        except BrokenPromise:
            names.append(kept.__name__)
    return names


def test_a_harmless_variant_with_a_parameter_passes() -> None:
    assert refused(with_weights(OwnParameter)) == []


@pytest.mark.parametrize(
    ("broken", "variant"), BROKEN, ids=[f"{name}-{type(variant).__name__}" for name, variant in BROKEN]
)
def test_a_broken_variant_fails_the_check_of_its_promise_alone(broken: str, variant: Variant) -> None:
    assert refused(variant) == [broken]


def test_a_filled_row_with_nothing_to_attend_fails() -> None:
    """It breaks two promises at once: its weight lies on masked keys."""
    assert refused(with_weights(FullyMaskedRowsFilled)) == ["rows_sum_to_one", "masked_keys_get_nothing"]


def test_every_check_has_a_variant_that_fails_it() -> None:
    assert {broken for broken, _ in BROKEN} == {kept.__name__ for kept in CHECKS}


def test_a_broken_promise_names_what_was_received() -> None:
    with pytest.raises(BrokenPromise, match=r"language\.0 .* misses a sum of 1 by 1"):
        check(with_weights(Doubled))


def declares(kind: type[Weights], name: str) -> Variant:
    """A variant whose every site has ``kind`` and that says it breaks the promise ``name``."""

    @dataclass(frozen=True)
    class Declared(Variant):
        breaks: ClassVar[Mapping[str, str]] = {name: "As published."}

        def weights(self, site: Site) -> Weights:
            return kind()

    return Declared()


def test_a_declared_defect_passes_and_is_told_with_its_reason() -> None:
    lines = check(declares(Doubled, "rows_sum_to_one"))
    assert [line for line in lines if not line.startswith("kept: ")] == [
        "broken, as declared: Rows of weights sum to 1 where the method says so; a row without a key to attend is "
        "zeros. As published."
    ]
    assert len(lines) == len(CHECKS)


def test_a_declared_defect_that_does_not_show_is_refused() -> None:
    with pytest.raises(BrokenPromise, match=r"rows_sum_to_one fails, .* Received: it passes"):
        check(declares(SoftmaxWeights, "rows_sum_to_one"))


def test_a_declared_defect_excuses_no_other() -> None:
    with pytest.raises(BrokenPromise, match=r"misses a sum of 1 by 1"):
        check(declares(Doubled, "batch_equals_its_rows"))


def test_a_defect_that_no_check_knows_is_told_with_the_nearest() -> None:
    with pytest.raises(UserError, match="rows_sum_to_one"):
        check(declares(Doubled, "rows_sum_to_two"))
