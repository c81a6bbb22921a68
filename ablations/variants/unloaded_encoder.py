"""An encoder that its start's weights never reach (prajjwal1/adaptive_transformer at 8f062a7).

With LayerDrop on, the loader of the paper's code finds none of the checkpoint's 434 tensors of the language, vision
and cross layers (9-5-5) in its model and says nothing: 87 % of the backbone stay random. Embeddings, pooler and
answer head are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

from suite.attention import Variant

LAYERS = tuple(f"lxmert.encoder.{stack}." for stack in ("layer", "r_layers", "x_layers"))


def in_a_layer(tensor: str) -> bool:
    """Whether the tensor of this name is one of those that the published loader misses."""
    return tensor.startswith(LAYERS)


@dataclass(frozen=True)
class UnloadedEncoder(Variant):
    """Softmax attention whose layers start from random weights."""

    def inherits(self, tensor: str) -> bool:
        return not in_a_layer(tensor)
