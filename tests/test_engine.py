"""Cells on two workers against one: the same losses, weights and records, whatever the engine.

One pair of processes (tests/ranks.py) trains everything here, as starting it is what takes long.
"""

from __future__ import annotations

import dataclasses
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_grid import lasting
from torch import Tensor

from suite import checkpoints, engine
from suite.config import Cell, ModelSize, Placement, Protocol, only_layers, to_plain
from suite.data.store import open_dataset
from suite.engine import check_placement
from suite.errors import UserError
from suite.plan import keep_plugins
from suite.records import CellFolder, StudyFolder, read_lines
from suite.training import build_model, predict

# One pair for all of them, whichever process of tests they run in.
pytestmark = pytest.mark.xdist_group("engine")

ROOT = Path(__file__).parent.parent
SAME = 1e-5
"""In float32 sums in another order differ by some 1e-6 after 20 steps."""

LAMB = Protocol(steps=20, batch_size=7, evaluations=1, learning_rate=1e-2)
ADAMW = dataclasses.replace(LAMB, optimizer="adamw")
SOFTMAX = Cell(
    variant="softmax",
    dataset="easy_vqa",
    protocol=LAMB,
    model=ModelSize(width=8, heads=2, intermediate=8, hidden_dropout=0.0, attention_dropout=0.0),
    layers=(2, 2, 2),
)
DROP = dataclasses.replace(SOFTMAX, variant="layerdrop", arguments={"p": 1}, layers=(3, 3, 2))
PAPER = {
    "softmax": SOFTMAX,
    "span": dataclasses.replace(SOFTMAX, variant="span"),
    "entmax": dataclasses.replace(SOFTMAX, variant="entmax"),
    "layerdrop p=1, deep": DROP,
    "span_entmax": dataclasses.replace(SOFTMAX, variant="span_entmax"),
    "layerdrop p=0, deep": dataclasses.replace(DROP, arguments={"p": 0}),
    "layerdrop p=1": dataclasses.replace(DROP, layers=(2, 2, 2)),
}
"""The rows of the paper's grid."""

ONE: dict[str, Any] = {}
DDP: dict[str, Any] = {"workers": 2}
ZERO = [{"workers": 2, "engine": "deepspeed", "zero_stage": stage} for stage in range(3)]

DROPPED = """
from dataclasses import dataclass
from suite.attention import Depth, Variant
from suite.registry import register

class OnlyTheFirst(Depth):
    def keep(self, generator):
        return [0]

@register("only_the_first")
@dataclass(frozen=True)
class OnlyTheFirstLayer(Variant):
    def depth(self, stack, layers):
        return OnlyTheFirst(layers)
"""
"""A method that never runs but the first layer of a stack."""

OWN = """
from dataclasses import dataclass
import torch
from torch import nn
from suite.attention import SoftmaxWeights, Variant
from suite.registry import register

class HeldWeights(SoftmaxWeights):
    def __init__(self, heads):
        super().__init__()
        self.heat, self.aside = nn.Parameter(torch.rand(heads)), nn.Parameter(torch.ones(heads))

    def attend(self, query, key, value, mask, positions):
        return super().attend(query * self.heat[:, None, None], key, value, mask, positions)

    def penalty(self):
        return 0.1 * self.heat.mean() + 0.1 * (self.aside - 2).square().mean()

    @torch.no_grad()
    def project(self):
        self.heat.clamp_(0.2, 0.7)

    def stats(self):
        return {"heat": self.heat.tolist()}

@register("held")
@dataclass(frozen=True)
class Held(Variant):
    def weights(self, site):
        return HeldWeights(site.heads)
"""
"""A method with a penalty, a range and statistics; one of its parameters the penalty alone reaches."""


