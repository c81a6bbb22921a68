"""LayerDrop: which layers a step drops, and what each pruning leaves for evaluation."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from ablations.variants.layerdrop import (
    MOMENTUM,
    PRUNINGS,
    UNITS,
    DataDriven,
    EveryOther,
    LayerDrop,
    Pruning,
    SearchOnValid,
    every_other,
    kept_sets,
)
from ablations.variants.softmax import Softmax
from suite import pruning
from suite.attention import AllLayers, Depth, Variant
from suite.config import Cell, Protocol
from suite.errors import UserError
from suite.models.lxmert import LxmertConfig, LxmertForQuestionAnswering
from suite.plan import resolve

EVERY_PRUNING: tuple[Pruning, ...] = ("every_other", "search_on_valid", "data_driven")
every_pruning = pytest.mark.parametrize("kind", EVERY_PRUNING)
STACKS = {"layer": 4, "r_layers": 3, "x_layers": 3}


def allowed(kind: Pruning, layers: int, p: int) -> Depth:
    """The Depth; what its pruning refuses is no example."""
    try:
        return PRUNINGS[kind](layers, p)
    except UserError:
        assume(False)
        raise


def learned(layers: int, p: int, seed: int = 0) -> DataDriven:
    """Data Driven pruning with rates as training may leave them."""
    generator = torch.Generator().manual_seed(seed)
    depth = DataDriven(layers, p)
    with torch.no_grad():
        for weight in depth.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
        depth.activation.copy_(torch.rand(layers, generator=generator))
    return depth


def small_model(variant: Variant, layers: tuple[int, int, int] = (4, 3, 3)) -> LxmertForQuestionAnswering:
    torch.manual_seed(0)
    config = LxmertConfig(
        vocabulary=10, answers=3, features=4, width=8, heads=2, intermediate=8, layers=layers,
        hidden_dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    return LxmertForQuestionAnswering(config, variant)


def small_inputs() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randint(1, 10, (2, 4), generator=generator),
        torch.randn(2, 3, 4, generator=generator),
        torch.rand(2, 3, 4, generator=generator),
    )


# A step


@given(st.sampled_from(EVERY_PRUNING), st.integers(2, 10), st.data())
def test_training_drops_exactly_p_distinct_layers(kind: Pruning, layers: int, data: st.DataObject) -> None:
    p = data.draw(st.integers(1, layers - 1))
    depth = allowed(kind, layers, p).train()
    kept = list(depth.keep(torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))))
    assert kept == sorted(set(kept) & set(range(layers)))
    assert len(kept) == layers - p


@every_pruning
def test_a_step_drops_a_layer_of_each_stack_and_leaves_it_no_gradient(kind: Pruning) -> None:
    model = small_model(LayerDrop(1, kind)).train()
    model(*small_inputs(), generator=torch.Generator().manual_seed(0)).sum().backward()
    for stack, layers in STACKS.items():
        reached = [
            any(weight.grad is not None for weight in layer.parameters())
            for layer in getattr(model.lxmert.encoder, stack)
        ]
        assert sorted(reached) == [False, *[True] * (layers - 1)]


@every_pruning
def test_the_generator_alone_decides_the_layers_of_a_step(kind: Pruning) -> None:
    """Every worker of a cell has the step's generator; what else it has drawn differs."""

    def drawn(seed: int, others: int) -> list[tuple[int, ...]]:
        torch.manual_seed(others)
        depth = learned(10, 1) if kind == "data_driven" else PRUNINGS[kind](10, 1)
        generator = torch.Generator().manual_seed(seed)
        return [tuple(depth.keep(generator)) for _ in range(20)]

    assert drawn(1, others=0) == drawn(1, others=7) != drawn(2, others=0)


def logits(kind: Pruning, others: int) -> Tensor:
    model = small_model(LayerDrop(1, kind)).train()
    torch.manual_seed(others)
    return model(*small_inputs(), generator=torch.Generator().manual_seed(3))


@every_pruning
def test_a_step_of_the_model_is_the_same_whatever_the_global_generator_did(kind: Pruning) -> None:
    assert torch.equal(logits(kind, others=1), logits(kind, others=2))


