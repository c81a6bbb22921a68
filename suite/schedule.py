"""Runs the missing cells of a study: through Ray Tune, or one after another. The only importer of ray.

Ray gets the missing cells as one fresh experiment; a cell is handed out once the cell that it starts from is
finished. What goes wrong in code or data is recorded by ``run_cell`` and is not tried again. What Ray sees fail is
infrastructure: the cell is handed out anew and continues from its checkpoint. The records are the only truth:
Ray's own files go to a temporary folder and are removed.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

# Ray reads these when it is imported. Ctrl-C is the driver's own; Tune's state and result files are never used.
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = str(10**9)
os.environ["TUNE_PRINT_ALL_TRIAL_ERRORS"] = "0"
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
import torch
from ray import cloudpickle, tune
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from suite import checkpoints, preflight
from suite.config import Cell, Placement, Search, from_plain, to_plain
from suite.errors import UserError
from suite.lease import holder_of
from suite.plan import Job, Workplace
from suite.progress import Display
from suite.pulse import Leave, Progress, drain_markers
from suite.records import StudyFolder, read_lines
from suite.room import Node, check_room, need, placed, room_on, shortage
from suite.running import Train, run_cell
from suite.search import Found, scheduler_plain
from suite.trackers import Follower
from suite.training import train_and_test

TRIES = 3
"""How often a cell's worker may die at the same checkpoint before the cell is given up. Nodes that are lost, and
cells that leave because they are asked to, do not count."""
GRACE = 60.0
"""Seconds that a launch which is told to stop waits for its cells to write their checkpoints."""
SHOWN_EVERY = 2.0
"""Seconds between two looks at where the running cells are."""
ANSWER_WITHIN = 120.0
"""Seconds that a node has to answer whether it can run the study: packages are read from slow file systems."""
SAID_EVERY = 30.0
"""Seconds between two lines that say for what a launch waits."""


class Stopped(KeyboardInterrupt):
    """The launch was told to stop by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Where Ray runs: an existing cluster, or one on this machine."""

    address: str | None = None
    cpus: int | None = None
    """Slots on this machine; by default its cores."""
    gpus: int | None = None
    """GPUs of this machine; by default those that Ray finds."""
    wait: bool = False
    """For a node that can hold a cell, where there is none yet."""


@dataclasses.dataclass(frozen=True)
class Survey:
    """A cluster as a launch finds it."""

    nodes: list[Node]
    workplace: Workplace
    """With GPUs per cell decided."""
    memory: int
    """Bytes that a cell takes at least."""
    slots: int
    """Cells side by side."""
    answers: dict[str, dict[str, Any]]
    """Node's id -> what it answered to suite.preflight."""
    findings: list[str]
    """Why nothing would start; none where it would."""


def _nothing(ended: Job) -> list[Job]:
    return []


