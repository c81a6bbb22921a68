"""`make gpu`: every path that a GPU takes and a CPU does not, on one real GPU, in minutes.

Not among the tests that run everywhere. With ABLATE_GPU=cpu the same checks run on a CPU: that shows that they are
right, and nothing of a GPU.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import LeavesAt
from torch import Tensor

from suite import checkpoints, registry
from suite.attention import Positions, Site, Tokens
from suite.config import Cell, ModelSize, Placement, Protocol
from suite.data.store import open_dataset
from suite.engine import BACKENDS, DeepSpeed, Distributed
from suite.plan import Job, Workplace
from suite.pulse import Leave, Pulse
from suite.records import CellFolder, StudyFolder, read_lines
from suite.running import Train, run_cell
from suite.training import build_model, predict, train_and_test

# What a compiler or a driver warns of differs between machines, and is no failure.
pytestmark = pytest.mark.filterwarnings("default")

DEVICE = os.environ.get("ABLATE_GPU", "cuda")
GPUS = 0.0 if DEVICE == "cpu" else 1.0
ROWS = ("softmax", "span", "entmax", "span_entmax", "layerdrop")
CELL = Cell(
    variant="softmax",
    dataset="easy_vqa",
    protocol=Protocol(steps=6, batch_size=8, evaluations=2, learning_rate=1e-3),
    model=ModelSize(width=32, heads=4, intermediate=64, hidden_dropout=0.0, attention_dropout=0.0),
    layers=(2, 2, 2),
)


@pytest.fixture(scope="module", autouse=True)
def _gpu() -> None:
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.exit("make gpu needs a CUDA GPU that torch sees; torch sees none.", returncode=2)


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "study")


def train(
    study: StudyFolder,
    data: Path,
    cell: Cell,
    name: str = "cell",
    gpus: float = GPUS,
    how: Train = train_and_test,
) -> CellFolder:
    workplace = Workplace(str(study.path), str(data), placement=Placement(gpus=gpus))
    record = study.cell(name)
    assert run_cell(Job(name, cell, "row", None), workplace, lambda progress: None, train=how), record.failure()
    return record


def context(name: str, device: str, keys: int, autocast: bool = False) -> tuple[Tensor, list[Tensor]]:
    """What a method's attention makes of equal queries, keys and values, and the gradients."""
    torch.manual_seed(0)
    weights = registry.find("variant", name)().weights(Site("vision", "boxes", "boxes", 0, 1, heads=4)).to(device)
    parts = [torch.randn(4, 4, keys, 16).to(device).requires_grad_() for _ in range(3)]
    # The last has nothing to attend, which must give zeros.
    mask = (torch.arange(keys) < torch.tensor([keys, keys - 2, 1, 0])[:, None])[:, None, None, :].to(device)
    boxes = torch.rand(4, keys, 4).to(device)
    tokens = Tokens("boxes", mask, torch.arange(keys, device=device), boxes)
    with torch.autocast(device, torch.bfloat16, enabled=autocast):
        mixed = weights.attend(*parts, mask, Positions(tokens, tokens))
    mixed.float().square().sum().backward()
    return mixed.float().cpu(), [part.grad.float().cpu() for part in parts if part.grad is not None]


@pytest.mark.parametrize("keys", [36, 300])
@pytest.mark.parametrize("name", registry.names("variant"))
def test_a_method_gives_the_cpus_numbers(name: str, keys: int) -> None:
    """Fused attention, and what torch.compile makes of entmax. Published methods may draw at their start."""
    (here, gradients), (there, expected) = (context(name, place, keys) for place in (DEVICE, "cpu"))
    torch.testing.assert_close(here, there, rtol=2e-3, atol=2e-4)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("name", ROWS)
