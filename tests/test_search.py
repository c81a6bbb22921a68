"""Searches: the same trials everywhere, a winner by validation alone, and a scheduler that stops trials only."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_grid import lasting

from ablations.studies import search as example
from suite import cli, registry, search
from suite.config import Cell, ModelSize, Protocol, Search, Study
from suite.errors import UserError
from suite.halving import Halving
from suite.plan import Job, load_study
from suite.records import StudyFolder, write_json
from suite.search import Found, Planned, best, trial_cells
from suite.space import Choice, Distribution, Integers, LogUniform, Uniform

CELL = Cell("span", "easy_vqa", Protocol(steps=8, batch_size=8), layers=(1, 1, 1), model=ModelSize(8, 2, 8))
SPACE: dict[str, Distribution] = {"limit": Choice((2, 4, 8)), "penalty": LogUniform(1e-6, 1e-2)}
RANDOM = Search(CELL, SPACE, trials=3)

# Noise above 0 leaves nothing to learn from; the draws begin with 0.
PLUGIN = """
from dataclasses import dataclass, replace
import time
import torch
from suite.attention import SoftmaxWeights, Variant
from suite.config import Cell, ModelSize, Protocol, Search, Study
from suite.registry import register
from suite.space import Choice, Integers

class NoisyWeights(SoftmaxWeights):
    def __init__(self, noise, pause):
        super().__init__()
        self.noise, self.pause = noise, pause

    def attend(self, query, key, value, mask, positions):
        if self.training:
            time.sleep(self.pause)
        mixed = super().attend(query, key, value, mask, positions)
        return mixed + 1000 * self.noise * torch.randn_like(mixed)

@register("noisy")
@dataclass(frozen=True)
class Noisy(Variant):
    noise: int = 0
    pause: float = 0.0

    def weights(self, site):
        return NoisyWeights(self.noise, self.pause)

PROTOCOL = Protocol(
    steps=24, batch_size=16, evaluations=6, optimizer="adamw", schedule="linear", learning_rate=3e-2, clip=1.0
)
START = Cell("softmax", "easy_vqa", PROTOCOL, layers=(1, 1, 1), model=ModelSize(16, 2, 16), train=("start",))
ROW = replace(START, train=("train",), start=START)

@register("tiny", "study")
def tiny():
    noisy = replace(ROW, variant="noisy", arguments={"pause": PAUSE})
    return Study(
        name="tiny",
        question="?",
        cells=(ROW,),
        searches=(Search(noisy, {"noise": Integers(0, 3)}, 4, SCHEDULER, grace=0.25, reduction=2, seed=1003),),
    )
