"""`ablate bench variants`: every method starts each step from the same LXMERT weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import nn

from suite import registry
from suite.attention import Variant
from suite.bench.questions import Size, draw, size
from suite.bench.variants import _share, _step
from suite.config import Protocol
from suite.models.lxmert import LxmertForQuestionAnswering, is_variants_own
from suite.training import varied

SMALL = Size(replace(size("demo", 0.0).config, layers=(1, 1, 2), width=16, heads=2, intermediate=32), regions=6)


def model(name: str, layers: tuple[int, int, int] = (1, 1, 2)) -> LxmertForQuestionAnswering:
    variant: Variant = registry.find("variant", name)()
    return LxmertForQuestionAnswering(replace(SMALL.config, layers=layers), variant).train()


@pytest.mark.parametrize("optimizer", ["lookahead_lamb", "adamw"])
def test_a_whole_step_leaves_every_weight_as_it_was(optimizer: Literal["lookahead_lamb", "adamw"]) -> None:
    stepped, questions = model("span_entmax"), draw(SMALL, 4, 0, "cpu")
    for weights in varied(stepped):
        weights.project()
    before = {name: weight.detach().clone() for name, weight in stepped.named_parameters()}
    protocol = Protocol(steps=1, optimizer=optimizer)
    parts = _step(stepped, questions.own, questions.targets, torch.Generator(), "cpu", protocol)
    assert list(parts) == ["forward", "backward", "optimiser"]
    assert min(parts.values()) > 0
    for name, weight in stepped.named_parameters():
        assert torch.equal(weight, before[name]), name
        assert weight.grad is None


def test_without_a_protocol_there_is_no_optimiser() -> None:
    questions = draw(SMALL, 4, 0, "cpu")
    parts = _step(model("softmax"), questions.own, questions.targets, torch.Generator(), "cpu")
    assert list(parts) == ["forward", "backward"]


def test_models_share_what_is_not_the_methods_own() -> None:
    common: dict[str, nn.Parameter] = {}
    first, second, deeper = model("span"), model("span_entmax"), model("softmax", (2, 1, 2))
    for each in (first, second, deeper):
        _share(each, common)
    of_first = dict(first.named_parameters())
    for name, weight in second.named_parameters():
        assert (weight is of_first.get(name)) == (not is_variants_own(name)), name
    new = {name for name, weight in deeper.named_parameters() if weight is not of_first.get(name)}
    assert new
    assert all(name.startswith("lxmert.encoder.layer.1.") for name in new)
