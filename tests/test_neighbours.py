"""The methods beside the paper's, each against its equation worked out row by row in plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import entmax
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ablations.variants.entmax15 import Entmax15
from ablations.variants.rela import ReLA, ReLAWeights
from ablations.variants.sigmoid import Sigmoid
from ablations.variants.sparsemax import Sparsemax
from ablations.variants.topk_softmax import TopKSoftmax
from suite import registry
from suite.attention import Positions, Site, SoftmaxWeights, Tokens, Variant
from suite.contract import CHECKS, check
from suite.errors import UserError

BATCH, HEADS, QUERIES, KEYS, WIDTH = 3, 2, 4, 7, 5
SITE = Site("language", "words", "words", index=0, depth=1, heads=HEADS)
POSITIONS = Positions(Tokens("words", None, torch.arange(QUERIES)), Tokens("words", None, torch.arange(KEYS)))

Row = Sequence[float]


def random_scores(scale: float = 2.0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (scale * torch.randn(BATCH, HEADS, QUERIES, KEYS, dtype=torch.float64, generator=generator)).to(dtype)


def random_mask() -> Tensor:
    """All keys may be attended, others in each row, none."""
    mask = torch.rand(BATCH, 1, QUERIES, KEYS, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[0], mask[2] = True, False
    return mask


def by_support(row: Row, threshold: Callable[[Row], float], power: float) -> list[float]:
    """[s - tau]_+^power, with tau from the one set of keys whose own tau leaves these keys and no other."""
    for size in range(1, len(row) + 1):
        for support in combinations(range(len(row)), size):
            tau = threshold([row[key] for key in support])
            if all((s > tau) == (key in support) for key, s in enumerate(row)):
                return [max(s - tau, 0.0) ** power for s in row]
    raise AssertionError(f"no support fits {row}")


def sparsemax_by_hand(row: Row) -> list[float]:
    """tau makes the sum of s - tau 1."""
    return by_support(row, lambda inside: (math.fsum(inside) - 1) / len(inside), 1)


def entmax15_by_hand(row: Row) -> list[float]:
    """tau makes the sum of (s / 2 - tau)^2 1: the lower root, and no support where there is none."""

    def threshold(inside: Row) -> float:
        mean = math.fsum(inside) / len(inside)
        rest = 1 - math.fsum((s - mean) ** 2 for s in inside)
        return mean - math.sqrt(rest / len(inside)) if rest >= 0 else math.inf

    return by_support([s / 2 for s in row], threshold, 2)


def top_k_by_hand(row: Row, k: int) -> list[float]:
    kept = sorted(range(len(row)), key=lambda key: (-row[key], key))[:k]
    total = math.fsum(math.exp(row[key] - max(row)) for key in kept)
    return [math.exp(s - max(row)) / total if key in kept else 0.0 for key, s in enumerate(row)]


def sigmoid_by_hand(row: Row) -> list[float]:
    return [1 / (1 + len(row) * math.exp(-s)) for s in row]


METHODS: dict[str, tuple[Variant, Callable[[Row], list[float]]]] = {
    "sparsemax": (Sparsemax(), sparsemax_by_hand),
    "entmax15": (Entmax15(), entmax15_by_hand),
    "topk_softmax": (TopKSoftmax(k=3), lambda row: top_k_by_hand(row, 3)),
    "rela": (ReLA(), lambda row: [max(s, 0.0) for s in row]),
    "sigmoid": (Sigmoid(), sigmoid_by_hand),
}
each_method = pytest.mark.parametrize("name", METHODS)


def by_hand(name: str, scores: Tensor, mask: Tensor | None) -> Tensor:
    """The weights in float64: each row's method sees only the keys that the row may attend to."""
    weights = torch.zeros(scores.shape, dtype=torch.float64)
    allowed = torch.ones_like(weights, dtype=torch.bool) if mask is None else mask.expand_as(scores)
    for place in torch.cartesian_prod(*map(torch.arange, scores.shape[:-1])).tolist():
        keys = allowed[tuple(place)].nonzero().squeeze(1)
        if len(keys):
            row = METHODS[name][1](scores[tuple(place)][keys].double().tolist())
            weights[(*place, keys)] = torch.tensor(row, dtype=torch.float64)
    return weights


