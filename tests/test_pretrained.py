"""Pre-trained weights: LXMERT's and transformers' files against transformers' own model, and everything refused.

The checkpoints here are made of transformers' ``LxmertForPreTraining``, with LXMERT's names, in small but for one.
"""

from __future__ import annotations

import collections
import dataclasses
import errno
import io
import json
import os
import pickle
import pickletools
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from torch import Tensor

from suite import checkpoints, registry
from suite.attention import Variant
from suite.data.wordpieces import bert_tokenizer
from suite.errors import UserError
from suite.export import transformers_config
from suite.models.lxmert import LxmertConfig, LxmertForQuestionAnswering
from suite.models.pretrained import (
    ANSWERS,
    BERTS_COUNT,
    BERTS_PIECES,
    LXMERTS_ANSWERS,
    Loaded,
    _read_tensors,
    convert_names,
    load,
    read_answers,
    texts_digest,
)
from suite.records import CellFolder, write_json

LOGITS = 1e-5
SIZE = LxmertConfig(
    vocabulary=30, answers=6, features=7, width=16, heads=4, intermediate=20, layers=(3, 2, 2),
    hidden_dropout=0.0, attention_dropout=0.0, positions=12,
)  # fmt: skip
KNOWN = [f"answer {number}" for number in range(11)]
"""What the checkpoints were pre-trained to answer."""
ASKED = ["answer 7", "never seen", "answer 0", "answer 10", "", "answer 3"]
"""What the model answers."""
SAMPLES = Path(__file__).parents[2] / "shared/data/lxmert"

State = dict[str, Tensor]


def shaken(model: torch.nn.Module, seed: int = 0) -> State:
    """The state dict with weights far from where they were initialised: an error in any of them shows."""
    torch.manual_seed(seed)
    return {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in model.state_dict().items()}


def pretraining(size: LxmertConfig = SIZE) -> State:
    """transformers' pre-trained model: all of LXMERT's heads, and as many answers as are known."""
    config = transformers_config(dataclasses.replace(size, answers=len(KNOWN)))
    config.num_object_labels, config.num_attr_labels = 5, 3
    state = shaken(transformers.LxmertForPreTraining(config))
    return state | {"cls.predictions.decoder.weight": state["lxmert.embeddings.word_embeddings.weight"]}


