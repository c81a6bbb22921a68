"""``train_and_test``: one cell from its model to its result, top to bottom. Knows no variant and no Ray.

The randomness of a step (layers dropped, dropout) depends on the seed and the step alone, and the order of
the questions on the seed and the epoch: a cell that resumes repeats nothing and needs no generator's state.

Several workers run this side by side, each on its share of every batch; the engine brings together what they
have. They draw the same layers and each its own dropout. The first one alone writes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite import checkpoints, flops, native, provenance, pruning, registry
from suite.attention import Variant, Weights
from suite.config import Cell, Protocol, from_plain
from suite.data import official
from suite.data.store import DataSet, open_dataset
from suite.engine import Engine, NotFinite, restore_defaults
from suite.errors import UserError
from suite.examples import record_examples
from suite.models import pretrained
from suite.models.lxmert import LxmertConfig, LxmertForQuestionAnswering, is_variants_own
from suite.optimisers import build_optimiser, learning_rate
from suite.plan import Job, Workplace
from suite.pulse import Leave, Progress, Pulse, Wish
from suite.records import CellFolder, StudyFolder

EVALUATION_BATCH = 256
PROBED_QUESTIONS = 64
"""Validation questions on which the density of attention is measured at every evaluation."""


def train_and_test(
    job: Job, workplace: Workplace, record: CellFolder, pulse: Pulse, engine: Engine | None = None
) -> None:
    """Trains the cell from its newest checkpoint, if any, tests it and writes its result.

    With an ``engine`` of several workers each of them calls this. Raises Leave where one was asked to leave and a
    checkpoint is written, and NotFinite.
    """
    engine = engine or Engine()
    cell, protocol = job.cell, job.cell.protocol
    for plugin in workplace.plugins:
        registry.load_kept_plugin(plugin)
    restore_defaults()
    native.forget()
    torch.set_num_threads(workplace.placement.threads)
    device = torch.device("cuda" if workplace.placement.gpus else "cpu")

    dataset = open_dataset(Path(workplace.data) / cell.dataset)
    if cell.pictures == "mean":
        dataset = dataset.with_mean_pictures(*cell.train)
    if cell.keep is not None:
        _evaluate_only(job, workplace, record, dataset, device, pulse, engine)
        return
    rows = dataset.rows(*cell.train)
    batches = Batches(
        rows, protocol.batch_size, cell.seed, dataset.image[rows] if protocol.share_pictures else None
    )
    torch.manual_seed(cell.seed)
    model = build_model(cell, dataset)
    start = None
    if job.start:
        start = load_start(model, build_variant(cell), StudyFolder(workplace.study).cell(job.start))
    elif cell.pretrained:
        start = load_pretrained(model, job, dataset)
    model.to(device)
    optimiser = build_optimiser(model, protocol)

    step, seconds = 0, 0.0
    losses: list[Tensor] = []
    """Of the steps since the last evaluation."""
    newest = engine.agreed(lambda: checkpoints.newest(record.checkpoints))
    if newest is not None:
        step, (weights, state) = newest, checkpoints.read(record.checkpoints, newest)
        model.load_state_dict(weights)
        if state is None:  # Killed after the final checkpoint: only the test is left.
            seconds = float(record.metrics()["seconds"].iloc[-1])
        else:
            optimiser.load_state_dict(state["optimiser"])
            seconds = state["seconds"]
            losses = list(state["losses"].to(device).unbind())
    if engine.is_first:
        marks = None if newest is None else checkpoints.marks(record.checkpoints, step)
        record.cut_back(-1 if newest is None else step, marks)
        _record_segment(record, workplace, device, dataset, step, start)
    engine.prepare(Objective(model, protocol, engine.workers), optimiser, protocol.clip)

    began = time.perf_counter() - seconds
    evaluations = set(protocol.evaluation_steps())
    if step == 0:
        _evaluate(record, model, dataset, cell, 0, None, time.perf_counter() - began, pulse, engine)
    segment_began, segment_steps = time.perf_counter(), 0
    while step < protocol.steps:
        model.train()
        parts = np.array_split(batches[step], protocol.accumulate)
        engine.set_rate(learning_rate(protocol, step))
        losses.append(train_step(model, optimiser, dataset, parts, cell, step, device, engine))
        step += 1
        segment_steps += 1
        speed = segment_steps * protocol.batch_size / (time.perf_counter() - segment_began)
        pulse.stepped(step, protocol.steps, speed)
        wish, progress = Wish(engine.greatest(pulse.wish)), None
        if step in evaluations:
            train_loss = _finite(torch.stack(losses).mean().item(), "training loss", step)
            losses.clear()
            if step == protocol.steps:
                _choose_layers(model, dataset, cell, pulse, engine)
            metrics = _evaluate(
                record, model, dataset, cell, step, train_loss, time.perf_counter() - began, pulse, engine
            )
            progress = Progress(step, protocol.steps, metrics["accuracy"], metrics["loss"], speed)
        if step == protocol.steps:
            _save(record, step, model, None, engine)
        elif progress or wish > Wish.GO_ON:
            if losses:  # Else a cell would go on from weights that are no numbers.
                _finite(torch.stack(losses).mean().item(), "training loss", step)
            training = {
                "optimiser": engine.optimiser_state(),
                "seconds": time.perf_counter() - began,
                "losses": torch.stack(losses).cpu() if losses else torch.zeros(0),
            }
            _save(record, step, model, training, engine)
            pulse.saved()
            if wish is Wish.LEAVE:
                raise Leave
        if progress:
            pulse.report(progress)
            segment_began, segment_steps = time.perf_counter(), 0
    _test(record, model, dataset, cell, step, time.perf_counter() - began, pulse, engine)


def _save(record: CellFolder, step: int, model: nn.Module, training: dict[str, Any] | None, engine: Engine) -> None:
    if engine.is_first:
        record.check()
        state = model.state_dict()
        checkpoints.save(record.checkpoints, step, state, training, record.marks(), record.guard)


def _evaluate_only(
    job: Job,
    workplace: Workplace,
    record: CellFolder,
    dataset: DataSet,
    device: torch.device,
    pulse: Pulse,
    engine: Engine,
) -> None:
    """Validates and tests the start's model with the layers that the cell keeps.

    It leaves no checkpoint: the start's, and the layers in the configuration, are its model.
    """
    began = time.perf_counter()
    assert job.start is not None
    assert job.cell.keep is not None
    model = load_trained(StudyFolder(workplace.study), job.start, dataset)
    pruning.keep_only(model, job.cell.keep)
    model.to(device)
    if engine.is_first:
        record.cut_back(-1)
        _record_segment(record, workplace, device, dataset, 0, {"id": job.start})
    _evaluate(record, model, dataset, job.cell, 0, None, time.perf_counter() - began, pulse, engine)
    _test(record, model, dataset, job.cell, 0, time.perf_counter() - began, pulse, engine)


def _record_segment(
    record: CellFolder,
    workplace: Workplace,
    device: torch.device,
    dataset: DataSet,
    step: int,
    start: dict[str, Any] | None,
) -> None:
    segment = {"step": step, "node": workplace.node, "device": str(device), "start": start}
    # Whoever starts from these weights elsewhere must know which row is which answer's, and which word's.
    tokenizer = dataset.information["tokenizer"]
    segment |= {"answers": pretrained.texts_digest(dataset.answers), "tokenizer": tokenizer}
    segment |= asdict(workplace.placement)
    record.append("segments", [segment | provenance.hardware()])


def build_model(cell: Cell, dataset: DataSet) -> LxmertForQuestionAnswering:
    """The cell's model with random weights from torch's global generator."""
    config = LxmertConfig(
        vocabulary=dataset.information["vocabulary"],
        answers=len(dataset.answers),
        features=dataset.information["features"],
        layers=cell.layers,
        **asdict(cell.model),
    )
    return LxmertForQuestionAnswering(config, build_variant(cell))


def build_variant(cell: Cell) -> Variant:
    return registry.find("variant", cell.variant)(**cell.arguments)


def load_trained(study: StudyFolder, cell_id: str, dataset: DataSet) -> LxmertForQuestionAnswering:
    """The model of a finished cell on the CPU; of one that is evaluated only, its start's with the layers it keeps.

    Raises UserError where the cell is not finished, or its variant has changed so that its weights do not fit.
    """
    record = study.cell(cell_id)
    if record.state != "finished":
        raise UserError(f"The cell {cell_id} is {record.state}. Run it first.")
    config = record.config()
    cell = from_plain(Cell, config["cell"])
    if cell.keep is not None:
        model = load_trained(study, config["start"], dataset)
        pruning.keep_only(model, cell.keep)
        return model
    model = build_model(cell, dataset)
    try:
        model.load_state_dict(ended_with(record))
    except RuntimeError as error:
        raise UserError(
            f"The weights of {cell_id} do not fit the model that its configuration makes now: {error} "
            "Go back to the code that trained it, or train it again."
        ) from error
    return model.eval()


def ended_with(record: CellFolder) -> dict[str, Tensor]:
    """The weights that a finished cell ended with. UserError where they are not whole: older ones do not serve."""
    result = record.result()
    assert result is not None
    return checkpoints.load_model(record.checkpoints, result["steps"])


def load_start(model: LxmertForQuestionAnswering, variant: Variant, start: CellFolder) -> dict[str, Any]:
    """Loads the trained weights of the cell at ``start``; returns what was loaded, what is new, what was left.

    New may be only the variant's own parameters, layers deeper than the start has, and what the variant does not
    inherit; they keep their random weights. Anything else that is missing, or has another shape, is a UserError.
    """
    if start.state != "finished":
        raise UserError(f"The start {start.id} is {start.state}. Run it first.")
    weights = ended_with(start)
    own = model.state_dict()
    depth: dict[str, int] = dict(
        zip(("layer", "r_layers", "x_layers"), start.config()["cell"]["layers"], strict=True)
    )  # fmt: skip
    wanted = [name for name in own if variant.inherits(name)]
    shaped = {name: weights[name] for name in wanted if name in weights and own[name].shape == weights[name].shape}
    new = [name for name in own if name not in shaped]
    missing = [name for name in wanted if name not in shaped]
    wrong = [name for name in missing if not (is_variants_own(name) or _is_deeper(name, depth))]
    if wrong:
        raise UserError(
            f"{len(wrong)} of the model's {len(own)} tensors are not in the start {start.id} or have another "
            f"shape there, {wrong[0]} first. Start from a cell of the same model and data set."
        )
    model.load_state_dict(shaped, strict=False)
    return {
        "id": start.id,
        "loaded": len(shaped),
        "new": new,
        "left_over": sorted(set(weights) - set(shaped)),
    }


def load_pretrained(model: LxmertForQuestionAnswering, job: Job, dataset: DataSet) -> dict[str, Any]:
    """Loads the weights from outside that the cell fine-tunes; prints and returns what was loaded.

    Raises UserError where they do not fit, or are not those that the cell was planned with.
    """
    cell = job.cell
    if (here := pretrained.identity(cell.pretrained)) != job.pretrained:
        raise UserError(
            f"{cell.pretrained} has other weights here ({here[:12]}) than where the study was started "
            f"({str(job.pretrained)[:12]}). Give all nodes the same file."
        )
    tokenizer = (dataset.folder / "tokenizer.json").read_text(encoding="utf-8")
    loaded = pretrained.load(
        cell.pretrained, model, build_variant(cell), dataset.answers, cell.deeper, tokenizer=tokenizer
    )
    print(loaded, flush=True)
    return asdict(loaded) | {"loaded": len(loaded.loaded)}


def _is_deeper(name: str, depth: dict[str, int]) -> bool:
    parts = name.split(".")
    return parts[1] == "encoder" and parts[2] in depth and int(parts[3]) >= depth[parts[2]]


class Batches:
    """The questions of each step: epochs one after another, each shuffled by seed and epoch."""

    def __init__(self, rows: np.ndarray, size: int, seed: int, pictures: np.ndarray | None = None) -> None:
        """``rows`` (N,) of a data set in batches of ``size``; those of equal ``pictures`` (N,) stay together."""
        self.rows, self.size, self.seed, self.pictures = rows, size, seed, pictures
        self._order = lru_cache(maxsize=2)(self._shuffle)

    def __getitem__(self, step: int) -> np.ndarray:
        """The rows (size,) of step ``step``."""
        places = np.arange(step * self.size, (step + 1) * self.size)
        epochs, within = np.divmod(places, len(self.rows))
        return np.concatenate([self.rows[self._order(int(e))[within[epochs == e]]] for e in np.unique(epochs)])

    def _shuffle(self, epoch: int) -> np.ndarray:
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.rows))
        if self.pictures is None:
            return order
        # Each question brings those of its picture along to where the first of them stands.
        _, first, picture = np.unique(self.pictures[order], return_index=True, return_inverse=True)
        return order[np.argsort(first[picture], kind="stable")]


class Objective(nn.Module):
    """What a worker's gradient is of: the answers' loss on its part of a batch, and the penalties."""

    def __init__(self, model: LxmertForQuestionAnswering, protocol: Protocol, workers: int = 1) -> None:
        super().__init__()
        self.model, self.protocol, self.workers = model, protocol, workers

    def forward(
        self,
        inputs: Mapping[str, Any],
        targets: Tensor,
        generator: torch.Generator,
        weight: float,
        with_penalty: bool,
    ) -> tuple[Tensor, Tensor]:
        """What to take the gradient of, and the answers' loss times ``weight``, their share of the whole batch.

        Gradients are averaged over the workers: each one's loss counts as often as there are workers, and each
        one's penalty, the same everywhere, once.
        """
        device = targets.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.protocol.precision == "bfloat16"):
            logits = self.model(**inputs, generator=generator)
        loss = answer_loss(logits.float(), targets) * weight
        minimised = loss * self.workers if self.workers > 1 else loss
        return minimised + penalty(self.model) if with_penalty else minimised, loss.detach()


def train_step(
    model: LxmertForQuestionAnswering,
    optimiser: torch.optim.Optimizer,
    dataset: DataSet,
    parts: Sequence[np.ndarray],
    cell: Cell,
    step: int,
    device: torch.device,
    engine: Engine | None = None,
) -> Tensor:
    """One optimiser step on the questions of all ``parts`` (rows); the loss of the answers, without penalties.

    The same layers run for every part: the gradient is that of the whole batch, but for what dropout draws. Of each
    part a worker of ``engine``, which has been prepared for the model, takes its share. The loss is the batch's.
    """
    if engine is None:
        engine = Engine()
        engine.prepare(Objective(model, cell.protocol), optimiser, cell.protocol.clip)
    seed = _seed(cell.seed, step)
    # The first worker draws what one alone does.
    torch.manual_seed(seed if engine.is_first else _seed(cell.seed, step, engine.rank))
    engine.zero_grad()
    count, total = sum(map(len, parts)), torch.zeros((), device=device)
    for number, part in enumerate(parts):
        rows = engine.share(part)
        inputs, targets = _tensors(dataset.batch(rows, share=cell.protocol.share_pictures), device)
        generator = torch.Generator().manual_seed(seed)
        is_last = number == len(parts) - 1
        total += engine.backward(is_last, inputs, targets, generator, len(rows) / count, number == 0)
    engine.step()
    for weights in varied(model):
        weights.project()
    engine.projected()
    return engine.summed(total)


def _seed(*numbers: int) -> int:
    return int.from_bytes(hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()[:7])


def answer_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of logits (B, A) against soft targets (B, A): the mean times A."""
    return F.binary_cross_entropy_with_logits(logits, targets) * targets.shape[1]


