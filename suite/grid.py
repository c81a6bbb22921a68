"""The cells of one launch as trials of Ray Tune: handed out, followed, and handed out again where they are lost.

A cell is handed out once the cell that it starts from is finished. What goes wrong in code or data is recorded by
``run_cell`` and is not tried again. What Ray sees fail is infrastructure: the cell is handed out anew and
continues from its checkpoint. The records are the only truth: Ray's own files go to a temporary folder and are
removed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import queue
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

# Tune reads these when it is imported. Ctrl-C is the driver's own; Tune's state and result files are never used.
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = str(10**9)
os.environ["TUNE_PRINT_ALL_TRIAL_ERRORS"] = "0"
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import ray
from ray import cloudpickle, tune
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from suite import checkpoints, preflight, ray_private
from suite.config import Cell, Placement, from_plain, to_plain
from suite.errors import UserError
from suite.lease import held
from suite.plan import Job, Workplace
from suite.private import own_folder
from suite.progress import Display
from suite.pulse import Leave, Progress, drain_markers, launch_marker
from suite.records import RecordError, StudyFolder
from suite.room import need, node_name
from suite.running import Train, WorkerDied, run_cell
from suite.training import train_and_test

TRIES = 3
"""How often a cell's worker may die at the same checkpoint before the cell is given up. Nodes that are lost, and
cells that leave because they are asked to, do not count."""
SHOWN_EVERY = 2.0
"""Seconds between two looks at where the running cells are."""


class Stopped(KeyboardInterrupt):
    """The launch was told to stop by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Refused(KeyboardInterrupt):
    """The launch ends for an error that is the user's to mend. Tune lets this pass: the other cells leave first."""

    def __init__(self, error: UserError) -> None:
        super().__init__(str(error))
        self.error = error


FaultKind = Literal["left", "node lost", "worker died", "out of memory"]


@dataclasses.dataclass(frozen=True)
class Fault:
    """Why a cell's worker ended before the cell did."""

    kind: FaultKind
    message: str


def fault_of(error: Exception | None) -> Fault:
    """The fault that Ray's exception is; raises it where it is a UserError."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, UserError):
        raise cause
    if isinstance(cause, Leave):
        return Fault("left", "asked to leave its node")
    text = re.sub(r"\x1b\[\d*m", "", str(error or "its worker ended without a word"))
    # Of a traceback the last line says what it was.
    text = text.strip().splitlines()[-1] if isinstance(error, RayTaskError) else " ".join(text.split())
    if isinstance(error, RayActorError) and error.preempted:
        return Fault("node lost", text)
    if isinstance(cause, RayActorError | WorkerDied) and ("node has died" in text or "node died" in text):
        return Fault("node lost", text)
    if "out of memory" in text.lower() or "low on memory" in text:
        # Ray's own sentence; around it stands all that ran on the node.
        said = re.search(r"\d+ worker\S* were killed .*? limit\b", text)
        return Fault("out of memory", said[0] if said else text)
    return Fault("worker died", text)


class Grid(Searcher):
    """The cells of one launch as Tune asks for them: each after its start, and again where its worker was lost."""

    def __init__(
        self,
        jobs: Sequence[Job],
        workplace: Workplace,
        display: Display,
        slots: int,
        after: Callable[[Job], list[Job]],
    ) -> None:
        """``slots`` bounds cells of several workers; ``after`` gives the cells that the end of one makes known."""
        super().__init__()
        # One worker waits for its place before it starts; a cell of several would start and wait for theirs.
        self.most = float("inf") if workplace.placement.alone else slots
        self.workplace, self.display, self.after = workplace, display, after
        self.folder = StudyFolder(workplace.study)
        self.waiting = {job.id: job for job in jobs}
        self.running: dict[str, Job] = {}
        """By the id of its trial."""
        self.died: dict[str, tuple[int, int]] = {}
        """Cell -> the checkpoint's step at which its worker died last, and how often it did there."""
        self.stopped: dict[str, dict[str, Any]] = {}
        """Trial of a search -> why it is stopped (CellFolder.stopped)."""

    def suggest(self, trial_id: str) -> Any:
        """The next cell, None where none is ready yet, or that there are no more."""
        if not self.waiting and not self.running:
            return Searcher.FINISHED
        unfinished = self.waiting.keys() | {job.id for job in self.running.values()}
        ready = next((job for job in self.waiting.values() if job.start not in unfinished), None)
        if ready is None or len(self.running) >= self.most:
            return None
        self.running[trial_id] = self.waiting.pop(ready.id)
        return {"job": _job_to_plain(ready), "workplace": dataclasses.asdict(self.workplace)}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Follow sees the trials themselves."""

    def completed(self, trial_id: str) -> None:
        job = self.running[trial_id]
        record = self.folder.cell(job.id)
        if job.id in self.stopped and record.state != "finished":
            record.write_stopped(self.stopped[job.id])
        if record.state in ("missing", "started"):  # Tune may say so of a trial whose worker died.
            self.lost(trial_id, None)
            return
        self._ended(trial_id)

    def _ended(self, trial_id: str) -> None:
        job = self.running[trial_id]
        state, new = self.folder.cell(job.id).state, self.after(job)
        del self.running[trial_id]  # Not before: a run folder that does not answer now is asked again.
        self.waiting |= {one.id: one for one in new}
        self.display.ended(job, state)
        self.display.added(new)

    def lost(self, trial_id: str, error: Exception | None) -> None:
        """The trial's worker is gone: its cell is handed out again, or given up where that did not help before."""
        job = self.running[trial_id]
        try:
            fault = fault_of(error)
        except UserError as refusal:
            raise Refused(refusal) from None
        record = self.folder.cell(job.id)
        step = max(checkpoints.steps(record.checkpoints), default=0)
        at, times = self.died.get(job.id, (step, 0))
        if fault.kind not in ("left", "node lost"):
            times = times + 1 if at == step else 1
            self.died[job.id] = (step, times)
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        with contextlib.suppress(OSError):
            record.path.mkdir(exist_ok=True)
            record.append("faults", [{"step": step, "at": now, **dataclasses.asdict(fault)}])
        if times < TRIES:
            del self.running[trial_id]
            self.waiting[job.id] = job
            self.display.lost(job, f"{fault.kind} at checkpoint {step}")
            return
        # Not of a cell that another launch runs, or has finished meanwhile.
        with contextlib.suppress(OSError, RecordError), held(record.path, self.workplace.launch) as record.guard:
            if record.guard is not None and record.state != "finished":
                record.write_failure(
                    {
                        "kind": "out of memory" if fault.kind == "out of memory" else "infrastructure",
                        "message": f"Its worker died {times} times at checkpoint {step}: {fault.message}",
                        "where": "",
                        "log": str(record.log),
                    }
                )
        self._ended(trial_id)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune saves for a restore that we never ask for.

    def save(self, checkpoint_path: str) -> None:
        """As for the state."""


