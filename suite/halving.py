"""Tune's ASHA as a search of a study asks for it (suite.search)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from suite.config import Search
from suite.grid import Grid
from suite.search import Found, scheduler_plain

_NO_CONTROLLER: Any = None
"""ASHA asks none."""


class Halving(FIFOScheduler):
    """Tune's ASHA for the trials of each search that asks for it; all other cells go on whatever they report.

    A trial is known to it by its cell, which a later launch or another worker may continue. What trials of earlier
    launches recorded counts for the rungs, and stops none of them.
    """

    def __init__(self, grid: Grid, searches: Sequence[Found]) -> None:
        super().__init__()
        self.grid = grid
        self.searches = halved(searches)
        self.rungs: dict[tuple[str, ...], ASHAScheduler] = {}
        """By the search's trials."""
        self.known: set[str] = set()
        for trial in self.searches:
            for line in grid.folder.cell(trial).lines("metrics"):
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


def halved(searches: Sequence[Found]) -> dict[str, Found]:
    """The trials of the searches that stop some, with their search."""
    return {trial: one for one in searches if one.search.scheduler == "asha" for trial in one.trials}


def _grace(search: Search) -> int:
    """Steps up to the first rung."""
    return max(1, round(search.grace * search.cell.protocol.steps))
