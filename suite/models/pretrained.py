"""Pre-trained LXMERT weights for a model: each tensor of the source is loaded, or left over by name.

A source is

a hub id        a model of transformers, through its cache.
a folder        of transformers: config.json with model.safetensors, or pytorch_model.bin.
a file          LXMERT's ``model_LXRT.pth`` (Tan and Bansal 2019, 1908.07490), a model that its VQA code fine-tuned,
                or another state dict of such names.
a cell          its folder, or the checkpoint folder in it.

Pickles are read as tensors alone: one that names any other code is refused before any of it runs.

Answers are matched by their text as it stands. LXMERT's loader first lowers it, takes a final full stop and an
article off and writes number words as digits; its 3,129 answers for VQA 2.0 are in that form already, so that both
rules find the same 3,124 of them. Where nothing tells the texts, rows are taken in their order only where that is
known to be the data set's: as many answers are not the same answers. Nor are as many word pieces the same pieces.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from suite import checkpoints
from suite.attention import Variant
from suite.errors import UserError
from suite.files import strict_json
from suite.models.lxmert import LxmertConfig, LxmertForQuestionAnswering, is_variants_own
from suite.records import CellFolder, read_lines

Kind = Literal["hub", "folder", "pre-training by LXMERT", "fine-tuning by LXMERT", "file", "cell"]
Deeper = Literal["fresh", "neighbour"]
"""What a layer starts from that the source lacks: random weights, or those of the last layer that it has."""

IN_A_LAYER = re.compile(r"lxmert\.encoder\.(layer|r_layers|x_layers)\.([0-9]{1,4})\.(.+)")
WORDS = "lxmert.embeddings.word_embeddings.weight"
HEAD = "answer_head.logit_fc."
ANSWERS = (f"{HEAD}3.weight", f"{HEAD}3.bias")
"""The last layer of the head: one row per answer."""
BESIDE = ("all_ans.json", "trainval_label2ans.json")
"""LXMERT's names for the texts of the answers that it was pre-trained and fine-tuned with."""
LXMERTS_ANSWERS = "b05467ee028c22da4547e880ae734786065c0395435ff561865187dc184c3b19"
"""`texts_digest` of trainval_label2ans.json: the order of what LXMERT's VQA code fine-tuned, without texts."""
VOCABULARY = ("vocab.txt", "tokenizer.json")
"""Names of the word pieces that weights were trained with, beside them."""
BERTS_PIECES, BERTS_COUNT = "862782a2264648a2a9f2fe0ffedb5b702c097f03e4e1fb97cb88380302342c2e", 30_522
"""`texts_digest` of bert-base-uncased's word pieces, which LXMERT has; and how many they are."""
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Loaded:
    """What a model took from a source; plain values."""

    source: str
    kind: Kind
    sha256: str
    """Of the file of weights."""
    loaded: tuple[str, ...]
    """The model's tensors that the source gave."""
    copied: tuple[str, ...]
    """Those of layers that the source lacks, copied from its last layer."""
    new: tuple[str, ...]
    """Those that stay random."""
    left_over: tuple[str, ...]
    """The source's tensors that the model has no use for, by their names there."""
    answers: Literal["by text", "in order", "not loaded"]
    """How the rows of the answer layer were found; in order where only the order of the source's is known."""
    source_answers: int
    """Answers that the source knows."""
    answers_found: int
    zero_answers: tuple[str, ...]
    """The model's answers that the source does not know: their weights and bias are zero."""

    def __str__(self) -> str:
        layers = f"{len(self.copied)} copied from the layer before, " if self.copied else ""
        text = (
            f"{self.source} ({self.kind}, sha256 {self.sha256[:12]}): {len(self.loaded)} tensors loaded, "
            f"{layers}{_some('new', self.new)}, {_some('left over', self.left_over)}"
        )
        if self.answers == "not loaded":
            return f"{text}; no answers loaded."
        found = f"{self.answers_found:,} of {self.answers_found + len(self.zero_answers):,} answers found"
        zero = _some("set to zero", [repr(answer) for answer in self.zero_answers])
        return f"{text}; {found} {self.answers} among {self.source_answers:,}, {zero}."


