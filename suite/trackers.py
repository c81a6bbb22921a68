"""``ablate run --log``: what a launch records, told to TensorBoard, MLflow or Weights & Biases too.

The records stay the only truth. The driver reads them and tells the trackers, in a thread for each: it is the same
wherever cells run, and what takes long or fails there holds up no cell. How far a tracker has been told is kept in
the cell's folder, so that it hears of no evaluation twice where a cell resumes, and of none too few. A cell that
begins again, because the engine has changed, is told again.
"""

from __future__ import annotations

import importlib
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from suite.errors import UserError
from suite.plan import Job
from suite.records import State, StudyFolder, depth_text
from suite.terminal import say

LAST_WORDS = 30.0
"""Seconds that the end of a launch waits for a tracker to take what it was told."""


class Tracker(Protocol):
    """A tool that is told about cells. What its methods raise is said once, and ends it for the launch."""

    def started(self, job: Job) -> None:
        """The cell begins, or goes on."""
        ...

    def evaluated(self, job: Job, step: int, metrics: Mapping[str, float]) -> None:
        """One evaluation, of ascending ``step``."""
        ...

    def ended(self, job: Job, state: State, result: Mapping[str, float]) -> None:
        """``result`` has numbers where the cell is finished."""
        ...

    def close(self) -> None:
        """The launch ends; cells that have not ended may go on in another."""
        ...


