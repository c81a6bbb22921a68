"""What ``ablate plan`` says: each cell with what it needs and how long it takes, and all of them together."""

from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from suite import preflight, provenance
from suite.errors import UserError
from suite.estimate import Device, Measured, makespan, steps_left
from suite.plan import Job, Workplace, describe
from suite.pulse import clock
from suite.records import StudyFolder
from suite.room import Node, check_room, cores, need, placed, room_on

if TYPE_CHECKING:
    from suite.schedule import Cluster

ENDED = ("finished", "stopped")
NOT_MEASURED = "no measured steps yet: run `ablate bench variants` or a few steps"


@dataclass(frozen=True)
class Forecast:
    """Plain values, as ``ablate plan --json`` prints them."""

    cells: list[dict[str, Any]]
    totals: dict[str, Any]
    nodes: list[dict[str, Any]]
    findings: list[str]
    """Why `ablate run` would refuse to start; none where it would run."""

    def summary(self) -> list[str]:
        """The totals, in sentences."""
        totals, hours = self.totals, "GPU" if self.totals["gpu_hours"] is not None else "CPU"
        known, missing = totals["missing"] - totals["unknown"], totals["missing"]
        if not missing:
            return ["Every cell is finished."]
        lines = [f"{missing} cells are missing; {totals['slots']} run side by side."]
        if known:
            least = "" if known == missing else f" for {known} of them"
            taken = totals["gpu_hours"] if hours == "GPU" else totals["cpu_hours"]
            on = f", {clock(totals['wall_seconds'])} on these slots" if totals["wall_seconds"] is not None else ""
            lines.append(f"About {taken:.2f} {hours}-hours{least}{on}.")
        if totals["unknown"]:
            lines.append(f"The time of {totals['unknown']} is unknown, {NOT_MEASURED}.")
        return lines


def forecast(
    jobs: Sequence[Job], folder: StudyFolder, workplace: Workplace, cluster: Cluster | None, here: Node, macs: bool
) -> Forecast:
    """Of the cells ``jobs`` on ``cluster``, or without one on the machine ``here``, as they are now.

    ``macs`` adds multiply-adds at the paper's size, which takes seconds for each shape of model. Raises UserError
    where no cluster answers.
    """
    states = {job.id: folder.cell(job.id).state for job in jobs}
    missing = [job for job in jobs if states[job.id] not in ENDED]
    answers: Mapping[str, Mapping[str, Any]]
    if cluster is not None:
        from suite import schedule  # Ray takes seconds to import.

        survey = schedule.survey(missing, workplace, cluster)
        workplace, nodes, answers = survey.workplace, survey.nodes, survey.answers
        slots, findings, memory = survey.slots, survey.findings, survey.memory
    else:
        nodes = [here]
        workplace = dataclasses.replace(workplace, placement=placed(workplace.placement, nodes))
        answers = {here.id: {"processor": provenance.processor(), "gpus": preflight.visible_gpu_names()}}
        slots, findings, memory = 0, [], preflight.memory_needed(missing, workplace)
        try:
            slots = check_room(workplace.placement, nodes, memory)
        except UserError as error:
            findings.append(str(error))
        findings += preflight.disk_faults(missing, workplace, slots)
    placement = workplace.placement
    devices = {Device.planned(placement, answer["processor"], answer["gpus"]) for answer in answers.values()}
    measured, counted = Measured(folder.path.parent), _macs(jobs) if macs else {}
    cells = []
    for job in jobs:
        left = measured.left(job.cell, steps_left(folder.cell(job.id), job.cell), devices)
        cells.append(
            {
                "id": job.id,
                "what": describe(job),
                "start": job.start,
                "steps": 0 if job.cell.keep else job.cell.protocol.steps,
                "state": states[job.id],
                "threads": placement.threads,
                "gpus": placement.gpus,
                **({"macs": counted[_shape(job)]} if macs else {}),
                "seconds": left.seconds,
                "estimate": left.source,
            }
        )
    needed = need(placement, memory)
    shown = [_node(node, answers.get(node.id), room_on(node, needed) // placement.workers) for node in nodes]
    return Forecast(cells, _totals(cells, slots, workplace), shown, findings)


def _node(node: Node, answer: Mapping[str, Any] | None, cells: int) -> dict[str, Any]:
    """``cells`` side by side on it; what it computes with is known where it answered."""
    device = ", ".join([answer["processor"], *answer["gpus"]]) if answer else None
    shown = {"node": node.name, "cpus": node.cpus, "gpus": node.gpus, "memory": node.memory}
    return shown | {"device": device, "cells": cells}


def here(cpus: int | None, gpus: int | None) -> Node:
    """This machine, with what of it the user gives. Raises UserError for more GPUs than this process may see."""
    preflight.check_gpus(gpus)
    found = len(preflight.visible_gpu_names()) if gpus is None else gpus
    return Node("", socket.gethostname(), cpus or cores(), found)


def _totals(cells: Sequence[Mapping[str, Any]], slots: int, workplace: Workplace) -> dict[str, Any]:
    placement = workplace.placement
    missing = [cell for cell in cells if cell["state"] not in ENDED]
    known = [cell for cell in missing if cell["seconds"] is not None]
    hours = sum(cell["seconds"] for cell in known) * placement.workers / 3600
    durations, starts = ({cell["id"]: cell[name] for cell in missing} for name in ("seconds", "start"))
    whole = slots > 0 and len(known) == len(missing)
    return {
        "missing": len(missing),
        "unknown": len(missing) - len(known),
        "slots": slots,
        "gpu_hours": hours * placement.gpus if placement.gpus else None,
        "cpu_hours": hours * placement.threads,
        "wall_seconds": makespan(durations, starts, slots) if whole else None,
    }


def _macs(jobs: Sequence[Job]) -> dict[str, int]:
    """Multiply-adds of an answer at the paper's size by shape, of which many cells have one."""
    from suite import flops

    cells = {_shape(job): job.cell for job in jobs}
    return {shape: row["answer"] for shape, row in zip(cells, flops.at_paper_size(cells.values()), strict=True)}


def _shape(job: Job) -> str:
    cell = job.cell
    return json.dumps([cell.variant, dict(cell.arguments), cell.layers, cell.keep])


def shown_cells(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For a table: times and counts as a person reads them."""
    shown = []
    for cell in cells:
        row = {name: value for name, value in cell.items() if name not in ("seconds", "estimate", "macs")}
        if "macs" in cell:
            row["MACs"] = None if cell["macs"] is None else f"{cell['macs'] / 1e9:.3f} G"
        seconds = cell["seconds"]
        if cell["state"] in ENDED:
            row["time"] = None
        elif seconds is None:
            row["time"] = "unknown"
        else:
            row["time"] = clock(seconds) + (" (by other methods)" if cell["estimate"] == "other methods" else "")
        shown.append(row)
    return shown


def shown_nodes(nodes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For a table."""
    return [
        dict(node)
        | {
            "cpus": f"{node['cpus']:g}",
            "gpus": f"{node['gpus']:g}",
            "memory": None if node["memory"] is None else f"{node['memory'] / 2**30:.1f} GiB",
        }
        for node in nodes
    ]
