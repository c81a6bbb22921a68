"""How many cells run side by side on given nodes. Imports neither torch nor ray."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from suite.config import Placement
from suite.errors import UserError


@dataclass(frozen=True)
class Node:
    """A machine, or what of it Ray may use."""

    id: str
    name: str
    """As ``node_name`` gives it."""
    cpus: float
    gpus: float
    memory: float | None = None
    """Bytes that Ray gives out; None where it is not known."""


def cores() -> int:
    """Cores of this machine that this process may use: taskset, Slurm and containers give it some of them."""
    # os.sched_getaffinity is Linux's.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(allowed, _quota(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")))))


def _quota(root: Path, groups: Path) -> float:
    """Cores' worth of time that this process's control groups, of either version, give it; infinite where they
    say nothing."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return math.inf
    least = math.inf
    for line in lines:
        _, _, named = line.partition(":")
        controllers, _, path = named.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "cpu" if controllers else root
        # Its own group and those around it; in a container the outermost one may be the root of what is mounted.
        inner = base / path.lstrip("/")
        for group in (inner, *inner.parents):
            if group.is_relative_to(base):
                least = min(least, _quota_of(group))
    return least


def _quota_of(group: Path) -> float:
    for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((group / file).read_text().strip() for file in files).split()
            return int(quota) / int(period) if quota != "max" and int(quota) > 0 else math.inf
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return math.inf


def node_name(host: str, node: str) -> str:
    """What a person looks a node up by: its host, and the head of Ray's id of it."""
    return f"{host} ({node[:6]})"


def placed(placement: Placement, nodes: Sequence[Node]) -> Placement:
    """With GPUs decided: one where any node has one and the user did not say."""
    if placement.gpus is not None:
        return placement
    return replace(placement, gpus=1.0 if any(node.gpus for node in nodes) else 0.0)


def need(placement: Placement, memory: float = 0.0) -> dict[str, float]:
    """What one worker of a cell takes of its node, in Ray's words; ``memory`` in bytes."""
    needed: dict[str, float] = {"CPU": placement.threads, "GPU": placement.gpus or 0.0}
    return needed | ({"memory": memory} if memory else {})


def room_on(node: Node, needed: dict[str, float]) -> int:
    """Workers of that need that fit on the node."""
    room = node.cpus // needed["CPU"]
    if gpus := needed["GPU"]:
        # A fraction has to fit on one GPU: three cells of 0.3, not three and a third.
        room = min(room, node.gpus * int(1 / gpus) if gpus <= 1 else node.gpus // gpus)
    if node.memory is not None and "memory" in needed:
        room = min(room, node.memory // needed["memory"])
    return int(room)


def shortage(placement: Placement, nodes: Sequence[Node], memory: float = 0.0) -> str | None:
    """What a cell needs and what there is instead; None where there is room for one."""
    needed = need(placement, memory)
    slots = sum(room_on(node, needed) for node in nodes)
    if slots == 0:
        # Of one node: the most of each kind over several would say that there is room.
        largest = max(nodes, key=lambda node: (node.gpus, node.cpus, node.memory or 0), default=None)
        has = f"the largest node has {_text(_has(largest, needed))}" if largest else "there is no node"
        return f"A cell needs {_text(needed)} on one node; {has}"
    if slots < placement.workers:
        return f"A cell needs {placement.workers} workers of {_text(needed)} each; all nodes have room for {slots}"
    return None


def check_room(placement: Placement, nodes: Sequence[Node], memory: float = 0.0) -> int:
    """How many cells run side by side, their workers on any nodes; UserError where there is no room for one."""
    if lacking := shortage(placement, nodes, memory):
        raise UserError(
            f"{lacking}. Lower --threads, --gpus-per-cell or --workers, or start a node that has them (on a "
            "cluster --wait waits for it)."
        )
    needed = need(placement, memory)
    return sum(room_on(node, needed) for node in nodes) // placement.workers


def _has(node: Node, needed: dict[str, float]) -> dict[str, float]:
    # Of memory only where a cell needs so much that it may be what is lacking.
    memory = node.memory if node.memory is not None and needed.get("memory", 0.0) > 2**28 else 0.0
    return {"CPU": node.cpus, "GPU": node.gpus, "memory": memory}


def _text(amounts: dict[str, float]) -> str:
    parts = [f"{amounts['CPU']:g} CPUs", f"{amounts['GPU']:g} GPUs"]
    if amounts.get("memory", 0.0) > 2**28:  # Less decides nothing.
        parts.append(f"{amounts['memory'] / 2**30:.1f} GiB of memory")
    return ", ".join(parts[:-1]) + f" and {parts[-1]}"
