"""Estimates: the size of a model, its checkpoints and its memory, and time from measured steps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from suite import checkpoints, estimate
from suite.config import Cell, ModelSize, Placement, Protocol, to_plain
from suite.data.store import open_dataset
from suite.estimate import Device, Estimate, Measured, disk, makespan, memory, parameters, steps_left
from suite.models.lxmert import LxmertConfig, LxmertForQuestionAnswering
from suite.optimisers import build_optimiser
from suite.records import CellFolder
from suite.training import build_model, build_variant

CELL = Cell("softmax", "easy_vqa", Protocol(steps=100, batch_size=4), layers=(3, 2, 1), model=ModelSize(16, 2, 24))
CPU = Device("cpu", "a processor", threads=1, workers=1)


# Size


def test_the_size_of_a_model_is_known_without_making_it(data_folder: Path) -> None:
    dataset = open_dataset(data_folder / "easy_vqa")
    made = sum(weight.numel() for weight in build_model(CELL, dataset).parameters())
    assert parameters(CELL, dataset.information) == made


def test_the_size_of_the_paper_s_model_is_lxmert_s() -> None:
    cell = dataclasses.replace(CELL, layers=(9, 5, 5), model=ModelSize())
    with torch.device("meta"):
        model = LxmertForQuestionAnswering(LxmertConfig(), build_variant(cell))
    vqa2 = {"answers": 3129, "vocabulary": 30522, "features": 2048}
    assert parameters(cell, vqa2) == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("optimizer", estimate.STATES)
def test_a_checkpoint_takes_what_is_estimated(optimizer: Any, data_folder: Path, tmp_path: Path) -> None:
    dataset = open_dataset(data_folder / "easy_vqa")
    size = ModelSize(width=128, heads=2, intermediate=256)
    cell = dataclasses.replace(CELL, model=size, protocol=Protocol(steps=1, optimizer=optimizer))
    model = build_model(cell, dataset)
    optimiser = build_optimiser(model, cell.protocol)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimiser.step()
    checkpoints.save(tmp_path, 1, model.state_dict(), {"optimiser": optimiser.state_dict()})
    written = sum(path.stat().st_size for path in tmp_path.glob("*/*"))
    final = 4 * parameters(cell, dataset.information)
    assert written == pytest.approx(final * (1 + estimate.STATES[optimizer]), rel=0.05)


def test_final_models_stay_and_only_cells_that_run_have_more(data_folder: Path) -> None:
    known = {"easy_vqa": open_dataset(data_folder / "easy_vqa").information}
    final = 4 * parameters(CELL, known["easy_vqa"])
    several = [dataclasses.replace(CELL, seed=seed) for seed in range(10)]
    only = dataclasses.replace(CELL, start=CELL, keep=((0,), (0,), (0,)))
    assert disk([*several, only], known, slots=2) == 10 * final + 2 * 3 * 4 * final
    assert disk([], known, slots=2) == 0


def test_a_gpu_keeps_what_training_adds(data_folder: Path) -> None:
    known = open_dataset(data_folder / "easy_vqa").information
    assert memory(CELL, known, gpus=0.0) == 5 * memory(CELL, known, gpus=1.0)


# Time


def record(runs: Path, cell: Cell, *seconds: float, **segment: Any) -> CellFolder:
    """A record whose evaluations, ten steps apart, are at ``seconds``."""
    folder = CellFolder(runs / "study" / f"cell-{len(list(runs.glob('study/*')))}")
    gpus = segment.pop("names", [])
    folder.write_config({"cell": to_plain(cell), "hardware": {"host": "one", "gpus": gpus}})
    where = {"device": "cpu", "processor": "a processor", "host": "one", "threads": 1, "workers": 1}
    folder.append("segments", [{"step": 0} | where | segment])
    folder.append("metrics", [{"step": 10 * n, "seconds": second} for n, second in enumerate(seconds)])
    return folder


def test_steps_like_its_own_tell_how_long_a_cell_takes(tmp_path: Path) -> None:
    record(tmp_path, CELL, 0, 20, 40, 100)
    assert Measured(tmp_path).left(CELL, 100, [CPU]) == Estimate(200.0, "measured")
    assert Measured(tmp_path).left(dataclasses.replace(CELL, seed=7), 50, [CPU]) == Estimate(100.0, "measured")


def test_other_methods_stand_in_and_it_is_said(tmp_path: Path) -> None:
    record(tmp_path, dataclasses.replace(CELL, variant="span"), 0, 30)
    assert Measured(tmp_path).left(CELL, 100, [CPU]) == Estimate(300.0, "other methods")
    record(tmp_path, CELL, 0, 10)
    assert Measured(tmp_path).left(CELL, 100, [CPU]) == Estimate(100.0, "measured")


@pytest.mark.parametrize(
    "changed",
    [
        dataclasses.replace(CELL, layers=(3, 2, 2)),
        dataclasses.replace(CELL, model=ModelSize(16, 2, 32)),
        dataclasses.replace(CELL, dataset="vqa2"),
        dataclasses.replace(CELL, protocol=Protocol(steps=100, batch_size=8)),
        dataclasses.replace(CELL, protocol=Protocol(steps=100, batch_size=4, precision="bfloat16")),
        dataclasses.replace(CELL, protocol=Protocol(steps=100, batch_size=4, share_pictures=True)),
    ],
    ids=["layers", "model", "data", "batch", "precision", "pictures"],
)
def test_steps_of_another_kind_tell_nothing(changed: Cell, tmp_path: Path) -> None:
    record(tmp_path, changed, 0, 20)
    assert Measured(tmp_path).left(CELL, 100, [CPU]) == Estimate(None, "unknown")


@pytest.mark.parametrize(
    "segment", [{"processor": "another"}, {"threads": 2}, {"workers": 2}, {"device": "cuda"}], ids=str
)
def test_steps_elsewhere_tell_nothing(segment: dict[str, Any], tmp_path: Path) -> None:
    record(tmp_path, CELL, 0, 20, **segment)
    assert Measured(tmp_path).left(CELL, 100, [CPU]).source == "unknown"


def test_steps_on_a_gpu_are_told_by_its_name(tmp_path: Path) -> None:
    record(tmp_path, CELL, 0, 20, device="cuda", names=["GPU A"])
    placement = Placement(threads=4, gpus=1.0)
    one, other = (Device.planned(placement, "a processor", [name]) for name in ("GPU A", "GPU B"))
    assert Measured(tmp_path).left(CELL, 100, [one, other]) == Estimate(200.0, "measured")
    assert Measured(tmp_path).left(CELL, 100, [other]).source == "unknown"


def test_the_slowest_of_several_devices_counts(tmp_path: Path) -> None:
    record(tmp_path, CELL, 0, 20)
    record(tmp_path, CELL, 0, 50, processor="another")
    devices = [CPU, dataclasses.replace(CPU, name="another")]
    assert Measured(tmp_path).left(CELL, 100, devices) == Estimate(500.0, "measured")


def test_a_stretch_that_was_interrupted_is_left_out(tmp_path: Path) -> None:
    """Its seconds are of two machines."""
    folder = record(tmp_path, CELL, 0, 20, 90, 100)
    other = {"device": "cpu", "processor": "another", "host": "two", "threads": 1, "workers": 1}
    folder.append("segments", [{"step": 15} | other])
    measured = Measured(tmp_path)
    assert measured.left(CELL, 1, [CPU]).seconds == 2.0
    assert measured.left(CELL, 1, [dataclasses.replace(CPU, name="another")]).seconds == 1.0


def test_a_cell_that_was_measured_nowhere_is_no_error(tmp_path: Path) -> None:
    record(tmp_path, CELL, 0)
    assert Measured(tmp_path / "nowhere").left(CELL, 100, [CPU]) == Estimate(None, "unknown")
    assert Measured(tmp_path).left(CELL, 100, [CPU]) == Estimate(None, "unknown")
    assert Measured(tmp_path).left(CELL, 0, []) == Estimate(0.0, "measured")


def test_steps_that_are_recorded_are_not_left(tmp_path: Path) -> None:
    folder = record(tmp_path, CELL, 0, 20, 40)
    assert steps_left(folder, CELL) == 80
    assert steps_left(CellFolder(tmp_path / "none"), CELL) == 100
    folder.write_result({})
    assert steps_left(folder, CELL) == 0
    assert steps_left(CellFolder(tmp_path / "none"), dataclasses.replace(CELL, start=CELL, keep=((0,),) * 3)) == 0


@pytest.mark.parametrize(("slots", "seconds"), [(1, 65.0), (2, 35.0), (3, 30.0), (9, 30.0)])
def test_the_wall_time_keeps_to_slots_and_starts(slots: int, seconds: float) -> None:
    durations = {"start": 10.0, "a": 20.0, "b": 10.0, "floor": 25.0}
    assert makespan(durations, {"start": None, "a": "start", "b": "start", "floor": None}, slots) == seconds


def test_a_start_that_is_finished_keeps_nobody_waiting() -> None:
    assert makespan({"a": 20.0}, {"a": "finished before"}, 1) == 20.0
    assert makespan({}, {}, 1) == 0.0