def test_a_method_in_bfloat16_stays_near(name: str) -> None:
    (here, _), (there, _) = (context(name, DEVICE, 36, autocast) for autocast in (True, False))
    torch.testing.assert_close(here, there, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("variant", ROWS)
def test_a_cell_trains(study: StudyFolder, data_folder: Path, variant: str, precision: Any) -> None:
    cell = dataclasses.replace(
        CELL, variant=variant, protocol=dataclasses.replace(CELL.protocol, precision=precision)
    )
    record = train(study, data_folder, cell)
    assert record.metrics()["loss"].notna().all()
    (segment,) = read_lines(record.path / "segments.jsonl")
    assert segment["device"] == DEVICE


@pytest.mark.parametrize("variant", ROWS)
def test_its_losses_are_the_cpus(study: StudyFolder, data_folder: Path, variant: str) -> None:
    cell = dataclasses.replace(CELL, variant=variant)
    here, there = (train(study, data_folder, cell, f"{gpus}", gpus) for gpus in (GPUS, 0.0))
    assert here.metrics()["loss"].tolist() == pytest.approx(there.metrics()["loss"].tolist(), rel=2e-3)


@pytest.mark.parametrize("share", [False, True])
def test_a_batch_in_parts_is_that_batch(study: StudyFolder, data_folder: Path, share: bool) -> None:
    losses = []
    for parts in (1, 2):
        protocol = dataclasses.replace(CELL.protocol, accumulate=parts, share_pictures=share)
        record = train(study, data_folder, dataclasses.replace(CELL, protocol=protocol), f"parts-{parts}")
        losses.append(record.metrics()["loss"].tolist())
    assert len(set(losses[0])) > 2  # It trains.
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_a_checkpoint_of_the_gpu_answers_on_the_cpu(study: StudyFolder, data_folder: Path) -> None:
    record = train(study, data_folder, CELL)
    dataset = open_dataset(data_folder / "easy_vqa")
    model = build_model(CELL, dataset)
    model.load_state_dict(checkpoints.load_model(record.checkpoints))
    parts = [logits.argmax(1) for _, logits, _ in predict(model, dataset, dataset.rows("test"), CELL)]
    answers = [dataset.answers[place] for place in torch.cat(parts)]
    assert sum(map(str.__eq__, answers, record.predictions()["answer"])) >= 0.9 * len(answers)


def leave_after_four(job: Job, workplace: Workplace, record: CellFolder, pulse: Pulse) -> None:
    pulse = LeavesAt(record)
    pulse.at = 4
    train_and_test(job, workplace, record, pulse)


@pytest.mark.parametrize("optimizer", ["lookahead_lamb", "adamw"])
@pytest.mark.parametrize("places", [(GPUS, GPUS), (GPUS, 0.0), (0.0, GPUS)], ids=["stays", "to cpu", "from cpu"])
def test_a_cell_goes_on_from_its_checkpoint(
    study: StudyFolder, data_folder: Path, places: tuple[float, float], optimizer: Any
) -> None:
    """Between two evaluations, with the optimiser's state; with dropout, where it stays on one device."""
    rate = 0.1 if places == (GPUS, GPUS) else 0.0
    cell = dataclasses.replace(
        CELL,
        protocol=dataclasses.replace(CELL.protocol, optimizer=optimizer),
        model=dataclasses.replace(CELL.model, hidden_dropout=rate, attention_dropout=rate),
    )
    whole = train(study, data_folder, cell, "whole")
    with contextlib.suppress(Leave):
        train(study, data_folder, cell, "parts", places[0], leave_after_four)
    parts = train(study, data_folder, cell, "parts", places[1])
    assert [segment["step"] for segment in read_lines(parts.path / "segments.jsonl")] == [0, 4]
    for column in ("loss", "train_loss"):
        losses = [record.metrics()[column].dropna().tolist() for record in (parts, whole)]
        assert losses[0] == pytest.approx(losses[1], rel=2e-3)


def test_too_large_a_cell_is_out_of_memory(study: StudyFolder, data_folder: Path) -> None:
    if DEVICE == "cpu":
        pytest.skip("a CPU's memory is the machine's")
    gc.collect()
    torch.cuda.empty_cache()  # What torch keeps of the tests before would do for a small cell.
    torch.cuda.set_per_process_memory_fraction(1e-4)
    try:
        workplace = Workplace(str(study.path), str(data_folder), placement=Placement(gpus=1.0))
        wide = dataclasses.replace(CELL, model=ModelSize(width=512, heads=8, intermediate=2048))
        assert not run_cell(Job("cell", wide, "row", None), workplace, lambda progress: None)
        assert (study.cell("cell").failure() or {})["kind"] == "out of memory"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


SMALL = "layers=2,2,2 width=16 heads=2 intermediate=16 steps=6 evaluations=2 batch_size=16 test=validation"


def ablate(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "suite", *arguments], cwd=folder, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("share", ["1", "0.5"])
@pytest.mark.parametrize("workers", [(), ("--workers=1", "--engine=deepspeed")], ids=["torch", "deepspeed"])
def test_the_grid_through_ray(tmp_path: Path, share: str, workers: tuple[str, ...]) -> None:
    """One worker on NCCL is what one GPU allows; with more of them, `--workers`."""
    if workers and share == "0.5":
        pytest.skip("the workers of a cell have whole GPUs")
    settings = [part for setting in SMALL.split() for part in ("--set", setting)]
    gpus = "0" if DEVICE == "cpu" else share
    ablate(tmp_path, "run", "--variants=softmax,entmax", f"--gpus-per-cell={gpus}", *workers, *settings)
    cells = [json.loads(path.read_text()) for path in tmp_path.glob("runs/demo/*/result.json")]
    assert len(cells) == 3
    for path in tmp_path.glob("runs/demo/*/segments.jsonl"):
        assert {line["device"] for line in read_lines(path)} == {DEVICE}


@pytest.mark.parametrize(
    "bench", ["attention --keys=36,256 --variants=softmax,entmax,span", "model --size=demo", "variants --size=demo"]
)
def test_the_benches(tmp_path: Path, bench: str) -> None:
    assert "|" in ablate(tmp_path, "bench", *bench.split(), "--rounds=2", f"--device={DEVICE}")


def test_what_cells_cost(tmp_path: Path) -> None:
    settings = [part for setting in SMALL.split() for part in ("--set", setting)]
    ablate(tmp_path, "run", "--no-ray", "--variants=softmax,layerdrop", *settings)
    assert "layerdrop" in ablate(tmp_path, "bench", "cost", "--rounds=1", f"--device={DEVICE}")
    costs = [json.loads(path.read_text())["measurements"][0] for path in tmp_path.glob("runs/demo/*/cost.json")]
    assert {one["kind"] for one in costs} == {DEVICE}
    assert all(one["train_memory_mib"] > 0 and one["latency_ms"]["p50"] > 0 for one in costs)


@pytest.fixture(scope="module")
def _group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of this process alone: NCCL lets no two processes share a GPU."""
    os.environ |= {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",  # DeepSpeed wants one named; the group below meets through a file.
    }
    place = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group(
        BACKENDS.replace("nccl", "gloo") if DEVICE == "cpu" else BACKENDS,
        init_method=f"file://{place}",
        rank=0,
        world_size=1,
    )
    yield
    dist.destroy_process_group()
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        del os.environ[name]


@pytest.mark.usefixtures("_group")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", [None, 0, 1, 2], ids=["ddp", "zero 0", "zero 1", "zero 2"])
def test_an_engine_of_workers_trains_as_none_does(
    study: StudyFolder, data_folder: Path, stage: int | None, precision: Any
) -> None:
    """With statistics that layers depend on, a batch in parts, and a checkpoint of its own to go on from."""
    protocol = dataclasses.replace(CELL.protocol, optimizer="adamw", accumulate=2, precision=precision)
    arguments = {"p": 1, "pruning": "data_driven"}
    cell = dataclasses.replace(CELL, variant="layerdrop", arguments=arguments, protocol=protocol)

    def with_engine(job: Job, workplace: Workplace, record: CellFolder, pulse: Pulse) -> None:
        leaves = LeavesAt(record)
        leaves.at = 0 if checkpoints.steps(record.checkpoints) else 4
        train_and_test(job, workplace, record, leaves, Distributed() if stage is None else DeepSpeed(stage))

    alone = train(study, data_folder, cell, "alone")
    with contextlib.suppress(Leave):
        train(study, data_folder, cell, how=with_engine)
    record = train(study, data_folder, cell, how=with_engine)
    assert [segment["step"] for segment in read_lines(record.path / "segments.jsonl")] == [0, 4]
    near = pytest.approx(alone.metrics()["loss"].tolist(), rel=2e-3 if precision == "float32" else 1e-2)
    assert record.metrics()["loss"].tolist() == near