class TensorBoard:
    """Writes to ``tensorboard/<cell id>`` in the study's folder."""

    def __init__(self, study: Path) -> None:
        self.make = _optional("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self.folder, self.writers = study / "tensorboard", {}

    def started(self, job: Job) -> None:
        if job.id in self.writers:
            return
        new = not (self.folder / job.id).exists()
        self.writers[job.id] = self.make(str(self.folder / job.id))
        if new:
            table = "".join(f"| {name} | {value} |\n" for name, value in parameters(job).items())
            self.writers[job.id].add_text("cell", f"| | |\n|---|---|\n{table}", 0)

    def evaluated(self, job: Job, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.writers[job.id].add_scalar(name, value, step)
        self.writers[job.id].flush()

    def ended(self, job: Job, state: State, result: Mapping[str, float]) -> None:
        writer = self.writers.pop(job.id)
        for name, value in result.items():
            writer.add_scalar(f"result/{name}", value, job.cell.protocol.steps)
        writer.close()

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()


class MLflow:
    """An experiment for the study, a run for each cell, at MLflow's own tracking URI."""

    ENDED: Mapping[str, str] = {"finished": "FINISHED", "failed": "FAILED"}

    def __init__(self, study: Path) -> None:
        self.mlflow, self.study = _optional("mlflow", "mlflow"), study.name
        self.entities = _optional("mlflow.entities", "mlflow")
        self.client: Any = None
        self.runs: dict[str, str] = {}

    def started(self, job: Job) -> None:
        if job.id in self.runs:
            return
        # Not before: this may ask a server.
        self.client = self.client or self.mlflow.MlflowClient()
        experiment = self.client.get_experiment_by_name(self.study)
        number = experiment.experiment_id if experiment else self.client.create_experiment(self.study)
        found = self.client.search_runs([number], f"attributes.run_name = '{job.id}'", max_results=1)
        if found:
            self.runs[job.id] = found[0].info.run_id
            self.client.update_run(self.runs[job.id], status="RUNNING")
            return
        self.runs[job.id] = self.client.create_run(number, run_name=job.id).info.run_id
        known = [self.entities.Param(name, str(value)) for name, value in parameters(job).items()]
        self.client.log_batch(self.runs[job.id], params=known)

    def evaluated(self, job: Job, step: int, metrics: Mapping[str, float]) -> None:
        now = round(1000 * time.time())
        told = [self.entities.Metric(name, value, now, step) for name, value in metrics.items()]
        self.client.log_batch(self.runs[job.id], metrics=told)

    def ended(self, job: Job, state: State, result: Mapping[str, float]) -> None:
        self.evaluated(job, job.cell.protocol.steps, {f"result/{name}": value for name, value in result.items()})
        self.client.set_terminated(self.runs.pop(job.id), self.ENDED.get(state, "KILLED"))

    def close(self) -> None:
        for run in self.runs.values():
            self.client.set_terminated(run, "KILLED")


class WeightsAndBiases:
    """A project for the study, a run for each cell; ``WANDB_MODE=offline`` keeps them in the study's folder."""

    def __init__(self, study: Path) -> None:
        self.wandb, self.study = _optional("wandb", "wandb"), study
        self.runs: dict[str, Any] = {}

    def started(self, job: Job) -> None:
        if job.id in self.runs:
            return
        self.runs[job.id] = self.wandb.init(
            project=self.study.name,
            id=job.id,
            name=job.id,
            config=parameters(job),
            dir=str(self.study),
            resume="allow",
            reinit="create_new",
            settings=self.wandb.Settings(console="off", silent=True),
        )

    def evaluated(self, job: Job, step: int, metrics: Mapping[str, float]) -> None:
        self.runs[job.id].log(dict(metrics), step=step)

    def ended(self, job: Job, state: State, result: Mapping[str, float]) -> None:
        run = self.runs.pop(job.id)
        run.summary.update({"state": state} | {f"result/{name}": value for name, value in result.items()})
        run.finish(exit_code=0 if state in ("finished", "stopped") else 1)

    def close(self) -> None:
        for run in self.runs.values():
            run.finish(exit_code=1)


TRACKERS: Mapping[str, Callable[[Path], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
}


def parameters(job: Job) -> dict[str, Any]:
    """What tells a cell from the others of its study."""
    cell = job.cell
    own = {"variant": cell.variant, "layers": depth_text(cell.layers, cell.keep), "seed": cell.seed}
    return {**own, "role": job.role, "dataset": cell.dataset, **cell.arguments}


def _optional(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"--log {extra} needs a package that is not installed: {error}. Install the extra: "
            f"pip install '.[{extra}]', or leave --log {extra} out."
        ) from None


class Follower:
    """Tells one tracker what the display is told."""

    def __init__(self, name: str, tracker: Tracker, folder: StudyFolder) -> None:
        self.name, self.tracker, self.folder = name, tracker, folder
        # While a cell runs in this process, what is printed goes to its log.
        self.terminal = sys.stderr
        self.told: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._tell, name=name, daemon=True)
        self.thread.start()

    def started(self, job: Job) -> None:
        self.told.put(lambda: self.tracker.started(job))

    def evaluated(self, job: Job) -> None:
        self.told.put(lambda: self._catch_up(job))

    def ended(self, job: Job, state: State) -> None:
        self.told.put(lambda: self._ended(job, state))

    def close(self) -> None:
        """Returns once the tracker knows all, or does not take it."""
        self.told.put(None)
        self.thread.join(LAST_WORDS)
        if self.thread.is_alive():
            self._say(f"did not take all it was told within {LAST_WORDS:.0f} s; the records have it.")

    def _tell(self) -> None:
        try:
            while (tell := self.told.get()) is not None:
                tell()
            self.tracker.close()
        except Exception as error:
            self._say(
                f"is told nothing more: {type(error).__name__}: {error}. The cells go on, and the next launch "
                "tells it what it missed of those that are left."
            )

    def _say(self, text: str) -> None:
        say(f"{self.name} {text}", to=self.terminal)

    def _catch_up(self, job: Job) -> None:
        record = self.folder.cell(job.id)
        last = record.told(self.name)
        for line in record.lines("metrics"):
            if line["step"] > last:
                numbers = {name: value for name, value in line.items() if name != "step" and value is not None}
                self.tracker.evaluated(job, line["step"], numbers)
                record.write_told(self.name, line["step"])

    def _ended(self, job: Job, state: State) -> None:
        self._catch_up(job)
        result = self.folder.cell(job.id).result() or {}
        numbers = {name: float(result[name]) for name in ("macs", "macs_reference", "parameters") if name in result}
        for split, accuracy in result.get("accuracy", {}).items():
            numbers[f"accuracy/{split}"] = float(accuracy)
        self.tracker.ended(job, state, numbers)


@contextmanager
def following(names: Sequence[str], folder: StudyFolder) -> Iterator[list[Follower]]:
    """Followers of the named trackers around a launch. Raises UserError where a package is missing."""
    trackers = {name: TRACKERS[name](folder.path.resolve()) for name in dict.fromkeys(names)}
    with ExitStack() as stack:
        followers = [Follower(name, tracker, folder) for name, tracker in trackers.items()]
        for follower in followers:
            stack.callback(follower.close)
        yield followers
