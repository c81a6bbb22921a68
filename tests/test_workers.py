"""``ablate run`` with several workers for a cell: real processes, real Ray Train, one launch for all of it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import ray
from small_grid import lasting

from suite.config import Cell, ModelSize, Placement, Protocol
from suite.errors import UserError
from suite.plan import Job, Workplace
from suite.pulse import Leave, Progress, Pulse
from suite.records import CellFolder, StudyFolder, read_lines
from suite.room import Node, check_room
from suite.running import where
from suite.training import NotFinite
from suite.workers import Failure, train_on_workers

# One launch for all of them, whichever process of tests they run in.
pytestmark = [pytest.mark.xdist_group("workers"), pytest.mark.long]

STUDY = '''
import contextlib
import json
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from ablations.variants.layerdrop import LayerDrop
from suite.attention import SoftmaxWeights, Variant
from suite.config import Cell, ModelSize, Protocol, Study
from suite.registry import register

SECOND = os.environ.get("RANK") == "1"
"""Whether this is the second of two workers."""
KILLED = Path("{killed}")


def listeners():
    """Of all processes of the launch: each name with the addresses at which it listens."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("ABLATE_TEST") == os.environ["ABLATE_TEST"]:
                links = [one for one in process.net_connections() if one.status == psutil.CONN_LISTEN]
                found += [(process.pid, process.name(), link.laddr.ip) for link in links]
    return found


class FifthStep(SoftmaxWeights):
    steps = 0

    def project(self):
        self.steps += 1
        if self.steps == 5 and "RANK" in os.environ:
            told = KILLED.with_name(f"{{os.environ['RANK']}}-of-{{os.getpid()}}.json")
            told.write_text(json.dumps(listeners()))
        if self.steps == 5 and SECOND:
            self.happens()


class Dies(FifthStep):
    def happens(self):
        if not KILLED.exists():
            KILLED.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Raises(FifthStep):
    def happens(self):
        raise OnlyHere("the second worker's fifth step")  # here


class OnlyHere(ValueError):
    pass


@register("dies")
@dataclass(frozen=True)
class DiesOnce(LayerDrop):
    """LayerDrop whose second worker is killed in its fifth step, once."""

    def weights(self, site):
        return Dies()


@register("raises")
@dataclass(frozen=True)
class RaisesThere(Variant):
    """Softmax whose second worker raises in its fifth step."""

    def weights(self, site):
        return Raises()


@register("pair", "study")
def study():
    dies = Cell(
        variant="dies",
        dataset="easy_vqa",
        protocol=Protocol(steps=8, batch_size=7, evaluations=4, learning_rate=1e-2),
        model=ModelSize(width=8, heads=2, intermediate=8, hidden_dropout=0.0, attention_dropout=0.0),
        layers=(2, 2, 2),
    )
    return Study(name="pair", question="Are two one?", cells=(dies, replace(dies, variant="raises")))
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Path:
    """Holds ``one`` and ``two``: the study on one worker, without Ray, and on two for each cell."""
    folder = tmp_path_factory.mktemp("workers")
    plugin = folder / "plugin.py"
    plugin.write_text(STUDY.format(killed=folder / "killed"))
    mark = uuid.uuid4().hex
    command = [sys.executable, "-m", "suite", "run", "pair", "--plugin", plugin, "--data", data_folder]
    # Who waits for workers shows signs of life: before they have begun it takes longer than this.
    options = {"one": ["--no-ray"], "two": ["--workers", "2", "--cpus", "4", "--hung-after", "0.2"]}
    processes = {}
    # Ray's own is elsewhere: the path of this one is too long for its sockets.
    temporary = folder / "temporary" / ("0" * 60)
    temporary.mkdir(parents=True)
    for name, more in options.items():
        with (folder / f"{name}.txt").open("w") as out:
            processes[name] = subprocess.Popen(
                [*command, "--runs", folder / name, "--no-report", *more],
                stdout=out, stderr=out, env=os.environ | {"ABLATE_TEST": mark, "TMPDIR": str(temporary)},
            )  # fmt: skip
    codes = {name: process.wait(timeout=900) for name, process in processes.items()}
    said = {name: (folder / f"{name}.txt").read_text() for name in options}
    assert codes == {"one": 0, "two": 1}, said
    assert not any("Traceback" in text for text in said.values()), said
    (folder / "left.json").write_text(json.dumps(left_behind(mark)))
    return folder


def left_behind(mark: str) -> list[str]:
    """Processes with ``mark`` in their environment, which some take a while to end."""
    for _ in range(300):
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("ABLATE_TEST") == mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
        if not found:
            return []
        time.sleep(0.2)
    return found


def cell(folder: Path, launch: str, variant: str) -> CellFolder:
    [path] = (folder / launch / "pair").glob(f"{variant}-s0-*")
    return StudyFolder(path.parent).cell(path.name)


@pytest.mark.parametrize(("variant", "evaluations"), [("dies", 5), ("raises", 3)])
def test_two_workers_score_what_one_does(folder: Path, variant: str, evaluations: int) -> None:
    """LayerDrop to its end, although it was killed; softmax until it raised."""
    one, two = (cell(folder, launch, variant).metrics().drop(columns="seconds") for launch in ("one", "two"))
    assert len(two) == evaluations
    pd.testing.assert_frame_equal(two, one[:evaluations], check_exact=False, rtol=0, atol=1e-5)