class Follow(tune.Callback):
    """Tells the grid and the display what the trials do."""

    def __init__(self, grid: Grid) -> None:
        self.grid, self.looked = grid, 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {}  # As for Grid.

    def on_trial_start(self, iteration, trials, trial, **info):
        self.grid.display.started(self.grid.running[trial.trial_id])

    def on_trial_result(self, iteration, trials, trial, result, **info):
        names = [field.name for field in dataclasses.fields(Progress)]
        if all(name in result for name in names):
            job = self.grid.running[trial.trial_id]
            self.grid.display.evaluated(job, Progress(**{name: result[name] for name in names}))

    def on_step_end(self, iteration, trials, **info):
        # Not by Tune's own callbacks for it: a trial whose node is lost while it starts gets none.
        for trial in trials:
            if trial.trial_id in self.grid.running and trial.is_finished():
                self._ended(trial)
        if time.monotonic() - self.looked > SHOWN_EVERY:
            self.looked = time.monotonic()
            self._look()

    def _ended(self, trial: Trial) -> None:
        """Waits where the run folder does not answer; raises OSError where it does not for the launch's patience.

        Not at the next step: Tune takes none where no trial runs, until the grid has another one for it.
        """
        until = time.monotonic() + self.grid.workplace.patience
        while trial.trial_id in self.grid.running:
            try:
                if trial.status == Trial.ERROR:
                    self.grid.lost(trial.trial_id, _error_of(trial))
                else:
                    self.grid.completed(trial.trial_id)
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(1)

    def _look(self) -> None:
        """For who asks the launch to end, and where its cells are; another time where that does not read now."""
        with contextlib.suppress(OSError):
            if launch_marker(Path(self.grid.workplace.study), self.grid.workplace.launch).exists():
                raise Stopped(signal.SIGTERM)
        for job in self.grid.running.values():
            with contextlib.suppress(OSError, RecordError):
                if live := self.grid.folder.cell(job.id).live():
                    self.grid.display.stepped(job, live)