def penalty(model: LxmertForQuestionAnswering) -> Tensor | float:
    """The sum of what the attention sites add to the loss."""
    return sum((weights.penalty() for weights in varied(model)), start=0.0)


def varied(model: nn.Module) -> Iterator[Weights]:
    """Every Weights in ``model``, those that others wrap included."""
    return (module for module in model.modules() if isinstance(module, Weights))


def _tensors(batch: Any, device: torch.device) -> tuple[dict[str, Any], Tensor]:
    names = ("words", "regions", "boxes", "word_mask", "picture")
    arrays = {name: array for name in names if (array := getattr(batch, name)) is not None}
    inputs = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    return inputs, torch.from_numpy(batch.targets).to(device)


@torch.no_grad()
def predict(
    model: LxmertForQuestionAnswering, dataset: DataSet, rows: np.ndarray, cell: Cell, engine: Engine | None = None
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Rows (B,), logits (B, A) and targets (B, A) of batches that cover ``rows``, picture by picture.

    Of n workers each gets every n-th of the batches of one worker: ``engine.in_order`` puts together what is made
    of them, to the same bits.
    """
    engine = engine or Engine()
    model.eval()
    device = next(model.parameters()).device
    rows = rows[np.argsort(dataset.image[rows], kind="stable")]
    for first in range(0, len(rows), EVALUATION_BATCH)[engine.rank :: engine.workers]:
        batch = dataset.batch(rows[first : first + EVALUATION_BATCH], share=True)
        inputs, targets = _tensors(batch, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=cell.protocol.precision == "bfloat16"):
            logits = model(**inputs)
        yield batch.rows, logits.float().cpu(), targets.cpu()


def _choose_layers(
    model: LxmertForQuestionAnswering, dataset: DataSet, cell: Cell, pulse: Pulse, engine: Engine
) -> None:
    """Lets a method that asks for it choose its layers on the validation split, once training has ended."""

    def score() -> float:
        accuracy, _ = _score(model, dataset, cell, pulse, engine)
        print(f"tried the layers {pruning.kept_layers(model)}: {accuracy:.2f} %", flush=True)
        return accuracy

    pruning.choose_layers(model, score)


def _score(
    model: LxmertForQuestionAnswering, dataset: DataSet, cell: Cell, pulse: Pulse, engine: Engine
) -> tuple[float, float]:
    """Accuracy (per cent) and loss on the validation split."""
    rows = dataset.rows(cell.validation)
    parts = []
    for _, logits, targets in predict(model, dataset, rows, cell, engine):
        pulse.alive()
        right = targets.gather(1, logits.argmax(1, keepdim=True)).double().sum().item()
        parts.append((right, answer_loss(logits.double(), targets.double()).item() * len(logits)))
    score = loss = 0.0
    for right, lost in engine.in_order(parts):  # One after another: a sum depends on its order.
        score += right
        loss += lost
    return 100 * score / len(rows), loss / len(rows)


@torch.no_grad()
def _evaluate(
    record: CellFolder,
    model: LxmertForQuestionAnswering,
    dataset: DataSet,
    cell: Cell,
    step: int,
    train_loss: float | None,
    seconds: float,
    pulse: Pulse,
    engine: Engine,
) -> dict[str, Any]:
    """Scores the validation split and records it with what every attention site has learned so far."""
    accuracy, loss = _score(model, dataset, cell, pulse, engine)
    metrics = {
        "step": step,
        "seconds": seconds,
        "train_loss": train_loss,
        "penalty": float(penalty(model)),
        "loss": loss,
        "accuracy": accuracy,
        "learning_rate": learning_rate(cell.protocol, step - 1) if step else None,
    }
    for name in ("loss", "penalty"):
        _finite(metrics[name], f"validation {name}", step)
    if engine.is_first:
        record.append("sites", _site_lines(model, dataset, cell, step))
        record.append("metrics", [metrics])
    return metrics


def _finite(value: float, what: str, step: int) -> float:
    if not np.isfinite(value):
        raise NotFinite(f"The {what} is {value} at step {step}. Lower the learning rate.")
    return value


@torch.no_grad()
def _site_lines(model: LxmertForQuestionAnswering, dataset: DataSet, cell: Cell, step: int) -> list[dict[str, Any]]:
    """One line per attention site and direction that runs: its statistics, one number per head.

    Density is the share of the keys that may be attended whose weight is not 0, on the same first
    validation questions each time.
    """
    model.eval()
    inputs, _ = _tensors(
        dataset.batch(dataset.rows(cell.validation)[:PROBED_QUESTIONS]), next(model.parameters()).device
    )  # fmt: skip
    learned = {f"{site.stack}.{site.index}.{site.queries}-{site.keys}": w for site, w in model.sites()}
    present = {
        "words": inputs["word_mask"],
        "boxes": torch.ones_like(inputs["boxes"][..., 0], dtype=torch.bool),
    }
    lines = []
    for name, weights in model.outputs(**inputs).attention.items():
        stack, index, direction = name.split(".")
        queries, keys = direction.split("-")
        pairs = (present[queries][:, None, :, None] & present[keys][:, None, None, :]).expand_as(weights)
        attended = ((weights != 0) & pairs).sum((0, 2, 3)) / pairs.sum((0, 2, 3))
        site = learned.get(name) or learned[f"{stack}.{index}.both-both"]
        stats = {key: value for part in varied(site) for key, value in part.stats().items()}
        lines.append(
            {"step": step, "site": name, "stack": stack, "queries": queries, "keys": keys}
            | {"index": int(index), "density": attended.tolist()}
            | stats
        )
    return lines


def _test(
    record: CellFolder,
    model: LxmertForQuestionAnswering,
    dataset: DataSet,
    cell: Cell,
    step: int,
    seconds: float,
    pulse: Pulse,
    engine: Engine,
) -> None:
    """Scores the test split once, keeps the answers, some examples and the result."""
    parts = []
    for part in predict(model, dataset, dataset.rows(cell.test), cell, engine):
        pulse.alive()
        parts.append(_prediction_table(dataset, *part))
    parts = engine.in_order(parts)
    loaded = engine.in_order([native.loaded()])
    if not engine.is_first:
        return
    table = pd.concat(parts).sort_index()
    rows = table.index.to_numpy()
    asked = dataset.questions("question_id", "question_type", "answer_type", "humans", rows=rows)
    scores = _official(table["answer"].tolist(), asked)
    images = dataset.images("image_id")["image_id"].to_numpy()
    added = {
        "question_id": asked["question_id"],
        "image_id": images[dataset.image[rows]],
        "question_type": asked["question_type"],
        "answer_type": asked["answer_type"],
        "official": list(scores.questions.values()) if scores else np.nan,
    }
    table = pd.concat([pd.DataFrame(added, index=table.index), table], axis=1)
    record.write_predictions(table)
    record_examples(record, model, dataset, cell, table)
    validation = record.metrics()["accuracy"].tolist()[-1]
    lengths = dataset.lengths[dataset.rows(cell.validation)]
    model.cpu()
    answer = flops.count_answer(model, int(np.median(lengths)), dataset.information["boxes"])
    reference = flops.count_reference(model, dataset.information["max_words"], dataset.information["boxes"])
    parameters, kept = dict(model.named_parameters()), pruning.kept_layers(model)
    if cell.keep is not None:
        parameters = pruning.renumbered(parameters, kept)
    record.write_result(
        {
            "accuracy": {cell.validation: validation, cell.test: 100 * float(np.mean(table["score"]))},
            "official": {cell.test: scores.overall} if scores else {},
            "macs": answer.total,
            "macs_reference": reference.total,
            "uncounted_operators": reference.uncounted,
            "parameters": sum(weight.numel() for weight in parameters.values()),
            "kept": kept,
            "steps": step,
            "seconds": seconds,
            "native": _together(loaded),
        }
    )


def _together(loaded: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Which compiled code the workers ran (suite.native.loaded), of each file once where it is the same on all."""
    found: dict[str, list[str]] = {}
    for name, ran in (item for one in loaded for item in one.items()):
        if ran not in found.setdefault(name, []):
            found[name].append(ran)
    return {name: "; ".join(ran) for name, ran in sorted(found.items())}


def _official(answers: Sequence[str], asked: pd.DataFrame) -> official.Scores | None:
    """The official accuracy of ``answers``; None where the humans' answers to a question are not known."""
    if not all(len(humans) == official.HUMANS for humans in asked["humans"]):
        return None
    return official.score(dict(zip(asked["question_id"], answers, strict=True)), asked)


def _prediction_table(dataset: DataSet, rows: np.ndarray, logits: Tensor, targets: Tensor) -> pd.DataFrame:
    top = logits.topk(min(5, logits.shape[1]), dim=1)
    answers = np.array(dataset.answers, dtype=object)[top.indices.numpy()]
    return pd.DataFrame(
        {
            "answer": answers[:, 0],
            "score": targets.gather(1, top.indices[:, :1]).squeeze(1).double().numpy(),
            "top_answers": list(answers),
            "top_confidences": list(top.values.sigmoid().double().numpy()),
        },
        index=rows,
    )