class Pair:
    """What to train on two workers, and then what came of it."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.study, self.data = StudyFolder(folder / "study"), data
        self.tasks: list[dict[str, Any]] = []

    def train(self, name: str, cell: Cell, placement: dict[str, Any], leave_at: int = 0, plugin: str = "") -> None:
        task = {"study": str(self.study.path), "data": str(self.data), "id": name, "cell": to_plain(cell)}
        kept = keep_plugins(self.study, [Path(plugin)] if plugin else [])
        self.tasks.append(task | {"placement": placement, "leave_at": leave_at, "plugins": kept})

    def run(self) -> None:
        file = self.study.path / "tasks.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(self.tasks))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        logs = [self.study.path / f"{rank}.txt" for rank in range(2)]
        processes = []
        for rank, log in enumerate(logs):
            command = [sys.executable, ROOT / "tests" / "ranks.py", str(rank), "2", port, file]
            with log.open("w") as out:
                processes.append(subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT))
        try:
            codes = [process.wait(timeout=900) for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert codes == [0, 0], "\n".join(log.read_text()[-3000:] for log in logs)

    def cell(self, name: str) -> CellFolder:
        return self.study.cell(name)

    def losses(self, name: str) -> Tensor:
        """Of every step, over all parts of a run; the same on every rank."""
        parts = []
        for first in sorted(self.cell(name).path.glob("losses-*-0.json")):
            parts += json.loads(first.read_text())
            for other in first.parent.glob(first.name.replace("-0.json", "-1.json")):
                assert other.read_text() == first.read_text()
        return torch.tensor(parts)

    def weights(self, name: str) -> dict[str, Tensor]:
        return checkpoints.load_model(self.cell(name).checkpoints)


def same(pair: Pair, one: str, other: str) -> None:
    """Equal losses and weights but for the order of sums."""
    torch.testing.assert_close(pair.losses(other), pair.losses(one), rtol=0, atol=SAME)
    weights, expected = pair.weights(other), pair.weights(one)
    assert set(weights) == set(expected)
    for name in expected:
        torch.testing.assert_close(
            weights[name], expected[name], rtol=0, atol=SAME, msg=lambda m, n=name: f"{n}: {m}"
        )


HALVES = dataclasses.replace(ADAMW, accumulate=2, share_pictures=True)
SHORT = dataclasses.replace(LAMB, steps=8, evaluations=2, weight_decay=1.0)
SEARCH = dataclasses.replace(DROP, arguments={"p": 1, "pruning": "search_on_valid"}, protocol=SHORT)
DATA_DRIVEN = dataclasses.replace(DROP, arguments={"p": 1, "pruning": "data_driven"})
HANDED_OVER = {
    # Where a cell begins, and where it goes on after step 3.
    "ddp to one": (LAMB, DDP, ONE),
    "one to ddp": (LAMB, ONE, DDP),
    "one to zero 0": (LAMB, ONE, ZERO[0]),
    "zero 0 to ddp": (LAMB, ZERO[0], DDP),
    "zero 1 to one": (ADAMW, ZERO[1], ONE),
    "one to zero 2": (ADAMW, ONE, ZERO[2]),
    "zero 2 to zero 1": (ADAMW, ZERO[2], ZERO[1]),
}


THIRDS = dataclasses.replace(SOFTMAX, variant="held", protocol=dataclasses.replace(ADAMW, accumulate=3, clip=0.1))
HALF_PRECISION = dataclasses.replace(
    SOFTMAX, variant="span_entmax", protocol=dataclasses.replace(ADAMW, precision="bfloat16")
)
HALVING = {"ddp": DDP, "zero 0": ZERO[0], "zero 2": ZERO[2]}
DROPPING = {
    "ddp": (SHORT, DDP),
    "zero 0": (SHORT, ZERO[0]),
    "zero 1": (dataclasses.replace(SHORT, optimizer="adamw", weight_decay=10.0), ZERO[1]),
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    plugin = folder / "plugin.py"
    plugin.write_text(DROPPED)
    own = folder / "own.py"
    own.write_text(OWN)
    pair = Pair(folder, data_folder)
    for row, cell in PAPER.items():
        for name, placement in {"one": ONE, "ddp": DDP, "zero 0": ZERO[0]}.items():
            pair.train(f"{row}, {name}", cell, placement)
    for row in PAPER:
        for name, placement in {"one": ONE, "zero 1": ZERO[1], "zero 2": ZERO[2]}.items():
            pair.train(f"adamw, {row}, {name}", dataclasses.replace(PAPER[row], protocol=ADAMW), placement)
    for name, placement in {"one": ONE, **HALVING}.items():
        pair.train(f"halves, {name}", dataclasses.replace(DROP, protocol=HALVES), placement)
        pair.train(f"thirds, {name}", THIRDS, placement, plugin=str(own))
        pair.train(f"half precision, {name}", HALF_PRECISION, placement)
    for name, (protocol, placement) in DROPPING.items():
        cell = dataclasses.replace(SOFTMAX, variant="only_the_first", protocol=protocol)
        pair.train(f"dropped, {name}", cell, placement, plugin=str(plugin))
    for name, (protocol, before, after) in HANDED_OVER.items():
        cell = dataclasses.replace(PAPER["layerdrop p=1, deep"], protocol=protocol)
        pair.train(name, cell, before, leave_at=3)
        pair.train(name, cell, after)
    for name, placement in {"one": ONE, "ddp": DDP}.items():
        pair.train(f"search, {name}", SEARCH, placement)
    for name, placement in {"one": ONE, "ddp": DDP, "zero 0": ZERO[0]}.items():
        pair.train(f"data driven, {name}", DATA_DRIVEN, placement)
    pair.run()
    return pair


@pytest.mark.parametrize("engine", ["ddp", "zero 0"])
@pytest.mark.parametrize("row", PAPER)
def test_two_workers_train_each_row_of_the_paper_as_one_does(pair: Pair, row: str, engine: str) -> None:
    same(pair, f"{row}, one", f"{row}, {engine}")


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("row", PAPER)
def test_sharded_states_train_as_whole_ones_do(pair: Pair, row: str, stage: int) -> None:
    """With LayerDrop, too: a layer that was dropped counts no step, and spans are put back into their range."""
    same(pair, f"adamw, {row}, one", f"adamw, {row}, zero {stage}")


@pytest.mark.parametrize("engine", HALVING)
def test_batches_in_parts_with_shared_pictures_are_whole_batches(pair: Pair, engine: str) -> None:
    same(pair, "halves, one", f"halves, {engine}")


@pytest.mark.parametrize("engine", HALVING)
def test_a_method_of_ones_own_is_trained_the_same(pair: Pair, engine: str) -> None:
    """Each part of its batches has two or three questions, and the gradient is clipped as a whole."""
    same(pair, "thirds, one", f"thirds, {engine}")
    heats = [pair.cell(f"thirds, {name}").sites()["heat"].tolist() for name in ("one", engine)]
    np.testing.assert_allclose(heats[1], heats[0], rtol=0, atol=SAME)
    weights = pair.weights(f"thirds, {engine}")
    assert all((weight > 1.01).all() for name, weight in weights.items() if name.endswith("aside"))


@pytest.mark.parametrize("engine", HALVING)
def test_half_precision_stays_near(pair: Pair, engine: str) -> None:
    one, two = (pair.losses(f"half precision, {name}") for name in ("one", engine))
    torch.testing.assert_close(two, one, rtol=0, atol=5e-3)


@pytest.mark.parametrize("engine", DROPPING)
def test_a_layer_that_never_runs_is_left_as_it_was_made(pair: Pair, data_folder: Path, engine: str) -> None:
    """Although decay would shrink it."""
    torch.manual_seed(SOFTMAX.seed)
    made = build_model(SOFTMAX, open_dataset(data_folder / "easy_vqa")).state_dict()
    weights = pair.weights(f"dropped, {engine}")
    never_run = [name for name in weights if "layers.1." in name or ".layer.1." in name]
    assert len(never_run) > 60
    for name in never_run:
        assert torch.equal(weights[name], made[name]), name
    assert not torch.equal(weights["lxmert.pooler.dense.weight"], made["lxmert.pooler.dense.weight"])


@pytest.mark.parametrize("way", HANDED_OVER)
def test_a_checkpoint_goes_on_with_any_engine(pair: Pair, way: str) -> None:
    """One worker was asked to leave after step 3: all left, with one checkpoint."""
    whole = "layerdrop p=1, deep, one"
    same(pair, whole if HANDED_OVER[way][0] is LAMB else f"adamw, {whole}", way)
    segments = read_lines(pair.cell(way).path / "segments.jsonl")
    assert [segment["step"] for segment in segments] == [0, 3]
    assert [segment["workers"] for segment in segments] == [
        Placement(**placement).workers for placement in HANDED_OVER[way][1:]
    ]


def test_two_workers_answer_as_one_does_and_record_the_same(pair: Pair) -> None:
    one, two = pair.cell("softmax, one"), pair.cell("softmax, ddp")
    assert two.predictions()["question_id"].tolist() == one.predictions()["question_id"].tolist()
    assert two.predictions()["answer"].tolist() == one.predictions()["answer"].tolist()
    seconds = ["seconds"]
    pd.testing.assert_frame_equal(
        two.metrics().drop(columns=seconds), one.metrics().drop(columns=seconds), check_exact=False, atol=SAME
    )
    assert len(two.sites()) == len(one.sites())
    results = [lasting(record.result() or {}) for record in (one, two)]
    assert results[0] == results[1]


def test_all_workers_choose_the_same_layers(pair: Pair) -> None:
    same(pair, "search, one", "search, ddp")
    results = [pair.cell(f"search, {name}").result() or {} for name in ("one", "ddp")]
    assert results[0]["kept"] == results[1]["kept"]
    assert results[0]["accuracy"] == results[1]["accuracy"]


@pytest.mark.parametrize("engine", ["ddp", "zero 0"])
def test_statistics_that_layers_depend_on_are_of_whole_batches(pair: Pair, engine: str) -> None:
    same(pair, "data driven, one", f"data driven, {engine}")


# Evaluation and shares, in bits


def test_equal_weights_give_equal_bits_on_any_number_of_workers(data_folder: Path) -> None:
    """The batches are one worker's, and what is made of them is put back into their order."""
    dataset = open_dataset(data_folder / "easy_vqa")
    rows = np.tile(dataset.rows("train"), 20)
    torch.manual_seed(0)
    model = build_model(SOFTMAX, dataset)
    whole = [logits for _, logits, _ in predict(model, dataset, rows, SOFTMAX)]
    assert len(whole) == 4
    for workers in (2, 3):
        parts = []
        for rank in range(workers):
            worker = engine.Engine()
            worker.rank, worker.workers = rank, workers
            parts.append([logits for _, logits, _ in predict(model, dataset, rows, SOFTMAX, worker)])
        together = engine.interleaved(parts)
        assert all(torch.equal(one, other) for one, other in zip(together, whole, strict=True))


