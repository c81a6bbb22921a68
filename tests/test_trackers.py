"""What a launch tells TensorBoard, MLflow and Weights & Biases, with the real packages where they are installed."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from suite import plan, schedule, trackers
from suite.config import Cell, ModelSize, Placement, Protocol, Study
from suite.errors import UserError
from suite.plan import Job, Workplace
from suite.records import State, StudyFolder
from suite.trackers import Follower, Tracker, following

CELL = Cell(
    "span", "easy_vqa", Protocol(steps=6, batch_size=8, evaluations=3), {"ramp": 4}, (1, 1, 1), ModelSize(8, 2, 8)
)
STEPS = [0, 2, 4, 6]


class Remembers:
    """A tracker that keeps what it is told."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at, self.told = fails_at, []

    def started(self, job: Job) -> None:
        self.told.append("started")

    def evaluated(self, job: Job, step: int, metrics: Mapping[str, float]) -> None:
        if step == self.fails_at:
            raise ConnectionError("no network")
        self.told.append(step)

    def ended(self, job: Job, state: State, result: Mapping[str, float]) -> None:
        self.told.append((state, sorted(result)))

    def close(self) -> None:
        self.told.append("closed")


class Bench:
    """One small cell, and a place to run it."""

    def __init__(self, data: Path, folder: Path) -> None:
        self.folder = StudyFolder(folder / "runs/small")
        (self.job,) = plan.plan(Study("small", "?", (CELL,)), data)
        self.folder.path.mkdir(parents=True)
        self.workplace = Workplace(str(self.folder.path), str(data), placement=Placement(gpus=0.0))

    def run(self, *followers: Follower) -> None:
        schedule.run_alone([self.job], self.workplace, 0, followers=followers)
        assert self.folder.cell(self.job.id).state == "finished"

    def follow(self, tracker: Tracker) -> Follower:
        return Follower("one", tracker, self.folder)

    def run_logged(self, name: str) -> None:
        with following([name], self.folder) as followers:
            self.run(*followers)

    def run_again_from_the_middle(self, name: str) -> None:
        """As a launch that was killed after the evaluation at step 4, and one that goes on."""
        record = self.folder.cell(self.job.id)
        with following([name], self.folder) as (follower,):
            follower.started(self.job)
            lines = (record.path / "metrics.jsonl").read_text().splitlines(keepends=True)
            (record.path / "metrics.jsonl").write_text("".join(lines[:3]))
            follower.evaluated(self.job)
        assert record.told(name) == 4
        (record.path / "metrics.jsonl").write_text("".join(lines))
        with following([name], self.folder) as (follower,):
            follower.started(self.job)
            follower.evaluated(self.job)
            follower.ended(self.job, "finished")


@pytest.fixture
def bench(data_folder: Path, tmp_path: Path) -> Bench:
    return Bench(data_folder, tmp_path)


def test_evaluations_are_shown_and_do_not_go_to_the_cells_log(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.run()
    assert capsys.readouterr().err.count("questions/s") == len(STEPS) - 1  # None before the first step.
    assert "questions/s" not in bench.folder.cell(bench.job.id).log.read_text()


def test_a_tracker_is_told_of_every_evaluation_and_of_the_result(bench: Bench) -> None:
    tracker = Remembers()
    follower = bench.follow(tracker)
    bench.run(follower)
    follower.close()
    *told, (state, result), closed = tracker.told
    assert told == ["started", *STEPS]
    assert (state, closed) == ("finished", "closed")
    assert result == ["accuracy/test", "accuracy/validation", "macs", "macs_reference", "parameters"]


def test_a_tracker_that_fails_says_so_once_and_ends_no_cell(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    failing, other = Remembers(fails_at=4), Remembers()
    followers = bench.follow(failing), Follower("other", other, bench.folder)
    bench.run(*followers)
    for follower in followers:
        follower.close()
    assert failing.told == ["started", 0, 2]
    assert len(other.told) == 7
    assert capsys.readouterr().err.count("one is told nothing more: ConnectionError: no network") == 1
    assert bench.folder.cell(bench.job.id).told("one") == 2


def test_what_was_missed_is_told_by_the_next_launch_and_nothing_twice(bench: Bench) -> None:
    first, second = Remembers(fails_at=4), Remembers()
    follower = bench.follow(first)
    bench.run(follower)
    follower.close()
    follower = bench.follow(second)
    follower.started(bench.job)
    follower.ended(bench.job, "finished")
    follower.close()
    assert second.told[:3] == ["started", 4, 6]


def test_a_tracker_that_hangs_does_not_hold_up_the_launch(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "LAST_WORDS", 0.1)
    free = threading.Event()

    class Hangs(Remembers):
        def started(self, job: Job) -> None:
            free.wait(60)

    follower = bench.follow(Hangs())
    bench.run(follower)
    follower.close()
    assert "one did not take all it was told" in capsys.readouterr().err
    free.set()
    follower.thread.join()


@pytest.mark.parametrize(
    ("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("mlflow", "mlflow"), ("wandb", "wandb")]
)
def test_a_missing_package_is_named_with_its_extra(
    name: str, module: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"--log {name} needs a package.*pip install '\.\[{name}\]'"):
        bench.run_logged(name)


# The real packages; their own warnings are theirs


@pytest.mark.filterwarnings("default")
def test_tensorboard(bench: Bench) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    bench.run()
    bench.run_again_from_the_middle("tensorboard")
    folder = bench.folder.path / "tensorboard" / bench.job.id
    events = reader.EventAccumulator(str(folder))
    events.Reload()
    assert [event.step for event in events.Scalars("accuracy")] == STEPS
    recorded = bench.folder.cell(bench.job.id).metrics()["accuracy"]
    assert [event.value for event in events.Scalars("accuracy")] == pytest.approx(recorded.tolist(), rel=1e-6)
    assert [event.step for event in events.Scalars("result/accuracy/test")] == [6]


@pytest.mark.filterwarnings("default")
def test_mlflow(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    bench.run()
    bench.run_again_from_the_middle("mlflow")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("small")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == (bench.job.id, "FINISHED")
    assert (run.data.params["variant"], run.data.params["ramp"]) == ("span", "4")
    history = client.get_metric_history(run.info.run_id, "accuracy")
    assert [point.step for point in history] == STEPS
    assert "result/accuracy/test" in run.data.metrics


@pytest.mark.filterwarnings("default")
def test_wandb(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb"))
    bench.run()
    bench.run_again_from_the_middle("wandb")
    wandb.teardown()
    runs = sorted((bench.folder.path / "wandb").glob(f"offline-run-*-{bench.job.id}"))
    assert runs
    assert all(list(run.glob("run-*.wandb")) for run in runs)


@pytest.mark.filterwarnings("default")
def test_several_cells_at_a_time(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    bench.run()
    other = dataclasses.replace(bench.job, id="other")
    (bench.folder.path / bench.job.id).rename(bench.folder.path / "other")
    bench.run()
    with following(["tensorboard", "tensorboard"], bench.folder) as followers:
        for follower in followers:
            for step in (follower.started, follower.evaluated):
                for job in (bench.job, other):
                    step(job)
    assert len(followers) == 1
    assert sorted(path.name for path in (bench.folder.path / "tensorboard").iterdir()) == sorted(
        [bench.job.id, "other"]
    )