@dataclass(frozen=True)
class _Source:
    """A source that was read, not yet held against a model."""

    text: str
    kind: Kind
    path: Path
    """The file of weights."""
    tensors: Mapping[str, Tensor]
    layers: tuple[int, int, int] | None = None
    """Language, vision, cross, where the source says so."""
    heads: int | None = None
    answers: Sequence[str] | None = None
    """Texts, where the source has them."""
    order: str | None = None
    """`texts_digest` of the texts, where nothing else is known of them."""
    tokenizer: str | None = None
    """sha256 of the tokenizer of a cell's data set."""


def load(
    source: str,
    model: LxmertForQuestionAnswering,
    variant: Variant,
    answers: Sequence[str],
    deeper: Deeper = "fresh",
    pretraining_answers: Path | None = None,
    tokenizer: str | None = None,
) -> Loaded:
    """Loads the weights of ``source`` into ``model``, whose i-th logit is that of the text ``answers[i]``.

    New may be only the variant's own tensors, what it does not inherit, layers deeper than the source's, and the
    answer head where the source has none. ``pretraining_answers`` has the texts of the source's answers (LXMERT's
    ``all_ans.json``); without it they are sought in config.json and beside the weights. ``tokenizer`` is the text
    of the data set's tokenizer.json, to be held against the word pieces of the source.

    Raises UserError, and leaves the model as it was, where the source does not read, holds anything but tensors, or
    does not fit; OSError where the system cannot read it now.
    """
    found = _open(source)
    names = convert_names(found.tensors)
    given = {name: found.tensors[original] for original, name in names.items()}
    own = model.state_dict()
    if found.heads not in (None, model.config.heads):
        raise UserError(
            f"{source} was trained with {found.heads} attention heads, and the model has {model.config.heads}: its "
            "weights would fit and mean something else. Give both the same number."
        )
    origins = _origins(found, given, own, variant, deeper)
    taken = {
        name: _checked(source, origin, given[origin], own[name].dtype)
        for name, origin in origins.items()
        if origin is not None
    }
    if tokenizer is not None and WORDS in taken:
        _check_pieces(found, len(taken[WORDS]), tokenizer)
    rows, how, known = [], "not loaded", 0
    if all(name in taken for name in ANSWERS):
        known, biases = (len(taken[name]) for name in ANSWERS)
        if known != biases:
            raise UserError(f"{source} has weights for {known:,} answers and biases for {biases:,}. Get it again.")
        texts = _texts(found, known, pretraining_answers)
        rows, how = _rows(found, known, texts, answers), "in order" if texts is None else "by text"
        taken |= {name: _chosen(taken[name], rows) for name in ANSWERS}
    digest = _digest(found.path)
    model.load_state_dict(taken, strict=False)

    used = set(origins.values())
    return Loaded(
        source=source,
        kind=found.kind,
        sha256=digest,
        loaded=tuple(name for name, origin in origins.items() if origin == name),
        copied=tuple(name for name, origin in origins.items() if origin not in (name, None)),
        new=tuple(name for name, origin in origins.items() if origin is None),
        left_over=tuple(original for original, name in names.items() if name not in used),
        answers=how,
        source_answers=known,
        answers_found=sum(row is not None for row in rows),
        zero_answers=tuple(text for text, row in zip(answers, rows, strict=False) if row is None),
    )


def texts_digest(answers: Sequence[str]) -> str:
    """sha256 of texts in their order: what says that the i-th row of two answer layers is the same answer's."""
    return hashlib.sha256(json.dumps(list(answers)).encode()).hexdigest()


@lru_cache(maxsize=64)
def identity(source: str) -> str:
    """sha256 of the weights of ``source``, and of the list of answers that lies beside them, if any.

    The same weights have the same identity in another place. Raises UserError where there are none.
    """
    path = _weights_file(source)
    beside = [file for name in BESIDE if (file := path.with_name(name)).exists()]
    return hashlib.sha256(" ".join(_digest(file) for file in (path, *beside)).encode()).hexdigest()


