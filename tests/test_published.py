"""The published code's behaviour beside the paper's text: each defect shows, and the study compares them."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ablations.variants.concatenated import Concatenated
from ablations.variants.entmax import Entmax, EntmaxWeights
from ablations.variants.entmax_published import EntmaxPublished, FreeAlphaWeights
from ablations.variants.layerdrop_published import DrawnLayers, LayerDropPublished
from ablations.variants.softmax import Softmax
from ablations.variants.span_published import SlotSpanWeights, SpanPublished
from ablations.variants.unloaded_encoder import UnloadedEncoder, in_a_layer
from suite import contract, flops, plan
from suite.attention import Positions, SoftmaxWeights, Tokens, Variant
from suite.config import Cell, Comparison, ModelSize, Protocol, Study
from suite.data.store import open_dataset
from suite.errors import UserError
from suite.models.lxmert import LxmertConfig, LxmertForQuestionAnswering
from suite.plan import Job, Workplace, load_study
from suite.records import CellFolder, StudyFolder, read_json
from suite.running import run_cell
from suite.training import build_model, build_variant, load_start

SLOTS, HEADS, QUERIES, KEYS = 3, 4, 5, 9
SIZE = LxmertConfig(
    vocabulary=10, answers=3, features=4, width=8, heads=2, intermediate=8, layers=(3, 2, 2),
    hidden_dropout=0.0, attention_dropout=0.0,
)  # fmt: skip


def tokens(modality: str, count: int) -> Tokens:
    return Tokens(modality, None, torch.arange(count))  # type: ignore[arg-type]


def positions(keys: int = KEYS, queries: int = QUERIES, modality: str = "words") -> Positions:
    return Positions(tokens("words", queries), tokens(modality, keys))


def random_scores(batch: int = SLOTS, keys: int = KEYS, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(batch, HEADS, QUERIES, keys, dtype=torch.float64, generator=generator)


def model_of(variant: Variant, layers: tuple[int, int, int] = SIZE.layers) -> LxmertForQuestionAnswering:
    torch.manual_seed(0)
    return LxmertForQuestionAnswering(dataclasses.replace(SIZE, layers=layers), variant)


def inputs(questions: int = 2) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randint(1, 10, (questions, 4), generator=generator),
        torch.randn(questions, 3, 4, generator=generator),
        torch.rand(questions, 3, 4, generator=generator),
    )


def refused(variant: Variant) -> list[str]:
    """The checks of the contract that ``variant`` does not pass."""
    names = []
    for promise in contract.CHECKS:
        try:
            promise(variant)
        except contract.BrokenPromise:
            names.append(promise.__name__)
    return names


# Span: one per batch slot, over the key's place


def slot_spans(shares: Tensor | None = None) -> SlotSpanWeights:
    weights = SlotSpanWeights(SLOTS, HEADS, words=20).double()
    if shares is not None:
        with torch.no_grad():
            weights.share.copy_(shares.expand_as(weights.share))
    return weights


def test_at_a_span_of_zero_no_word_and_four_of_36_boxes_are_out_of_reach() -> None:
    weights = slot_spans(torch.tensor(0.0))
    words, boxes = (weights.soft_mask(tokens(*key))[0, 0, 0] for key in (("words", 20), ("boxes", 36)))
    assert words.tolist() == [(32 - 19 + place) / 32 for place in range(20)]
    assert boxes.tolist() == [max(32 - 35 + place, 0) / 32 for place in range(36)]
    assert ((words == 0).sum(), (boxes == 0).sum()) == (0, 4)


@pytest.mark.parametrize(("modality", "keys", "length"), [("words", KEYS, 20), ("boxes", 36, 36)])
def test_slot_spans_are_softmax_times_a_mask_over_the_keys_place(modality: str, keys: int, length: int) -> None:
    """Worked out number by number; 6 of the 12 shares are out of [0, 1], as before the first step."""
    shares = torch.linspace(-1, 2, SLOTS * HEADS, dtype=torch.float64).view(SLOTS, HEADS, 1, 1)
    scores = random_scores(keys=keys)
    received = slot_spans(shares)(scores, None, positions(keys, modality=modality))
    for slot, head, query in torch.cartesian_prod(*map(torch.arange, scores.shape[:3])).tolist():
        row, v = scores[slot, head, query].tolist(), shares[slot, head].item()
        exps = [math.exp(score) for score in row]
        m = [min(max((32 + v * length - (length - 1 - place)) / 32, 0), 1) for place in range(keys)]
        masked = [e / math.fsum(exps) * one for e, one in zip(exps, m, strict=True)]
        expected = [one / (math.fsum(masked) + 1e-8) for one in masked]
        assert received[slot, head, query].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("batch", [SLOTS - 1, SLOTS + 1])
def test_a_batch_of_another_size_is_not_masked(batch: int) -> None:
    scores = random_scores(batch)
    weights = slot_spans(torch.tensor(0.0))
    assert torch.equal(weights(scores, None, positions()), SoftmaxWeights()(scores, None, positions()))
    masked = weights(random_scores(), None, positions())
    assert (masked - random_scores().softmax(-1)).abs().max() > 0.01


def test_one_question_in_two_slots_has_two_spans() -> None:
    shares = torch.tensor([0.0, 0.5, 1.0]).view(SLOTS, 1, 1, 1)
    received = slot_spans(shares)(random_scores()[:1].expand(SLOTS, -1, -1, -1), None, positions())
    assert not torch.allclose(received[0], received[1])
    assert not torch.allclose(received[1], received[2])


def test_a_questions_weights_do_not_depend_on_the_longest_of_its_batch() -> None:
    weights, scores = slot_spans(), random_scores(keys=15)
    mask = (torch.arange(15) < KEYS).expand(SLOTS, 1, 1, 15)
    longer = weights(scores, mask, positions(15))
    torch.testing.assert_close(
        longer[..., :KEYS], weights(scores[..., :KEYS], None, positions()), rtol=1e-12, atol=0
    )
    assert not longer[..., KEYS:].any()


def test_the_first_query_alone_has_the_weights_that_it_has_among_others() -> None:
    """The last cross layer asks for it alone."""
    weights, scores = slot_spans(), random_scores()
    alone = weights(scores[..., :1, :], None, positions(queries=1))
    assert torch.equal(alone, weights(scores, None, positions())[..., :1, :])


def test_a_question_longer_than_the_padding_is_refused() -> None:
    with pytest.raises(UserError, match="words=20; received questions of 21 words"):
        slot_spans()(random_scores(keys=21), None, positions(21))


def test_shares_start_as_kaimings_normal_and_are_clamped_by_the_first_projection() -> None:
    torch.manual_seed(0)
    weights = SlotSpanWeights(2000, 12, words=20)
    # Standard errors of 24,000 draws: 0.003 and 0.002.
    assert weights.share.mean().item() == pytest.approx(0.002, abs=0.01)
    assert weights.share.std().item() == pytest.approx(math.sqrt(2 / 12), abs=0.01)
    assert weights.share.min() < 0
    weights.project()
    assert (weights.share.min().item(), weights.share.max().item()) == (0, 1)


def test_penalty_and_recorded_spans_take_1024_tokens() -> None:
    shares = torch.tensor([0.0, 0.25, 0.5]).view(SLOTS, 1, 1, 1)
    weights = slot_spans(shares)
    assert weights.penalty().item() == pytest.approx(5e-6 * 1024 * 0.25, rel=1e-12)
    assert weights.stats() == {"span": [256.0] * HEADS}


def test_evaluation_in_other_batches_is_softmaxs() -> None:
    published, softmax = model_of(SpanPublished(batch_size=3)), model_of(Softmax())
    softmax.load_state_dict({name: published.state_dict()[name] for name in softmax.state_dict()})
    few, many = inputs(3), inputs(4)
    torch.testing.assert_close(published.eval()(*many), softmax.eval()(*many), rtol=0, atol=1e-6)
    assert (published(*few) - softmax(*few)).abs().max() > 1e-5


def test_where_the_contracts_questions_are_a_full_batch_a_batch_is_not_its_rows() -> None:
    assert refused(SpanPublished(batch_size=contract.QUESTIONS)) == ["batch_equals_its_rows"]


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"words": 0}])
def test_impossible_slot_spans_are_refused(arguments: dict) -> None:
    [(name, value)] = arguments.items()
    with pytest.raises(UserError, match=f"{name}={value}"):
        SpanPublished(**arguments)


# Entmax: a free alpha


def free_alphas(*alphas: float) -> FreeAlphaWeights:
    weights = FreeAlphaWeights(len(alphas)).double()
    with torch.no_grad():
        weights.alpha.copy_(torch.tensor(alphas, dtype=torch.float64))
    return weights


def test_free_alphas_start_where_those_of_entmax_do() -> None:
    torch.manual_seed(0)
    published = FreeAlphaWeights(HEADS)
    torch.manual_seed(0)
    assert torch.equal(published.alpha, EntmaxWeights(HEADS).alpha())


def step(variant: Variant) -> list[float]:
    """Every alpha after one training step with a rate of 2."""
    model = model_of(variant).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2.0)
    model(*inputs()).square().sum().backward()
    optimiser.step()
    for _, weights in model.sites():
        weights.project()
    return [alpha for _, weights in model.sites() for alpha in weights.stats()["alpha"]]


def test_a_step_takes_alpha_out_of_its_range() -> None:
    inside, free = step(Entmax()), step(EntmaxPublished())
    assert all(1 <= alpha <= 2 for alpha in inside)
    assert min(free) < 1
    assert max(free) > 2


@pytest.mark.parametrize("alphas", [(1.2, 1.5, 1.8, 2.0), (0.5, 0.9, 2.5, 4.0), (-1.0, 1.005, 1.5, 2.001)])
def test_weights_are_what_the_definition_gives_for_any_alpha(alphas: tuple[float, ...]) -> None:
    """p = [(alpha - 1) s - tau]_+^(1 / (alpha - 1)): one tau for all keys with weight, and none for the others."""
    scores = random_scores()
    received = free_alphas(*alphas)(scores, None, positions())
    torch.testing.assert_close(received.sum(-1), torch.ones(scores.shape[:-1], dtype=torch.float64))
    for head, alpha in enumerate(alphas):
        e = alpha - 1
        for row, p in zip(scores[:, head].flatten(0, 1), received[:, head].flatten(0, 1), strict=True):
            taus = e * row - p**e
            inside = p > 1e-6
            tau = taus[inside].mean()
            torch.testing.assert_close(taus[inside], tau.expand(int(inside.sum())), rtol=1e-6, atol=1e-6)
            if alpha > 1:
                assert (e * row[p == 0] <= tau + 1e-6).all()
            else:
                assert (p > 0).all()


def test_masked_keys_and_empty_rows_get_nothing_for_any_alpha() -> None:
    mask = torch.ones(SLOTS, 1, 1, KEYS, dtype=torch.bool)
    mask[1, ..., 4:], mask[2] = False, False
    weights, scores = free_alphas(0.5, 1.5, 2.5, 4.0), random_scores().requires_grad_()
    received = weights(scores, mask, positions())
    torch.testing.assert_close(received[1, ..., :4], weights(scores[..., :4], None, positions(4))[1])
    assert not received.masked_fill(mask, 0).any()
    received.square().sum().backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


def test_at_an_alpha_of_one_keys_weigh_the_same_and_the_gradient_is_not_a_number() -> None:
    weights = free_alphas(1.0)
    received = weights(random_scores()[:, :1], None, positions())
    torch.testing.assert_close(received, torch.full_like(received, 1 / KEYS))
    received.square().sum().backward()
    assert weights.alpha.grad is not None
    assert weights.alpha.grad.isnan().all()


def test_far_below_the_range_weights_are_not_numbers() -> None:
    received = free_alphas(-500.0)(random_scores()[:, :1], None, positions())
    assert received.isnan().any()


# LayerDrop: drawn with replacement, in evaluation too


@given(st.integers(2, 10), st.data())
def test_a_step_drops_at_least_one_and_at_most_p_layers(layers: int, data: st.DataObject) -> None:
    p = data.draw(st.integers(1, layers - 1))
    depth = DrawnLayers("language", layers, p)
    for _ in range(2):
        kept = depth.keep(torch.Generator().manual_seed(data.draw(st.integers(0, 1000))))
        assert list(kept) == sorted(set(kept))
        assert layers - p <= len(kept) <= layers - 1
        depth.eval()


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_two_draws_often_hit_one_layer(training: bool) -> None:
    depth = DrawnLayers("vision", 5, 2).train(training)
    generator = torch.Generator().manual_seed(0)
    dropped = Counter(5 - len(depth.keep(generator if training else None)) for _ in range(1000))
    # One time in five, with a standard deviation of 13 over 1,000.
    assert dropped[1] == pytest.approx(200, abs=60)
    assert dropped[1] + dropped[2] == 1000


def test_two_evaluations_of_one_batch_run_other_layers() -> None:
    model = model_of(LayerDropPublished()).eval()
    first, second = model(*inputs()), model(*inputs())
    assert (first - second).abs().max() > 1e-5


def test_an_evaluation_is_repeated_to_the_same_bits_whatever_was_drawn_before() -> None:
    model = model_of(LayerDropPublished())
    before = [model.eval()(*inputs()), model(*inputs())]
    model.train()(*inputs(), generator=torch.Generator().manual_seed(0))
    torch.rand(3)
    assert all(map(torch.equal, before, [model.eval()(*inputs()), model(*inputs())]))


@pytest.mark.parametrize("layers", [(6, 5, 4), (4, 6, 5), (5, 4, 6)], ids=str)
def test_what_is_counted_is_the_layers_that_ran(layers: tuple[int, int, int]) -> None:
    """A count runs the model and then traces it; the next draws would drop other numbers of layers."""
    model = model_of(LayerDropPublished(p=3), layers).eval()
    depths = model.lxmert.encoder.depth.values()
    first, second = (tuple(len(depth.keep(None)) for depth in depths) for _ in range(2))
    assert first != second
    for count in (flops.count_answer, flops.count_reference):
        assert count(model, 4, 3).total == count(model_of(Softmax(), first), 4, 3).total


@pytest.mark.parametrize("p", [0, 2, 3])
def test_a_count_of_draws_that_may_leave_no_layer_is_refused(p: int) -> None:
    with pytest.raises(UserError, match=f"from 1 to 1 for a stack of 2 layers; received {p}"):
        LayerDropPublished(p).depth("vision", 2)


# Cells: the encoder that is not loaded, and runs that repeat


CELL = Cell(
    variant="softmax",
    dataset="easy_vqa",
    protocol=Protocol(steps=4, batch_size=7, evaluations=2, optimizer="adamw", schedule="linear"),
    model=ModelSize(width=8, heads=2, intermediate=8),
    layers=(9, 5, 5),
)


class Runs:
    """A study's folder with a start of 9-5-5, trained for a step."""

    def __init__(self, study: Path, data: Path) -> None:
        self.folder, self.data = StudyFolder(study), data
        self.dataset = open_dataset(data / "easy_vqa")

    def run(self, cell: Cell, name: str, start: str | None = None) -> CellFolder:
        run_cell(
            Job(name, cell, "row", start), Workplace(str(self.folder.path), str(self.data)), lambda progress: None
        )
        return self.folder.cell(name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("study"), data_folder)
    one_step = dataclasses.replace(CELL.protocol, steps=1, evaluations=1)
    assert runs.run(dataclasses.replace(CELL, protocol=one_step), "start").state == "finished"
    return runs


