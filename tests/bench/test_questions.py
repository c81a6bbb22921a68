"""Batches as long as real questions, at the sizes of the models and data sets that they stand for."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import easy_vqa as package
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from suite.bench.questions import LENGTHS, LONGEST, QUESTIONS_PER_PICTURE, draw, lengths, size
from suite.data.easy_vqa import picture_regions
from suite.data.wordpieces import make_tokenizer
from suite.errors import UserError

SAMPLES = Path(__file__).parents[3] / "shared" / "data"
MINIVAL = SAMPLES / "lxmert" / "minival_303images_rebuilt.json"
VOCABULARY = SAMPLES / "bert-base-uncased" / "vocab.txt"


@pytest.mark.skipif(not (MINIVAL.exists() and VOCABULARY.exists()), reason=f"no samples of VQA 2.0 in {SAMPLES}")
def test_lengths_are_those_of_real_questions() -> None:
    questions = json.loads(MINIVAL.read_text(encoding="utf-8"))
    tokenizer = transformers.BertTokenizer(vocab=str(VOCABULARY))
    pieces = [len(ids) for ids in tokenizer([question["sent"] for question in questions])["input_ids"]]
    assert Counter(min(length, LONGEST) for length in pieces) == LENGTHS
    pictures = {question["img_id"] for question in questions}
    assert round(len(questions) / len(pictures)) == QUESTIONS_PER_PICTURE


def test_as_many_questions_as_were_counted_are_the_histogram() -> None:
    assert Counter(lengths(sum(LENGTHS.values())).tolist()) == LENGTHS


@given(st.integers(1, 300))
def test_every_batch_has_the_histogram_as_nearly_as_it_can(count: int) -> None:
    """No length is more than one question too frequent or too rare."""
    drawn = Counter(lengths(count).tolist())
    assert sum(drawn.values()) == count
    for length, times in LENGTHS.items():
        assert abs(drawn[length] - count * times / sum(LENGTHS.values())) <= 1


def test_the_longest_question_is_that_of_a_typical_random_batch() -> None:
    population = torch.tensor([length for length, times in LENGTHS.items() for _ in range(times)])
    for count in (10, 32, 64, 128):
        random = population[torch.randint(len(population), (4000, count), generator=torch.Generator())]
        typical = random.max(1).values.double().mean().item()
        assert lengths(count).max().item() == pytest.approx(typical, abs=1)


def test_a_batch_asks_five_questions_about_a_picture_and_pads_with_zero() -> None:
    demo = size("demo", 0.0)
    drawn = draw(demo, 12, seed=3, device="cpu")
    assert Counter(drawn.picture.tolist()) == {0: 5, 1: 5, 2: 2}
    assert drawn.words.shape[1] == drawn.word_mask.sum(1).max()
    assert ((drawn.words != 0) == drawn.word_mask).all()
    assert (drawn.word_mask[:, :-1] >= drawn.word_mask[:, 1:]).all()
    assert sorted(drawn.word_mask.sum(1).tolist()) == lengths(12).tolist()
    for question, picture in enumerate(drawn.picture.tolist()):
        assert torch.equal(drawn.own["regions"][question], drawn.shared["regions"][picture])
        assert torch.equal(drawn.own["boxes"][question], drawn.shared["boxes"][picture])
    again, other = (draw(demo, 12, seed, "cpu") for seed in (3, 4))
    assert torch.equal(drawn.regions, again.regions)
    assert not torch.equal(drawn.regions, other.regions)


def test_base_is_the_size_that_transformers_gives_lxmert() -> None:
    theirs, base = transformers.LxmertConfig(), size("base", 0.1)
    ours = base.config
    assert (ours.vocabulary, ours.width, ours.heads, ours.intermediate, ours.features) == (
        theirs.vocab_size,
        theirs.hidden_size,
        theirs.num_attention_heads,
        theirs.intermediate_size,
        theirs.visual_feat_dim,
    )
    assert ours.layers == (theirs.l_layers, theirs.r_layers, theirs.x_layers)
    assert (ours.hidden_dropout, ours.attention_dropout) == (0.1, 0.1)
    assert (ours.answers, base.regions) == (3129, 36)


def test_demo_is_the_size_of_easy_vqa() -> None:
    demo, data = size("demo", 0.0), Path(package.__file__).parent / "data"
    asked = json.loads((data / "train" / "questions.json").read_text(encoding="utf-8"))
    assert demo.config.vocabulary == make_tokenizer(text for text, *_ in asked).get_vocab_size()
    assert demo.config.answers == len((data / "answers.txt").read_text(encoding="utf-8").split())
    with Image.open(data / "train" / "images" / "0.png") as picture:
        features, _ = picture_regions(np.asarray(picture.convert("RGB")))
    assert (demo.regions, demo.config.features) == features.shape


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_a_dropout_that_is_no_rate_is_told(dropout: float) -> None:
    with pytest.raises(UserError, match="Expected a --dropout from 0 to below 1; received"):
        size("base", dropout)