def convert_names(names: Iterable[str]) -> dict[str, str]:
    """Each of a source's tensor names with the model's name for it.

    LXMERT's code and what its VQA code fine-tuned have other prefixes, and ``module.`` where several GPUs ran them.
    Raises UserError where two names become one.
    """
    converted: dict[str, str] = {}
    originals: dict[str, str] = {}
    for original in names:
        name = ".".join(part for part in original.split(".") if part != "module")
        name = re.sub(r"^(lxrt_encoder\.model\.)?bert\.", "lxmert.", name)
        name = re.sub(r"^logit_fc\.", HEAD, name)
        if name in originals:
            raise UserError(
                f"The source has {name} twice, as {originals[name]} and as {original}. Expected each tensor once: "
                "leave one of them out."
            )
        converted[original], originals[name] = name, original
    return converted


def _origins(
    found: _Source, given: Mapping[str, Tensor], own: Mapping[str, Tensor], variant: Variant, deeper: Deeper
) -> dict[str, str | None]:
    """For each tensor of the model that of ``given`` which it starts from; None where it stays random.

    Raises UserError where one would stay random that nobody asked to.
    """
    depth = _depth(found, given)
    has_head = any(name.startswith(HEAD) for name in given)
    origins: dict[str, str | None] = {}
    wrong = []
    for name, tensor in own.items():
        origin, may_be_new = name, is_variants_own(name)
        if not variant.inherits(name):
            origin, may_be_new = None, True
        elif name.startswith(HEAD):
            may_be_new = not has_head
        elif (place := IN_A_LAYER.fullmatch(name)) and 0 < depth[place[1]] <= int(place[2]):
            origin = (
                f"lxmert.encoder.{place[1]}.{depth[place[1]] - 1}.{place[3]}" if deeper == "neighbour" else None
            )
            may_be_new = may_be_new or origin is None
        there = given.get(origin) if origin else None
        fits = there is not None and _comparable(name, there) == _comparable(name, tensor)
        origins[name] = origin if fits else None
        if not fits and not may_be_new:
            wrong.append(name)
    if wrong:
        raise _mismatch(found.text, given, own, wrong, set(origins.values()))
    return origins


def _comparable(name: str, tensor: Tensor) -> tuple[int, ...]:
    """The shape, but for how many answers there are."""
    return (tensor.ndim, *tensor.shape[1:]) if name in ANSWERS else tuple(tensor.shape)


def _depth(found: _Source, given: Mapping[str, Tensor]) -> dict[str, int]:
    """Layers of each stack of the source, by the model's name of the stack."""
    depth: dict[str, int] = dict(zip(("layer", "r_layers", "x_layers"), found.layers or (0, 0, 0), strict=True))
    for name in given:
        if place := IN_A_LAYER.fullmatch(name):
            depth[place[1]] = max(depth[place[1]], int(place[2]) + 1)
    return depth


def _mismatch(
    source: str, given: Mapping[str, Tensor], own: Mapping[str, Tensor], wrong: list[str], used: set[str | None]
) -> UserError:
    if WORDS in wrong and WORDS in given:
        return UserError(
            f"The word embeddings of {source} are {tuple(given[WORDS].shape)}, word pieces by width, and the "
            f"model's {tuple(own[WORDS].shape)}. Prepare the questions with the vocabulary of its training "
            "(LXMERT: the 30,522 of bert-base-uncased), and give the model its width."
        )
    # Those of the same name first: they show how the shapes differ.
    theirs = sorted((name for name in given if name not in used), key=lambda name: name not in wrong)

    def two(names: list[str], tensors: Mapping[str, Tensor]) -> str:
        shown = [f"{name} {tuple(tensors[name].shape)}" for name in names[:2]]
        return ", ".join(shown) or "nothing else"

    return UserError(
        f"{len(wrong)} of the model's {len(own)} tensors would stay random: {source} has none of their name and "
        f"shape. Expected {two(sorted(wrong, key=lambda name: name not in given), own)}; received "
        f"{two(theirs, given)}. Give a whole LXMERT checkpoint, and a model of its sizes."
    )