def loaded(runs: Runs, variant: str, layers: tuple[int, int, int], **arguments: Any) -> dict[str, Any]:
    cell = dataclasses.replace(CELL, variant=variant, layers=layers, arguments=arguments)
    return load_start(build_model(cell, runs.dataset), build_variant(cell), runs.folder.cell("start"))


@pytest.mark.parametrize(
    ("variant", "arguments"), [("unloaded_encoder", {}), ("layerdrop_published", {"load_encoder": False})]
)
def test_none_of_the_encoders_434_tensors_is_loaded(runs: Runs, variant: str, arguments: dict[str, Any]) -> None:
    said = loaded(runs, variant, (9, 5, 5), **arguments)
    assert len(said["new"]) == 434
    assert all(map(in_a_layer, said["new"]))
    assert said["left_over"] == sorted(said["new"])
    everything = loaded(runs, "softmax", (9, 5, 5))
    assert (everything["new"], everything["loaded"] - said["loaded"]) == ([], 434)


def test_with_the_encoder_only_the_deeper_layers_are_new(runs: Runs) -> None:
    published, text = (
        loaded(runs, "layerdrop_published", (10, 6, 6), load_encoder=True),
        loaded(runs, "layerdrop", (10, 6, 6)),
    )
    assert published == text


def test_what_is_not_loaded_is_87_percent_of_the_backbone() -> None:
    with torch.device("meta"):
        model = LxmertForQuestionAnswering(LxmertConfig(), UnloadedEncoder())
    sizes = {name: weight.numel() for name, weight in model.lxmert.state_dict(prefix="lxmert.").items()}
    lost = [name for name in sizes if in_a_layer(name)]
    assert len(lost) == 434
    assert 100 * sum(sizes[name] for name in lost) / sum(sizes.values()) == pytest.approx(87, abs=0.5)