# All of them


@each_method
def test_it_is_registered(name: str) -> None:
    assert registry.find("variant", name) is type(METHODS[name][0])


@each_method
@pytest.mark.parametrize("scale", [0.01, 2.0, 30.0])
@pytest.mark.parametrize("mask", [None, random_mask()], ids=["all", "masked"])
def test_weights_equal_the_equation(name: str, scale: float, mask: Tensor | None) -> None:
    scores = random_scores(scale)
    received = METHODS[name][0].weights(SITE)(scores, mask, POSITIONS)
    # float64 rounds scores of 100 at 1e-14.
    torch.testing.assert_close(received, by_hand(name, scores, mask), rtol=1e-12, atol=1e-13)


@each_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.01, 2.0, 30.0])
def test_weights_are_as_exact_as_their_type(name: str, dtype: torch.dtype, scale: float) -> None:
    scores = random_scores(scale, dtype)
    received = METHODS[name][0].weights(SITE)(scores, random_mask(), POSITIONS)
    assert received.dtype is dtype
    # Half precision is rounded once, at the end; float32 rounds scores of 100 at 8e-6.
    torch.testing.assert_close(
        received.double(),
        by_hand(name, scores, random_mask()),
        rtol=max(torch.finfo(dtype).eps / 2, 1e-5),
        atol=1e-5,
    )


@each_method
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_masked_keys_get_exactly_nothing(name: str, dtype: torch.dtype) -> None:
    received = METHODS[name][0].weights(SITE)(random_scores(dtype=dtype), random_mask(), POSITIONS)
    assert not received.masked_fill(random_mask(), 0).any()


@each_method
@pytest.mark.parametrize("shape", [(KEYS,), (1, 1, 1, KEYS), (BATCH, 1, QUERIES, 1)], ids=str)
def test_a_mask_may_be_broadcast(name: str, shape: tuple[int, ...]) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.5
    weights = METHODS[name][0].weights(SITE)
    assert torch.equal(
        weights(random_scores(), mask, POSITIONS),
        weights(random_scores(), mask.expand(BATCH, HEADS, QUERIES, KEYS), POSITIONS),
    )


@each_method
@pytest.mark.parametrize("mask", [None, random_mask()], ids=["all", "masked"])
def test_gradients_equal_finite_differences(name: str, mask: Tensor | None) -> None:
    weights = METHODS[name][0].weights(SITE)
    scores = random_scores().requires_grad_()
    assert torch.autograd.gradcheck(lambda scores: weights(scores, mask, POSITIONS), (scores,))


@each_method
def test_gradients_of_half_precision_are_finite(name: str) -> None:
    scores = random_scores(30.0, torch.float16).requires_grad_()
    METHODS[name][0].weights(SITE)(scores, random_mask(), POSITIONS).square().sum().backward()
    assert scores.grad.isfinite().all()
    assert not scores.grad.masked_fill(random_mask(), 0).any()


# Sparsemax and 1.5-entmax


@pytest.mark.parametrize(
    ("variant", "alpha", "by_sorting"),
    [(Sparsemax(), 2.0, entmax.sparsemax), (Entmax15(), 1.5, entmax.entmax15)],
    ids=["sparsemax", "entmax15"],
)
def test_it_is_entmax_at_a_fixed_alpha(variant: Variant, alpha: float, by_sorting: Any) -> None:
    scores = random_scores()
    received = variant.weights(SITE)(scores, None, POSITIONS)
    torch.testing.assert_close(received, entmax.entmax_bisect(scores, alpha, n_iter=50), rtol=0, atol=1e-12)
    torch.testing.assert_close(received, by_sorting(scores), rtol=0, atol=1e-12)


