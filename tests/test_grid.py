"""What Ray's exceptions are to a launch, and what it does where the records do not answer."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
from ray.tune.experiment import Trial

from suite import ray_private
from suite.config import Cell, Protocol
from suite.errors import UserError
from suite.grid import Follow, Grid, fault_of, fit
from suite.plan import Job, Workplace
from suite.pulse import Leave
from suite.running import WorkerDied

CELL = Cell("softmax", "easy_vqa", Protocol(steps=2))
NODE = "The actor died because its node has died."


def died(text: str, preempted: bool = False) -> RayActorError:
    return RayActorError(error_msg=text, preempted=preempted)


def task(cause: Exception) -> RayTaskError:
    """As a trial's step raises it, with colours and a traceback."""
    text = f"\x1b[36mray::CellTrial.train()\x1b[39m\n  File one\n{type(cause).__name__}: {cause}"
    return RayTaskError("step", text, cause)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (None, "worker died"),
        (died("The actor died unexpectedly."), "worker died"),
        (died(NODE), "node lost"),
        (died("it was told to go", preempted=True), "node lost"),
        (died("killed: the node was low on memory"), "out of memory"),
        (task(Leave()), "left"),
        (task(RuntimeError("no reason")), "worker died"),
        (task(WorkerDied("A worker was lost: it ended.")), "worker died"),
        # A cell on several workers: the trial lives, and one of them was on the node.
        (task(WorkerDied(f"A worker was lost: {NODE}")), "node lost"),
        # Code that speaks of nodes is code.
        (task(RuntimeError(NODE)), "worker died"),
    ],
)
def test_each_is_of_one_kind(error: Exception | None, kind: str) -> None:
    found = fault_of(error)
    assert found.kind == kind
    assert "\x1b" not in found.message


def test_of_a_worker_ended_for_memory_the_sentence_is_kept_that_says_so() -> None:
    said = "3 worker(s) were killed due to the node running low on memory. Memory on it was 7GB used / 24GB limit"
    found = fault_of(task(WorkerDied(f"A worker was lost: Worker(pid=17015) {said} (0.288) Top 10 users: ...")))
    assert found.message == said


def test_what_the_user_can_mend_is_raised() -> None:
    with pytest.raises(UserError, match="mend this"):
        fault_of(task(UserError("mend this")))


# Ray's private parts


def test_tune_hears_of_every_end_of_a_worker_as_a_death(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []
    names = ("_actor_start_failed", "_actor_task_failed")
    for name in names:
        monkeypatch.setattr(RayActorManager, name, lambda self, tracked, exception: heard.append(exception))
    before = [getattr(RayActorManager, name) for name in names]
    told = [OutOfMemoryError("low on memory\nTop users: ..."), died(NODE), task(RuntimeError("code"))]
    manager: Any = object.__new__(RayActorManager)
    with ray_private.hearing_of_deaths():
        for error in told:
            manager._actor_start_failed(None, error)
            manager._actor_task_failed(None, exception=error)
    assert [getattr(RayActorManager, name) for name in names] == before
    assert [type(error) for error in heard[:2]] == [RayActorError] * 2
    assert [fault_of(error).kind for error in heard[:2]] == ["out of memory"] * 2
    assert "Top users" not in str(heard[0])
    assert heard[2:] == [told[1], told[1], told[2], told[2]]


def test_a_ray_with_other_parts_is_told_before_a_cell_starts(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(RayActorManager, "_actor_task_failed")
    with pytest.raises(UserError, match=rf"Expected Ray {ray_private.KNOWN}, .*_actor_task_failed.*--no-ray"):
        fit(grid, 1)


class Silent:
    """A display that nobody looks at."""

    def __init__(self) -> None:
        self.states: list[str] = []

    def stepped(self, job: Job, live: dict) -> None: ...

    def added(self, jobs: list[Job]) -> list[Job]:
        return jobs

    def ended(self, job: Job, state: str) -> None:
        self.states.append(state)


def trial(status: str = Trial.TERMINATED) -> Any:
    """As Tune shows it to a callback."""
    return SimpleNamespace(trial_id="trial", status=status, is_finished=lambda: status != Trial.RUNNING)


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    grid = Grid([Job("cell", CELL, "row", None)], Workplace(str(tmp_path), ""), Silent(), 1, lambda job: [])  # type: ignore[arg-type]
    assert grid.suggest("trial")
    (tmp_path / "cell").mkdir()
    return grid


@pytest.mark.parametrize("text", [None, "{", "\0\0"])
def test_what_a_running_cell_shows_does_not_end_the_launch_where_it_does_not_read(
    grid: Grid, tmp_path: Path, text: str | None
) -> None:
    live = tmp_path / "cell/live.json"
    live.mkdir() if text is None else live.write_text(text)
    follow = Follow(grid)
    follow.on_step_end(0, [trial(Trial.RUNNING)])
    assert follow.looked


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN])
def test_a_run_folder_that_does_not_answer_the_driver_is_asked_again(
    grid: Grid, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cell/config.json").write_text("{}")
    (tmp_path / "cell/result.json").write_text("{}")
    asked = []
    stat = Path.stat

    def silent(path: Path, **options: Any) -> os.stat_result:
        asked.append(path)
        if len(asked) < 3:
            raise OSError(number, os.strerror(number))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", silent)
    monkeypatch.setattr("suite.grid.time.sleep", lambda seconds: None)
    Follow(grid).on_step_end(0, [trial()])
    assert not grid.running
    assert grid.display.states == ["finished"]  # type: ignore[attr-defined]


def test_a_run_folder_that_stays_silent_ends_the_launch(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    grid.workplace = dataclasses.replace(grid.workplace, patience=0.0)

    def silent(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "stat", silent)
    with pytest.raises(OSError, match="Input/output"):
        Follow(grid).on_step_end(0, [trial()])
