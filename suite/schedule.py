"""Runs the missing cells of a study: through Ray Tune, or one after another. The only importer of ray.

Ray gets the missing cells as one fresh experiment per wave (starts before the cells that need them). It
restarts workers that die; what goes wrong in code or data is recorded by ``run_cell`` and is not retried.
The records are the only truth: Ray's own files are written beside them and removed.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Ray reads these when it is imported. Ctrl-C ends the launch at once: its cells continue from their
# checkpoints next time, and Tune's own state is never used.
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import psutil
import ray
import torch
from ray import tune

from suite.config import Cell, Placement, from_plain, to_plain
from suite.errors import UserError
from suite.plan import Job, Workplace
from suite.progress import Display
from suite.pulse import Progress
from suite.records import StudyFolder
from suite.running import run_cell

RETRIES = 3
"""How often a cell starts again after its worker or node died."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Where Ray runs: an existing cluster, or one on this machine."""

    address: str | None = None
    cpus: int | None = None
    """Slots on this machine; by default its cores."""
    gpus: int | None = None
    """GPUs of this machine; by default those that Ray finds."""


def waves(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs in groups that may run side by side: each after the group that holds its start."""
    waiting, groups = list(jobs), []
    while waiting:
        ids = {job.id for job in waiting}
        ready = [job for job in waiting if job.start not in ids]
        waiting = [job for job in waiting if job.start in ids]
        groups.append(ready)
    return groups


def run_alone(jobs: Sequence[Job], workplace: Workplace, finished: int) -> None:
    """One cell after another in this process. Raises UserError for a GPU where there is none."""
    here = {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}
    workplace = _placed(workplace, [here])
    check_room(workplace.placement, [here])
    with Display(jobs, finished, slots=1) as display:
        for job in (job for wave in waves(jobs) for job in wave):
            display.started(job)
            run_cell(job, workplace, lambda progress, job=job: display.evaluated(job, progress))
            display.ended(job, StudyFolder(workplace.study).cell(job.id).state)


def run_with_ray(jobs: Sequence[Job], workplace: Workplace, finished: int, cluster: Cluster) -> None:
    """As many cells side by side as the cluster has room for.

    Raises UserError before anything starts where no node can hold a cell.
    """
    with _ray(cluster) as nodes:
        workplace = _placed(workplace, nodes)
        slots = check_room(workplace.placement, nodes)
        with Display(jobs, finished, slots) as display:
            for wave in waves(jobs):
                _fit(wave, workplace, display)


def _placed(workplace: Workplace, nodes: Sequence[dict[str, float]]) -> Workplace:
    """With GPUs per cell decided: one where any node has one and the user did not say."""
    if workplace.placement.gpus is not None:
        return workplace
    gpus = 1.0 if any(node.get("GPU", 0) for node in nodes) else 0.0
    return dataclasses.replace(workplace, placement=dataclasses.replace(workplace.placement, gpus=gpus))


def check_room(placement: Placement, nodes: Sequence[dict[str, float]]) -> int:
    """How many cells run side by side; UserError where no node can hold one."""
    slots = 0
    for node in nodes:
        room = int(node.get("CPU", 0) // placement.threads)
        if placement.gpus:
            gpus = node.get("GPU", 0)
            # A fraction has to fit on one GPU: three cells of 0.3, not three and a third.
            fitting = gpus * int(1 / placement.gpus) if placement.gpus <= 1 else gpus // placement.gpus
            room = min(room, int(fitting))
        slots += room
    if slots == 0:
        most = " and ".join(
            f"{max((node.get(kind, 0) for node in nodes), default=0):g} {kind}s" for kind in ("CPU", "GPU")
        )
        raise UserError(
            f"A cell needs {placement.threads} CPUs and {placement.gpus:g} GPUs on one node; the largest node "
            f"has {most}. Lower --threads or --gpus-per-cell, or start a node that has them."
        )
    return slots


@contextmanager
def _ray(cluster: Cluster) -> Iterator[list[dict[str, float]]]:
    """Ray, quiet; yields the resources of each live node. Nothing that it started is left behind."""
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
        yield [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()


def _knock(address: str | None) -> None:
    """Raises OSError where nothing listens at host:port; Ray itself would wait there for ever."""
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _fit(jobs: Sequence[Job], workplace: Workplace, display: Display) -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)
    scratch = _scratch(Path(workplace.study))
    placement = workplace.placement
    try:
        tune.Tuner(
            tune.with_resources(_trial, {"CPU": placement.threads, "GPU": placement.gpus or 0}),
            param_space={
                "job": tune.grid_search([_job_to_plain(job) for job in jobs]),
                "workplace": dataclasses.asdict(workplace),
            },
            tune_config=tune.TuneConfig(reuse_actors=True, trial_dirname_creator=lambda trial: trial.trial_id),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=str(scratch),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                callbacks=[_Follow(display, jobs, StudyFolder(workplace.study))],
            ),
        ).fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _scratch(study: Path) -> Path:
    """Where Tune writes what nobody reads; what killed drivers of this machine left is removed."""
    for left in study.glob(f".ray-{socket.gethostname()}-*"):
        if not psutil.pid_exists(int(left.name.rpartition("-")[2])):
            shutil.rmtree(left, ignore_errors=True)
    return study / f".ray-{socket.gethostname()}-{os.getpid()}"


def _trial(config: dict[str, Any]) -> None:
    """One cell in a Ray worker."""
    job, workplace = _job_from_plain(config["job"]), _workplace_from_plain(config["workplace"])
    run_cell(job, workplace, lambda progress: tune.report(dataclasses.asdict(progress)))


class _Follow(tune.Callback):
    """Shows what the trials do."""

    def __init__(self, display: Display, jobs: Sequence[Job], folder: StudyFolder) -> None:
        self.display, self.folder = display, folder
        self.jobs = {job.id: job for job in jobs}

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for a restore that we never ask for.
        return {}

    def on_trial_start(self, iteration, trials, trial, **info):
        self.display.started(self._job(trial))

    def on_trial_result(self, iteration, trials, trial, result, **info):
        names = [field.name for field in dataclasses.fields(Progress)]
        if all(name in result for name in names):
            self.display.evaluated(self._job(trial), Progress(**{name: result[name] for name in names}))

    def on_trial_complete(self, iteration, trials, trial, **info):
        self._ended(trial)

    def on_trial_error(self, iteration, trials, trial, **info):
        self._ended(trial)

    def _ended(self, trial):
        job = self._job(trial)
        self.display.ended(job, self.folder.cell(job.id).state)

    def _job(self, trial) -> Job:
        return self.jobs[trial.config["job"]["id"]]


def _job_to_plain(job: Job) -> dict[str, Any]:
    return vars(job) | {"cell": to_plain(job.cell)}


def _job_from_plain(plain: dict[str, Any]) -> Job:
    return Job(**plain | {"cell": from_plain(Cell, plain["cell"])})


def _workplace_from_plain(plain: dict[str, Any]) -> Workplace:
    return dataclasses.replace(Workplace(**plain), placement=Placement(**plain["placement"]))
