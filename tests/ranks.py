"""One of several workers that train cells together, one cell after another: a script for tests/test_engine.py.

    python tests/ranks.py RANK WORKERS PORT TASKS.json

A task is a cell, its name, a placement and what happens to it. One that is for a single worker is rank 0's. The
loss of every step, as each rank has it, is left beside the record of the cell.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from suite import provenance
from suite.config import Cell, Placement, from_plain, to_plain
from suite.engine import build_engine
from suite.plan import Job, Workplace
from suite.pulse import Leave, Pulse, Wish
from suite.records import StudyFolder, read_lines
from suite.training import train_and_test


class LeavesAt(Pulse):
    """Is asked to leave at a step, unless it is nought."""

    at = 0
    step = 0

    def stepped(self, step: int, steps: int, questions_per_second: float) -> None:
        self.step = step

    @property
    def wish(self) -> Wish:
        return Wish.LEAVE if self.at and self.step == self.at else Wish.GO_ON


def run(task: dict[str, Any], rank: int) -> None:
    placement = Placement(gpus=0, **task["placement"])
    if placement.alone and rank:
        return
    cell = from_plain(Cell, task["cell"])
    record = StudyFolder(task["study"]).cell(task["id"])
    if rank == 0:
        record.write_config({"cell": to_plain(cell), "code": provenance.code()})
    pulse = LeavesAt(record)
    if rank == (placement.workers - 1):  # One that writes nothing: the others must hear of it.
        pulse.at = task["leave_at"]
    engine, losses = build_engine(placement), []
    summed = engine.summed

    def kept(value: torch.Tensor) -> torch.Tensor:
        total = summed(value)
        if not total.ndim:  # Else what a method counts over its batch.
            losses.append(total.item())
        return total

    engine.summed = kept
    workplace = Workplace(task["study"], task["data"], tuple(task["plugins"]), placement)
    began = time.perf_counter()
    with contextlib.suppress(Leave):
        train_and_test(Job(task["id"], cell, "row", None), workplace, record, pulse, engine)
    part = len(read_lines(record.path / "segments.jsonl"))
    (record.path / f"losses-{part}-{rank}.json").write_text(json.dumps(losses))
    print(task["id"], placement, round(time.perf_counter() - began, 2), flush=True)


def main() -> None:
    rank, workers, port, tasks = sys.argv[1:]
    os.environ |= {
        "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": workers, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
    }  # fmt: skip
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for task in json.loads(Path(tasks).read_text()):
        run(task, int(rank))
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
