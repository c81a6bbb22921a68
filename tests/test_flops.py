"""Multiply-adds at the paper's size and by hand at a small one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from suite import flops, registry
from suite.attention import Variant
from suite.config import Cell, Protocol
from suite.errors import UserError
from suite.models.lxmert import LxmertConfig, LxmertForQuestionAnswering

WORDS, REGIONS = 4, 3
SMALL = LxmertConfig(
    vocabulary=10, answers=3, features=5, width=8, heads=2, intermediate=16, layers=(2, 1, 1)
)  # fmt: skip


@pytest.fixture(scope="module")
def paper() -> dict[str, dict[str, Any]]:
    """The rows of `ablate flops` that the paper's statements need; counting one takes seconds."""
    cells = {
        "softmax 9-5-5": ("softmax", {}, (9, 5, 5)),
        "layerdrop 9-5-5": ("layerdrop", {"p": 1}, (9, 5, 5)),
        "layerdrop 10-6-6": ("layerdrop", {"p": 1}, (10, 6, 6)),
    }
    rows = flops.at_paper_size(
        Cell(variant=name, arguments=arguments, layers=layers, dataset="", protocol=Protocol(steps=1))
        for name, arguments, layers in cells.values()
    )
    return dict(zip(cells, rows, strict=True))


def test_softmax_at_base_size_is_5_300_billion(paper: dict) -> None:
    assert paper["softmax 9-5-5"]["reference"] / 1e9 == pytest.approx(5.300, abs=5e-4)


def test_base_size_has_213_9_million_parameters(paper: dict) -> None:
    assert paper["softmax 9-5-5"]["parameters"] / 1e6 == pytest.approx(213.9, abs=0.05)


def test_the_answer_alone_leaves_out_what_it_does_not_read(paper: dict) -> None:
    """Of the last cross layer: the regions' self-attention, feed-forward and cross attention, and of the words'
    self-attention and feed-forward all queries but the first word's."""
    width, words, regions = 768, 20, 36
    square = width * width
    half = regions * (4 + 8 + 2) * square  # The words' attention to the regions still needs their keys and values.
    half += 2 * words * square  # Keys and values of the words, for the regions.
    queries = (words - 1) * (2 + 8) * square
    products = 2 * width * (regions * words + regions * regions + (words - 1) * words)
    row = paper["softmax 9-5-5"]
    norms = row["reference"] - row["answer"] - (half + queries + products)
    assert 0 < norms < 1e-3 * row["answer"]
    assert row["answer"] / 1e9 == pytest.approx(4.863, abs=5e-4)


def test_layerdrop_saves_what_the_paper_reports(paper: dict) -> None:
    """-17.61 % here; the paper's -17.54 % counts a little differently."""
    assert paper["layerdrop 9-5-5"]["change"] == pytest.approx(-17.61, abs=0.005)


def test_layerdrop_at_10_6_6_costs_what_9_5_5_costs(paper: dict) -> None:
    for column in ("reference", "answer", "matmul", "linear"):
        assert paper["layerdrop 10-6-6"][column] == paper["softmax 9-5-5"][column]


def small_model(variant: Variant, layers: tuple[int, int, int] = SMALL.layers) -> LxmertForQuestionAnswering:
    torch.manual_seed(0)
    return LxmertForQuestionAnswering(replace(SMALL, layers=layers), variant)


def test_linear_layers_and_products_are_counted_as_by_hand() -> None:
    width, inner = SMALL.width, SMALL.intermediate
    block = 4 * width * width
    feed = 2 * width * inner
    tokens = WORDS + REGIONS
    linear = (
        REGIONS * (SMALL.features + 4) * width
        + 2 * WORDS * (block + feed)
        + REGIONS * (block + feed)
        # The cross layer: one attention across, one within, one feed-forward, for each token.
        + tokens * (2 * block + feed)
        # Pooler and answer head.
        + width * width
        + width * 2 * width
        + 2 * width * SMALL.answers
    )
    products = 2 * width * (2 * WORDS**2 + REGIONS**2 + 2 * WORDS * REGIONS + WORDS**2 + REGIONS**2)
    counted = flops.count_reference(small_model(Variant()), WORDS, REGIONS).by_operator
    assert counted["linear"] == linear
    assert counted["matmul"] == products


@pytest.mark.parametrize("name", ["span", "entmax"])
@pytest.mark.parametrize("count", [flops.count_reference, flops.count_answer], ids=["reference", "answer"])
def test_what_changes_attention_alone_multiplies_as_much_as_softmax(name: str, count: Any) -> None:
    softmax, varied = (
        count(small_model(variant, layers=(1, 1, 1)), WORDS, REGIONS).by_operator
        for variant in (Variant(), registry.find("variant", name)())
    )
    assert {operator: varied[operator] for operator in ("matmul", "linear")} == {
        operator: softmax[operator] for operator in ("matmul", "linear")
    }


def test_operators_that_are_left_out_are_named_with_their_calls() -> None:
    counted = flops.count_reference(small_model(Variant()), WORDS, REGIONS)
    # Two language layers, one vision layer, four directions of the cross layer.
    assert counted.uncounted["aten::softmax"] == 7


def test_counting_leaves_the_mode_of_the_model_as_it_was() -> None:
    model = small_model(Variant()).train()
    flops.count_answer(model, WORDS, REGIONS)
    assert model.training


class Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, one: Tensor, other: Tensor) -> Tensor:
        return one @ other


class HidesAProduct(nn.Module):
    def forward(self, one: Tensor) -> Tensor:
        return Hidden.apply(one, one)


def test_a_custom_function_that_hides_a_product_is_an_error_that_names_it() -> None:
    with pytest.raises(UserError, match=r"ran 125 multiply-adds .* counted 0: one of .*Hidden multiplies"):
        flops.count(HidesAProduct(), torch.ones(5, 5))


def test_fused_attention_hides_no_product_beside_it() -> None:
    """Torch's counter must see what fvcore counts for it, or that much could be hidden."""

    class Attends(HidesAProduct):
        def forward(self, one: Tensor) -> Tensor:
            return super().forward(nn.functional.scaled_dot_product_attention(one, one, one))

    with pytest.raises(UserError, match=r"ran 375 multiply-adds .* counted 250"):
        flops.count(Attends(), torch.ones(1, 1, 5, 5))


def test_the_same_product_in_the_open_is_counted() -> None:
    class InTheOpen(nn.Module):
        def forward(self, one: Tensor) -> Tensor:
            return one @ one

    assert flops.count(InTheOpen(), torch.ones(5, 5)).total == 125