# Top-k


@given(
    st.lists(st.integers(-2, 2), min_size=KEYS, max_size=KEYS),
    st.lists(st.booleans(), min_size=KEYS, max_size=KEYS),
    st.integers(1, KEYS + 2),
)
def test_of_equal_scores_the_first_keys_are_kept(row: list[int], allowed: list[bool], k: int) -> None:
    """Never more than k keys, the same ones each time, and masked keys take nobody's place."""
    received = TopKSoftmax(k).weights(SITE)(
        torch.tensor([[[row]]], dtype=torch.float64), torch.tensor(allowed), POSITIONS
    )[0, 0, 0]
    keys = [key for key in range(KEYS) if allowed[key]]
    expected = top_k_by_hand([float(row[key]) for key in keys], k) if keys else []
    assert (received > 0).sum() == min(k, len(keys))
    assert received[keys].tolist() == pytest.approx(expected, abs=1e-15)


def test_as_many_as_there_are_is_softmax_to_the_last_bit() -> None:
    received = TopKSoftmax(KEYS).weights(SITE)(random_scores(), random_mask(), POSITIONS)
    assert torch.equal(received, SoftmaxWeights()(random_scores(), random_mask(), POSITIONS))


def test_fewer_keys_than_the_contract_has_keep_every_promise() -> None:
    """The default of 8 keys leaves nothing out of its six boxes."""
    assert len(check(TopKSoftmax(k=2))) == len(CHECKS)


@pytest.mark.parametrize("k", [0, -1])
def test_no_key_at_all_is_refused_with_what_was_received(k: int) -> None:
    with pytest.raises(UserError, match=f"k >= 1 .* received k={k}"):
        TopKSoftmax(k)


# Rectified linear attention


def trained_rela() -> ReLAWeights:
    """As after some steps: another gain and gate for each head."""
    weights = ReLAWeights(HEADS).double()
    with torch.no_grad():
        weights.gain.copy_(torch.tensor([0.5, 2.0]))
        weights.gate.copy_(torch.tensor([-3.0, 1.5]))
    return weights


def queries_keys_values(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(BATCH, HEADS, tokens, WIDTH, dtype=torch.float64, generator=generator).to(dtype)
        for tokens in (QUERIES, KEYS, KEYS)
    ]


