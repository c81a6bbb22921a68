"""`ablate bench model` compares equal models, and computes its shares from times as by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from suite.bench.measure import Settings, multiply_adds
from suite.bench.model import OURS, PADDED, PEAK, Contender, check, contenders, pair, share_of_peak, speed, speed_up
from suite.bench.questions import LONGEST, Size, draw, size
from suite.bench.record import Record, Row
from suite.errors import UserError
from suite.training import answer_loss

SMALL = Size(replace(size("demo", 0.0).config, layers=(2, 1, 2), width=16, heads=2, intermediate=32), regions=6)
BATCH = 7


@pytest.fixture
def entered() -> list[Contender]:
    ours, theirs = pair(SMALL.config, Settings())
    return contenders(ours, theirs, draw(SMALL, BATCH, 0, "cpu"))


def test_all_contenders_answer_alike(entered: list[Contender]) -> None:
    assert 0 <= check(entered) < 1e-6


def test_all_contenders_get_the_gradients_of_one_loss(entered: list[Contender]) -> None:
    targets = draw(SMALL, BATCH, 0, "cpu").targets
    gradients = []
    for contender in entered:
        contender.model.train()
        answer_loss(contender.answer(), targets).backward()
        named = {
            name: weight.grad.clone()
            for name, weight in contender.model.named_parameters()
            if weight.grad is not None and weight.grad.any()
        }
        gradients.append(named)
        contender.model.zero_grad()
    for other in gradients[1:]:
        assert other.keys() == gradients[0].keys()
        for name, gradient in other.items():
            torch.testing.assert_close(gradient, gradients[0][name], atol=1e-6, rtol=1e-4)


def test_models_that_answer_otherwise_are_not_measured(entered: list[Contender]) -> None:
    with torch.no_grad():
        dict(entered[-1].model.named_parameters())["answer_head.logit_fc.3.bias"][4] += 2e-5
    with pytest.raises(
        UserError, match=r"Expected equal logits, within 1e-05; those of 'ours, a picture per question'"
    ):
        check(entered)


def test_padding_is_what_transformers_computes_more_of(entered: list[Contender]) -> None:
    """At the longest question's length the language layers of transformers cost in proportion to the words."""
    words = draw(SMALL, BATCH, 0, "cpu").words.shape[1]
    assert words < LONGEST
    with torch.no_grad():
        padded, longest, own, shared = (multiply_adds(contender.answer) for contender in entered)
    config = SMALL.config
    width, language = config.width, config.layers[0]
    block = 4 * width**2
    feed = 2 * width * config.intermediate
    linear = (language * (block + feed) + config.layers[2] * (2 * block + feed)) * BATCH * (LONGEST - words)
    square = 2 * width * BATCH * (language + config.layers[2]) * (LONGEST**2 - words**2)
    across = 2 * 2 * width * BATCH * config.layers[2] * SMALL.regions * (LONGEST - words)
    assert padded - longest == linear + square + across
    assert shared < own < longest


def record() -> Record:
    case = {"phase": "training", "batch": 10}
    return Record(
        "model",
        PADDED,
        {},
        {},
        rows=[
            Row(case, PADDED, {"multiply_adds": 600}, {"forward": [1.0, 2.0, 3.0], "backward": [1.0, 2.0, 3.0]}),
            Row(case, OURS[0], {"multiply_adds": 400}, {"forward": [0.5, 0.5, 1.0], "backward": [0.5, 1.5, 1.0]}),
            Row(case, PEAK, {"multiply_adds": 1000}, {"product": [0.5, 1.0, 1.5]}),
        ],
    )


def test_questions_a_second() -> None:
    """2, 4 and 6 seconds for ten questions."""
    assert speed(record().rows[0]).middle == 2.5


def test_speed_up_is_within_a_round() -> None:
    """2 / 1, 4 / 2 and 6 / 2."""
    spread = speed_up(record(), record().rows[1])
    assert (spread.low, spread.middle, spread.high) == (2.0, 2.0, 2.5)


def test_share_of_peak_is_within_a_round() -> None:
    """The peak is 2,000, 1,000 and 667 a second; theirs 300, 150 and 100, and ours 400, 200 and 200."""
    theirs, ours = (share_of_peak(record(), row) for row in record().rows[:2])
    assert (theirs.low, theirs.middle, theirs.high) == pytest.approx((0.15, 0.15, 0.15))
    assert (ours.low, ours.middle, ours.high) == pytest.approx((0.2, 0.2, 0.25))