def originals(state: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """With the names of LXMERT's checkpoint."""
    return {prefix + name.replace("lxmert.", "bert.", 1): tensor for name, tensor in state.items()}


def fine_tuned(state: State, parallel: str = "") -> State:
    """With the names that LXMERT's VQA code gives to the backbone and the head; the other heads are not there."""
    prefixes = {"lxmert.": f"lxrt_encoder.model.{parallel}bert.", "answer_head.logit_fc.": "logit_fc."}
    return {
        name.replace(old, new, 1): tensor
        for name, tensor in state.items()
        for old, new in prefixes.items()
        if name.startswith(old)
    }


def reference(state: State, answers: Iterable[str] = ASKED) -> transformers.LxmertForQuestionAnswering:
    """transformers' model of the backbone and head of ``state``, whose answer rows are picked one by one."""
    wanted = {name: tensor for name, tensor in state.items() if name.startswith(("lxmert.", "answer_head."))}
    for name in ANSWERS:
        wanted[name] = torch.stack(
            [
                state[name][KNOWN.index(text)] if text in KNOWN else torch.zeros_like(state[name][0])
                for text in answers
            ]
        )
    model = transformers.LxmertForQuestionAnswering(
        transformers_config(dataclasses.replace(SIZE, answers=len(wanted[ANSWERS[1]])))
    )
    model.load_state_dict(wanted, strict=True)
    return model.eval()


@torch.no_grad()
def assert_same_logits(ours: LxmertForQuestionAnswering, theirs: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(3)
    words = torch.randint(1, ours.config.vocabulary, (4, 5), generator=generator)
    regions = torch.randn(4, 6, ours.config.features, generator=generator)
    boxes = torch.rand(4, 6, 4, generator=generator)
    logits = ours.eval()(words, regions, boxes)
    expected = theirs(words, regions, boxes).question_answering_score
    torch.testing.assert_close(logits, expected, rtol=0, atol=LOGITS)
    assert expected.std(0).max() > 1e-2, "logits that do not depend on the question would agree whatever is loaded"


def fresh(variant: Variant | None = None, **changes: Any) -> LxmertForQuestionAnswering:
    torch.manual_seed(1)
    return LxmertForQuestionAnswering(dataclasses.replace(SIZE, **changes), variant or softmax())


def softmax() -> Variant:
    return named("softmax")


def named(variant: str, **arguments: Any) -> Variant:
    return registry.find("variant", variant)(**arguments)


@pytest.fixture(scope="module")
def state() -> State:
    return pretraining()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes a checkpoint with the texts of its answers beside it; its path."""

    def written(tensors: Any, name: str = "model_LXRT.pth", texts: Any = KNOWN, **options: Any) -> str:
        path = tmp_path / name
        if path.suffix == ".safetensors":
            save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, path)
        else:
            torch.save(tensors, path, **options)
        listed = [{"ans": text, "dsets": ["vqa"]} for text in texts or ()]
        (tmp_path / "all_ans.json").write_text(json.dumps(listed)) if listed else None
        return str(path)

    return written


def take(source: str, model: LxmertForQuestionAnswering, variant: Variant | None = None, **options: Any) -> Loaded:
    return load(source, model, variant or softmax(), ASKED, **options)


def refused(source: str, *parts: str, model: LxmertForQuestionAnswering | None = None, **options: Any) -> str:
    """The message with which ``source`` is refused; it has all ``parts``, and the model is as it was."""
    model = model or fresh()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        take(source, model, **options)
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return message


# What loads


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_original_checkpoint_gives_transformers_logits(
    state: State, write: Callable[..., str], prefix: str, zipped: bool
) -> None:
    path = write(originals(state, prefix), _use_new_zipfile_serialization=zipped)
    model = fresh()
    loaded = take(path, model)
    assert_same_logits(model, reference(state))
    assert loaded.kind == "pre-training by LXMERT"
    assert set(loaded.loaded) == set(model.state_dict())
    assert (loaded.new, loaded.copied) == ((), ())


def test_every_tensor_of_the_source_is_loaded_or_left_over_by_its_name_there(
    state: State, write: Callable[..., str]
) -> None:
    loaded = take(write(originals(state, "module.")), fresh())
    used = set(originals(dict.fromkeys(loaded.loaded), "module."))
    heads = {name for name in originals(state, "module.") if name.startswith(("module.cls.", "module.obj_"))}
    assert set(loaded.left_over) == heads
    assert len(heads) > 10
    assert used | heads == set(originals(state, "module."))
    assert len(loaded.left_over) + len(loaded.loaded) == len(state)


def test_answers_are_found_by_their_text_and_the_others_are_zero(state: State, write: Callable[..., str]) -> None:
    model = fresh()
    loaded = take(write(originals(state)), model)
    assert (loaded.answers, loaded.source_answers, loaded.answers_found) == ("by text", 11, 4)
    assert loaded.zero_answers == ("never seen", "")
    for name in ANSWERS:
        rows = model.state_dict()[name]
        assert all(torch.equal(rows[place], state[name][row]) for place, row in {0: 7, 2: 0, 3: 10, 5: 3}.items())
        assert not rows[[1, 4]].any()


def test_the_texts_of_the_answers_may_lie_elsewhere(
    state: State, write: Callable[..., str], tmp_path: Path
) -> None:
    path = write(originals(state), texts=None)
    elsewhere = tmp_path / "lists" / "answers.json"
    elsewhere.parent.mkdir()
    elsewhere.write_text(json.dumps(KNOWN))
    model = fresh()
    take(path, model, pretraining_answers=elsewhere)
    assert_same_logits(model, reference(state))


@pytest.mark.parametrize("parallel", ["", "module."])
def test_a_model_that_the_original_vqa_code_fine_tuned_gives_transformers_logits(
    state: State, write: Callable[..., str], tmp_path: Path, parallel: str
) -> None:
    """In whichever order the data set has its answers, with the list that lies beside BEST.pth."""
    (tmp_path / "trainval_label2ans.json").write_text(json.dumps(KNOWN))
    path = write(fine_tuned(state, parallel), "BEST.pth", None)
    for answers in (KNOWN, sorted(KNOWN)):
        model = fresh(answers=len(KNOWN))
        loaded = load(path, model, softmax(), answers)
        assert_same_logits(model, reference(state, answers))
        assert (loaded.kind, loaded.answers, loaded.left_over) == ("fine-tuning by LXMERT", "by text", ())


def test_as_many_answers_are_not_the_same_answers(state: State, write: Callable[..., str], tmp_path: Path) -> None:
    """A vocabulary that is rebuilt by the alphabet has as many as LXMERT's: every row would be another's."""
    answers = sorted(KNOWN)
    for name, weights in (
        ("BEST.pth", fine_tuned(state)),
        ("model_LXRT.pth", originals(state)),
        ("weights.safetensors", state),
    ):
        model = fresh(answers=len(KNOWN))
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(
            UserError, match=r"knows 11 answers and not their texts.* has 11, as many.* beside"
        ) as told:
            load(write(weights, name, None), model, softmax(), answers)
        assert ("as trainval_label2ans.json" if name == "BEST.pth" else "as all_ans.json") in str(told.value)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    theirs = reference(state, KNOWN)
    theirs.save_pretrained(tmp_path / "model")  # LABEL_0, LABEL_1, ...
    with pytest.raises(UserError, match="knows 11 answers and not their texts"):
        load(str(tmp_path / "model"), fresh(answers=len(KNOWN)), softmax(), answers)


def test_lxmerts_own_order_is_known(
    state: State, write: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("suite.models.pretrained.LXMERTS_ANSWERS", texts_digest(KNOWN))
    reference(state, KNOWN).save_pretrained(tmp_path / "model")
    for source in (write(fine_tuned(state), "BEST.pth", None), str(tmp_path / "model")):
        model = fresh(answers=len(KNOWN))
        assert load(source, model, softmax(), KNOWN).answers == "in order"
        assert_same_logits(model, reference(state, KNOWN))
        with pytest.raises(UserError, match="not their texts"):
            load(source, model, softmax(), KNOWN[::-1])
    with pytest.raises(UserError, match="not their texts"):  # Nobody knows who trained it.
        load(write(state, "weights.safetensors", None), fresh(answers=len(KNOWN)), softmax(), KNOWN)


def test_two_lists_beside_the_weights_that_differ_are_refused(
    state: State, write: Callable[..., str], tmp_path: Path
) -> None:
    path = write(originals(state))
    (tmp_path / "trainval_label2ans.json").write_text(json.dumps(KNOWN[::-1]))
    refused(path, "all_ans.json and trainval_label2ans.json", "11 answers each, and not the same")
    (tmp_path / "trainval_label2ans.json").write_text(json.dumps(KNOWN))
    take(path, fresh())


def tokenizer_of(pieces: Iterable[str]) -> str:
    return Tokenizer(WordPiece({piece: place for place, piece in enumerate(pieces)}, unk_token="[UNK]")).to_str()


PIECES = ["[PAD]", "[UNK]", *(f"piece{number}" for number in range(SIZE.vocabulary - 2))]


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json"])
def test_as_many_word_pieces_are_not_the_same_pieces(
    state: State, write: Callable[..., str], tmp_path: Path, name: str
) -> None:
    path, other = write(originals(state)), [*PIECES[:2], *PIECES[:1:-1]]

    def beside(pieces: list[str]) -> None:
        text = "\n".join(pieces) + "\n" if name == "vocab.txt" else tokenizer_of(pieces)
        (tmp_path / name).write_text(text)

    beside(PIECES)
    take(path, fresh(), tokenizer=tokenizer_of(PIECES))
    refused(path, "30 word pieces", f"those of {name} beside it", tokenizer=tokenizer_of(other))
    beside(other)
    refused(path, "in another order", tokenizer=tokenizer_of(PIECES))
    beside(PIECES[:-1])  # Of something else.
    take(path, fresh(), tokenizer=tokenizer_of(PIECES))


def test_the_published_weights_have_berts_word_pieces(
    state: State, write: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("suite.models.pretrained.BERTS_COUNT", len(PIECES))
    path = write(originals(state))
    refused(path, "those of bert-base-uncased", "as vocab.txt", tokenizer=tokenizer_of(PIECES))
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES))
    take(path, fresh(), tokenizer=tokenizer_of(PIECES))
    (tmp_path / "vocab.txt").unlink()
    monkeypatch.setattr("suite.models.pretrained.BERTS_PIECES", texts_digest(PIECES))
    take(path, fresh(), tokenizer=tokenizer_of(PIECES))


@pytest.mark.parametrize("safe", [True, False], ids=["model.safetensors", "pytorch_model.bin"])
def test_a_folder_of_transformers_loads_with_the_answers_that_it_names(
    state: State, tmp_path: Path, safe: bool
) -> None:
    theirs = reference(state, KNOWN)
    theirs.config.id2label = dict(enumerate(KNOWN))
    theirs.save_pretrained(tmp_path / "model")
    if not safe:
        weights = tmp_path / "model/model.safetensors"
        torch.save(load_file(weights), tmp_path / "model/pytorch_model.bin")
        weights.unlink()
    model = fresh()
    loaded = take(str(tmp_path / "model"), model)
    assert_same_logits(model, reference(state))
    assert (loaded.kind, loaded.answers, loaded.zero_answers) == ("folder", "by text", ("never seen", ""))


def test_a_pre_trained_folder_of_transformers_loads(state: State, tmp_path: Path) -> None:
    """As the hub has it: the decoder is tied to the word embeddings and not saved, and no answer is named."""
    config = transformers_config(dataclasses.replace(SIZE, answers=len(KNOWN)))
    config.num_object_labels, config.num_attr_labels = 5, 3
    theirs = transformers.LxmertForPreTraining(config)
    theirs.load_state_dict(state)
    theirs.save_pretrained(tmp_path / "model")
    (tmp_path / "model/all_ans.json").write_text(json.dumps(KNOWN))
    model = fresh()
    assert take(str(tmp_path / "model"), model).answers == "by text"
    assert_same_logits(model, reference(state))


def test_a_lone_safetensors_file_loads(state: State, write: Callable[..., str]) -> None:
    model = fresh()
    assert take(write(state, "weights.safetensors"), model).kind == "file"
    assert_same_logits(model, reference(state))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_precisions_are_loaded_as_the_models(
    state: State, write: Callable[..., str], dtype: torch.dtype
) -> None:
    model = fresh()
    take(write(originals({name: tensor.to(dtype) for name, tensor in state.items()})), model)
    name = "lxmert.pooler.dense.weight"
    assert torch.equal(model.state_dict()[name], state[name].to(dtype).float())


def test_a_head_that_the_source_lacks_stays_new(state: State, write: Callable[..., str]) -> None:
    backbone = {name: tensor for name, tensor in state.items() if name.startswith("lxmert.")}
    model, before = fresh(), fresh().state_dict()
    loaded = take(write(originals(backbone)), model)
    assert set(loaded.new) == {name for name in before if name.startswith("answer_head.")}
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in loaded.new)
    assert (loaded.answers, loaded.source_answers, loaded.zero_answers) == ("not loaded", 0, ())


# Our own cells


RESULT = {
    "accuracy": {"test": 50.0},
    "macs": 1,
    "macs_reference": 1,
    "uncounted_operators": {},
    "parameters": 1,
    "steps": 40,
    "seconds": 1.0,
}


def cell_folder(folder: Path, model: LxmertForQuestionAnswering, *, finished: bool = True) -> Path:
    layers, heads = list(model.config.layers), model.config.heads
    checkpoints.save(folder / "checkpoint", 40, model.state_dict(), None)
    write_json(folder / "config.json", {"cell": {"layers": layers, "model": {"heads": heads}}})
    CellFolder(folder).append("segments", [{"step": 0, "answers": texts_digest(ASKED), "tokenizer": "0" * 64}])
    if finished:
        write_json(folder / "result.json", RESULT)
    return folder


def test_a_cell_of_ours_loads_from_its_folder_and_from_its_checkpoint(tmp_path: Path) -> None:
    trained = fresh(named("span"))
    trained.load_state_dict(shaken(trained))
    folder = cell_folder(tmp_path / "span-s0-0123456789", trained)
    for source in (folder, folder / "checkpoint"):
        model = fresh(named("span"))
        loaded = take(str(source), model, named("span"))
        assert (loaded.kind, loaded.answers, loaded.left_over) == ("cell", "in order", ())
        assert all(torch.equal(one, two) for one, two in zip(
            model.state_dict().values(), trained.state_dict().values(), strict=True
        ))  # fmt: skip
    plain = take(str(folder), fresh())
    assert plain.left_over
    assert all(name.endswith("weights.share") for name in plain.left_over)
    (folder / "checkpoint").rename(tmp_path / "alone")
    refused(str(tmp_path / "alone"), "not their texts", "ablate export")
    (tmp_path / "alone/step-00000040/all_ans.json").write_text(json.dumps(ASKED))
    assert take(str(tmp_path / "alone"), fresh()).kind == "cell"


def test_a_cell_of_another_data_set_with_as_many_answers_is_refused(tmp_path: Path) -> None:
    folder = cell_folder(tmp_path / "softmax-s0-0123456789", fresh())
    with pytest.raises(UserError, match=r"knows 6 answers and not their texts.*ablate export"):
        load(str(folder), fresh(), softmax(), ASKED[::-1])
    refused(str(folder), "those of the data set that it was trained on", tokenizer=tokenizer_of(PIECES))
    (folder / "segments.jsonl").unlink()  # As older engines left it.
    refused(str(folder), "not their texts", "ablate export")


def test_a_cell_without_its_last_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = cell_folder(tmp_path / "softmax-s0-0123456789", fresh())
    write_json(folder / "result.json", RESULT | {"steps": 50})
    refused(str(folder), "checkpoint of step 40, and was finished at step 50")


def test_a_cell_that_is_not_finished_or_is_damaged_is_refused(tmp_path: Path) -> None:
    folder = cell_folder(tmp_path / "cell", fresh(), finished=False)
    assert CellFolder(folder).state == "started"
    refused(str(folder), "not finished", "Run it first")
    write_json(folder / "result.json", RESULT)
    weights = next(folder.glob("checkpoint/step-*/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="damaged"):
        refused(str(folder), "no checkpoint that is whole")


# Layers and variants


def test_layers_that_the_source_lacks_stay_fresh(state: State, write: Callable[..., str]) -> None:
    model, before = fresh(layers=(4, 3, 3)), fresh(layers=(4, 3, 3)).state_dict()
    loaded = take(write(originals(state)), model)
    deeper = ("lxmert.encoder.layer.3.", "lxmert.encoder.r_layers.2.", "lxmert.encoder.x_layers.2.")
    assert set(loaded.new) == {name for name in before if name.startswith(deeper)}
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in loaded.new)
    assert loaded.copied == ()


def test_or_are_copied_from_the_layer_before(state: State, write: Callable[..., str]) -> None:
    model = fresh(layers=(5, 3, 2))
    loaded = take(write(originals(state)), model, deeper="neighbour")
    own = model.state_dict()
    for name in loaded.copied:
        before = name.replace("layer.3.", "layer.2.").replace("layer.4.", "layer.2.").replace("s.2.", "s.1.")
        assert torch.equal(own[name], state[before]), name
    deeper = tuple(f"lxmert.encoder.{place}." for place in ("layer.3", "layer.4", "r_layers.2"))
    assert set(loaded.copied) == {name for name in own if name.startswith(deeper)}
    assert loaded.new == ()


def test_layers_that_the_model_lacks_are_left_over(state: State, write: Callable[..., str]) -> None:
    loaded = take(write(originals(state)), fresh(layers=(2, 2, 2)))
    assert {name for name in originals(state) if name.startswith("bert.encoder.layer.2.")} < set(loaded.left_over)
    assert loaded.new == ()


def test_a_variants_own_tensors_stay_new(state: State, write: Callable[..., str]) -> None:
    variant = named("span")
    model, before = fresh(variant), fresh(variant).state_dict()
    loaded = take(write(originals(state)), model, variant)
    assert loaded.new
    assert set(loaded.new) == {name for name in before if ".weights." in name}
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in loaded.new)


def test_what_a_variant_does_not_inherit_stays_random_and_is_left_over(
    state: State, write: Callable[..., str]
) -> None:
    variant = named("unloaded_encoder")
    model = fresh(variant, layers=(4, 2, 2))
    loaded = take(write(originals(state)), model, variant, deeper="neighbour")
    in_a_layer = {name for name in model.state_dict() if not variant.inherits(name)}
    assert set(loaded.new) == in_a_layer
    assert loaded.copied == ()
    assert len([name for name in loaded.left_over if name.startswith("bert.encoder.")]) == len(
        [name for name in in_a_layer if not name.startswith("lxmert.encoder.layer.3.")]
    )


# What is refused


def test_a_wrong_prefix_is_refused_with_the_count_and_names_of_both_sides(
    state: State, write: Callable[..., str]
) -> None:
    wrong = {name.replace("lxmert.", "backbone."): tensor for name, tensor in state.items()}
    own = fresh().state_dict()
    backbone = [name for name in own if name.startswith("lxmert.")]
    refused(
        write(wrong), f"{len(backbone)} of the model's {len(own)} tensors", *(f"{name} (" for name in backbone[:2]),
        *(f"backbone.embeddings.{name}_embeddings.weight (" for name in ("word", "position")),
    )  # fmt: skip


@pytest.mark.parametrize(
    "lost",
    ["lxmert.pooler.dense.bias", "lxmert.encoder.layer.0.output.dense.bias", "answer_head.logit_fc.3.bias"],
)
def test_one_tensor_that_is_missing_is_refused(state: State, write: Callable[..., str], lost: str) -> None:
    rest = {name: tensor for name, tensor in state.items() if name != lost}
    refused(write(rest), "1 of the model's", lost, "nothing else" if "cls" in lost else "cls.")


@pytest.mark.parametrize("stack", ["layer", "r_layers", "x_layers"])
def test_a_stack_that_is_missing_is_no_deeper_model(state: State, write: Callable[..., str], stack: str) -> None:
    rest = {name: tensor for name, tensor in state.items() if f".encoder.{stack}." not in name}
    refused(write(rest), f"lxmert.encoder.{stack}.0.")


def test_a_layer_that_config_json_promises_is_not_new(state: State, tmp_path: Path) -> None:
    reference(state, KNOWN).save_pretrained(tmp_path / "model")
    weights = tmp_path / "model/model.safetensors"
    rest = {name: tensor for name, tensor in load_file(weights).items() if ".encoder.layer.2." not in name}
    save_file(rest, weights)
    refused(str(tmp_path / "model"), "lxmert.encoder.layer.2.")


def test_other_sizes_are_refused(state: State, write: Callable[..., str]) -> None:
    path = write(originals(state))
    refused(
        path,
        "1 of the model's",
        "lxmert.encoder.visn_fc.visn_fc.weight (16, 9)",
        "(16, 7)",
        model=fresh(features=9),
    )
    refused(path, "(30, 16), word pieces by width", "(31, 16)", "bert-base-uncased", model=fresh(vocabulary=31))
    refused(path, "(30, 16)", "(30, 32)", model=fresh(width=32))
    word = "lxmert.embeddings.word_embeddings.weight"
    refused(write(originals(state | {word: torch.tensor(1.0)})), "are (), word pieces by width")


def test_weights_that_fit_and_mean_something_else_are_refused(state: State, tmp_path: Path) -> None:
    reference(state, KNOWN).save_pretrained(tmp_path / "model")
    refused(str(tmp_path / "model"), "4 attention heads", "has 2", model=fresh(heads=2))
    cell = cell_folder(tmp_path / "cell", fresh(heads=2))
    refused(str(cell), "2 attention heads", "has 4")
    description = tmp_path / "model/config.json"
    config = json.loads(description.read_text())
    for changes, part in (
        ({"hidden_act": "relu"}, "relu"),
        ({"model_type": "visual_bert"}, "LXMERT"),
        ({"l_layers": "three"}, "three"),
    ):
        description.write_text(json.dumps(config | changes))
        refused(str(tmp_path / "model"), part)


def test_two_tensors_of_one_name_are_refused(state: State, write: Callable[..., str]) -> None:
    twice = originals(state) | originals(state, "module.")
    refused(write(twice), "module.bert.embeddings.word_embeddings.weight", "twice")


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (lambda tensor: tensor.fill_(float("nan")), "infinite or none"),
        (lambda tensor: tensor.index_fill_(0, torch.tensor([3]), float("inf")), "infinite or none"),
        (lambda tensor: tensor.long(), "torch.int64"),
        (lambda tensor: tensor.to_sparse(), "sparse"),
        (lambda tensor: tensor.to("meta"), "on meta"),
        (lambda tensor: tensor.double() * 1e300, "infinite or none"),
    ],
    ids=["nan", "infinite", "whole numbers", "sparse", "meta", "too large"],
)
def test_what_is_no_plain_tensor_of_finite_numbers_is_refused(
    state: State, write: Callable[..., str], value: Callable[[Tensor], Tensor], part: str
) -> None:
    name = "lxmert.pooler.dense.bias"
    refused(write(originals(state | {name: value(state[name].clone())})), name, part)


class Code:
    """Makes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("how", ["zip", "before torch 1.6", "pickle", "pickle of another protocol"])
def test_a_pickle_with_code_in_it_is_refused_unexecuted(state: State, tmp_path: Path, how: str) -> None:
    mark, path = tmp_path / "executed", tmp_path / "model_LXRT.pth"
    tensors = originals(state) | {"bert.extra": Code(mark)}
    if "pickle" in how:
        path.write_bytes(pickle.dumps(tensors, protocol=2 if how == "pickle" else 4))
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=how == "zip")
    # torch names the code only where it understands the protocol.
    refused(
        str(path), "is refused, and no code in it was run", "(" if "protocol" not in how else "more than tensors"
    )
    assert not mark.exists()
    # It would have run.
    pickle.loads(path.read_bytes()) if "pickle" in how else torch.load(path, weights_only=False)
    assert mark.exists()


def test_the_code_is_named(state: State, write: Callable[..., str], tmp_path: Path) -> None:
    refused(write(originals(state) | {"bert.extra": Code(tmp_path / "executed")}), "(posix.mkdir)")


def test_a_whole_model_is_refused(write: Callable[..., str]) -> None:
    """``torch.save(model)``: it needs classes, and may be anything."""
    refused(write(torch.nn.Linear(2, 2)), "more than tensors (torch.nn.modules.linear.Linear)")


@pytest.mark.parametrize(
    ("held", "part"),
    [
        ({"model": {"bert.x": torch.zeros(1)}, "epoch": 3}, "model, epoch"),
        ([torch.zeros(1)], "list"),
        (torch.zeros(1), "Tensor"),
        ({3: torch.zeros(1)}, "3"),
        ({}, "of the model's"),
    ],
    ids=["nested", "list", "tensor", "numbered", "empty"],
)
def test_what_is_no_state_dict_is_refused(write: Callable[..., str], held: Any, part: str) -> None:
    refused(write(held), part)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello", b"{}" * 40, b"\x80\x02}q\x00."])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refused(str(tmp_path / name), name)


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refused(str(tmp_path / "none.pth"), "no file or folder", "none.pth")
    refused(str(tmp_path), "config.json with model.safetensors")