"""


def plugin_text(scheduler: str = "random", pause: float = 0.0) -> str:
    return PLUGIN.replace("SCHEDULER", repr(scheduler)).replace("PAUSE", repr(pause))


# Spaces and draws


def test_the_same_search_has_the_same_trials_everywhere() -> None:
    """A change of these numbers gives every trial of every user another name."""
    drawn = [tuple(cell.arguments.items()) for cell in trial_cells(RANDOM)]
    assert drawn == [tuple(cell.arguments.items()) for cell in trial_cells(RANDOM)]
    assert drawn == [
        (("limit", 4), ("penalty", 0.0002602)),
        (("limit", 4), ("penalty", 6.501e-06)),
        (("limit", 4), ("penalty", 5.81e-06)),
    ]


def test_more_trials_keep_those_that_there_were() -> None:
    assert trial_cells(dataclasses.replace(RANDOM, trials=9))[:3] == trial_cells(RANDOM)


def test_another_seed_draws_other_trials_and_trains_them_with_it() -> None:
    other = trial_cells(dataclasses.replace(RANDOM, seed=1))
    assert other != trial_cells(RANDOM)
    assert {cell.seed for cell in other} == {1}


def test_duplicates_are_drawn_again_until_a_space_is_used_up() -> None:
    space: dict[str, Distribution] = {"limit": Choice((2, 4)), "ramp": Integers(1, 3)}
    drawn = [cell.arguments for cell in trial_cells(Search(CELL, space, trials=6))]
    assert len({tuple(arguments.items()) for arguments in drawn}) == 6
    with pytest.raises(UserError, match=r"at least 7 different values.* received one of 6"):
        trial_cells(Search(CELL, space, trials=7))


@pytest.mark.parametrize("distribution", [Integers(-2, 3), Uniform(0.5, 0.6), LogUniform(1e-5, 1.0)], ids=str)
def test_draws_cover_their_bounds_and_stay_within(distribution: Integers | Uniform | LogUniform) -> None:
    values = [float(distribution.at(share)) for share in (0.0, 0.25, 0.5, 0.75, 1 - 2**-53)]
    assert values == sorted(values)
    assert values[0] == distribution.low
    assert values[-1] == pytest.approx(distribution.high, rel=1e-3)
    assert values[-1] <= distribution.high


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Choice(()), "received none"),
        (lambda: Integers(3, 3), "the lower one first; received 3 and 3"),
        (lambda: Integers(1, 2.5), "whole numbers"),  # type: ignore[arg-type]
        (lambda: Uniform(2.0, 1.0), "the lower one first; received 2.0 and 1.0"),
        (lambda: Uniform(0.0, float("nan")), "finite"),
        (lambda: LogUniform(0.0, 1.0), "numbers above 0"),
        (lambda: Search(CELL, {}, 2), "empty space"),
        (lambda: Search(CELL, SPACE, 0), "trials must be a whole number of at least 1"),
        (lambda: Search(CELL, SPACE, 2, "pbt"), "changes a cell's arguments while it runs"),  # type: ignore[arg-type]
        (lambda: Search(CELL, SPACE, 2, "hyperband"), "no scheduler 'hyperband'"),  # type: ignore[arg-type]
        (lambda: Search(CELL, SPACE, 2, "asha", grace=1.0), "grace is a share"),
        (lambda: Search(CELL, SPACE, 2, "asha", reduction=1), "reduction must be"),
        (lambda: Search(dataclasses.replace(CELL, validation="test"), SPACE, 2), "'test' for both"),
    ],
)
def test_searches_that_cannot_be_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def study(*searches: Search) -> Study:
    return Study("small", "?", (CELL, dataclasses.replace(CELL, seed=1)), searches=searches)


def test_unequal_budgets_are_refused_with_how_they_differ() -> None:
    half = dataclasses.replace(RANDOM, cell=dataclasses.replace(CELL, protocol=Protocol(steps=4, batch_size=8)))
    with pytest.raises(UserError, match=r"span 3 trials x 8 steps = 24, span 3 trials x 4 steps = 12"):
        study(RANDOM, half)
    study(RANDOM, dataclasses.replace(half, trials=6))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"limits": Integers(1, 9)}, r"no argument of span 'limits'\. Did you mean 'limit'"),
        ({"limit": Uniform(1.0, 9.0)}, "limit takes a whole number"),
        ({"ramp": Choice((-1,))}, "ramp >= 1"),
    ],
)
def test_a_space_that_the_variant_does_not_take_is_refused_before_anything_runs(
    space: dict[str, Distribution], message: str, data_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        plan_searches(study(Search(CELL, space, 1)), data_folder, StudyFolder(tmp_path))


# Winners


def plan_searches(study: Study, data: Path, folder: StudyFolder) -> tuple[list[Job], list[Found]]:
    planned = Planned(study, data, folder)
    return planned.jobs, planned.searches


RESULT = {"macs": 1, "macs_reference": 1, "uncounted_operators": {}, "parameters": 1, "steps": 8, "seconds": 1.0}


def finish(folder: StudyFolder, trial: str, validation: float, test: float) -> None:
    (folder.path / trial).mkdir(parents=True, exist_ok=True)
    write_json(folder.path / trial / "config.json", {})
    folder.cell(trial).write_result(RESULT | {"accuracy": {"validation": validation, "test": test}})


def test_a_winner_is_known_once_no_trial_is_left_and_is_a_row_at_every_seed(
    data_folder: Path, tmp_path: Path
) -> None:
    folder, one = StudyFolder(tmp_path), study(RANDOM)
    jobs, (found,) = plan_searches(one, data_folder, folder)
    assert [job.role for job in jobs] == ["row", "row", "trial", "trial", "trial"]
    first, second, third = found.trials
    finish(folder, first, 80.0, 10.0)
    finish(folder, second, 70.0, 99.0)
    assert not plan_searches(one, data_folder, folder)[1][0].complete
    folder.cell(third).write_config({})
    folder.cell(third).write_failure({"message": "?"})
    jobs, (found,) = plan_searches(one, data_folder, folder)
    assert (found.complete, found.winner, found.accuracy) == (True, first, 80.0)
    rows = {job.id: job for job in jobs if job.role == "row"}
    assert [rows[name].cell.seed for name in found.cells] == [0, 1]
    for name in found.cells:
        assert {argument: rows[name].cell.arguments[argument] for argument in SPACE} == found.arguments


def full_disk(_: Planned) -> None:
    raise OSError(errno.ENOSPC, "no room")


def test_a_trial_that_failed_and_wins_when_it_is_run_again_gets_its_rows(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, one = StudyFolder(tmp_path), study(RANDOM)
    _, (found,) = plan_searches(one, data_folder, folder)
    first, second, third = found.trials
    finish(folder, first, 80.0, 0.0)
    finish(folder, second, 70.0, 0.0)
    folder.cell(third).write_config({})
    folder.cell(third).write_failure({"message": "?"})
    planned = Planned(one, data_folder, folder)
    assert planned.searches[0].winner == first
    (retried,) = (job for job in planned.missing if job.role == "trial")
    assert retried.id == third
    finish(folder, third, 90.0, 0.0)
    with monkeypatch.context() as full:
        full.setattr(Planned, "write", full_disk)
        with pytest.raises(OSError, match="no room"):
            planned.after(retried)
    rows = planned.after(retried)  # As the grid asks again.
    assert [row.cell.seed for row in rows] == [0, 1]
    assert planned.searches[0].winner == third
    assert set(planned.searches[0].cells) == {row.id for row in rows}


def test_equal_validation_goes_to_the_lower_id_whatever_the_test_split_says(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    for trial, test in (("b", 99.0), ("a", 1.0), ("c", 50.0)):
        finish(folder, trial, 80.0, test)
    assert best(dict.fromkeys("bac"), RANDOM, folder) == ("a", 80.0)
    assert best({}, RANDOM, folder) is None


def test_a_trial_that_another_scheduler_stopped_is_to_run_again(data_folder: Path, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    asha = dataclasses.replace(RANDOM, scheduler="asha")
    jobs, found = plan_searches(study(asha), data_folder, folder)
    trial = next(job for job in jobs if job.role == "trial")
    folder.cell(trial.id).write_config({})
    folder.cell(trial.id).write_stopped(
        {"step": 2, "rung": 2, "accuracy": 1.0, "scheduler": search.scheduler_plain(asha)}
    )
    assert folder.cell(trial.id).state == "stopped"
    assert search.done(trial, folder, found)
    assert not search.done(dataclasses.replace(trial, role="row"), folder, found)
    assert not search.done(trial, folder, plan_searches(study(RANDOM), data_folder, folder)[1])


def test_the_example_has_one_budget_at_any_number_of_steps(data_folder: Path, tmp_path: Path) -> None:
    registry._from_plugins["study", "search"] = example.study
    try:
        loaded = load_study("search", {"steps": "4"})
    finally:
        del registry._from_plugins["study", "search"]
    jobs, found = plan_searches(loaded, data_folder, StudyFolder(tmp_path))
    assert {one.search.budget for one in found} == {example.TRIALS * 4}
    assert sum(job.role == "trial" for job in jobs) == len(loaded.searches) * example.TRIALS


# Runs


class Place:
    """A folder with a plug-in and the runs of its study."""

    def __init__(self, folder: Path, data: Path, text: str) -> None:
        self.folder, self.data = folder, data
        (folder / "tiny.py").write_text(text)

    def words(self, command: str, *more: str) -> list[str]:
        places = ["--runs", str(self.folder / "runs"), "--plugin", str(self.folder / "tiny.py")]
        data = ["--data", str(self.data)] if command in ("run", "plan") else []
        return [command, "tiny", *places, *data, *more]

    def start(self, *more: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "suite", *self.words("run", *more)]
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def ablate(self, command: str, *more: str, expect: int = 0) -> tuple[str, str]:
        """Runs a command in this process, which forgets the plug-in afterwards; stdout and stderr."""
        out, err = io.StringIO(), io.StringIO()
        modules = set(sys.modules)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                assert cli.main(self.words(command, *more)) == expect, err.getvalue()
        finally:
            registry._from_plugins.clear()
            for module in set(sys.modules) - modules:
                if module.startswith("ablate_plugin_"):
                    del sys.modules[module], registry._plugin_files[module]
        return out.getvalue(), err.getvalue()

    @property
    def study(self) -> StudyFolder:
        return StudyFolder(self.folder / "runs/tiny")

    @property
    def search(self) -> dict[str, Any]:
        return self.study.study()["searches"][0]

    def states(self) -> dict[str, str]:
        return {cell["id"]: self.study.cell(cell["id"]).state for cell in self.study.study()["cells"]}

    def numbers(self) -> dict[str, Any]:
        """What every cell measured."""
        return {name: lasting(self.study.cell(name).result() or {}) for name in self.states()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Place:
    """A random search, run without Ray."""
    place = Place(tmp_path_factory.mktemp("alone"), data_folder, plugin_text())
    planned = json.loads(place.ablate("plan", "--json")[0])["cells"]
    assert [row["state"] for row in planned if row["id"] is None] == ["winner of the search, not known yet"]
    place.ablate("run", "--no-ray")
    return place


def test_a_search_goes_on_to_its_winner_in_one_command(alone: Place) -> None:
    assert set(alone.states().values()) == {"finished"}
    roles = [cell["role"] for cell in alone.study.study()["cells"]]
    assert sorted(roles) == ["row", "row", "start", "trial", "trial", "trial", "trial"]
    winner = alone.search["winner"]
    accuracies = {name: alone.study.cell(name).metrics()["accuracy"].iloc[-1] for name in alone.search["trials"]}
    assert winner["trial"] == min(accuracies, key=lambda name: (-accuracies[name], name))
    assert not {winner["trial"]} & set(winner["cells"])


def test_the_tables_have_the_winner_and_say_how_it_was_found(alone: Place) -> None:
    text = (alone.study.path / "report/tables.md").read_text().replace("\\", "")
    arguments = alone.search["winner"]["arguments"]
    assert f"noisy 1-1-1: searched, 4 trials x 24 steps, random; winner noise = {arguments['noise']}" in text
    table = (alone.study.path / "report/tables.csv").read_text()
    assert alone.search["winner"]["cells"][0] in table
    assert not [trial for trial in alone.search["trials"] if trial in table]


@pytest.mark.long
def test_a_kill_and_ray_leave_the_same_trials_and_the_same_winner(
    alone: Place, tmp_path: Path, data_folder: Path
) -> None:
    place = Place(tmp_path, data_folder, plugin_text())
    process = place.start("--no-ray", "--no-report")
    try:
        until = time.monotonic() + 120
        while not any(place.study.path.glob("noisy-s1003-*/checkpoint/step-*")):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        process.kill()
        process.communicate()
    assert place.search["winner"] is None
    again = place.start("--cpus", "1", "--no-report")
    _, said = again.communicate(timeout=200)
    assert again.returncode == 0, said
    assert place.numbers() == alone.numbers()
    assert place.search == alone.search


def test_asha_stops_trials_and_no_launch_runs_them_again(tmp_path: Path, data_folder: Path) -> None:
    place = Place(tmp_path, data_folder, plugin_text("asha"))
    assert "asha stops trials through Ray" in place.ablate("run", "--no-ray", expect=2)[1]
    # One after another: the rungs know all those before.
    process = place.start("--cpus", "1")
    _, said_then = process.communicate(timeout=200)
    assert process.returncode == 0, said_then
    states = place.states()
    stopped = [name for name, state in states.items() if state == "stopped"]
    assert stopped
    assert set(stopped) < set(place.search["trials"])
    assert {state for name, state in states.items() if name not in stopped} == {"finished"}
    for name in stopped:
        record = place.study.cell(name)
        said, reached = record.stopped() or {}, record.metrics()
        assert (said["step"], said["accuracy"]) == tuple(reached[["step", "accuracy"]].iloc[-1])
        assert said["step"] < 24
        assert said["rung"] in (6, 12)
        assert not list(record.path.glob("lease/*"))
    assert f"stopped   {stopped[0]}" in said_then
    winner = place.search["winner"]
    assert states[winner["trial"]] == "finished"
    assert states[winner["cells"][0]] == "finished"
    assert f"asha, {len(stopped)} stopped; winner" in (place.study.path / "report/tables.md").read_text()

    before = {path: path.stat().st_mtime_ns for path in place.study.path.glob("noisy-*/*.json*")}
    assert "nothing to run" in place.ablate("run")[1]
    assert {path: path.stat().st_mtime_ns for path in place.study.path.glob("noisy-*/*.json*")} == before
    rows = json.loads(place.ablate("status", "--json")[0])
    assert sum(row["state"] == "stopped" for row in rows) == len(stopped)


def test_what_earlier_launches_recorded_counts_for_the_rungs(data_folder: Path, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    asha = dataclasses.replace(RANDOM, scheduler="asha", grace=0.5, reduction=2)
    jobs, found = plan_searches(study(asha), data_folder, folder)
    row, *trials = [job for job in jobs if job.role == "trial" or job.cell.seed == 1]
    for job, accuracy in zip(trials[:2], (90.0, 80.0), strict=True):
        folder.cell(job.id).write_config({})
        folder.cell(job.id).append("metrics", [{"step": step, "accuracy": accuracy} for step in (0, 4)])
    grid: Any = _Grid(folder, {"one": trials[2], "row": row})
    halving = Halving(grid, found)

    def reports(trial_id: str, step: int, accuracy: float) -> str:
        trial: Any = type("Trial", (), {"trial_id": trial_id})
        return halving.on_trial_result(None, trial, {"step": step, "steps": 8, "accuracy": accuracy})

    assert reports("row", 4, 0.0) == "CONTINUE"
    assert reports("one", 2, 0.0) == "CONTINUE"
    assert reports("one", 4, 70.0) == "STOP"
    assert grid.stopped[trials[2].id] == {
        "step": 4, "accuracy": 70.0, "rung": 4, "scheduler": {"name": "asha", "grace": 0.5, "reduction": 2}
    }  # fmt: skip
    assert reports("one", 8, 0.0) == "CONTINUE"


class _Grid:
    def __init__(self, folder: StudyFolder, running: dict[str, Any]) -> None:
        self.folder, self.running, self.stopped = folder, running, {}