def _checked(source: str, name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """``tensor`` as ``dtype``; UserError where it is no plain tensor of finite numbers."""
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and tensor.dtype in FLOATS
    if not plain:
        raise UserError(
            f"{name} in {source} is {tensor.dtype}, {tensor.layout} on {tensor.device}. Expected floating-point "
            "numbers: save it again as such."
        )
    tensor = tensor.detach().to(dtype)
    if not tensor.isfinite().all():
        raise UserError(
            f"{name} in {source} has numbers that are infinite or none at all. The file, or its training, was "
            "damaged: compare its sha256 with the publisher's, and get it again."
        )
    return tensor


def _check_pieces(found: _Source, known: int, tokenizer: str) -> None:
    """Raises UserError where the source's ``known`` word embeddings are of other pieces than ``tokenizer`` has.

    They are compared with what lies beside the weights; without that the published LXMERT's are BERT's.
    """
    given = hashlib.sha256(tokenizer.encode()).hexdigest()
    if found.tokenizer is not None:
        same, theirs = found.tokenizer == given, "those of the data set that it was trained on"
    else:
        pieces = _in_order(Tokenizer.from_str(tokenizer).get_vocab())
        beside = [path for name in VOCABULARY if (path := found.path.with_name(name)).exists()]
        listed = {path.name: texts for path in beside if len(texts := _read_pieces(path)) == known}
        if listed:
            same = all(texts == pieces for texts in listed.values())
            theirs = f"those of {' and '.join(listed)} beside it"
        else:
            published = known == BERTS_COUNT and found.kind != "file"
            same, theirs = not published or texts_digest(pieces) == BERTS_PIECES, "those of bert-base-uncased"
    if not same:
        raise UserError(
            f"The {known:,} word pieces of {found.text} are {theirs}, and the data set has others, or in another "
            "order: each word would get another's embedding. Prepare the questions with the vocabulary of its "
            f"training. Where that is another, put it beside {found.path.name} as {VOCABULARY[0]}."
        )


def _read_pieces(path: Path) -> list[str]:
    """The word pieces of a vocab.txt, or of a tokenizer.json, in the order of their numbers."""
    text = path.read_bytes().decode("utf-8", errors="replace")
    if path.name == VOCABULARY[0]:
        return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    try:
        return _in_order(Tokenizer.from_str(text).get_vocab())
    except Exception as error:  # The library raises nothing narrower.
        raise UserError(
            f"{path} does not read as a tokenizer ({_first_line(error)}). It is damaged: get it again."
        ) from None


def _in_order(vocabulary: Mapping[str, int]) -> list[str]:
    return sorted(vocabulary, key=lambda piece: vocabulary[piece])


def _texts(found: _Source, known: int, given: Path | None) -> Sequence[str] | None:
    """The texts of the source's ``known`` answers; None where nothing has them."""
    if given is not None:
        texts = read_answers(given)
        if len(texts) != known:
            raise UserError(
                f"{given} has {len(texts):,} answers, and the answer layer of {found.text} {known:,}. Give the "
                "list that it was trained with: all_ans.json for LXMERT's pre-training."
            )
        return texts
    if found.answers is not None and len(found.answers) == known:
        return found.answers
    fitting: dict[str, list[str]] = {}
    for beside in (found.path.with_name(name) for name in BESIDE):
        if beside.exists() and len(texts := read_answers(beside)) == known:
            fitting[beside.name] = texts
    first, *others = fitting.values() or [None]
    if any(other != first for other in others):
        raise UserError(
            f"{' and '.join(fitting)} beside {found.path} have {known:,} answers each, and not the same. Leave "
            "there the one that it was trained with."
        )
    return first


def read_answers(path: Path) -> list[str]:
    """The texts of ``path``, in order: a JSON list of texts, or of LXMERT's ``{"ans": text, "dsets": [...]}``.

    Raises UserError where it is anything else, or has a text twice.
    """
    listed = _read_json(path)
    entries = listed if isinstance(listed, list) else []
    texts = [entry.get("ans") if isinstance(entry, dict) else entry for entry in entries]
    named = [text for text in texts if isinstance(text, str)]
    if not texts or len(named) != len(texts):
        raise UserError(
            f'{path} is no list of answers. Expected a JSON list of texts, or of {{"ans": text}} as LXMERT\'s '
            "all_ans.json has it."
        )
    most, times = Counter(named).most_common(1)[0]
    if times > 1:
        raise UserError(
            f"{path} has the answer {most!r} {times} times. Expected each once: it names a row of weights."
        )
    return named


def _rows(found: _Source, known: int, texts: Sequence[str] | None, answers: Sequence[str]) -> list[int | None]:
    """The row of the source's answer layer for each of ``answers``; None where it has none."""
    if texts is None:
        if known == len(answers) and found.order == texts_digest(answers):
            return list(range(known))
        as_many = ", as many, which may be in another order" if known == len(answers) else ""
        raise UserError(
            f"{found.text} knows {known:,} answers and not their texts, and the data set has {len(answers):,}"
            f"{as_many}: nothing says which row of its weights is which answer's. {_where_texts_go(found)}"
        )
    places = {text: row for row, text in enumerate(texts)}
    rows = [places.get(answer) for answer in answers]
    if not any(row is not None for row in rows):
        raise UserError(
            f"None of the data set's {len(answers):,} answers is among the {known:,} of {found.text}, such as "
            f"{answers[0]!r} among {texts[0]!r} and others. Give the list that it was trained with."
        )
    return rows


def _where_texts_go(found: _Source) -> str:
    if found.kind == "cell":
        return "Export it with `ablate export CELL --out FOLDER`, and start from that folder, which has them."
    name = BESIDE[1] if found.kind == "fine-tuning by LXMERT" else BESIDE[0]
    return (
        f"Put the list that it was trained with, a JSON list of texts in the order of its rows, beside "
        f"{found.path.name} as {name}: LXMERT distributes {BESIDE[0]} with its pre-training and {BESIDE[1]} with "
        "its fine-tuning on VQA."
    )


def _chosen(tensor: Tensor, rows: Sequence[int | None]) -> Tensor:
    """The ``rows`` of ``tensor``, zeros for None."""
    places = torch.tensor([-1 if row is None else row for row in rows])
    chosen = tensor[places]
    chosen[places < 0] = 0
    return chosen


def _open(source: str) -> _Source:
    path = Path(source).expanduser()
    if path.is_dir():
        for folder in (path, path / "checkpoint"):
            steps = [place.name for place in folder.glob("step-*")]
            if steps and all(re.fullmatch("step-[0-9]+", step) for step in steps):
                return _open_cell(source, folder)
        return _open_transformers(source, "folder", _in_folder(source, path))
    if path.exists():
        tensors = _read_tensors(path)
        kind: Kind = "file"
        if any(name.startswith(("bert.", "module.bert.")) for name in tensors):
            kind = "pre-training by LXMERT"
        elif any(name.startswith(("lxrt_encoder.", "module.lxrt_encoder.")) for name in tensors):
            kind = "fine-tuning by LXMERT"
        return _Source(source, kind, path, tensors, order=LXMERTS_ANSWERS if kind.startswith("fine") else None)
    if not HUB_ID.fullmatch(source):
        raise UserError(f"There is no file or folder {source}. Give the path of a checkpoint, or a hub id.")
    return _open_transformers(source, "hub", _in_hub(source))


def _weights_file(source: str) -> Path:
    """The file of weights of ``source``, unread."""
    path = Path(source).expanduser()
    if path.is_dir():
        for folder in (path, path / "checkpoint"):
            if steps := checkpoints.steps(folder):
                return folder / f"step-{steps[-1]:08d}" / "model.safetensors"
        return _in_folder(source, path)[1]
    if path.exists():
        return path
    if not HUB_ID.fullmatch(source):
        raise UserError(f"There is no file or folder {source}. Give the path of a checkpoint, or a hub id.")
    return _in_hub(source)[1]


def _open_cell(source: str, folder: Path) -> _Source:
    record = CellFolder(folder.parent)
    steps = checkpoints.steps(folder)
    if len(steps) != 1 or record.state in ("started", "stopped", "failed"):
        raise UserError(f"{source} is a cell that is not finished. Run it first.")
    tensors = checkpoints.load_model(folder)
    path = folder / f"step-{steps[0]:08d}" / "model.safetensors"
    if record.state == "missing":
        return _Source(source, "cell", path, tensors)
    cell, result = record.config()["cell"], record.result() or {}
    if result.get("steps", steps[0]) != steps[0]:
        raise UserError(
            f"{source} has a checkpoint of step {steps[0]}, and was finished at step {result['steps']}. Copy the "
            "cell again from where it is whole."
        )
    segments = read_lines(record.path / "segments.jsonl")
    return _Source(
        source,
        "cell",
        path,
        tensors,
        layers=tuple(cell["layers"]),
        heads=cell["model"]["heads"],
        order=segments[-1].get("answers") if segments else None,
        tokenizer=segments[-1].get("tokenizer") if segments else None,
    )


def _open_transformers(source: str, kind: Kind, files: tuple[Path, Path]) -> _Source:
    """A source with its config.json: weights of equal shapes are another model where heads or activation differ."""
    description, weights = files
    config = _read_json(description)
    if not isinstance(config, dict) or config.get("model_type", "lxmert") != "lxmert":
        raise UserError(f"{description} does not describe an LXMERT. Give a checkpoint of LXMERT.")
    if config.get("hidden_act", "gelu") != "gelu":
        raise UserError(
            f"{source} was trained with the activation {config['hidden_act']}, and the model has gelu. Give a "
            "checkpoint with gelu."
        )
    # What config.json leaves out is the base model's.
    base = LxmertConfig()
    numbers = [
        config.get(name, default)
        for name, default in zip(
            ("l_layers", "r_layers", "x_layers", "num_attention_heads"), (*base.layers, base.heads), strict=True
        )
    ]
    if not all(isinstance(number, int) and number > 0 for number in numbers):
        raise UserError(
            f"{description} has no whole numbers of layers and heads; received {numbers}. Get it again."
        )
    language, vision, cross, heads = numbers
    return _Source(
        source,
        kind,
        weights,
        _read_tensors(weights),
        (language, vision, cross),
        heads,
        _labels(config.get("id2label")),
        LXMERTS_ANSWERS,  # What was fine-tuned for VQA is LXMERT's own, converted.
    )


def _labels(labels: Any) -> list[str] | None:
    """The answers that config.json tells; None where it tells none, or transformers' placeholders."""
    if not isinstance(labels, dict) or set(labels) != {str(number) for number in range(len(labels))}:
        return None
    texts = [labels[str(number)] for number in range(len(labels))]
    named = all(isinstance(text, str) for text in texts) and len(set(texts)) == len(texts)
    return texts if named and texts != [f"LABEL_{number}" for number in range(len(texts))] else None


def _in_folder(source: str, folder: Path) -> tuple[Path, Path]:
    for weights in (folder / "model.safetensors", folder / "pytorch_model.bin"):
        if weights.exists() and (folder / "config.json").exists():
            return folder / "config.json", weights
    raise UserError(
        f"{source} is no checkpoint. Expected config.json with model.safetensors or pytorch_model.bin, or the "
        "folder of a cell. Give a folder that has them, or the file itself."
    )


def _in_hub(source: str) -> tuple[Path, Path]:
    from transformers.utils.hub import cached_file

    def get(name: str) -> Path:
        return Path(str(cached_file(source, name)))

    try:
        config = get("config.json")
        try:
            return config, get("model.safetensors")
        except OSError as error:
            if error.errno is not None:  # The system's own: the hub's have no number.
                raise
            return config, get("pytorch_model.bin")
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(
            f"There is no file or folder {source} here, and the hub gave no such model ({_first_line(error)}). "
            "Give the path of a checkpoint; or download config.json and model.safetensors where there is a network "
            "and give their folder."
        ) from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict of ``path``; UserError where it holds anything but tensors, and no code of it is run."""
    with path.open("rb"):
        pass  # What the system has against it, in its own words: the readers have others.
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Of how old a file is; it loads, or is refused here.
                tensors = torch.load(path, map_location="cpu", weights_only=True)
            if not zipfile.is_zipfile(path):
                _check_filled(path)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        raise UserError(
            f"{path} is refused, and no code in it was run: it holds more than tensors"
            f"{f' ({code[1]})' if code else ''}, or is damaged. Get the checkpoint from its publisher, or save its "
            "state dict as safetensors where you trust it."
        ) from None
    except Exception as error:  # A damaged file makes the readers raise whatever it happens to hit.
        if number := _trouble(error, path):
            raise OSError(number, os.strerror(number), str(path)) from error
        raise UserError(
            f"{path} does not read as weights ({_first_line(error)}). It is damaged or not whole: compare its "
            "sha256 with the publisher's, and get it again."
        ) from None
    plain = isinstance(tensors, Mapping) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()
    )
    if not plain:
        held = ", ".join(map(str, list(tensors)[:3])) if isinstance(tensors, Mapping) else type(tensors).__name__
        raise UserError(
            f"{path} is no state dict. Expected names with tensors; received {held}. Save the model's own."
        )
    return dict(tensors)


def _check_filled(path: Path) -> None:
    """Raises ValueError where torch leaves tensors of an old file, which is no zip, unfilled.

    It takes the file's list of what follows as it stands; a tensor that is not in it keeps what its memory held."""
    with path.open("rb") as file:
        for _ in range(3):  # Magic number, version, system.
            _Names(file).load()
        held = _Names(file)
        held.load()
        listed = _Names(file).load()
    if listed != sorted(held.keys):
        raise ValueError(f"it lists {len(listed)} storages, and its tensors are in {len(held.keys)}, or others")


class _Names(pickle.Unpickler):
    """Reads which storages a pickle of torch names; makes nothing that it asks for."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="utf-8")
        self.keys: set[str] = set()

    def find_class(self, module: str, name: str) -> type[_Nothing]:
        return _Nothing

    def persistent_load(self, pid: Any) -> None:
        self.keys.add(pid[2])


class _Nothing(dict[Any, Any]):
    """Stands for every object of a pickle."""

    def __init__(self, *given: Any) -> None:
        super().__init__()


def _trouble(error: Exception, path: Path) -> int | None:
    """The number of what the system raised while weights were read; None where the file is what is wrong."""
    if isinstance(error, OSError) and error.errno != errno.EINVAL:  # That is of a place that no file has.
        return error.errno
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    text = str(error)
    if told := re.search(r"\(os error ([0-9]{1,4})\)", text):
        return int(told[1])
    wanted = re.search(r"can't allocate memory: you tried to allocate ([0-9]+) bytes", text)
    # A tensor that is larger than its file is the file's fault.
    return errno.ENOMEM if wanted and int(wanted[1]) <= path.stat().st_size else None


def _read_json(path: Path) -> Any:
    try:
        return strict_json(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}). It is damaged: get it again.") from None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _some(what: str, names: Sequence[str]) -> str:
    """``36 left over (cls.predictions.bias, cls.seq_relationship.bias and 34 more)``."""
    if not names:
        return f"0 {what}"
    more = f" and {len(names) - 2:,} more" if len(names) > 2 else ""
    return f"{len(names):,} {what} ({', '.join(names[:2])}{more})"
