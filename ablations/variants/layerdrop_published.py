"""LayerDrop as the paper's code has it (prajjwal1/adaptive_transformer at 8f062a7), not as the paper tells it.

p layers are drawn with replacement, so that p draws may drop fewer than p layers, and they are drawn in evaluation
too, anew for every batch: there is no Every Other pruning. The checkpoint does not reach the layers
(``ablations.variants.unloaded_encoder``). ``ablations.variants.layerdrop`` has the paper's text.

An evaluation must be repeatable all the same: its draws follow from the stack and from how many batches were run
since ``eval()`` alone, so that the n-th batch of a split loses the same layers each time, whatever the cell's seed.
With p > 1 what a record says of the work done (multiply-adds, layers kept) is that of one such batch.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from ablations.variants.unloaded_encoder import in_a_layer
from suite.attention import Depth, Variant
from suite.errors import UserError


class DrawnLayers(Depth):
    """Drops what p draws with replacement hit, in training and in evaluation."""

    def __init__(self, stack: str, layers: int, p: int) -> None:
        super().__init__(layers)
        if not 1 <= p < layers:
            raise UserError(
                f"layerdrop_published needs p from 1 to {layers - 1} for a stack of {layers} layers; received {p}. "
                "softmax and unloaded_encoder drop none."
            )
        self.stack, self.p = stack, p
        self.batches = 0

    def train(self, mode: bool = True) -> DrawnLayers:
        self.batches = 0
        super().train(mode)
        return self

    def keep(self, generator: torch.Generator | None) -> Sequence[int]:
        if self.training:
            dropped = torch.randint(self.layers, (self.p,), generator=generator).tolist()
        else:
            # To count, the suite runs a model and then traces it: both must be the same layers.
            self.batches += not torch.jit.is_tracing()
            dropped = random.Random(f"{self.stack} {self.batches}").choices(range(self.layers), k=self.p)
        return [index for index in range(self.layers) if index not in dropped]


@dataclass(frozen=True)
class LayerDropPublished(Variant):
    """LayerDrop as published: drawn with replacement, in evaluation too, from an encoder that was not loaded."""

    breaks: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("attend_follows_the_weights", "batch_equals_its_rows", "evaluation_is_deterministic"),
        "Each batch of an evaluation loses other layers.",
    )

    p: int = 1
    """Draws in each stack."""
    load_encoder: bool = False
    """Layers take their start's weights, as the paper says: what the draws alone are worth."""

    def inherits(self, tensor: str) -> bool:
        return self.load_encoder or not in_a_layer(tensor)

    def depth(self, stack: str, layers: int) -> Depth:
        return DrawnLayers(stack, layers, self.p)