@pytest.mark.parametrize(
    ("texts", "part"),
    [
        (KNOWN[:-1], "10 answers"),
        ([*KNOWN[:-1], KNOWN[0]], "'answer 0' 2 times"),
        ({"yes": 0}, "no list of answers"),
        ([{"answer": "yes"}] * 11, "no list of answers"),
        (["nothing", *(f"of {n}" for n in range(10))], "None of the data set's 6 answers"),
    ],
    ids=["too few", "twice", "object", "other keys", "other answers"],
)
def test_a_list_of_answers_that_is_not_the_heads_is_refused(
    state: State, write: Callable[..., str], tmp_path: Path, texts: Any, part: str
) -> None:
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps(texts))
    refused(write(originals(state)), part, pretraining_answers=answers)


def test_answers_whose_texts_are_not_known_are_refused_where_their_number_differs(
    state: State, write: Callable[..., str]
) -> None:
    refused(write(originals(state), texts=None), "knows 11 answers and not their texts", "has 6", "all_ans.json")


def test_rows_without_a_bias_each_are_refused(state: State, write: Callable[..., str]) -> None:
    refused(write(originals(state | {ANSWERS[1]: torch.zeros(12)})), "weights for 11 answers and biases for 12")


# What the system has against it

LITTLE = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import test_pretrained as here
model = here.fresh()
for source in sys.argv[2:]:
    here.read_of(source, resource.RLIMIT_NOFILE, 0)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    here.read_of(source, resource.RLIMIT_AS, used)
