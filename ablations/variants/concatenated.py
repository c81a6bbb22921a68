"""The answer read from "the concatenated pooled features of image and text" (section 3 of the paper).

LXMERT, and the paper's code, read the first word alone. Here the regions' mean goes through a pooler of its own and
into the head beside it, so that the vision half of the last cross layer, which the first word never sees, is alive.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from suite.attention import Variant


@dataclass(frozen=True)
class Concatenated(Variant):
    """Softmax attention; the answer head sees the pooled regions beside the pooled first word."""

    def configure(self, model_config: Any) -> Any:
        return replace(model_config, pooling="concatenated")
