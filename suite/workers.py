"""``train_on_workers``: a cell on several Ray Train workers, started by the process that runs the cell.

That process keeps the lease, the log and the record of failures, and waits. The workers train; the first of them
writes the record. Between them stands a relay, an actor: progress and the first error go one way, the wish to
leave the other (suite.relay). Ray Train retries nothing and leaves nothing behind: the cell starts again from
its own checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import socket
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

# Ray reads these, here and in its workers. What a cell prints goes to its log, and it stays in its folder.
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")

import ray
from ray import train
from ray.exceptions import GetTimeoutError, RayError
from ray.train.backend import Backend
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from suite import preflight
from suite.engine import BACKENDS, build_engine, is_lost_worker, join_on_loopback, leave_group
from suite.files import remove
from suite.lease import LeaseLost
from suite.plan import Job, Workplace
from suite.private import own_folder
from suite.pulse import Leave, Progress, Pulse, Wish, drain_markers
from suite.records import CellFolder
from suite.relay import Relay
from suite.room import node_name
from suite.running import WorkerDied, redirected, where
from suite.training import train_and_test

LOOK = 0.5
"""Seconds between two looks of the waiting process at the relay."""
PATIENCE = 30.0
"""Seconds that Ray Train gets to end when its workers are gone."""
ROOM = "placement-group"


def train_on_workers(job: Job, workplace: Workplace, record: CellFolder, pulse: Pulse) -> None:
    """Trains and tests the cell on the workers of its placement; raises what ``train_and_test`` does on any.

    Raises WorkerDied where a worker's process ended, or could not be reached: that is no failure of the cell. A
    cell that is evaluated only needs one worker, and gets one.
    """
    placement = workplace.placement
    if job.cell.keep is not None:
        placement = dataclasses.replace(placement, workers=1, engine="torch", zero_stage=0)
    workplace = dataclasses.replace(workplace, placement=placement)
    scratch = record.path / ".train"
    _clear(record, scratch)
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\.")  # Ray's, of Ray.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    relay: Any = ray.remote(Relay).options(num_cpus=0, scheduling_strategy=here).remote()
    fit = _Fit(partial(_trainer, job, workplace, record, relay, scratch))
    try:
        fit.start()
        while fit.is_alive():
            fit.join(LOOK)
            pulse.alive()  # Workers that hang end themselves.
            for progress in ray.get(relay.reported.remote()):
                pulse.report(progress)
                ray.get(relay.done.remote())
            if pulse.wish is Wish.LEAVE and not ray.get(relay.leave.remote()):
                raise Leave  # There are no workers yet.
        failure, left = ray.get(relay.outcome.remote())
    except RayError as error:
        raise WorkerDied(f"The relay of {record.id} was lost: {_one_line(error)}") from error
    finally:
        if fit.is_alive():  # Nobody waits for these workers any more. Those that come later find no relay, and end.
            with contextlib.suppress(RayError):
                for worker in ray.get(relay.workers.remote()):
                    ray.kill(worker)
        ray.kill(relay)
        fit.join(PATIENCE)
        with contextlib.suppress(LeaseLost):  # What is there now is another's.
            _clear(record, scratch)
    if failure is not None:
        raise Failure.read(failure).error()
    if fit.error is not None:
        raise WorkerDied(f"A worker of {record.id} was lost: {_one_line(fit.error)}") from fit.error
    if left:
        raise Leave


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _trainer(
    job: Job, workplace: Workplace, record: CellFolder, relay: Any, scratch: Path, meeting: Path
) -> TorchTrainer:
    placement = workplace.placement
    backend = BACKENDS if placement.gpus else "gloo"
    resources: dict[str, float] = {"CPU": placement.threads}
    if placement.gpus:
        resources["GPU"] = placement.gpus
    return TorchTrainer(
        partial(_work, job, workplace, record, relay),
        torch_config=_OneMachine(backend, meeting=meeting) if workplace.one_machine else TorchConfig(backend),
        scaling_config=train.ScalingConfig(
            num_workers=placement.workers, use_gpu=bool(placement.gpus), resources_per_worker=resources
        ),
        # In the cell's folder, which every node sees.
        run_config=train.RunConfig(
            name="train", storage_path=str(scratch), failure_config=train.FailureConfig(max_failures=0)
        ),
    )


class _Fit(threading.Thread):
    """Waits for Ray Train in a thread of its own: progress is reported in the thread that runs the cell."""

    def __init__(self, trainer: Callable[[Path], TorchTrainer]) -> None:
        """``trainer`` gets the file in which workers of one machine meet."""
        super().__init__(name="train", daemon=True)
        self.trainer, self.error = trainer, None

    error: Exception | None

    def run(self) -> None:
        try:
            # Not in the run folder, whose file system may have no locks.
            with own_folder(Path(tempfile.gettempdir()), "workers-") as folder:
                self.trainer(folder / "meeting").fit()
        except Exception as error:
            self.error = error


@dataclass
class _OneMachine(TorchConfig):
    """As torch's own, for workers of one machine who let nobody else in."""

    meeting: Path = Path()

    @property
    def backend_cls(self) -> Any:  # Ray's own is private.
        return _Loopback