"""


def read_of(source: str, limit: int, value: int) -> None:
    """Prints the error of reading weights where the process may have ``value`` of something."""
    before = resource.getrlimit(limit)
    resource.setrlimit(limit, (value, before[1]))
    try:
        _read_tensors(Path(source))
        error = None
    except BaseException as caught:
        error = caught
    finally:
        resource.setrlimit(limit, before)
    print(type(error).__name__, getattr(error, "errno", None), getattr(error, "filename", None))


def test_what_the_system_has_against_weights_is_no_damage(tmp_path: Path) -> None:
    """No free descriptor and no memory, of each form of file; and a file that may not be looked at."""
    tensors, forms = {"one": torch.zeros(1 << 25)}, ("zip.pth", "old.pth", "model.safetensors")
    torch.save(tensors, tmp_path / "zip.pth")
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(tensors, tmp_path / "model.safetensors")
    paths = [str(tmp_path / name) for name in forms]
    done = subprocess.run(
        [sys.executable, "-c", LITTLE, str(Path(__file__).parent), *paths],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    expected = [f"OSError {number} {path}" for path in paths for number in (int(errno.EMFILE), int(errno.ENOMEM))]
    assert done.stdout.splitlines() == expected
    loop = tmp_path / "model_LXRT.pth"
    loop.symlink_to(loop)
    for read in (_read_tensors, read_answers):
        with pytest.raises(OSError, match="symbolic links"):
            read(loop)


@pytest.mark.parametrize("text", ['["yes", NaN]', '[{"ans": "yes", "ans": "no"}]', "[" * 10**5])
def test_a_list_of_answers_is_strict_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "all_ans.json").write_text(text)
    with pytest.raises(UserError, match=r"all_ans\.json is not JSON"):
        read_answers(tmp_path / "all_ans.json")


# The hub

HUB = """
import sys
sys.path.insert(0, sys.argv[1])
import test_pretrained as here
for name in ("someone/lxmert", "someone/else"):
    try:
        print(here.take(name, here.fresh()))
    except here.UserError as error:
        print("refused:", error)
