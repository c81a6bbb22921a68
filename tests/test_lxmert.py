"""The model against transformers' LXMERT, an independent implementation of the same network.

Tolerances: both run in float32, whose sums of a few hundred terms of order 1 differ by about 1e-6 between two
orders of summation; gradients pass through twice as many.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest
import torch
import transformers
from torch import Tensor

from suite.attention import Variant
from suite.models.lxmert import LxmertConfig, LxmertForQuestionAnswering

LOGITS, GRADIENTS = 1e-5, 1e-4
DEMO = LxmertConfig(
    vocabulary=40, answers=13, features=12, width=64, heads=4, intermediate=128, layers=(9, 5, 5),
    hidden_dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
OTHER = LxmertConfig(
    vocabulary=20, answers=5, features=7, width=24, heads=3, intermediate=20, layers=(2, 3, 1),
    hidden_dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
QUESTIONS, WORDS, REGIONS = 5, 9, 6


@dataclass
class Pair:
    """One network twice, with equal weights, and a batch of padded questions and pictures that lack regions."""

    ours: LxmertForQuestionAnswering
    theirs: transformers.LxmertForQuestionAnswering
    inputs: dict[str, Tensor]

    def reference(self, **options: bool) -> transformers.utils.ModelOutput:
        return self.theirs(
            input_ids=self.inputs["words"],
            visual_feats=self.inputs["regions"],
            visual_pos=self.inputs["boxes"],
            attention_mask=self.inputs["word_mask"],
            visual_attention_mask=self.inputs["region_mask"],
            **options,
        )


def reference_model(config: LxmertConfig) -> transformers.LxmertForQuestionAnswering:
    torch.manual_seed(0)
    language, vision, cross = config.layers
    model = transformers.LxmertForQuestionAnswering(
        transformers.LxmertConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            num_attention_heads=config.heads,
            intermediate_size=config.intermediate,
            l_layers=language,
            r_layers=vision,
            x_layers=cross,
            visual_feat_dim=config.features,
            num_qa_labels=config.answers,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attn_implementation="eager",
        )
    )
    # The initial deviation of 0.02 leaves attention near uniform, and biases and norms at 0 and 1: an error
    # in them would not show.
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def batch(config: LxmertConfig) -> dict[str, Tensor]:
    lengths = torch.tensor([2, 4, 5, 7, WORDS])
    present = torch.arange(WORDS) < lengths[:, None]
    regions = torch.rand(QUESTIONS, REGIONS) < 0.7
    regions[:, 0] = True
    return {
        "words": torch.randint(1, config.vocabulary, (QUESTIONS, WORDS)) * present,
        "regions": torch.randn(QUESTIONS, REGIONS, config.features),
        "boxes": torch.rand(QUESTIONS, REGIONS, 4),
        "word_mask": present,
        "region_mask": regions,
    }


@cache
def models(config: LxmertConfig) -> tuple[LxmertForQuestionAnswering, transformers.LxmertForQuestionAnswering]:
    theirs = reference_model(config)
    ours = LxmertForQuestionAnswering(config, Variant())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


@pytest.fixture(params=[DEMO, OTHER], ids=["demo", "other"])
def pair(request: pytest.FixtureRequest) -> Pair:
    ours, theirs = models(request.param)
    for model in (ours, theirs):
        model.eval().zero_grad(set_to_none=True)
    torch.manual_seed(1)
    return Pair(ours, theirs, batch(request.param))


def test_the_base_model_has_the_tensors_of_transformers() -> None:
    with torch.device("meta"):
        ours = LxmertForQuestionAnswering(LxmertConfig(), Variant()).state_dict()
        theirs = transformers.LxmertForQuestionAnswering(transformers.LxmertConfig(num_qa_labels=3129)).state_dict()
    assert {name: weight.shape for name, weight in ours.items()} == {
        name: weight.shape for name, weight in theirs.items()
    }


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_logits_equal_those_of_transformers(pair: Pair, training: bool) -> None:
    pair.ours.train(training)
    pair.theirs.train(training)
    torch.testing.assert_close(
        pair.ours(**pair.inputs), pair.reference().question_answering_score, rtol=0, atol=LOGITS
    )


def test_logits_equal_those_of_transformers_without_masks(pair: Pair) -> None:
    pair.inputs |= {"word_mask": None, "region_mask": None, "words": pair.inputs["words"].clamp(min=1)}
    torch.testing.assert_close(
        pair.ours(**pair.inputs), pair.reference().question_answering_score, rtol=0, atol=LOGITS
    )


def test_gradients_equal_those_of_transformers(pair: Pair) -> None:
    pair.ours(**pair.inputs).square().mean().backward()
    pair.reference().question_answering_score.square().mean().backward()
    expected = {name: weight.grad for name, weight in pair.theirs.named_parameters()}
    received = {name: weight.grad for name, weight in pair.ours.named_parameters()}
    assert [name for name, gradient in received.items() if gradient is None] == [
        name for name, gradient in expected.items() if gradient is None
    ]
    for name, gradient in received.items():
        if gradient is not None:
            torch.testing.assert_close(gradient, expected[name], rtol=0, atol=GRADIENTS, msg=name)


def test_the_last_vision_half_gets_no_gradient(pair: Pair) -> None:
    """The answer reads the first word alone: these 16 tensors of the last cross layer cannot reach it."""
    pair.ours(**pair.inputs).sum().backward()
    last = pair.ours.config.layers[2] - 1
    parts = ("visn_self_att", "visn_inter", "visn_output")
    dead = [name for name, weight in pair.ours.named_parameters() if weight.grad is None]
    assert len(dead) == 16
    assert all(name.startswith(tuple(f"lxmert.encoder.x_layers.{last}.{part}." for part in parts)) for name in dead)


def test_outputs_has_the_logits_of_forward(pair: Pair) -> None:
    torch.testing.assert_close(
        pair.ours.outputs(**pair.inputs).logits, pair.ours(**pair.inputs), rtol=0, atol=LOGITS
    )


def test_outputs_has_the_hidden_states_of_transformers(pair: Pair) -> None:
    received = pair.ours.outputs(**pair.inputs)
    expected = pair.reference(output_hidden_states=True)
    # Of order 1 after a layer norm; 19 layers deep.
    torch.testing.assert_close(received.words, expected.language_hidden_states[-1], rtol=0, atol=1e-4)
    torch.testing.assert_close(received.regions, expected.vision_hidden_states[-1], rtol=0, atol=1e-4)


def test_the_attention_record_has_every_site_in_every_direction(pair: Pair) -> None:
    language, vision, cross = pair.ours.config.layers
    assert list(pair.ours.outputs(**pair.inputs).attention) == [
        *(f"language.{i}.words-words" for i in range(language)),
        *(f"vision.{i}.boxes-boxes" for i in range(vision)),
        *(
            f"cross.{i}.{direction}"
            for i in range(cross)
            for direction in ("boxes-words", "boxes-boxes", "words-boxes", "words-words")
        ),
    ]


def test_the_attention_record_equals_the_attentions_of_transformers(pair: Pair) -> None:
    received = pair.ours.outputs(**pair.inputs).attention
    expected = pair.reference(output_attentions=True)
    layers = {
        "language.{}.words-words": expected.language_attentions,
        "vision.{}.boxes-boxes": expected.vision_attentions,
        "cross.{}.words-boxes": expected.cross_encoder_attentions,
    }
    for name, attentions in layers.items():
        for index, weights in enumerate(attentions):
            torch.testing.assert_close(received[name.format(index)], weights, rtol=0, atol=LOGITS)


def test_the_attention_record_equals_what_transformers_computes_and_does_not_return(pair: Pair) -> None:
    """Of a cross layer transformers returns one direction of four: the others come from its inner calls."""
    calls: dict[str, list[tuple[Tensor, ...]]] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: calls.setdefault(name, []).append(inputs))
        for name, module in pair.theirs.named_modules()
        if name.endswith((".att", "_self_att.self"))
    ]
    pair.reference()
    for hook in hooks:
        hook.remove()
    received = pair.ours.outputs(**pair.inputs).attention
    places = {"visual_attention.att": (1, "boxes-words"), "lang_self_att.self": (0, "words-words"),
              "visn_self_att.self": (0, "boxes-boxes")}  # fmt: skip
    for index in range(pair.ours.config.layers[2]):
        for module, (call, direction) in places.items():
            name = f"lxmert.encoder.x_layers.{index}.{module}"
            _, weights = pair.theirs.get_submodule(name)(*calls[name][call], output_attentions=True)
            torch.testing.assert_close(received[f"cross.{index}.{direction}"], weights, rtol=0, atol=LOGITS)


def test_sites_are_unique_and_numbered_within_their_stack(pair: Pair) -> None:
    sites = [site for site, _ in pair.ours.sites()]
    language, vision, cross = pair.ours.config.layers
    assert len(set(sites)) == len(sites) == language + vision + 3 * cross
    assert all(0 <= site.index < site.depth for site in sites)


@pytest.mark.parametrize("written_out", [False, True], ids=["fused", "written out"])
@pytest.mark.parametrize("mask", ["word_mask", "region_mask"])
def test_a_row_with_nothing_to_attend_gives_no_nan(pair: Pair, mask: str, written_out: bool) -> None:
    pair.inputs[mask][0] = False
    logits = pair.ours.outputs(**pair.inputs).logits if written_out else pair.ours(**pair.inputs)
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(w.grad is None or w.grad.isfinite().all() for w in pair.ours.parameters())


def test_padding_does_not_change_a_question(pair: Pair) -> None:
    long = pair.ours(**pair.inputs)
    short = {name: value[:1] for name, value in pair.inputs.items()}
    length = int(short["word_mask"].sum())
    short |= {name: short[name][:, :length] for name in ("words", "word_mask")}
    torch.testing.assert_close(pair.ours(**short), long[:1], rtol=0, atol=LOGITS)


def test_dropout_in_training_changes_with_the_generator_alone() -> None:
    model = LxmertForQuestionAnswering(
        LxmertConfig(**vars(OTHER) | {"hidden_dropout": 0.5, "attention_dropout": 0.5}), Variant()
    )
    torch.manual_seed(0)
    inputs = batch(OTHER)

    def logits(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model.train()(**inputs)

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))


def test_initial_weights_of_the_base_width_have_lxmerts_deviation() -> None:
    torch.manual_seed(0)
    config = LxmertConfig(**vars(OTHER) | {"width": 768, "heads": 12, "layers": (1, 1, 1)})
    weight = LxmertForQuestionAnswering(config, Variant()).lxmert.pooler.dense.weight
    # The standard error of a deviation over n numbers is its 1 / sqrt(2 n): 0.1 %.
    assert weight.std().item() == pytest.approx(0.02, rel=0.005)


SHARED = torch.tensor([1, 0, 1, 2, 0])


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_questions_that_share_pictures_get_the_logits_and_gradients_of_copies(pair: Pair, training: bool) -> None:
    own = dict(pair.inputs)
    shared = own | {name: own[name][:3] for name in ("regions", "boxes", "region_mask")}
    own |= {name: shared[name][SHARED] for name in ("regions", "boxes", "region_mask")}
    results = []
    for inputs in (own, shared | {"picture": SHARED}):
        pair.ours.train(training).zero_grad(set_to_none=True)
        logits = pair.ours(**inputs)
        logits.square().mean().backward()
        results.append((logits, {name: weight.grad for name, weight in pair.ours.named_parameters()}))
    (logits, gradients), (shared_logits, shared_gradients) = results
    torch.testing.assert_close(shared_logits, logits, rtol=0, atol=LOGITS)
    for name, gradient in gradients.items():
        torch.testing.assert_close(shared_gradients[name], gradient, rtol=0, atol=GRADIENTS, msg=name)


def test_outputs_of_shared_pictures_are_those_of_copies(pair: Pair) -> None:
    own = dict(pair.inputs)
    shared = own | {name: own[name][:3] for name in ("regions", "boxes", "region_mask")}
    own |= {name: shared[name][SHARED] for name in ("regions", "boxes", "region_mask")}
    expected, received = pair.ours.outputs(**own), pair.ours.outputs(**shared, picture=SHARED)
    torch.testing.assert_close(received.logits, expected.logits, rtol=0, atol=LOGITS)
    torch.testing.assert_close(received.words, expected.words, rtol=0, atol=1e-4)
    torch.testing.assert_close(received.regions, expected.regions, rtol=0, atol=1e-4)


def test_a_mask_may_leave_out_words_anywhere(pair: Pair) -> None:
    pair.inputs["word_mask"] = torch.rand(QUESTIONS, WORDS) < 0.5
    pair.inputs["word_mask"][:, 0] = True
    torch.testing.assert_close(
        pair.ours(**pair.inputs), pair.reference().question_answering_score, rtol=0, atol=LOGITS
    )


def test_nothing_to_the_right_of_the_longest_question_is_computed(pair: Pair) -> None:
    """Not even by the attention: what 20 word pieces hold in LXMERT is mostly padding."""
    seen = []
    hook = pair.ours.lxmert.embeddings.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    wide = {name: torch.nn.functional.pad(pair.inputs[name], (0, 7)) for name in ("words", "word_mask")}
    torch.testing.assert_close(
        pair.ours(**pair.inputs | wide), pair.reference().question_answering_score, rtol=0, atol=LOGITS
    )
    hook.remove()
    assert seen == [WORDS]


def test_concatenated_pooling_is_a_linear_layer_over_both_poolings() -> None:
    """The paper's text: the classifier receives the concatenated pooled features of image and text."""
    torch.manual_seed(0)
    model = LxmertForQuestionAnswering(LxmertConfig(**vars(OTHER) | {"pooling": "concatenated"}), Variant()).eval()
    inputs = batch(OTHER)
    outputs = model.outputs(**inputs)
    head = model.answer_head
    text = torch.tanh(model.lxmert.pooler.dense(outputs.words[:, 0]))
    image = torch.tanh(head.regions[0].dense(outputs.regions.mean(1)))
    joined = torch.cat([head.logit_fc[0].weight, head.regions[1].weight], 1)
    hidden = torch.cat([text, image], 1) @ joined.T + head.logit_fc[0].bias
    torch.testing.assert_close(model(**inputs), head.logit_fc[1:](hidden), rtol=0, atol=LOGITS)
    plain = LxmertForQuestionAnswering(OTHER, Variant()).state_dict()
    assert {name: weight.shape for name, weight in model.state_dict().items() if name in plain} == {
        name: weight.shape for name, weight in plain.items()
    }