def run_alone(
    jobs: Sequence[Job],
    workplace: Workplace,
    finished: int,
    searches: Sequence[Found] = (),
    after: Callable[[Job], list[Job]] = _nothing,
    followers: Sequence[Follower] = (),
) -> None:
    """One cell after another in this process; ``after`` each, those that it makes known.

    Raises UserError for a GPU where there is none, and for trials that are to be stopped.
    """
    if halved := _halved(searches).keys() & {job.id for job in jobs}:
        raise UserError(
            f"asha stops trials through Ray, and {len(halved)} trials are to run under it. Leave --no-ray out, or "
            'give the search scheduler="random".'
        )
    here = Node("", socket.gethostname(), os.cpu_count() or 1, torch.cuda.device_count())
    workplace = _placed(workplace, [here])
    check_room(workplace.placement, [here])
    if not workplace.placement.alone:
        raise UserError(
            f"{workplace.placement.workers} workers with the engine {workplace.placement.engine} are Ray's to "
            "start: leave --no-ray out, or take one worker and the engine torch."
        )
    waiting = list(jobs)
    leaving, told = threading.Event(), []

    def stop(number: int, frame: object) -> None:
        if told:
            raise Stopped(number)
        told.append(number)
        leaving.set()
        _say("The cell writes its checkpoint and leaves; Ctrl-C again stops at once.")

    with (
        Display(jobs, finished, 1, followers) as display,
        _signals(stop, signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
        _without_markers(workplace),
    ):
        while waiting:
            job = next(job for job in waiting if job.start not in {other.id for other in waiting})
            waiting.remove(job)
            display.started(job)
            try:
                run_cell(job, workplace, lambda progress, job=job: display.evaluated(job, progress), leaving)
            except Leave:
                raise Stopped(told[0] if told else signal.SIGTERM) from None
            display.ended(job, StudyFolder(workplace.study).cell(job.id).state)
            waiting += display.added(after(job))


def run_with_ray(
    jobs: Sequence[Job],
    workplace: Workplace,
    finished: int,
    cluster: Cluster,
    searches: Sequence[Found] = (),
    after: Callable[[Job], list[Job]] = _nothing,
    followers: Sequence[Follower] = (),
) -> float:
    """As many cells side by side as the cluster has room for; the seconds that they took once Ray was up.

    ``searches`` may stop their trials; ``after`` is asked which cells the end of one has made known.

    Raises UserError before anything starts where no node can hold a cell or a node cannot run the study, and
    Stopped or KeyboardInterrupt where it is told to stop, after the cells have written checkpoints.
    """
    jobs = list(jobs)

    def more(ended: Job) -> list[Job]:
        new = after(ended)
        jobs.extend(new)
        return new

    with _ray(cluster), _stopped_by_signals():  # In this order: Ray takes the signals for itself when it starts.
        if cluster.wait:
            _wait_for_room(jobs, workplace)
        found = _survey(jobs, workplace, cluster)
        preflight.refuse(found.findings)
        workplace, slots = found.workplace, found.slots
        with (
            Display(jobs, finished, slots, followers) as display,
            _without_markers(workplace),
            _leaving(jobs, workplace),
        ):
            began = time.monotonic()
            grid = Grid(jobs, workplace, display, slots, more)
            _fit(grid, found.memory, Halving(grid, searches))
            return time.monotonic() - began


def survey(jobs: Sequence[Job], workplace: Workplace, cluster: Cluster) -> Survey:
    """What a launch of ``jobs`` would find; starts nothing. Raises UserError where no cluster answers."""
    with _ray(cluster):
        return _survey(jobs, workplace, cluster)


def _survey(jobs: Sequence[Job], workplace: Workplace, cluster: Cluster) -> Survey:
    nodes = _nodes()
    workplace = _placed(workplace, nodes)
    memory = preflight.memory_needed(jobs, workplace)
    slots, found, answers = 0, [], {}
    try:
        slots = check_room(workplace.placement, nodes, memory)
    except UserError as error:
        found.append(str(error))
    if cluster.address:
        needed = need(workplace.placement, memory)
        # A node that can hold no cell, as a head often, need not have what a cell needs.
        answers, faults = _ask([node for node in nodes if room_on(node, needed)], jobs, workplace)
        found += faults
    found += preflight.disk_faults(jobs, workplace, slots)
    return Survey(nodes, workplace, memory, slots, answers, found)


def _ask(
    nodes: Sequence[Node], jobs: Sequence[Job], workplace: Workplace
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The answer of each node by its id, and what is wrong with them, those that do not answer included."""
    look: Any = ray.remote(num_cpus=0, max_retries=0)(preflight.look)
    answers, found = {}, []
    with preflight.expected_of(jobs, workplace) as expected:
        asked = {
            node.id: look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(
                dataclasses.asdict(expected)
            )
            for node in nodes
        }
        answered, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_WITHIN)
        for node in nodes:
            if asked[node.id] not in answered:
                found.append(
                    f"{node.name} did not answer within {ANSWER_WITHIN:.0f} s. See whether it hangs, or is cut off "
                    "from its file systems; end Ray on it to run without it."
                )
                ray.cancel(asked[node.id], force=True)
                continue
            try:
                answers[node.id] = ray.get(asked[node.id])
            except RayError as error:
                found.append(
                    f"{node.name} cannot be checked: {fault_of(error).message}. Install the driver's version of "
                    "the suite there, with the same requirements.lock."
                )
                continue
            found += preflight.faults(expected, answers[node.id], node.name)
    return answers, found


def _wait_for_room(jobs: Sequence[Job], workplace: Workplace) -> None:
    """Returns once a cell fits on the cluster; says every so often for what it waits."""
    said = -SAID_EVERY
    try:
        while True:
            nodes = _nodes()
            placement = _placed(workplace, nodes).placement
            memory = preflight.memory_needed(jobs, dataclasses.replace(workplace, placement=placement))
            lacking = shortage(placement, nodes, memory)
            if lacking is None:
                return
            if time.monotonic() - said >= SAID_EVERY:
                _say(f"Waiting for room. {lacking}. Ctrl-C ends it.")
                said = time.monotonic()
            # Heard by an autoscaler, where there is one.
            request_resources(bundles=[need(placement, memory)] * placement.workers)
            time.sleep(1)
    finally:
        if said >= 0:
            request_resources(bundles=[])


def _placed(workplace: Workplace, nodes: Sequence[Node]) -> Workplace:
    return dataclasses.replace(workplace, placement=placed(workplace.placement, nodes))


def _nodes() -> list[Node]:
    """Those that live now, with what Ray gives out of each."""
    return [
        Node(
            id=node["NodeID"],
            name=f"{node['NodeManagerHostname']} ({node['NodeID'][:6]})",
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
            memory=node["Resources"].get("memory"),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


@contextmanager
def _ray(cluster: Cluster) -> Iterator[None]:
    """Ray, quiet. Nothing that it started is left behind."""
    here: dict[str, Any] = {}
    if not cluster.address:
        here = {"num_cpus": cluster.cpus or os.cpu_count(), "num_gpus": cluster.gpus, "include_dashboard": False}
    try:
        _knock(cluster.address)
        ray.init(address=cluster.address or "local", log_to_driver=False, logging_level=logging.ERROR, **here)
    except OSError as error:
        raise UserError(
            f"No Ray cluster answers at {cluster.address}: {error}. Start one (`ray start --head`), or leave "
            "--address out to use this machine."
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str | None) -> None:
    """Raises OSError where nothing listens at host:port; Ray itself would wait there for ever."""
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end what runs here as Ctrl-C does: it raises Stopped."""
    told = []

    def stop(number: int, frame: object) -> None:
        told.append(number)
        raise Stopped(number)

    try:
        with _signals(stop, signal.SIGTERM, signal.SIGHUP):
            yield
    except KeyboardInterrupt:
        if told:  # Ray makes a KeyboardInterrupt of its own of what is raised while it waits.
            raise Stopped(told[0]) from None
        raise


@contextmanager
def _signals(stop: Callable[[int, Any], None], *numbers: signal.Signals) -> Iterator[None]:
    """Has the signals call ``stop``, but for those that whoever started the command had it ignore (nohup)."""
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _leaving(jobs: Sequence[Job], workplace: Workplace) -> Iterator[None]:
    """Has the running cells write checkpoints when the launch is told to stop."""
    folder = StudyFolder(workplace.study)
    marker = _for_all(workplace)
    try:
        yield
    except KeyboardInterrupt:
        running = [job for job in jobs if _runs_here(folder, job, workplace.launch)]
        if running:
            _say(
                f"{len(running)} cells write their checkpoints and leave, in {GRACE:.0f} s at most; Ctrl-C again "
                "stops at once."
            )
            # In a run folder that cannot be written the checkpoints stay as they are.
            with contextlib.suppress(OSError):
                marker.parent.mkdir(exist_ok=True)
                marker.touch()
            until = time.monotonic() + GRACE
            while (
                marker.exists()
                and time.monotonic() < until
                and any(_runs_here(folder, job, workplace.launch) for job in running)
            ):
                time.sleep(0.5)
        raise


@contextmanager
def _without_markers(workplace: Workplace) -> Iterator[None]:
    """Removes afterwards what `ablate drain` asked of the launch."""
    folder = _for_all(workplace).parent
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for left in folder.glob(f"{workplace.launch}@*"):
                left.unlink(missing_ok=True)
            folder.rmdir()


def _for_all(workplace: Workplace) -> Path:
    """The file that asks every cell of the launch to leave, and the launch to end."""
    return drain_markers(Path(workplace.study), workplace.launch, "", "")[0]


def _runs_here(folder: StudyFolder, job: Job, launch: str) -> bool:
    holder = holder_of(folder.cell(job.id).path)
    return holder is not None and holder.launch == launch


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
    if isinstance(error, RayActorError) and (error.preempted or "node has died" in text or "node died" in text):
        return Fault("node lost", text)
    if "out of memory" in text.lower() or "low on memory" in text:
        return Fault("out of memory", text)
    return Fault("worker died", text)


class Grid(Searcher):
    """The cells of one launch as Tune asks for them: each after its start, and again where its worker was lost."""

    def __init__(
        self,
        jobs: Sequence[Job],
        workplace: Workplace,
        display: Display,
        slots: int,
        after: Callable[[Job], list[Job]] = _nothing,
    ) -> None:
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
        del self.running[trial_id]
        self._ended(job)

    def _ended(self, job: Job) -> None:
        self.display.ended(job, self.folder.cell(job.id).state)
        self.waiting |= {new.id: new for new in self.display.added(self.after(job))}

    def lost(self, trial_id: str, error: Exception | None) -> None:
        """The trial's worker is gone: its cell is handed out again, or given up where that did not help before."""
        job, fault = self.running.pop(trial_id), fault_of(error)
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
            self.waiting[job.id] = job
            self.display.lost(job, f"{fault.kind} at checkpoint {step}")
            return
        with contextlib.suppress(OSError):
            record.write_failure(
                {
                    "kind": "out of memory" if fault.kind == "out of memory" else "infrastructure",
                    "message": f"Its worker died {times} times at checkpoint {step}: {fault.message}",
                    "where": "",
                    "log": str(record.log),
                }
            )
        self._ended(job)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune saves for a restore that we never ask for.

    def save(self, checkpoint_path: str) -> None:
        """As for the state."""


class Halving(FIFOScheduler):
    """Tune's ASHA for the trials of each search that asks for it; all other cells go on whatever they report.

    A trial is known to it by its cell, which a later launch or another worker may continue. What trials of earlier
    launches recorded counts for the rungs, and stops none of them.
    """

    def __init__(self, grid: Grid, searches: Sequence[Found]) -> None:
        super().__init__()
        self.grid = grid
        self.searches = _halved(searches)
        self.rungs: dict[tuple[str, ...], ASHAScheduler] = {}
        """By the search's trials."""
        self.known: set[str] = set()
        for trial in self.searches:
            for line in read_lines(grid.folder.cell(trial).path / "metrics.jsonl"):
                self._reached(trial, line)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]) -> str:
        job = self.grid.running[trial.trial_id]
        if job.id not in self.searches or job.role != "trial" or "accuracy" not in result:
            return TrialScheduler.CONTINUE
        stopped = self._reached(job.id, result)
        # One that has taken its last step is finished once it is tested.
        if stopped is None or result["step"] >= result["steps"]:
            return TrialScheduler.CONTINUE
        self.grid.stopped[job.id] = stopped
        return TrialScheduler.STOP

    def _reached(self, cell: str, result: Mapping[str, Any]) -> dict[str, Any] | None:
        """Tells the rungs of the cell's search; why it is to be stopped, if it is."""
        search = self.searches[cell].search
        rungs, trial = self._rungs(cell)
        if rungs.on_trial_result(_NO_CONTROLLER, trial, dict(result)) != TrialScheduler.STOP:
            return None
        rung = _grace(search)
        while rung * search.reduction <= result["step"]:
            rung *= search.reduction
        reached = {name: result[name] for name in ("step", "accuracy")}
        return reached | {"rung": rung, "scheduler": scheduler_plain(search)}

    def _rungs(self, cell: str) -> tuple[ASHAScheduler, Any]:
        """Those of the cell's search, and the cell as a trial that they know."""
        one, trial = self.searches[cell], SimpleNamespace(trial_id=cell)
        if one.trials not in self.rungs:
            self.rungs[one.trials] = ASHAScheduler(
                time_attr="step",
                metric="accuracy",
                mode="max",
                max_t=one.search.cell.protocol.steps,
                grace_period=_grace(one.search),
                reduction_factor=one.search.reduction,
                stop_last_trials=False,
            )
        if cell not in self.known:
            self.known.add(cell)
            self.rungs[one.trials].on_trial_add(_NO_CONTROLLER, trial)  # type: ignore[arg-type]
        return self.rungs[one.trials], trial


