"""Multiply-adds of a model, counted by fvcore on a trace. The only importer of fvcore.

fvcore's flop is one multiply-add of linear layers, matrix products and norms; softmax, additions and powers
are left out of its totals and named in the record. An operator that multiplies matrices and that nobody
counts is an error. Region features are precomputed: their detector is not in any figure.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from suite import pruning, registry
from suite.config import Cell
from suite.errors import UserError
from suite.models.lxmert import LxmertConfig, LxmertForQuestionAnswering
from suite.records import depth_text

with warnings.catch_warnings():
    # It scripts a function as it is imported, which torch warns of.
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
    from fvcore.nn import FlopCountAnalysis

# What fvcore names the products of matrices.
PRODUCTS = ("linear", "matmul", "addmm", "bmm", "baddbmm", "einsum", "conv")


@dataclass(frozen=True)
class Count:
    """Multiply-adds of one forward pass."""

    total: int
    by_operator: dict[str, int]
    uncounted: dict[str, int]
    """Operator -> calls that have no count."""


def count(module: nn.Module, *inputs: Tensor) -> Count:
    """Multiply-adds of ``module(*inputs)`` in evaluation, without gradients.

    Raises UserError where an operator that multiplies matrices has no count.
    """
    analysis = FlopCountAnalysis(module, inputs)
    analysis.set_op_handle("aten::scaled_dot_product_attention", _fused_attention)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    was_training = module.training
    module.eval()
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # The trace warns of every shape that it makes a constant.
            # Written out, because torch's counter does not know the fused attention of a CPU.
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
                module(*inputs)
            by_operator = {name: int(flops) for name, flops in analysis.by_operator().items()}
            uncounted = dict(analysis.unsupported_ops())
    finally:
        module.train(was_training)
    # Torch's own counter sees inside custom functions, which fvcore's trace does not; it counts each
    # multiply-add as two.
    executed = counter.get_total_flops() // 2
    products = sum(by_operator.get(name, 0) for name in PRODUCTS)
    if executed > products:
        raise UserError(
            f"The model ran {executed:,} multiply-adds in products of matrices and fvcore counted {products:,}: "
            f"one of {', '.join(uncounted)} multiplies matrices unseen. Use torch's own operators in "
            "evaluation, or give fvcore a count for it in suite/flops.py."
        )
    return Count(sum(by_operator.values()), dict(sorted(by_operator.items())), dict(sorted(uncounted.items())))


def count_reference(model: LxmertForQuestionAnswering, words: int, regions: int) -> Count:
    """Comparable with the paper: ``words`` padded word pieces, every output, both halves of the last layer."""
    return count(_EveryOutput(model), *_inputs(model, words, regions))


def count_answer(model: LxmertForQuestionAnswering, words: int, regions: int) -> Count:
    """What runs for the answer to one question of ``words`` word pieces about ``regions`` regions."""
    return count(model, *_inputs(model, words, regions))


class _EveryOutput(nn.Module):
    """The model as a module that returns every output, so that the trace drops nothing."""

    def __init__(self, model: LxmertForQuestionAnswering) -> None:
        super().__init__()
        self.model = model

    def forward(self, words: Tensor, regions: Tensor, boxes: Tensor, word_mask: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model.outputs(words, regions, boxes, word_mask)
        return outputs.logits, outputs.words, outputs.regions, *outputs.attention.values()


def _inputs(model: LxmertForQuestionAnswering, words: int, regions: int) -> tuple[Tensor, ...]:
    device = next(model.parameters()).device
    return (
        torch.ones(1, words, dtype=torch.long, device=device),
        torch.zeros(1, regions, model.config.features, device=device),
        torch.zeros(1, regions, 4, device=device),
        torch.ones(1, words, dtype=torch.bool, device=device),
    )


def _fused_attention(inputs: list[Any], outputs: list[Any]) -> dict[str, int]:
    """Its two matrix products, under the name that they have where they are written out."""
    query, key = inputs[0].type().sizes(), inputs[1].type().sizes()
    return {"matmul": 2 * prod(query) * key[-2]}


def at_paper_size(cells: Iterable[Cell]) -> list[dict[str, Any]]:
    """Each distinct row of ``cells`` at LXMERT's base size with 20 word pieces and 36 boxes.

    ``reference`` counts every output, ``answer`` what runs for the answer, in multiply-adds; ``change`` is that
    of the reference against the first row, in per cent.
    """
    rows: list[dict[str, Any]] = []
    for cell in cells:
        variant = registry.find("variant", cell.variant)(**cell.arguments)
        with torch.device("meta"):
            model = LxmertForQuestionAnswering(LxmertConfig(layers=cell.layers), variant)
        # Zeros instead of random weights: a count needs shapes, and a method may look at its numbers.
        zeros = {name: torch.zeros(weight.shape) for name, weight in model.state_dict().items()}
        model.load_state_dict(zeros, assign=True)
        if cell.keep is not None:
            pruning.keep_only(model, cell.keep)
        reference = count_reference(model, words=20, regions=36)
        row = {
            "variant": cell.variant,
            "arguments": " ".join(f"{name}={value}" for name, value in cell.arguments.items()),
            "layers": depth_text(cell.layers, cell.keep),
            "reference": reference.total,
            "change": 0.0,
            "answer": count_answer(model, words=20, regions=36).total,
            "matmul": reference.by_operator["matmul"],
            "linear": reference.by_operator["linear"],
            "parameters": sum(weight.numel() for weight in model.parameters()),
        }
        row["change"] = 100 * (row["reference"] / (rows[0] if rows else row)["reference"] - 1)
        rows.append(row)
    return rows