"""


def test_a_model_of_the_hub_loads_from_its_cache_and_without_a_network_no_other(
    state: State, tmp_path: Path
) -> None:
    """The client is told that there is no network: it waits half a minute for one that does not answer."""
    theirs = reference(state, KNOWN)
    theirs.config.id2label = dict(enumerate(KNOWN))
    repository = tmp_path / "hub/models--someone--lxmert"
    theirs.save_pretrained(repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0" * 40)
    done = subprocess.run(
        [sys.executable, "-c", HUB, str(Path(__file__).parent)],
        env=os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    loaded, refusal = done.stdout.splitlines()
    assert loaded.startswith("someone/lxmert (hub, sha256 ")
    assert "4 of 6 answers found by text among 11" in loaded
    assert refusal.startswith("refused: There is no file or folder someone/else here")
    assert refusal.endswith("and give their folder.")


# What is said


def test_it_is_one_line_and_plain_json(state: State, write: Callable[..., str]) -> None:
    loaded = take(write(originals(state)), fresh(layers=(4, 2, 2)), deeper="neighbour")
    heads = [name for name in originals(state) if name.startswith(("cls.", "obj_"))]
    assert str(loaded) == (
        f"{loaded.source} (pre-training by LXMERT, sha256 {loaded.sha256[:12]}): {len(loaded.loaded)} tensors "
        f"loaded, 16 copied from the layer before, 0 new, {len(heads)} left over ({heads[0]}, {heads[1]} and "
        f"{len(heads) - 2} more); 4 of 6 answers found by text among 11, 2 set to zero ('never seen', '')."
    )
    plain = json.loads(json.dumps(dataclasses.asdict(loaded)))
    assert plain["left_over"] == heads
    assert plain["zero_answers"] == ["never seen", ""]


# Names

PARTS = st.text("abmodule.", max_size=12)


@given(
    st.lists(st.sampled_from(["module.", "bert.", "lxrt_encoder.model.", "logit_fc.", "x."]) | PARTS).map("".join)
)
def test_names_convert_once(name: str) -> None:
    (once,) = convert_names([name]).values()
    assert ".module." not in once
    if not once.startswith(("bert.", "lxrt_encoder.model.bert.", "logit_fc.")):
        assert convert_names([once]) == {once: once}


def test_each_form_of_a_name_becomes_the_models() -> None:
    own = list(fresh().state_dict())
    for form in (
        own,
        originals(dict.fromkeys(own)),
        originals(dict.fromkeys(own), "module."),
        fine_tuned(dict.fromkeys(own)),  # type: ignore[arg-type]
        fine_tuned(dict.fromkeys(own), "module."),  # type: ignore[arg-type]
    ):
        assert list(convert_names(form).values()) == own


# In full size


@pytest.mark.skipif(not SAMPLES.exists(), reason="LXMERT's lists of answers are not beside this checkout")
def test_lxmerts_lists_share_all_but_five_of_the_answers_for_vqa(tmp_path: Path) -> None:
    answers = json.loads((SAMPLES / "trainval_label2ans.json").read_text())
    known = read_answers(SAMPLES / "all_ans.json")
    size = dataclasses.replace(SIZE, answers=len(known))
    theirs = shaken(transformers.LxmertForQuestionAnswering(transformers_config(size)))
    torch.save(originals(theirs), tmp_path / "model_LXRT.pth")
    model = fresh(answers=len(answers))
    loaded = load(
        str(tmp_path / "model_LXRT.pth"), model, softmax(), answers, pretraining_answers=SAMPLES / "all_ans.json"
    )
    assert (loaded.source_answers, loaded.answers_found) == (9500, 3124)
    assert set(loaded.zero_answers) == {"", "visilab", "5 star", "1 4", "1 world"}
    assert texts_digest(answers) == LXMERTS_ANSWERS
    rows = model.state_dict()[ANSWERS[0]]
    for number in (1, 700, 3128):
        assert torch.equal(rows[number], theirs[ANSWERS[0]][known.index(answers[number])])
    assert not rows[[answers.index(text) for text in loaded.zero_answers]].any()


@pytest.mark.skipif(not SAMPLES.exists(), reason="BERT's vocabulary is not beside this checkout")
def test_berts_word_pieces_are_known() -> None:
    tokenizer = bert_tokenizer(SAMPLES.parent / "bert-base-uncased/vocab.txt")
    pieces = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    assert (len(pieces), texts_digest(pieces)) == (BERTS_COUNT, BERTS_PIECES)


def test_the_published_checkpoint_in_full_size(tmp_path: Path) -> None:
    """473 tensors, 9,500 answers, 0.9 GB: each is accounted for, and the logits are transformers'."""
    with torch.device("meta"):
        theirs = transformers.LxmertForPreTraining(transformers.LxmertConfig())
        finetuned = transformers.LxmertForQuestionAnswering(transformers.LxmertConfig(num_qa_labels=3129)).eval()
        model = LxmertForQuestionAnswering(LxmertConfig(), softmax())
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.empty(tensor.shape).uniform_(-0.06, 0.06, generator=generator)
        for name, tensor in theirs.state_dict().items()
    }
    assert len(state) == 473
    for name in state:
        if "norm" in name.lower() and name.endswith("weight"):
            state[name] += 1
    state["cls.predictions.decoder.weight"] = state["lxmert.embeddings.word_embeddings.weight"]
    torch.save(originals(state, "module."), tmp_path / "model_LXRT.pth")
    known = [f"answer {number}" for number in range(9500)]
    (tmp_path / "all_ans.json").write_text(json.dumps([{"ans": text, "dsets": []} for text in known]))
    places = torch.randperm(9500, generator=generator)[:3124].tolist()
    nowhere = ["", "visilab", "5 star", "1 4", "1 world"]
    answers = [known[place] for place in places] + nowhere

    model.to_empty(device="cpu")
    loaded = load(str(tmp_path / "model_LXRT.pth"), model, softmax(), answers)
    used = originals(dict.fromkeys(loaded.loaded), "module.")
    assert set(used) | set(loaded.left_over) == set(originals(state, "module."))
    assert len(used) + len(loaded.left_over) == 473
    assert (loaded.new, loaded.answers_found, list(loaded.zero_answers)) == ((), 3124, nowhere)
    assert {name.removeprefix("module.").split(".")[0] for name in loaded.left_over} == {"cls", "obj_predict_head"}

    wanted = {name: state[name] for name in finetuned.state_dict()}
    for name in ANSWERS:
        zeros = torch.zeros_like(state[name][:5])
        wanted[name] = torch.cat([state[name][places], zeros])
    finetuned.load_state_dict(wanted, assign=True)
    assert_same_logits(model, finetuned)