def _error_of(trial: Trial) -> Exception | None:
    """What Ray raised; Tune's own way to it looks where only its restore would have put it."""
    path = trial.pickled_error_file
    return cloudpickle.loads(Path(path).read_bytes()) if path and Path(path).exists() else None


def fit(grid: Grid, memory: float, scheduler: TrialScheduler | None = None) -> None:
    """Runs all cells of ``grid``, each in a worker that takes ``memory`` bytes and what its placement says."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    # All that are ready ask for their place at once: an autoscaler sees what is wanted.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(min(len(grid.waiting), 200))
    placement = grid.workplace.placement
    # Where a cell has workers of its own, it is they who take the room; Tune wants some resource, if a byte.
    resources: dict[str, float] = need(placement, memory) if placement.alone else {"memory": 1}
    with own_folder(Path(tempfile.gettempdir()), "ray-") as scratch, ray_private.hearing_of_deaths():
        tune.Tuner(
            tune.with_resources(CellTrial, resources),
            tune_config=tune.TuneConfig(
                search_alg=grid,
                scheduler=scheduler,
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                # Ray keeps what it writes by the second in which a launch began and by this name.
                name=scratch.name,
                storage_path=str(scratch),
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[Follow(grid)],
            ),
        ).fit()


def _train(placement: Placement) -> Train:
    if placement.alone:
        return train_and_test
    from suite.workers import train_on_workers

    return train_on_workers


class CellTrial(tune.Trainable):
    """One cell after another in a Ray worker, each in a thread of its own: the main thread hears signals."""

    def setup(self, config: dict[str, Any]) -> None:
        signal.signal(signal.SIGTERM, self._terminate)
        self.checked = False
        """Whether this process has what the driver expects."""
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self.messages: queue.SimpleQueue[Progress | BaseException | None] = queue.SimpleQueue()
        self.leaving, self.asked, self.reported = threading.Event(), threading.Event(), False
        # Started when Tune asks for its first result: an actor of a trial that has ended meanwhile is never asked.
        self.thread = threading.Thread(target=self._run, args=(config,), name="cell", daemon=True)
        self.began = False

    def _run(self, config: dict[str, Any]) -> None:
        job, workplace = _job_from_plain(config["job"]), _workplace_from_plain(config["workplace"])
        workplace = dataclasses.replace(workplace, node=ray.get_runtime_context().get_node_id())

        def decided(progress: Progress) -> None:
            self._await_decision(progress, job, workplace)

        try:
            if workplace.expected and not self.checked:
                preflight.check(workplace.expected, node_name(socket.gethostname(), workplace.node))
            self.checked = True
            report = decided if job.role == "trial" else self.messages.put
            run_cell(job, workplace, report, self.leaving, _train(workplace.placement))
            self.messages.put(None)
        except BaseException as error:
            self.messages.put(error)

    def _await_decision(self, progress: Progress, job: Job, workplace: Workplace) -> None:
        """Holds a search's trial until Tune asks for more; raises Leave where it is to end at this evaluation."""
        self.messages.put(progress)
        study = Path(workplace.study)
        record = StudyFolder(study).cell(job.id)
        markers = drain_markers(study, workplace.launch, workplace.node, socket.gethostname())
        while not self.asked.wait(0.2):
            if record.state == "stopped" or self.leaving.is_set() or any(marker.exists() for marker in markers):
                raise Leave
        self.asked.clear()
        if self.leaving.is_set():
            raise Leave

    def step(self) -> dict[str, Any]:
        if not self.began:
            self.began = True
            self.thread.start()
        if self.reported:
            self.asked.set()
        message = self.messages.get()
        self.reported = isinstance(message, Progress)
        if isinstance(message, BaseException):
            raise message
        return {"done": True} if message is None else dataclasses.asdict(message)

    def cleanup(self) -> None:
        """Ends what still runs: a trial that its scheduler stopped."""
        self.leaving.set()
        if self.began:
            self.thread.join()

    def _terminate(self, number: int, frame: object) -> None:
        if not self.thread.is_alive():
            sys.exit(1)
        self.leaving.set()


def _job_to_plain(job: Job) -> dict[str, Any]:
    return vars(job) | {"cell": to_plain(job.cell)}


def _job_from_plain(plain: dict[str, Any]) -> Job:
    return Job(**plain | {"cell": from_plain(Cell, plain["cell"])})


def _workplace_from_plain(plain: dict[str, Any]) -> Workplace:
    return dataclasses.replace(Workplace(**plain), placement=Placement(**plain["placement"]))