@pytest.mark.parametrize("kind", [EveryOther, SearchOnValid])
def test_over_many_steps_every_layer_is_dropped_equally_often(kind: type[EveryOther | SearchOnValid]) -> None:
    depth = kind(6, 2)
    generator = torch.Generator().manual_seed(0)
    counts = Counter(layer for _ in range(3000) for layer in depth.keep(generator))
    # Kept 2,000 times each, with a standard deviation of sqrt(3000 * 1/3 * 2/3) = 26.
    assert [counts[layer] for layer in range(6)] == pytest.approx([2000] * 6, abs=130)


# Evaluation


@every_pruning
def test_evaluation_draws_nothing(kind: Pruning) -> None:
    depth = PRUNINGS[kind](6, 1).eval()
    before = torch.get_rng_state()
    assert {tuple(depth.keep(None)) for _ in range(20)} == {(0, 1, 2, 3, 4)}
    assert torch.equal(torch.get_rng_state(), before)


@every_pruning
def test_evaluation_with_one_dropped_layer_is_softmax_without_the_deepest_of_each_stack(kind: Pruning) -> None:
    """Before anything is chosen or learned."""
    pruned, softmax = small_model(LayerDrop(1, kind)), small_model(Softmax(), (3, 2, 2))
    softmax.load_state_dict(
        {name: w for name, w in pruned.state_dict().items() if name in softmax.state_dict()}, strict=True
    )
    assert torch.equal(pruned.eval()(*small_inputs()), softmax.eval()(*small_inputs()))


@every_pruning
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_the_default_of_no_dropped_layer_is_softmax_of_that_depth(kind: Pruning, training: bool) -> None:
    default, softmax = (small_model(variant, (10, 6, 6)) for variant in (LayerDrop(0, kind), Softmax()))
    assert torch.equal(default.train(training)(*small_inputs()), softmax.train(training)(*small_inputs()))
    assert isinstance(LayerDrop(0, kind).depth("cross", 5), AllLayers)


@every_pruning
@pytest.mark.parametrize("p", [-1, 5, 6])
def test_a_count_that_leaves_no_layer_is_refused(kind: Pruning, p: int) -> None:
    with pytest.raises(UserError, match=f"from 0 to 4 for a stack of 5 layers; received {p}"):
        LayerDrop(p, kind).depth("vision", 5)


def test_an_unknown_pruning_is_refused_with_the_nearest() -> None:
    cell = Cell("layerdrop", "easy_vqa", Protocol(steps=1), arguments={"pruning": "every_othr"})
    with pytest.raises(UserError, match=r"'every_othr'\. Did you mean 'every_other'"):
        resolve(cell)


# Every Other


@pytest.mark.parametrize(
    ("layers", "p", "dropped"),
    [
        (9, 0, []),
        (9, 1, [9]),
        (5, 1, [5]),
        (10, 1, [10]),
        (6, 1, [6]),
        (10, 2, [5, 10]),
        (9, 2, [4, 8]),
        (9, 3, [3, 6, 9]),
        (6, 3, [2, 4, 6]),
    ],
)
def test_every_other_drops_these_depths_counted_from_one(layers: int, p: int, dropped: list[int]) -> None:
    assert [d for d in range(1, layers + 1) if d - 1 not in every_other(layers, p)] == dropped


@given(st.integers(2, 40), st.data())
def test_every_other_is_the_published_rule_or_refuses(layers: int, data: st.DataObject) -> None:
    """Fan et al., section 3: drop each depth d = 0 mod floor(1 / rate), rate = p / N. It drops p or is refused."""
    p = data.draw(st.integers(1, layers - 1))
    period = math.floor(1 / Fraction(p, layers))
    dropped = [d for d in range(1, layers + 1) if d % period == 0]
    if len(dropped) == p:
        kept = [d - 1 for d in range(1, layers + 1) if d not in dropped]
        assert every_other(layers, p) == kept
        assert list(EveryOther(layers, p).eval().keep(None)) == kept
    else:
        with pytest.raises(UserError, match=f"exactly p={p} of {layers}"):
            every_other(layers, p)


# Search on Valid


@given(st.integers(2, 10), st.data())
def test_search_may_choose_among_all_sets_of_layers_and_begins_with_every_other(
    layers: int, data: st.DataObject
) -> None:
    p = data.draw(st.integers(1, layers - 1))
    sets = [tuple(kept) for kept in kept_sets(layers, p)]
    assert len(sets) == len(set(sets)) == math.comb(layers, p)
    assert all(len(kept) == layers - p and list(kept) == sorted(set(kept)) for kept in sets)
    try:
        first = every_other(layers, p)
    except UserError:
        first = list(range(layers - p))
    assert list(SearchOnValid(layers, p).eval().keep(None)) == list(sets[0]) == first


