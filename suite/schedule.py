"""Runs the missing cells of a study: through Ray Tune, or one after another.

Connects to the cluster, looks whether a study can run there (suite.preflight), and ends it well when told to stop.
What the trials are is in suite.grid.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray reads it when it is imported.

import ray
import torch
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from suite import preflight
from suite.connect import joined, started
from suite.errors import UserError
from suite.grid import Grid, Refused, Stopped, fault_of, fit
from suite.halving import Halving, halved
from suite.lease import holder_of
from suite.plan import Job, Workplace
from suite.progress import Display
from suite.pulse import Leave, launch_marker
from suite.records import StudyFolder
from suite.room import Node, check_room, cores, need, node_name, placed, room_on, shortage
from suite.running import run_cell
from suite.search import Found
from suite.terminal import let_go, say
from suite.trackers import Follower

GRACE = 60.0
"""Seconds that a launch which is told to stop waits for its cells to write their checkpoints."""
ANSWER_WITHIN = 120.0
"""Seconds that a node has to answer whether it can run the study: packages are read from slow file systems."""
SAID_EVERY = 30.0
"""Seconds between two lines that say for what a launch waits."""


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
    if stopping := halved(searches).keys() & {job.id for job in jobs}:
        raise UserError(
            f"asha stops trials through Ray, and {len(stopping)} trials are to run under it. Leave --no-ray out, "
            'or give the search scheduler="random".'
        )
    here = Node("", socket.gethostname(), cores(), torch.cuda.device_count())
    workplace = _placed(workplace, [here])
    check_room(workplace.placement, [here])
    if not workplace.placement.alone:
        raise UserError(
            f"{workplace.placement.workers} workers with the engine {workplace.placement.engine} are Ray's to "
            "start: leave --no-ray out, or take one worker and the engine torch."
        )
    waiting = list(jobs)
    leaving, told = threading.Event(), []
    terminal = sys.stderr  # While a cell runs in this process, what is printed to sys.stderr goes to its log.

    def stop(number: int, frame: object) -> None:
        let_go()
        if told:
            raise Stopped(number)
        told.append(number)
        leaving.set()
        say("The cell writes its checkpoint and leaves; Ctrl-C again stops at once.", to=terminal)

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

    # Twice: Ray takes the signals for itself once it has started, and what it has begun until then must not stay.
    with _stopped_by_signals(), _ray(cluster), _stopped_by_signals():
        if cluster.wait:
            _wait_for_room(jobs, workplace)
        found = _survey(jobs, workplace, cluster)
        preflight.refuse(found.findings)
        workplace, slots = found.workplace, found.slots
        with (
            Display(jobs, finished, slots, followers) as display,
            _expecting(jobs, workplace, cluster) as workplace,
            _without_markers(workplace),
            _leaving(jobs, workplace),
        ):
            began = time.monotonic()
            grid = Grid(jobs, workplace, display, slots, more)
            fit(grid, found.memory, Halving(grid, searches) if halved(searches) else None)
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


@contextmanager
def _expecting(jobs: Sequence[Job], workplace: Workplace, cluster: Cluster) -> Iterator[Workplace]:
    """On a cluster, with what workers look for before they begin: some of its nodes come later than the launch."""
    if not cluster.address:
        yield dataclasses.replace(workplace, one_machine=True)
        return
    with preflight.expected_of(jobs, workplace) as expected:
        yield dataclasses.replace(workplace, expected=dataclasses.asdict(expected))


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
            except RayTaskError as error:
                found.append(
                    f"{node.name} cannot be checked: {fault_of(error).message}. Install the driver's version of "
                    "the suite there, with the same requirements.lock."
                )
                continue
            except RayError as error:
                found.append(
                    f"{node.name} was lost while it was asked: {fault_of(error).message}. See `ray status`, and "
                    "give the command again: it asks the nodes that are there."
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
                say(f"Waiting for room. {lacking}. Ctrl-C ends it.")
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
            name=node_name(node["NodeManagerHostname"], node["NodeID"]),
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
            memory=node["Resources"].get("memory"),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def _ray(cluster: Cluster) -> AbstractContextManager[None]:
    """Ray, quiet. Nothing that it started is left behind."""
    return joined(cluster.address) if cluster.address else started(cluster.cpus, cluster.gpus)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end what runs here as Ctrl-C does: it raises Stopped."""
    told = []

    def stop(number: int, frame: object) -> None:
        let_go()
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
    """Has the signals call ``stop``, but for those that whoever started the command had it ignore (nohup).

    Outside the main thread, as in a program that calls the command, they stay that program's.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _leaving(jobs: Sequence[Job], workplace: Workplace) -> Iterator[None]:
    """Has the running cells write checkpoints when the launch is told to stop, or ends for a UserError."""
    folder = StudyFolder(workplace.study)
    marker = launch_marker(Path(workplace.study), workplace.launch)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        running = [job for job in jobs if _runs_here(folder, job, workplace.launch)]
        if running:
            say(
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
        if isinstance(interrupt, Refused):
            raise interrupt.error from None
        raise


@contextmanager
def _without_markers(workplace: Workplace) -> Iterator[None]:
    """Removes afterwards what `ablate drain` asked of the launch."""
    folder = launch_marker(Path(workplace.study), workplace.launch).parent
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for left in folder.glob(f"{workplace.launch}@*"):
                left.unlink(missing_ok=True)
            folder.rmdir()


def _runs_here(folder: StudyFolder, job: Job, launch: str) -> bool:
    holder = holder_of(folder.cell(job.id).path)
    return holder is not None and holder.launch == launch
