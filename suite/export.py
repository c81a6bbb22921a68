"""``ablate export``: a finished cell as a folder that transformers' LXMERT loads.

transformers' LXMERT attends with softmax and reads the answer from the first word. A cell that computes anything
else is refused: its weights would load there, and silently answer differently.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors import SafetensorError

from suite import plan, pruning
from suite.attention import SoftmaxWeights
from suite.data.store import DataSet
from suite.destination import destination
from suite.errors import UserError
from suite.models.lxmert import LxmertConfig, LxmertForQuestionAnswering
from suite.records import StudyFolder, write_json
from suite.training import load_trained

COMPARED, BATCH = 64, 8
"""Validation questions on which both models must give the same logits. A method may change from batch to batch."""
ROUNDING = 1e-4


def export(study: StudyFolder, cell_id: str, data: Path, out: Path) -> str:
    """Writes the model of a finished cell to the new folder ``out``; returns a sentence about it.

    config.json (with the data set's answers as ``id2label``), model.safetensors, and tokenizer.json with
    tokenizer_config.json. Layers that the cell's evaluation leaves out are left out, and the others renumbered.

    Raises UserError where the cell is not finished, its method or data set has changed since, transformers cannot
    compute what it computes, or ``out`` exists or cannot be written: before anything is computed.
    """
    cell, dataset = plan.trained_cell(study, cell_id, data)
    model = load_trained(study, cell_id, dataset)
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    target = destination(out, size, "may hold another model")
    others = {type(weights).__name__ for _, weights in model.sites() if type(weights) is not SoftmaxWeights}
    if model.config.pooling != "first":
        others.add(f"{model.config.pooling} pooling")
    if others:
        raise UserError(
            f"transformers' LXMERT attends with softmax and pools the first word; {cell_id} has "
            f"{', '.join(sorted(others))}, and its weights would answer differently there. Use the cell's own "
            "model, which suite.training.load_trained makes."
        )
    theirs, rows = _theirs(model, dataset), dataset.rows(cell.validation)[:COMPARED]
    difference = _difference(model, theirs, dataset, rows)
    if not difference < ROUNDING:
        raise UserError(
            f"transformers' LXMERT does not compute what {cell_id} does: expected equal logits, received a "
            f"difference of {difference:.3g}. {cell.variant} does more than choose layers once and for all. Use "
            "the cell's own model, which suite.training.load_trained makes."
        )
    _write(theirs, dataset, target)
    layers = "-".join(str(len(kept)) for kept in pruning.kept_layers(model).values())
    return (
        f"Saved as transformers' LXMERT of {layers} layers: on {len(rows)} validation questions its logits are the "
        f"cell's to {difference:.1g}."
    )


def _theirs(model: LxmertForQuestionAnswering, dataset: DataSet) -> transformers.LxmertForQuestionAnswering:
    """transformers' model of the layers that the evaluation of ``model`` runs, with their weights."""
    kept = pruning.kept_layers(model)
    layers = len(kept["language"]), len(kept["vision"]), len(kept["cross"])
    config = transformers_config(replace(model.config, layers=layers))
    config.id2label = dict(enumerate(dataset.answers))
    config.label2id = {answer: index for index, answer in enumerate(dataset.answers)}
    theirs = transformers.LxmertForQuestionAnswering(config)
    theirs.load_state_dict(pruning.renumbered(model.state_dict(), kept), strict=True)
    return theirs.eval()


def transformers_config(config: LxmertConfig) -> transformers.LxmertConfig:
    """What transformers' LXMERT needs to be the model of ``config`` with softmax and the first word pooled."""
    language, vision, cross = config.layers
    return transformers.LxmertConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.width,
        num_attention_heads=config.heads,
        intermediate_size=config.intermediate,
        hidden_dropout_prob=config.hidden_dropout,
        attention_probs_dropout_prob=config.attention_dropout,
        max_position_embeddings=config.positions,
        type_vocab_size=config.segments,
        l_layers=language,
        r_layers=vision,
        x_layers=cross,
        visual_feat_dim=config.features,
        num_qa_labels=config.answers,
        pad_token_id=0,
    )


@torch.no_grad()
def _difference(
    model: LxmertForQuestionAnswering,
    theirs: transformers.LxmertForQuestionAnswering,
    dataset: DataSet,
    rows: np.ndarray,
) -> float:
    """The largest difference of a logit on the questions ``rows`` (N,)."""
    largest = 0.0
    for first in range(0, len(rows), BATCH):
        batch = dataset.batch(rows[first : first + BATCH])
        words, regions, boxes, mask = (
            torch.from_numpy(array) for array in (batch.words, batch.regions, batch.boxes, batch.word_mask)
        )
        expected = theirs(words, regions, boxes, attention_mask=mask).question_answering_score
        largest = max(largest, (model(words, regions, boxes, mask) - expected).abs().max().item())
    return largest


def _write(theirs: transformers.LxmertForQuestionAnswering, dataset: DataSet, out: Path) -> None:
    """Under another name first: a folder that exists is whole."""
    # In a folder that nobody else can have made, with a link in it.
    place = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    draft = place / out.name
    # Without it AutoTokenizer builds BERT's own in transformers 5, with a vocabulary of five tokens.
    special = {f"{name.lower()}_token": f"[{name}]" for name in ("UNK", "SEP", "PAD", "CLS", "MASK")}
    transformers.utils.logging.disable_progress_bar()
    try:
        theirs.save_pretrained(draft)
        shutil.copyfile(dataset.folder / "tokenizer.json", draft / "tokenizer.json")
        write_json(draft / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **special})
        os.replace(draft, out)
    except SafetensorError as error:
        # It has words of its own for a disk that is full, or that does not take what it is given.
        number = errno.EIO if shutil.disk_usage(place).free > 1 << 20 else errno.ENOSPC
        raise OSError(number, os.strerror(number), str(out)) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
