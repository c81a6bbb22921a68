"""LayerDrop with its three ways of pruning (Fan et al. 2019, 1909.11556, section 3; section 2.4 of the paper).

p counts layers, as in the paper: each training step drops exactly p distinct layers of each stack, and evaluation
runs the same N - p layers for every question. Which ones:

every_other      training drops p layers at random; evaluation drops every floor(N / p)th.
search_on_valid  training drops p layers at random; after training, validation chooses the layers that stay.
                 Until then evaluation runs Every Other's layers or, where its rule refuses p, the first N - p.
data_driven      each layer learns how often it is dropped; evaluation keeps those that are dropped least.

Fan et al. describe Data Driven pruning in four sentences and give no code. Ours, where they leave it open: the
activation m_d of layer d enters as one number, the running mean of how much the layer changes its input (root mean
square, relative to the input's). Its score is s_d = sum_u c_du tanh(a_du m_d + b_du), learned for each layer, and
its rate p_d = p softmax(s)_d, on average p / N. A step drops p layers without replacement in proportion to these
rates (Gumbel top-k: Kool et al. 2019, 1903.06059): for p = 1 layer d is dropped with probability p_d, for more
with one that grows with p_d and cannot exceed 1. The gradient is a straight-through one (Bengio et al. 2013,
1308.3432): a layer that runs passes its output on unchanged, and p_d gets the gradient of (1 - p_d) output + p_d
input, which is input - output. It is biased: a layer that is dropped gives its rate none.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from suite.attention import AllLayers, Depth, Variant
from suite.errors import UserError

MOST_SETS = 1000
"""Of a stack that Search on Valid may choose among: each is an evaluation."""
UNITS = 8
"""Hidden units of a layer's score."""
MOMENTUM = 0.1
"""Share of the running activation that a step replaces."""


def every_other(layers: int, p: int) -> list[int]:
    """The layers (from 0) that Every Other pruning keeps of ``layers`` to drop ``p``.

    It drops each depth d, counted from 1, with d = 0 mod floor(1 / rate); the rate is p / layers, so that
    p = 1 drops the deepest layer. Raises UserError where the rule does not drop exactly p.
    """
    _check_count(layers, p)
    if p == 0:
        return list(range(layers))
    kept = [index for index in range(layers) if (index + 1) % (layers // p)]
    if len(kept) != layers - p:
        raise UserError(
            f"Every Other pruning cannot drop exactly p={p} of {layers} layers: its rule drops each "
            f"{layers // p}th, {layers - len(kept)} in all. Choose another p or other layers."
        )
    return kept


def _check_count(layers: int, p: int) -> None:
    if not 0 <= p < layers:
        raise UserError(f"LayerDrop needs p from 0 to {layers - 1} for a stack of {layers} layers; received {p}.")


def kept_sets(layers: int, p: int) -> list[list[int]]:
    """Every set of ``layers`` - ``p`` layers: Every Other's first where its rule allows p, then in order.

    Raises UserError where there are too many to evaluate.
    """
    _check_count(layers, p)
    if (count := math.comb(layers, p)) > MOST_SETS:
        raise UserError(
            f"Search on Valid evaluates at most {MOST_SETS} sets of layers of a stack; p={p} of {layers} layers "
            f"leaves {count}. Choose another p, or another pruning."
        )
    sets = [list(kept) for kept in itertools.combinations(range(layers), layers - p)]
    try:
        first = every_other(layers, p)
    except UserError:
        return sets
    return [first, *(kept for kept in sets if kept != first)]


class RandomLayers(Depth):
    """Training drops p layers, every set of p as likely; evaluation is the pruning's."""

    def __init__(self, layers: int, p: int) -> None:
        super().__init__(layers)
        self.p = p

    def keep(self, generator: torch.Generator | None) -> Sequence[int]:
        if not self.training:
            return self.pruned()
        order = torch.randperm(self.layers, generator=generator)
        return sorted(order[self.p :].tolist())

    def pruned(self) -> Sequence[int]:
        """The layers that evaluation runs."""
        raise NotImplementedError


class EveryOther(RandomLayers):
    def __init__(self, layers: int, p: int) -> None:
        super().__init__(layers, p)
        self.kept = every_other(layers, p)

    def pruned(self) -> Sequence[int]:
        return self.kept


class SearchOnValid(RandomLayers):
    dropped: Tensor
    """(N,) True for the layers that validation has dropped; a start may bring those of another p."""

    def __init__(self, layers: int, p: int) -> None:
        super().__init__(layers, p)
        self.sets = kept_sets(layers, p)
        self.register_buffer("dropped", torch.zeros(layers, dtype=torch.bool))

    def pruned(self) -> Sequence[int]:
        kept = [index for index, dropped in enumerate(self.dropped.tolist()) if not dropped]
        return kept if len(kept) == self.layers - self.p else self.sets[0]

    def options(self) -> Sequence[Sequence[int]]:
        return self.sets

    def choose(self, layers: Sequence[int]) -> None:
        self.dropped.fill_(True)
        self.dropped[list(layers)] = False


class DataDriven(Depth):
    """Training drops p layers by learned rates; evaluation keeps the N - p with the lowest."""

    activation: Tensor
    """(N,) running mean of how much each layer changes its input."""
    current: Tensor
    """(N,) rates of the step, from ``keep`` to the gates of its layers."""

    def __init__(self, layers: int, p: int) -> None:
        super().__init__(layers)
        _check_count(layers, p)
        self.p = p
        self.register_buffer("activation", torch.zeros(layers))
        # No random numbers: every layer starts at the same rate, and the other weights are those of every cell.
        self.slope = nn.Parameter(torch.ones(layers, UNITS))
        self.offset = nn.Parameter(torch.linspace(-1, 1, UNITS).repeat(layers, 1))
        self.scale = nn.Parameter(torch.zeros(layers, UNITS))

    def rates(self) -> Tensor:
        """p_d, (N,): how often each layer is dropped, on average p / N."""
        # A copy: the running mean goes on before the gradient is taken.
        hidden = torch.tanh(self.slope * self.activation.clone()[:, None] + self.offset)
        return self.p * (self.scale * hidden).sum(1).softmax(0)

    def keep(self, generator: torch.Generator | None) -> Sequence[int]:
        rates = self.rates()
        keys = rates.detach().cpu()
        if self.training:
            self.current = rates
            keys = keys.log() - torch.empty(self.layers).exponential_(generator=generator).log()
        # Of equal rates the deepest is dropped first.
        order = sorted(range(self.layers), key=keys.tolist().__getitem__)
        return sorted(order[: self.layers - self.p])

    def gate(self, index: int, before: Tensor, after: Tensor) -> Tensor:
        if not self.training:
            return after
        change = after - before
        with torch.no_grad():
            squares = [part.to(self.activation.dtype).square().sum() for part in (change, before)]
            changed, was = self.summed(torch.stack(squares)).sqrt()
            self.activation[index].lerp_(changed / was.clamp(min=1e-6), MOMENTUM)
        rate = self.current[index]
        return after + (rate.detach() - rate) * change


Pruning = Literal["every_other", "search_on_valid", "data_driven"]
PRUNINGS = {"every_other": EveryOther, "search_on_valid": SearchOnValid, "data_driven": DataDriven}


@dataclass(frozen=True)
class LayerDrop(Variant):
    """Softmax attention in a stack that loses p layers."""

    p: int = 1
    pruning: Pruning = "every_other"

    def depth(self, stack: str, layers: int) -> Depth:
        if self.p == 0:
            return AllLayers(layers)
        return PRUNINGS[self.pruning](layers, self.p)