def rela_by_hand(weights: ReLAWeights, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """g * x / RMS(x) * sigmoid(w * x), one question and one query after another."""
    allowed = mask.expand(BATCH, HEADS, QUERIES, KEYS).tolist()
    gain, gate = weights.gain.tolist(), weights.gate.tolist()
    output = torch.zeros(BATCH, HEADS, QUERIES, WIDTH, dtype=torch.float64)
    for b in range(BATCH):
        for q in range(QUERIES):
            x = [[0.0] * WIDTH for _ in range(HEADS)]
            for h in range(HEADS):
                for k in range(KEYS):
                    score = float(query[b, h, q] @ key[b, h, k]) / math.sqrt(WIDTH)
                    if allowed[b][h][q][k] and score > 0:
                        x[h] = [sum_ + score * v for sum_, v in zip(x[h], value[b, h, k].tolist(), strict=True)]
            square = math.fsum(v * v for head in x for v in head) / (HEADS * WIDTH)
            for h in range(HEADS):
                opened = [(1 + math.tanh(gate[h] * v / 2)) / 2 for v in x[h]]  # The sigmoid of gate[h] * v.
                for d in range(WIDTH):
                    output[b, h, q, d] = gain[h] * x[h][d] / math.sqrt(square + 1e-8) * opened[d]
    return output


def test_rela_normalises_and_gates_all_heads_of_a_query_together() -> None:
    weights, inputs = trained_rela(), queries_keys_values()
    received = weights.attend(*inputs, random_mask(), POSITIONS)
    torch.testing.assert_close(received, rela_by_hand(weights, *inputs, random_mask()), rtol=1e-12, atol=1e-12)


def test_rela_starts_with_outputs_of_one_size_whatever_the_scores() -> None:
    """x / RMS(x), half of it through the open half of the gate."""
    query, key, value = queries_keys_values()
    for size in (0.1, 1.0, 10.0):
        received = ReLAWeights(HEADS).double().attend(size * query, key, value, None, POSITIONS)
        root_mean_square = received.square().mean((1, 3)).sqrt()
        torch.testing.assert_close(root_mean_square, torch.full_like(root_mean_square, 0.5), rtol=1e-5, atol=0)


def test_a_query_that_attends_to_nothing_gets_zeros_and_finite_gradients() -> None:
    weights = ReLAWeights(HEADS)
    query, key, value = (tensor.requires_grad_() for tensor in queries_keys_values(torch.float32))
    received = weights.attend(query, -query.detach()[:, :, :1], value[:, :, :1], None, POSITIONS)
    assert not received[:, :, 0].any()
    weights.attend(query, key, value, random_mask(), POSITIONS).square().sum().backward()
    for tensor in (query, key, value, weights.gain, weights.gate):
        assert tensor.grad.isfinite().all()


def test_rela_in_half_precision_neither_overflows_nor_vanishes() -> None:
    weights = trained_rela()
    query, key, value = queries_keys_values(torch.float16)
    for size in (300.0, 1e-3):
        scaled = value * size
        received = weights.attend(query, key, scaled, random_mask(), POSITIONS)
        expected = rela_by_hand(weights, *(t.double() for t in (query, key, scaled)), random_mask())
        assert received.dtype is torch.float16
        # Scores and sums are float16, each good to 5e-4.
        torch.testing.assert_close(received.double(), expected, rtol=0, atol=1e-2)


def test_gradients_of_rela_equal_finite_differences() -> None:
    weights, inputs = trained_rela(), [tensor.requires_grad_() for tensor in queries_keys_values()]

    def attend(query: Tensor, key: Tensor, value: Tensor, *_: Tensor) -> Tensor:
        return weights.attend(query, key, value, random_mask(), POSITIONS)

    # It varies gain and gate in place.
    assert torch.autograd.gradcheck(attend, (*inputs, weights.gain, weights.gate))


def test_the_statistics_of_rela_are_gain_and_gate_per_head() -> None:
    assert trained_rela().stats() == {"gain": [0.5, 2.0], "gate": [-3.0, 1.5]}


# Sigmoid attention


@pytest.mark.parametrize("keys", [1, 20, 36, 1000])
def test_at_scores_of_zero_the_weights_sum_to_almost_one(keys: int) -> None:
    """n / (n + 1): the sum that softmax has, but for one key more."""
    received = Sigmoid().weights(SITE)(torch.zeros(1, 1, 1, keys, dtype=torch.float64), None, POSITIONS)
    assert received.sum().item() == pytest.approx(keys / (keys + 1), rel=1e-12)


def test_a_key_does_not_lose_weight_to_another() -> None:
    """With as many keys allowed a weight depends on its own score alone."""
    scores = random_scores()
    other = scores.clone()
    other[..., 1:] += 5
    one, two = (Sigmoid().weights(SITE)(s, random_mask(), POSITIONS) for s in (scores, other))
    assert torch.equal(one[..., 0], two[..., 0])
    assert not torch.equal(one, two)


@pytest.mark.parametrize("variant", [ReLA(), Sigmoid()], ids=["rela", "sigmoid"])
def test_weights_that_do_not_sum_to_one_say_so(variant: Variant) -> None:
    weights = variant.weights(SITE)
    assert not weights.normalised
    assert (weights(random_scores(), None, POSITIONS).sum(-1) - 1).abs().max() > 0.1