# Mutated files: refused, or loaded right


TINY = dataclasses.replace(SIZE, width=4, heads=2, intermediate=4, layers=(2, 1, 1), vocabulary=9, positions=4)


class Trial:
    """One model, and a folder with the files that it is to load."""

    def __init__(self, folder: Path, model: LxmertForQuestionAnswering) -> None:
        self.folder, self.model = folder, model
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def outcome(self, source: Path) -> Loaded | None:
        """Loads ``source``, checks that what the model got is what it says, None where it is refused."""
        self.model.load_state_dict(self.before)
        try:
            loaded = load(str(source), self.model, softmax(), ASKED)
        except UserError:
            assert all(torch.equal(t, self.before[name]) for name, t in self.model.state_dict().items())
            return None
        weights = source / "model.safetensors" if source.is_dir() else source
        with warnings.catch_warnings(action="ignore"):
            held = (
                load_file(weights)
                if weights.suffix == ".safetensors"
                else torch.load(weights, map_location="cpu", weights_only=True)
            )
        given = {name: held[original] for original, name in convert_names(held).items()}
        own = self.model.state_dict()
        assert sorted([*loaded.loaded, *loaded.new]) == sorted(own)
        assert len(loaded.loaded) + len(loaded.left_over) == len(held)
        assert set(loaded.left_over) <= set(held)
        deeper_or_head = ("lxmert.encoder.layer.1.", "answer_head.")
        assert all(name.startswith(deeper_or_head) for name in loaded.new)
        for name in own:
            expected = self.before[name] if name in loaded.new else given[name]
            if name in ANSWERS and name in loaded.loaded and loaded.answers == "by text":
                texts = [entry["ans"] for entry in json.loads((self.folder / "all_ans.json").read_text())]
                expected = torch.stack(
                    [expected[texts.index(t)] if t in texts else torch.zeros_like(expected[0]) for t in ASKED]
                )
            assert torch.equal(own[name], expected.to(own[name].dtype)), name
        assert all(tensor.isfinite().all() for tensor in own.values())
        return loaded


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """The same checkpoint in three forms, with transformers' config.json for it and the texts of its answers."""
    folder, tensors = tmp_path_factory.mktemp("trial"), pretraining(TINY)
    torch.save(originals(tensors, "module."), folder / "zip.pth")
    torch.save(originals(tensors), folder / "old.pth", _use_new_zipfile_serialization=False)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
    transformers_config(dataclasses.replace(TINY, answers=len(KNOWN))).save_pretrained(folder)
    (folder / "all_ans.json").write_text(json.dumps([{"ans": text, "dsets": []} for text in KNOWN]))
    return Trial(folder, fresh(**{field.name: getattr(TINY, field.name) for field in dataclasses.fields(TINY)}))


