"""LAMB and Lookahead against the papers' equations written out plainly in float64; rates against their shapes."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from suite.config import Cell, Protocol, cell_id, override
from suite.errors import UserError
from suite.optimisers import Lamb, Lookahead, build_optimiser, learning_rate

STEPS = 50
SHAPES = {"matrix": (4, 3), "vector": (3,), "zero": (2, 2), "rare": (3, 2), "never": (2,)}
BETAS, EPSILON, DECAY = (0.9, 0.999), 1e-6, 0.01


def start() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    return values | {"zero": np.zeros(SHAPES["zero"])}


def gradients(step: int) -> dict[str, np.ndarray | None]:
    """``rare`` is left out of two steps in three, as a layer that LayerDrop skips; ``never`` of all."""
    rng = np.random.default_rng((1, step))
    drawn: dict[str, np.ndarray | None] = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    if step % 3:
        drawn["rare"] = None
    if step == 7:
        drawn["matrix"] = np.zeros(SHAPES["matrix"])
    return drawn | {"never": None}


def rate(step: int) -> float:
    return 1e-2 * (1 + math.sin(step))


class PlainLamb:
    """You et al. 2019, algorithm 2, one tensor at a time; a tensor without a gradient is left alone."""

    def __init__(self) -> None:
        self.weights = start()
        self.moments: dict[str, tuple[int, Any, Any]] = dict.fromkeys(SHAPES, (0, 0.0, 0.0))

    def step(self, step: int) -> None:
        for name, g in gradients(step).items():
            if g is None:
                continue
            t, m, v = self.moments[name]
            t, m, v = t + 1, BETAS[0] * m + (1 - BETAS[0]) * g, BETAS[1] * v + (1 - BETAS[1]) * g * g
            self.moments[name] = (t, m, v)
            w = self.weights[name]
            r = (m / (1 - BETAS[0] ** t)) / (np.sqrt(v / (1 - BETAS[1] ** t)) + EPSILON) + DECAY * w
            length, size = np.linalg.norm(w), np.linalg.norm(r)
            ratio = length / size if length > 0 and size > 0 else 1.0
            self.weights[name] = w - rate(step) * ratio * r


class PublishedLamb(PlainLamb):
    """As in the paper's code: m and v as they are, a length of w up to a limit, a ratio of at least 0.25."""

    longest, used = 2.0, set[str]()

    def step(self, step: int) -> None:
        for name, g in gradients(step).items():
            if g is None:
                continue
            _, m, v = self.moments[name]
            m, v = BETAS[0] * m + (1 - BETAS[0]) * g, BETAS[1] * v + (1 - BETAS[1]) * g * g
            self.moments[name] = (0, m, v)
            w = self.weights[name]
            r = m / (np.sqrt(v) + EPSILON) + DECAY * w
            length, size = min(float(np.linalg.norm(w)), self.longest), float(np.linalg.norm(r))
            ratio = max(length / size, 0.25) if length > 0 and size > 0 else 1.0
            self.used.add("longest" if length == self.longest else "floor" if ratio == 0.25 else "ratio")
            self.weights[name] = w - rate(step) * ratio * r


class PlainLookahead(PlainLamb):
    """Zhang et al. 2019, algorithm 1."""

    period, share = 5, 0.5

    def __init__(self) -> None:
        super().__init__()
        self.slow = start()

    def step(self, step: int) -> None:
        super().step(step)
        if (step + 1) % self.period == 0:
            for name, fast in self.weights.items():
                self.slow[name] = self.slow[name] + self.share * (fast - self.slow[name])
            self.weights = dict(self.slow)


class OtherLookahead(PlainLookahead):
    period, share = 3, 0.8


def parameters() -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(torch.tensor(value)) for name, value in start().items()}