def test_a_published_layerdrop_cell_that_was_killed_before_its_result_ends_in_the_same_bits(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its evaluations are random, and repeat all the same."""
    cell = dataclasses.replace(CELL, variant="layerdrop_published", arguments={"p": 2}, layers=(6, 4, 4))
    whole = runs.run(cell, "whole")
    assert whole.state == "finished", whole.log.read_text()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(CellFolder, "write_result", killed)
        with pytest.raises(KeyboardInterrupt):
            runs.run(cell, "killed")
    again = runs.run(cell, "killed")
    for name in ("accuracy", "macs", "macs_reference", "kept"):
        assert (again.result() or {})[name] == (whole.result() or {})[name]
    assert (again.path / "predictions.parquet").read_bytes() == (whole.path / "predictions.parquet").read_bytes()


# Concatenated pooling


def test_the_pooled_regions_change_the_logits() -> None:
    concatenated, softmax = model_of(Concatenated()).eval(), model_of(Softmax()).eval()
    softmax.load_state_dict({name: concatenated.state_dict()[name] for name in softmax.state_dict()})
    assert (concatenated(*inputs()) - softmax(*inputs())).abs().max() > 1e-6
    with torch.no_grad():
        concatenated.answer_head.regions[1].weight.zero_()
    torch.testing.assert_close(concatenated(*inputs()), softmax(*inputs()), rtol=0, atol=1e-7)


def test_the_answer_is_read_from_both_pooled_modalities() -> None:
    """One linear layer over the two side by side: its weights are those of the two parts, side by side."""
    model = model_of(Concatenated()).double().eval()
    outputs = model.outputs(*(part.double() if part.is_floating_point() else part for part in inputs()))
    pooler, linear = model.answer_head.regions
    pooled = torch.cat([model.lxmert.pooler(outputs.words[:, 0]), pooler(outputs.regions.mean(1))], dim=1)
    first = model.answer_head.logit_fc[0]
    hidden = torch.cat([first.weight, linear.weight], dim=1) @ pooled.T + first.bias[:, None]
    torch.testing.assert_close(model.answer_head.logit_fc[1:](hidden.T), outputs.logits, rtol=0, atol=1e-12)


def test_the_last_layers_vision_half_is_alive() -> None:
    """16 of its tensors never get a gradient where the first word is pooled alone."""

    def unreached(variant: Variant) -> list[str]:
        model = model_of(variant).train()
        model(*inputs()).square().sum().backward()
        return [name for name, weight in model.named_parameters() if weight.grad is None]

    assert len(unreached(Softmax())) == 16
    assert unreached(Concatenated()) == []


# The study


def test_every_pair_differs_in_its_method_alone() -> None:
    study = load_study("published", {})
    assert len({pair.label for pair in study.comparisons}) == len(study.comparisons)
    for pair in study.comparisons:
        base, changed = (
            dataclasses.replace(cell, variant="", arguments={}) for cell in (pair.base, pair.changed)
        )  # fmt: skip
        assert base == changed
        assert pair.base != pair.changed


def test_the_spans_slots_are_the_batch_size() -> None:
    cells = [cell for cell in load_study("published", {}).cells if cell.variant == "span_published"]
    assert [cell.arguments["batch_size"] for cell in cells] == [cell.protocol.batch_size for cell in cells]


def test_the_study_starts_from_the_demos_start(data_folder: Path) -> None:
    published, demo = (plan.plan(load_study(name, {}), data_folder) for name in ("published", "demo"))
    assert [job.id for job in published if job.role == "start"] == [job.id for job in demo if job.role == "start"]
    assert published[1].id == demo[1].id


def test_the_pairs_are_written_with_the_ids_of_their_cells(data_folder: Path, tmp_path: Path) -> None:
    study = load_study("published", {"steps": "7"})
    jobs = plan.plan(study, data_folder)
    plan.write_study(StudyFolder(tmp_path), study, jobs, data_folder)
    cells = {job.id: job.cell for job in jobs}
    written = read_json(tmp_path / "study.json")["comparisons"]
    assert [pair["label"] for pair in written] == [pair.label for pair in study.comparisons]
    for pair, expected in zip(written, study.comparisons, strict=True):
        assert cells[pair["base"]] == plan.resolve(expected.base)
        assert cells[pair["changed"]] == plan.resolve(expected.changed)
        assert cells[pair["base"]].protocol.steps == 7


def test_a_pair_of_a_cell_that_the_study_lacks_is_refused(data_folder: Path, tmp_path: Path) -> None:
    other = dataclasses.replace(CELL, variant="span", arguments={"ramp": 2})
    study = Study("odd", "?", cells=(CELL,), comparisons=(Comparison("a narrow ramp", CELL, other),))
    with pytest.raises(UserError, match=r"'a narrow ramp' expects cells of its study; received span.*'ramp': 2"):
        plan.write_study(StudyFolder(tmp_path), study, plan.plan(study, data_folder), data_folder)