DAMAGES: dict[str, Callable[[bytes, int, bytes], bytes]] = {
    "changed": lambda content, place, some: content[:place] + some + content[place + len(some) :],
    "put in": lambda content, place, some: content[:place] + some + content[place:],
    "taken out": lambda content, place, some: content[:place] + content[place + len(some) :],
    "cut off": lambda content, place, some: content[:place],
    "one bit": lambda content, place, some: (
        content[:place] + bytes([content[place] ^ 1 << some[0] % 8]) + content[place + 1 :]
    ),
}


@pytest.mark.fuzz
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["zip.pth", "old.pth", "model.safetensors", "config.json", "all_ans.json"]),
    st.sampled_from(list(DAMAGES)),
    st.sampled_from(["front", "back", "anywhere"]),
    st.integers(0, 2**20),
    st.binary(min_size=1, max_size=8),
)
def test_a_damaged_file_is_refused_or_loaded_right(
    trial: Trial, name: str, how: str, where: str, place: int, some: bytes
) -> None:
    """As often near an end of the file, where its headers are, as anywhere."""
    content, path = trial.files[name], trial.folder / name
    place %= len(content) if where == "anywhere" else min(len(content), 3000)
    path.write_bytes(DAMAGES[how](content, len(content) - 1 - place if where == "back" else place, some))
    source = {
        "all_ans.json": trial.folder / "zip.pth",
        "config.json": trial.folder,
        "model.safetensors": trial.folder,
    }
    try:
        trial.outcome(source.get(name, path))
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("listed", [slice(0, 0), slice(0, -1), slice(None, None, -1)])
def test_an_old_file_whose_list_of_storages_is_damaged_is_refused(trial: Trial, listed: slice) -> None:
    """torch.load gives tensors that nothing filled, or the numbers of others."""
    content = trial.files["old.pth"]
    file = io.BytesIO(content)
    for _ in range(4):
        collections.deque(pickletools.genops(file), 0)
    begins = file.tell()
    keys = pickle.load(file)
    path = trial.folder / "list.pth"
    path.write_bytes(content[:begins] + pickle.dumps(keys[listed], 2) + content[file.tell() :])
    with pytest.raises(UserError, match="damaged or not whole"):
        _read_tensors(path)


