"""Which layers evaluation runs: chosen on validation after training, or named by a cell that is evaluated only."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TypeVar, cast

import torch

from suite.attention import Depth
from suite.models.lxmert import LxmertForQuestionAnswering

LIMIT = 64
"""Combinations up to which all are tried; beyond it the stacks are searched in turn."""
MODULES = {"language": "layer", "vision": "r_layers", "cross": "x_layers"}
"""Stack -> its layers in the encoder."""
LAYER = re.compile(rf"lxmert\.encoder\.({'|'.join(MODULES.values())}|depth)\.\w+\.")

Option = TypeVar("Option")
Tensors = TypeVar("Tensors", bound=torch.Tensor)


def best_combination(
    options: Sequence[Sequence[Option]], score: Callable[[tuple[Option, ...]], float]
) -> tuple[Option, ...]:
    """One option of each, such that ``score`` is highest; of equal ones the earliest.

    Up to ``LIMIT`` combinations are all tried. Of more it takes the first option of each, then in turn the best of
    each with the others as they are, until a whole round changes nothing: a combination that no change of one
    stack betters. No combination is scored twice.
    """
    places = [range(len(each)) for each in options]

    def chosen(combination: tuple[int, ...]) -> tuple[Option, ...]:
        return tuple(each[place] for each, place in zip(options, combination, strict=True))

    @cache
    def scored(combination: tuple[int, ...]) -> float:
        return score(chosen(combination))

    # max() returns the first of equal ones.
    if math.prod(map(len, options)) <= LIMIT:
        return chosen(max(itertools.product(*places), key=scored))
    best, before = (0,) * len(options), None
    while best != before:
        before = best
        for stack, each in enumerate(places):
            best = max(((*best[:stack], place, *best[stack + 1 :]) for place in each), key=scored)
    return chosen(best)


def choose_layers(model: LxmertForQuestionAnswering, score: Callable[[], float]) -> None:
    """Lets every stack that has options run those with which ``score()``, of the model as it is, is highest."""
    depths = [depth for depth in _depths(model).values() if depth.options()]

    def choose(combination: tuple[Sequence[int], ...]) -> None:
        for depth, layers in zip(depths, combination, strict=True):
            depth.choose(layers)

    def scored(combination: tuple[Sequence[int], ...]) -> float:
        choose(combination)
        return score()

    if depths:
        choose(best_combination([depth.options() for depth in depths], scored))


class OnlyLayers(Depth):
    """The same layers always; what goes on from each is the stack's own."""

    def __init__(self, own: Depth, kept: Sequence[int]) -> None:
        super().__init__(own.layers)
        self.own, self.kept = own, tuple(kept)

    def keep(self, generator: torch.Generator | None) -> Sequence[int]:
        return self.kept

    def gate(self, index: int, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        return self.own.gate(index, before, after)


def keep_only(model: LxmertForQuestionAnswering, keep: Sequence[Sequence[int]]) -> None:
    """Lets ``model`` run the layers ``keep`` of its stacks (language, vision, cross) and no others."""
    for (stack, depth), kept in zip(_depths(model).items(), keep, strict=True):
        model.lxmert.encoder.depth[stack] = OnlyLayers(depth, kept)


def kept_layers(model: LxmertForQuestionAnswering) -> dict[str, list[int]]:
    """Stack -> the layers that an evaluation runs."""
    model.eval()
    return {stack: list(depth.keep(None)) for stack, depth in _depths(model).items()}


def renumbered(tensors: Mapping[str, Tensors], kept: Mapping[str, Sequence[int]]) -> dict[str, Tensors]:
    """Those of the model's named ``tensors`` that a model of the ``kept`` layers alone has, by its own names.

    What says which layers run (``lxmert.encoder.depth``) is not among them.
    """
    places = {
        f"lxmert.encoder.{MODULES[stack]}.{old}.": f"lxmert.encoder.{MODULES[stack]}.{new}."
        for stack, layers in kept.items()
        for new, old in enumerate(layers)
    }
    smaller = {}
    for name, tensor in tensors.items():
        layer = LAYER.match(name)
        if layer is None:
            smaller[name] = tensor
        elif layer[0] in places:
            smaller[places[layer[0]] + name.removeprefix(layer[0])] = tensor
    return smaller


def _depths(model: LxmertForQuestionAnswering) -> dict[str, Depth]:
    return {stack: cast(Depth, depth) for stack, depth in model.lxmert.encoder.depth.items()}