def test_more_sets_than_can_be_evaluated_are_refused_with_their_number() -> None:
    with pytest.raises(UserError, match=r"at most 1000 sets .* p=6 of 13 layers leaves 1716"):
        LayerDrop(6, "search_on_valid").depth("language", 13)


@given(st.integers(2, 8), st.data())
def test_a_choice_is_what_evaluation_runs_and_a_checkpoint_keeps(layers: int, data: st.DataObject) -> None:
    p = data.draw(st.integers(1, layers - 1))
    chosen, loaded = SearchOnValid(layers, p).eval(), SearchOnValid(layers, p).eval()
    kept = data.draw(st.sampled_from(chosen.options()))
    chosen.choose(kept)
    loaded.load_state_dict(chosen.state_dict())
    assert list(chosen.keep(None)) == list(loaded.keep(None)) == list(kept)


def test_the_choice_of_a_start_with_another_p_is_none_of_this_one() -> None:
    start, depth = SearchOnValid(6, 2), SearchOnValid(6, 1).eval()
    start.choose([0, 2, 3, 5])
    depth.load_state_dict(start.state_dict())
    assert list(depth.keep(None)) == every_other(6, 1)


def test_search_on_valid_finds_the_best_of_all_combinations() -> None:
    """Against plain models of the smaller depth, one for each combination."""
    model, inputs = small_model(LayerDrop(1, "search_on_valid"), (4, 3, 3)), small_inputs()
    with torch.no_grad():
        for weight in model.parameters():  # So that every layer matters.
            weight.add_(0.3 * torch.randn_like(weight))
    target = torch.randn(2, 3)

    @torch.no_grad()
    def score(candidate: LxmertForQuestionAnswering) -> float:
        return -(candidate.eval()(*inputs) - target).square().sum().item()

    def smaller(*kept: Sequence[int]) -> LxmertForQuestionAnswering:
        plain = small_model(Softmax(), (3, 2, 2))
        stacks = dict(zip(pruning.MODULES, kept, strict=True))
        plain.load_state_dict(pruning.renumbered(model.state_dict(), stacks), strict=True)
        return plain

    combinations = itertools.product(*(itertools.combinations(range(n), n - 1) for n in (4, 3, 3)))
    scores = {kept: score(smaller(*kept)) for kept in combinations}
    best = max(scores, key=scores.__getitem__)
    assert best != ((0, 1, 2), (0, 1), (0, 1)), "Every Other's, with which the search begins"
    pruning.choose_layers(model, lambda: score(model))
    assert tuple(map(tuple, pruning.kept_layers(model).values())) == best
    assert score(model) == scores[best]


# Data Driven


def rates_by_hand(depth: DataDriven, p: int) -> np.ndarray:
    slope, offset, scale, activation = (
        tensor.detach().double().numpy() for tensor in (depth.slope, depth.offset, depth.scale, depth.activation)
    )
    scores = np.array(
        [sum(c * np.tanh(a * m + b)) for c, a, b, m in zip(scale, slope, offset, activation, strict=True)]
    )
    return p * np.exp(scores) / np.exp(scores).sum()


@given(st.integers(2, 12), st.data())
def test_rates_are_p_times_the_softmax_of_the_scores_and_average_p_by_n(layers: int, data: st.DataObject) -> None:
    p = data.draw(st.integers(1, layers - 1))
    depth = learned(layers, p, seed=data.draw(st.integers(0, 100)))
    rates = depth.rates().detach().double().numpy()
    np.testing.assert_allclose(rates, rates_by_hand(depth, p), rtol=1e-5)
    assert rates.mean() == pytest.approx(p / layers)


@given(st.integers(2, 12), st.data())
def test_evaluation_keeps_the_lowest_rates(layers: int, data: st.DataObject) -> None:
    p = data.draw(st.integers(1, layers - 1))
    depth = learned(layers, p, seed=data.draw(st.integers(0, 100))).eval()
    lowest = np.argsort(rates_by_hand(depth, p))[: layers - p]
    assert depth.keep(None) == sorted(lowest)


