"""LayerDrop with Every Other pruning (Fan et al. 2019, 1909.11556; section 2.4 of the paper).

p counts layers, as in the paper: each training step drops exactly p distinct layers of each stack, drawn at
random; evaluation runs the pruned model of N - p layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from suite.attention import Depth, Variant
from suite.errors import UserError


def every_other(layers: int, p: int) -> list[int]:
    """The layers (from 0) that Every Other pruning keeps of ``layers`` to drop ``p`` (Fan et al., section 3).

    It drops each depth d, counted from 1, with d = 0 mod floor(1 / rate); the rate is p / layers, so that
    p = 1 drops the deepest layer. Raises UserError where the rule does not drop exactly p.
    """
    if not 0 <= p < layers:
        raise UserError(f"LayerDrop needs p from 0 to {layers - 1} for a stack of {layers} layers; received {p}.")
    if p == 0:
        return list(range(layers))
    kept = [index for index in range(layers) if (index + 1) % (layers // p)]
    if len(kept) != layers - p:
        raise UserError(
            f"Every Other pruning cannot drop exactly p={p} of {layers} layers: its rule drops each "
            f"{layers // p}th, {layers - len(kept)} in all. Choose another p or other layers."
        )
    return kept


class DropLayers(Depth):
    """Drops p random layers per training step; evaluates the pruned stack."""

    def __init__(self, layers: int, p: int) -> None:
        super().__init__(layers)
        self.p = p
        self.pruned = every_other(layers, p)

    def keep(self, generator: torch.Generator | None) -> Sequence[int]:
        if not self.training:
            return self.pruned
        order = torch.randperm(self.layers, generator=generator)
        return sorted(order[self.p :].tolist())


@dataclass(frozen=True)
class LayerDrop(Variant):
    """Softmax attention in a stack that loses p layers."""

    p: int = 1

    def depth(self, stack: str, layers: int) -> Depth:
        return DropLayers(layers, self.p)