class _Loopback(Backend):
    """Makes the process group and ends it, as Ray does with its own."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(_join, backend_config.meeting, backend_config.backend)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        with contextlib.suppress(GetTimeoutError):
            ray.get(worker_group.execute_async(leave_group), timeout=PATIENCE)


def _join(meeting: Path, backends: str) -> None:
    """What each worker does first. DeepSpeed, and a method that asks, find in the environment who they are."""
    context = train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    who = {"RANK": rank, "LOCAL_RANK": context.get_local_rank(), "NODE_RANK": context.get_node_rank()}
    how_many = {"WORLD_SIZE": workers, "LOCAL_WORLD_SIZE": context.get_local_world_size()}
    os.environ.update({name: str(number) for name, number in (who | how_many).items()})
    join_on_loopback(meeting, rank, workers, backends)


def _work(job: Job, workplace: Workplace, record: CellFolder, relay: Any) -> None:
    """What each worker does."""
    context = ray.get_runtime_context()
    ray.get(relay.began.remote(context.current_actor))
    _note_room(record.path / ".train")
    rank, node = train.get_context().get_world_rank(), context.get_node_id()
    workplace = dataclasses.replace(workplace, node=node)
    markers = drain_markers(Path(workplace.study), workplace.launch, node, socket.gethostname())

    def leaves() -> bool:
        return any(marker.exists() for marker in markers) or ray.get(relay.leaves.remote())

    def report(progress: Progress) -> None:
        ray.get(relay.report.remote(progress))
        # The scheduler of a search may stop its trial here.
        while job.role == "trial" and not ray.get(relay.goes_on.remote()):
            time.sleep(LOOK)

    if rank:
        record = _Reader(record.path)
    else:
        record.check()
    log_file = record.log if rank == 0 else record.path / f"log-{rank}.txt"
    with log_file.open("a", encoding="utf-8", errors="backslashreplace") as log, redirected(log):
        pulse = Pulse(
            record,
            report=report if rank == 0 else lambda progress: None,
            leaves=leaves,
            save_every=workplace.save_every if rank == 0 else float("inf"),
            hung_after=workplace.hung_after,
            log=log,
        )
        try:
            if workplace.expected:
                preflight.check(workplace.expected, node_name(socket.gethostname(), node))
            with pulse:
                train_and_test(job, workplace, record, pulse, build_engine(workplace.placement))
        except Leave:
            ray.get(relay.has_left.remote())
        except Exception as error:
            traceback.print_exc(file=log)
            if not is_lost_worker(error):
                ray.get(relay.failed.remote(Failure.of(error).written()))
            raise


class _Reader(CellFolder):
    """The record as a worker sees it that must not write to it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.guard = _Refusal()

    def write_live(self, live: Any) -> None:
        """The first worker's to show."""

    def forget_live(self) -> None:
        """As to show it."""


class _Refusal:
    path = None

    def check(self) -> None:
        raise AssertionError("Only the first worker writes the record.")


@dataclass(frozen=True)
class Failure:
    """An error on its way to another process, with the line where it was raised."""

    pickled: bytes | None
    """None where it does not survive that."""
    name: str
    message: str
    where: str
    text: str
    """Its traceback."""

    @staticmethod
    def of(error: Exception) -> Failure:
        try:
            pickled = pickle.dumps(error)
        except Exception:
            pickled = None
        text = "".join(traceback.format_exception(error))
        return Failure(pickled, type(error).__name__, str(error), where(error), text)

    def written(self) -> bytes:
        """As the relay keeps it, which need not know what it is."""
        return pickle.dumps(self)

    @staticmethod
    def read(written: bytes) -> Failure:
        return pickle.loads(written)

    def error(self) -> Exception:
        """The error; one of its name and message where this process cannot read it."""
        made: Exception | None = None
        if self.pickled is not None:
            # Its class may be of a plug-in, which is loaded where the cell trains.
            with contextlib.suppress(Exception):
                made = pickle.loads(self.pickled)
        if made is None:
            made = type(self.name, (RuntimeError,), {})(self.message)
        made.where = self.where  # type: ignore[attr-defined]
        made.add_note(f"On a worker:\n{self.text}")
        return made


def _note_room(scratch: Path) -> None:
    """Writes down which placement group the workers have their room from."""
    group = ray.util.get_current_placement_group()
    if group is not None:
        (scratch / ROOM).write_text(group.id.hex())


def _clear(record: CellFolder, scratch: Path) -> None:
    """Removes what Ray Train has written, and the workers' room where its own end has not given it back.

    That happens where the process that waits for the workers is killed: they end, but their room stays taken.
    """
    record.check()
    with contextlib.suppress(FileNotFoundError):
        room = ray.PlacementGroupID(bytes.fromhex((scratch / ROOM).read_text()))
        ray.util.remove_placement_group(PlacementGroup(room))
    with contextlib.suppress(OSError):
        remove(scratch, record.guard)