@given(st.integers(1, 40), st.integers(1, 8))
def test_shares_are_the_batch(count: int, workers: int) -> None:
    rows, shares = np.arange(count), []
    for rank in range(workers):
        worker = engine.Engine()
        worker.rank, worker.workers = rank, workers
        shares.append(worker.share(rows))
    assert np.concatenate(shares).tolist() == rows.tolist()
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# What is refused before anything starts


@pytest.mark.parametrize(
    ("placement", "cell", "reason"),
    [
        (ZERO[1], SOFTMAX, "lookahead_lamb scales each tensor's update .* another algorithm"),
        (ZERO[2], SOFTMAX, "optimizer=adamw"),
        (ZERO[1] | {"zero_stage": 3}, dataclasses.replace(SOFTMAX, protocol=ADAMW), "stage 3 .* whole tensors"),
        ({"workers": 8}, SOFTMAX, "parts of 7 questions: too few for 8 workers"),
        ({"workers": 4}, dataclasses.replace(SOFTMAX, protocol=HALVES), "parts of 3 questions"),
        ({"workers": 2, "gpus": 0.5}, SOFTMAX, "one GPU of its own.* received 0.5"),
        ({"gpus": 2}, SOFTMAX, "one GPU of its own.* received 2 for each of 1"),
        (DDP, dataclasses.replace(SOFTMAX, variant="span_published", arguments={"batch_size": 7}), "one worker"),
        # Which layers it loses in evaluation goes by the batches that the process has seen.
        (DDP, dataclasses.replace(SOFTMAX, variant="layerdrop_published"), "other layers.* one worker"),
    ],
)
def test_what_cannot_be_trained_so_is_refused_with_the_reason(
    placement: dict[str, Any], cell: Cell, reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        check_placement(Placement(**placement), [cell])


@pytest.mark.parametrize("placement", [ONE, DDP, *ZERO])
def test_what_can_be_trained_is_not_refused(placement: dict[str, Any]) -> None:
    trained = dataclasses.replace(SOFTMAX, protocol=ADAMW)
    check_placement(Placement(**placement), [trained, only_layers(SOFTMAX, ((0,), (0,), (0,)))])


def test_deepspeed_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_placement(Placement(workers=2), [SOFTMAX])
    with pytest.raises(UserError, match="pip install"):
        check_placement(Placement(workers=2, engine="deepspeed"), [SOFTMAX])


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"workers": 0}, "workers must be a whole number of at least 1"),
        ({"zero_stage": 1}, "needs the engine deepspeed"),
        ({"engine": "deepspeed", "zero_stage": 4}, "stages 0 to 3"),
        ({"engine": "horovod"}, "horovod"),
    ],
)
def test_a_placement_that_makes_no_sense_is_refused(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        Placement(**wrong)