@pytest.mark.parametrize("p", [1, 2])
def test_layers_are_dropped_without_replacement_in_proportion_to_their_rates(p: int) -> None:
    depth = learned(5, p)
    share = rates_by_hand(depth, p) / p
    dropped = share.copy()
    if p == 2:  # First, or second after another.
        dropped += [share[i] * sum(q / (1 - q) for j, q in enumerate(share) if j != i) for i in range(5)]
    generator, draws = torch.Generator().manual_seed(0), 4000
    counts = Counter(layer for _ in range(draws) for layer in depth.keep(generator))
    deviations = np.sqrt(draws * dropped * (1 - dropped))
    received = np.array([draws - counts[layer] for layer in range(5)])
    assert (np.abs(received - draws * dropped) < 4 * deviations).all()


def test_a_layer_that_runs_passes_its_output_on_unchanged() -> None:
    """The model computes what it would with the same layers drawn in another way."""
    driven = small_model(LayerDrop(1, "data_driven")).train()
    hidden = driven(*small_inputs(), generator=torch.Generator().manual_seed(0))
    depths = driven.lxmert.encoder.depth
    generator = torch.Generator().manual_seed(0)
    kept = {stack: list(depths[stack].keep(generator)) for stack in depths}  # type: ignore[operator]
    plain = small_model(Softmax(), (3, 2, 2))
    plain.load_state_dict(pruning.renumbered(driven.state_dict(), kept), strict=True)
    torch.testing.assert_close(hidden, plain(*small_inputs()), rtol=0, atol=1e-6)


def test_the_gradient_of_a_rate_is_that_of_input_minus_output() -> None:
    """d/d p_d of (1 - p_d) output + p_d input, against finite differences of the rates by hand."""
    depth = learned(4, 2).double().train()
    depth.keep(torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    before, after, upstream = torch.randn(3, 6, 5, dtype=torch.float64, generator=generator)
    before.requires_grad_()
    after.requires_grad_()
    activation = depth.activation.clone()
    out = depth.gate(2, before, after)
    assert torch.equal(out, after)
    out.backward(upstream)
    assert before.grad is not None
    assert after.grad is not None
    assert torch.equal(after.grad, upstream)
    assert not before.grad.any()

    depth.activation.copy_(activation)
    change = (upstream * (before - after)).sum().item()
    for weight in depth.parameters():
        assert weight.grad is not None
        for place in itertools.product(range(4), range(UNITS)):
            with torch.no_grad():
                rates = []
                for step in (1e-6, -2e-6):
                    weight[place] += step
                    rates.append(rates_by_hand(depth, 2)[2])
                weight[place] += 1e-6
            expected = change * (rates[0] - rates[1]) / 2e-6
            assert weight.grad[place].item() == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_the_activation_is_the_running_mean_of_the_relative_change() -> None:
    depth = DataDriven(3, 1).train()
    depth.keep(torch.Generator().manual_seed(0))
    before = torch.full((4, 5), 2.0)
    depth.gate(1, before, before + 3.0)
    depth.gate(1, before, before - 1.0)
    expected = (1 - MOMENTUM) * (MOMENTUM * 1.5) + MOMENTUM * 0.5
    assert depth.activation.tolist() == pytest.approx([0, expected, 0])
    depth.eval().gate(1, before, before + 3.0)
    assert depth.activation.tolist() == pytest.approx([0, expected, 0])


def test_a_layer_that_hurts_is_learned_to_be_dropped() -> None:
    """A stack of numbers: each layer adds its own, and the loss is their sum."""
    depth, adds = DataDriven(4, 1).train(), (-1.0, 2.0, -1.0, -1.0)
    optimiser, generator = torch.optim.SGD(depth.parameters(), lr=0.1), torch.Generator().manual_seed(0)
    for _ in range(100):
        hidden = torch.ones(1, 1)
        for index in depth.keep(generator):
            hidden = depth.gate(index, hidden, hidden + adds[index])
        optimiser.zero_grad()
        hidden.sum().backward()
        optimiser.step()
    assert depth.eval().keep(None) == [0, 2, 3]


def test_gradients_reach_the_rates_of_every_stack() -> None:
    model = small_model(LayerDrop(1, "data_driven")).train()
    model(*small_inputs(), generator=torch.Generator().manual_seed(0)).square().sum().backward()
    for stack, depth in model.lxmert.encoder.depth.items():
        gradients = {name: weight.grad for name, weight in depth.named_parameters()}
        assert all(gradient is not None for gradient in gradients.values()), stack
        assert gradients["scale"].any(), stack  # type: ignore[union-attr]