def _halved(searches: Sequence[Found]) -> dict[str, Found]:
    """The trials of the searches that stop some, with their search."""
    return {trial: one for one in searches if one.search.scheduler == "asha" for trial in one.trials}


_NO_CONTROLLER: Any = None
"""ASHA asks none."""


def _grace(search: Search) -> int:
    """Steps up to the first rung."""
    return max(1, round(search.grace * search.cell.protocol.steps))


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
                if trial.status == Trial.ERROR:
                    self.grid.lost(trial.trial_id, _error_of(trial))
                else:
                    self.grid.completed(trial.trial_id)
        if time.monotonic() - self.looked > SHOWN_EVERY:
            if _for_all(self.grid.workplace).exists():
                raise Stopped(signal.SIGTERM)
            for job in self.grid.running.values():
                if live := self.grid.folder.cell(job.id).live():
                    self.grid.display.stepped(job, live)
            self.looked = time.monotonic()


def _error_of(trial: Trial) -> Exception | None:
    """What Ray raised; Tune's own way to it looks where only its restore would have put it."""
    path = trial.pickled_error_file
    return cloudpickle.loads(Path(path).read_bytes()) if path and Path(path).exists() else None


def _fit(grid: Grid, memory: float, halving: Halving) -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)
    # All that are ready ask for their place at once: an autoscaler sees what is wanted.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(min(len(grid.waiting), 200))
    placement = grid.workplace.placement
    # Where a cell has workers of its own, it is they who take the room; Tune wants some resource, if a byte.
    resources: dict[str, float] = need(placement, memory) if placement.alone else {"memory": 1}
    with tempfile.TemporaryDirectory(prefix="ablate-ray-") as scratch:
        tune.Tuner(
            tune.with_resources(CellTrial, resources),
            tune_config=tune.TuneConfig(
                search_alg=grid,
                scheduler=halving if halving.searches else None,
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=scratch,
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


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _job_to_plain(job: Job) -> dict[str, Any]:
    return vars(job) | {"cell": to_plain(job.cell)}


def _job_from_plain(plain: dict[str, Any]) -> Job:
    return Job(**plain | {"cell": from_plain(Cell, plain["cell"])})


def _workplace_from_plain(plain: dict[str, Any]) -> Workplace:
    return dataclasses.replace(Workplace(**plain), placement=Placement(**plain["placement"]))