def test_two_workers_record_what_one_does(folder: Path) -> None:
    one, two = (cell(folder, launch, "dies") for launch in ("one", "two"))
    assert one.predictions()["answer"].tolist() == two.predictions()["answer"].tolist()
    confidences = [np.stack(record.predictions()["top_confidences"].to_list()) for record in (one, two)]
    np.testing.assert_allclose(*confidences, atol=1e-5)
    results = [lasting(record.result() or {}) for record in (one, two)]
    assert results[0] == results[1]


def test_a_cell_goes_on_from_its_checkpoint_when_a_worker_was_killed(folder: Path) -> None:
    record = cell(folder, "two", "dies")
    segments = read_lines(record.path / "segments.jsonl")
    assert [segment["step"] for segment in segments] == [0, 4]
    assert {(segment["workers"], segment["engine"]) for segment in segments} == {(2, "torch")}
    [fault] = read_lines(record.path / "faults.jsonl")
    assert (fault["kind"], fault["step"]) == ("worker died", 4)
    assert record.failure() is None


def test_all_of_a_launch_listens_on_the_loopback_alone(folder: Path) -> None:
    """Ray's processes, and the workers' own ways to each other."""
    told = {path: json.loads(path.read_text()) for path in folder.glob("*-of-*.json")}
    assert {path.name[0] for path in told} == {"0", "1"}
    for path, found in told.items():
        worker = int(path.stem.rpartition("-")[2])
        assert worker in {pid for pid, *_ in found}
        assert {"gcs_server", "raylet"} <= {name for _, name, _ in found}
        assert {address.removeprefix("::ffff:") for *_, address in found} <= {"127.0.0.1", "::1"}, found


def test_an_error_on_the_second_worker_is_the_cells_failure_with_its_line(folder: Path) -> None:
    record = cell(folder, "two", "raises")
    failure = record.failure() or {}
    [plugin] = (folder / "two" / "pair" / "plugins").rglob("plugin.py")
    line = 1 + plugin.read_text().split("# here")[0].count("\n")
    assert failure["kind"] == "code"
    assert failure["message"] == "OnlyHere: the second worker's fifth step"
    assert failure["where"] == f"{plugin}:{line}"
    assert "raise OnlyHere" in record.log.read_text()
    assert "raise OnlyHere" in (record.path / "log-1.txt").read_text()


def test_nothing_is_left_behind(folder: Path) -> None:
    assert json.loads((folder / "left.json").read_text()) == []
    assert not list((folder / "temporary").rglob("ablate-*"))
    assert not list((folder / "two").rglob(".train"))
    assert not list((folder / "two").rglob("live.json"))


@pytest.mark.filterwarnings("default")  # Ray's own.
def test_a_trial_goes_no_further_until_its_scheduler_has_decided(tmp_path: Path, data_folder: Path) -> None:
    trial = Cell(
        variant="softmax",
        dataset="easy_vqa",
        protocol=Protocol(steps=8, batch_size=8, evaluations=4),
        model=ModelSize(width=8, heads=2, intermediate=8),
        layers=(2, 2, 2),
    )
    record = StudyFolder(tmp_path / "study").cell("trial")
    record.path.mkdir(parents=True)

    def stops(progress: Progress) -> None:
        time.sleep(3)
        raise Leave

    placement = Placement(gpus=0, workers=2)
    workplace = Workplace(str(tmp_path / "study"), str(data_folder), placement=placement)
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        with pytest.raises(Leave):
            train_on_workers(Job("trial", trial, "trial", None), workplace, record, Pulse(record, stops))
    finally:
        ray.shutdown()
    assert record.metrics()["step"].tolist() == [0, 2]


# Errors on their way


def test_an_error_arrives_with_its_line() -> None:
    def raises() -> None:
        raise NotFinite("the loss is nan")

    with pytest.raises(NotFinite) as caught:
        raises()
    arrived = Failure.read(Failure.of(caught.value).written()).error()
    assert (type(arrived), str(arrived)) == (NotFinite, "the loss is nan")
    line = raises.__code__.co_firstlineno + 1
    assert where(arrived) == where(caught.value) == f"{__file__}:{line}"


def test_an_error_that_cannot_be_sent_arrives_by_name() -> None:
    class OnlyHere(OSError):
        pass

    arrived = Failure.read(Failure.of(OnlyHere(28, "no space")).written()).error()
    assert type(arrived).__name__ == "OnlyHere"
    assert str(arrived) == "[Errno 28] no space"


# Room


TWO_NODES = [Node("a", "a", cpus=3, gpus=0), Node("b", "b", cpus=4, gpus=0)]


@pytest.mark.parametrize(
    ("placement", "cells"),
    [(Placement(workers=2, gpus=0), 3), (Placement(workers=3, gpus=0), 2), (Placement(2, 0, workers=2), 1)],
)
def test_workers_take_room_on_any_nodes(placement: Placement, cells: int) -> None:
    assert check_room(placement, TWO_NODES) == cells


def test_more_workers_than_there_is_room_for_are_refused() -> None:
    with pytest.raises(UserError, match=r"needs 8 workers of 1 CPUs .* room for 7"):
        check_room(Placement(workers=8, gpus=0), TWO_NODES)