def lamb(weights: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    return Lamb(weights.values(), betas=BETAS, epsilon=EPSILON, weight_decay=DECAY)


def lookahead(weights: dict[str, nn.Parameter]) -> Lookahead:
    return Lookahead(lamb(weights), period=5, share=0.5)


def other_lookahead(weights: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    return Lookahead(lamb(weights), period=3, share=0.8)


def published(weights: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    return Lamb(
        weights.values(), betas=BETAS, epsilon=EPSILON, weight_decay=DECAY,
        correct_bias=False, longest=2.0, min_trust=0.25,
    )  # fmt: skip


BUILT = {
    "lamb": (lamb, PlainLamb),
    "lookahead": (lookahead, PlainLookahead),
    "other lookahead": (other_lookahead, OtherLookahead),
    "published": (published, PublishedLamb),
}


def run(weights: dict[str, nn.Parameter], optimiser: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        for name, g in gradients(step).items():
            weights[name].grad = None if g is None else torch.tensor(g, dtype=weights[name].dtype)
        for group in optimiser.param_groups:
            group["lr"] = rate(step)
        optimiser.step()


@pytest.mark.parametrize(("build", "plain"), BUILT.values(), ids=BUILT)
def test_fifty_steps_equal_the_equations(build: Any, plain: type[PlainLamb]) -> None:
    weights, expected = parameters(), plain()
    optimiser = build(weights)
    for step in range(STEPS):
        run(weights, optimiser, step, step + 1)
        expected.step(step)
        for name, weight in weights.items():
            # 50 steps of float64: 1e-16 each, grown by the division by small second moments.
            np.testing.assert_allclose(
                weight.detach().numpy(), expected.weights[name], rtol=0, atol=1e-10, err_msg=f"{name} {step}"
            )
    if isinstance(expected, PublishedLamb):
        assert expected.used == {"longest", "floor", "ratio"}, "each of its rules was tried"


def test_the_first_step_of_lamb_has_the_length_of_the_rate_times_the_weights() -> None:
    """With bias correction it is not ten times as long, which is what leaving it out of v alone gives."""
    weight = nn.Parameter(torch.full((10,), 2.0, dtype=torch.float64))
    optimiser = Lamb([weight], lr=1e-3, weight_decay=0.0)
    weight.grad = torch.linspace(1, 2, 10, dtype=torch.float64)
    before = weight.detach().clone()
    optimiser.step()
    assert (weight - before).norm().item() == pytest.approx(1e-3 * before.norm().item(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("build", [lamb, lookahead, other_lookahead, published])
@pytest.mark.parametrize("stop", [1, 5, 23])
def test_a_saved_state_continues_to_the_same_bits(build: Any, stop: int, dtype: torch.dtype) -> None:
    def fresh() -> dict[str, nn.Parameter]:
        return {name: nn.Parameter(weight.to(dtype)) for name, weight in parameters().items()}

    through, stopped, resumed = fresh(), fresh(), fresh()
    run(through, build(through), 0, STEPS)
    optimiser = build(stopped)
    run(stopped, optimiser, 0, stop)

    file = io.BytesIO()
    torch.save({"state": optimiser.state_dict(), "weights": stopped}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    with torch.no_grad():
        for name, weight in resumed.items():
            weight.copy_(saved["weights"][name])
    optimiser = build(resumed)
    optimiser.load_state_dict(saved["state"])
    run(resumed, optimiser, stop, STEPS)
    assert all(torch.equal(through[name], resumed[name]) for name in SHAPES)


def test_loading_a_state_does_not_share_its_tensors() -> None:
    """A saved state that moved with training would be another step's when it is written."""
    weights = parameters()
    optimiser = lookahead(weights)
    run(weights, optimiser, 0, 5)
    other = lookahead(parameters())
    other.load_state_dict(optimiser.state_dict())
    assert all(one.data_ptr() != two.data_ptr() for one, two in zip(optimiser.slow, other.slow, strict=True))


@pytest.mark.parametrize("name", ["adamw", "lookahead_lamb", "lookahead_lamb_published"])
def test_vectors_get_no_weight_decay(name: Any) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    optimiser = build_optimiser(model, Protocol(steps=1, optimizer=name, weight_decay=0.1))
    decay = {id(w): group["weight_decay"] for group in optimiser.param_groups for w in group["params"]}
    assert {key: decay[id(w)] for key, w in model.named_parameters()} == {
        "0.weight": 0.1, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0,
    }  # fmt: skip


def test_the_protocol_sets_the_optimiser() -> None:
    def built(**settings: Any) -> Lookahead:
        optimiser = build_optimiser(nn.Linear(2, 3), Protocol(steps=1, **settings))
        assert isinstance(optimiser, Lookahead)
        return optimiser

    plain, floor, code = (
        built(),
        built(min_trust=0.25, lookahead_period=3, lookahead_share=0.8),
        built(optimizer="lookahead_lamb_published", min_trust=0.25),
    )
    assert [(built.period, built.share) for built in (plain, floor, code)] == [(5, 0.5), (3, 0.8), (5, 0.5)]
    lambs = [optimiser.inner for optimiser in (plain, floor, code) if isinstance(optimiser.inner, Lamb)]
    assert [(lamb.correct_bias, lamb.longest, lamb.min_trust) for lamb in lambs] == [
        (True, math.inf, 0.0),
        (True, math.inf, 0.25),
        (False, 10.0, 0.25),
    ]


def test_the_new_settings_keep_the_ids_of_cells_that_leave_them_alone() -> None:
    """And give another one to a cell that does not."""
    cell = Cell(variant="span", dataset="easy_vqa", protocol=Protocol(steps=100))
    assert cell_id(cell, "source", "data", None) == "span-s0-4b90a6d152"
    for changed in (
        {"min_trust": 0.25},
        {"lookahead_period": 6},
        {"lookahead_share": 0.8},
        {"optimizer": "lookahead_lamb_published"},
    ):
        other = override(cell, {name: str(value) for name, value in changed.items()})
        assert cell_id(other, "source", "data", None) != cell_id(cell, "source", "data", None)


@pytest.mark.parametrize(
    "settings",
    [
        {"min_trust": -0.1}, {"min_trust": 1.0}, {"min_trust": math.nan},
        {"lookahead_period": 0}, {"lookahead_share": 0.0}, {"lookahead_share": 1.1},
    ],
    ids=str,
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(UserError, match=name):
        Protocol(steps=1, **settings)


def test_frozen_parameters_are_left_to_no_group() -> None:
    model = nn.Linear(2, 3)
    model.bias.requires_grad_(False)
    optimiser = build_optimiser(model, Protocol(steps=1))
    assert [w is model.weight for group in optimiser.param_groups for w in group["params"]] == [True]


def test_the_cyclic_rate_goes_straight_up_and_down_between_base_and_peak() -> None:
    protocol = Protocol(steps=80, schedule="cyclic", learning_rate=9.0, base_learning_rate=1.0, cycles=4)
    rates = [learning_rate(protocol, step) for step in range(80)]
    cycle = [1 + 8 * min(place, 20 - place) / 10 for place in range(20)]
    assert rates == pytest.approx(cycle * 4, rel=1e-9)


def test_the_linear_rate_rises_over_the_warm_up_and_falls_to_zero() -> None:
    protocol = Protocol(steps=10, schedule="linear", learning_rate=6.0, warmup=0.2)
    rates = [learning_rate(protocol, step) for step in range(11)]
    assert rates == pytest.approx([2.0, 4.0, *(6 * (10 - step) / 8 for step in range(2, 11))], rel=1e-12)


@given(st.integers(1, 5000), st.integers(1, 9), st.floats(0, 1), st.sampled_from(["cyclic", "linear"]), st.data())
def test_no_rate_leaves_its_range(
    steps: int, cycles: int, warmup: float, schedule: Any, data: st.DataObject
) -> None:
    protocol = Protocol(
        steps=steps, cycles=cycles, warmup=warmup, schedule=schedule,
        learning_rate=1e-3, base_learning_rate=1e-4,
    )  # fmt: skip
    rate = learning_rate(protocol, data.draw(st.integers(0, steps - 1)))
    least = 1e-4 if schedule == "cyclic" else 0.0
    assert least * (1 - 1e-9) <= rate <= 1e-3 * (1 + 1e-9)
    assert schedule == "cyclic" or rate > 0