@pytest.mark.parametrize("source", ["zip.pth", "old.pth", "model.safetensors", ""])
def test_an_undamaged_one_is_loaded(trial: Trial, source: str) -> None:
    """Else the test above would be content with a loader that refuses everything."""
    loaded = trial.outcome(trial.folder / source)
    assert loaded is not None
    assert (loaded.new, loaded.answers, loaded.answers_found) == ((), "by text", 4)


CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "drop": lambda tensor: None,
    "rename": lambda tensor: tensor,
    "number": lambda tensor: 3,
    "empty": lambda tensor: tensor[:0],
    "flat": lambda tensor: tensor.flatten(),
    "longer": lambda tensor: torch.cat([tensor, tensor[:1]]),
    "turned": lambda tensor: tensor.t() if tensor.ndim == 2 else tensor,
    "scalar": lambda tensor: tensor.sum(),
    "half": lambda tensor: tensor.half(),
    "double": lambda tensor: tensor.double(),
    "whole": lambda tensor: tensor.int(),
    "boolean": lambda tensor: tensor > 0,
    "complex": lambda tensor: tensor.to(torch.complex64),
    "nan": lambda tensor: torch.full_like(tensor, float("nan")),
    "infinite": lambda tensor: tensor / 0,
    "stepped": lambda tensor: tensor.repeat_interleave(2, 0)[::2],
}


@pytest.mark.fuzz
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["zip.pth", "old.pth", "model.safetensors"]), st.data())
def test_a_changed_checkpoint_is_refused_or_loaded_right(trial: Trial, form: str, data: st.DataObject) -> None:
    state: dict[str, Any] = load_file(trial.folder / "model.safetensors")
    for name in data.draw(st.lists(st.sampled_from(list(state)), min_size=1, max_size=3, unique=True)):
        change = data.draw(st.sampled_from(list(CHANGES)))
        changed = CHANGES[change](state.pop(name))
        if change == "rename":
            name = data.draw(st.sampled_from(["", "bert.", "module.", "x"])) + name[data.draw(st.integers(0, 9)) :]
        if changed is not None:
            state[name] = changed
    path = trial.folder / f"changed.{form}"
    if form == "model.safetensors":
        save_file({name: t.contiguous().clone() for name, t in state.items() if isinstance(t, Tensor)}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip.pth")
    trial.outcome(path)


@pytest.mark.parametrize("change", ["half", "double", "stepped"])
def test_harmless_changes_are_loaded(trial: Trial, change: str) -> None:
    state = {name: CHANGES[change](tensor) for name, tensor in originals(pretraining(TINY)).items()}
    torch.save(state, trial.folder / "harmless.pth")
    assert trial.outcome(trial.folder / "harmless.pth") is not None
