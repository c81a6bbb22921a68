"""A Ray cluster of several nodes on this machine, each a raylet of its own, so that a test can take one away."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

MARK = "ABLATE_TEST_CLUSTER"
"""In the environment of everything that a cluster starts."""
TREE = Path(__file__).parent.parent
WORKER_PORTS = 60
"""Per node. Ray's workers take them in turn; one range per node, as the nodes share an address."""


@dataclass
class Node:
    """One raylet with all that it starts."""

    name: str
    folder: Path
    ports: range
    mark: str
    pids: set[int] = field(default_factory=set)
    """Its raylet."""


class LocalCluster:
    """A head without CPUs and ``nodes`` nodes of one CPU each; used as a context manager.

    ``stop()`` ends the processes that it started, and those that they started, by a mark in their environment.
    Never `ray stop`: that ends every Ray of the machine.
    """

    def __init__(self, nodes: int = 2, token: str | None = None) -> None:
        """Lets everybody in unless there is a ``token``."""
        self.token = token
        self.mark = uuid.uuid4().hex
        # Ray makes Unix sockets below: their paths may have some hundred characters, and pytest's folders are long.
        self.folder = Path(tempfile.mkdtemp(prefix="abl-", dir="/tmp"))
        self.nodes: list[Node] = []
        self._count = 0
        self._first_port = _free_range(20 * WORKER_PORTS)
        self.port = _free_port()
        self.address = f"127.0.0.1:{self.port}"
        try:
            self.head = self._start(
                "head",
                ["--head", f"--port={self.port}", "--num-cpus=0", "--num-gpus=0", "--include-dashboard=false"],
            )
            for _ in range(nodes):
                self.add_node()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def add_node(
        self, cpus: int = 1, gpus: int = 0, environment: Mapping[str, str] | None = None, before: Sequence[str] = ()
    ) -> Node:
        """One more node; GPUs need not exist. ``before`` is a command that runs what follows it, as `unshare`."""
        self._count += 1
        arguments = [f"--address={self.address}", f"--num-cpus={cpus}", f"--num-gpus={gpus}"]
        node = self._start(f"n{self._count}", arguments, environment or {}, before)
        self.nodes.append(node)
        return node

    def kill_node(self, node: Node) -> None:
        """kill -9 of its raylet: the node is gone without a word."""
        self.nodes.remove(node)
        for pid in node.pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()

    def is_alive(self, node: Node) -> bool:
        """Whether its raylet runs; one that has ended may be in the process table still."""
        return any(one.pid in node.pids for one in self.processes())

    def workers(self, node: Node | None = None) -> list[psutil.Process]:
        """The processes in which cells run now, of one node or of all."""
        wanted = {node.mark} if node else {one.mark for one in self.nodes}
        return [one for one in self.processes() if _mark_of(one) in wanted and _runs_cells(one)]

    def processes(self) -> list[psutil.Process]:
        """Everything alive that this cluster started, whatever became of its parents."""
        return [one for one in psutil.process_iter() if (_mark_of(one) or "").startswith(self.mark)]

    def stop(self) -> None:
        """Ends all of it."""
        deadline = time.monotonic() + 20
        # Again and again: one that is being started while its parent ends is found the next time.
        while (left := self.processes()) and time.monotonic() < deadline:
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=1)
        self.nodes.clear()
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not left, left

    def _start(
        self,
        name: str,
        arguments: list[str],
        environment: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
    ) -> Node:
        number = self._count
        first = self._first_port + number * WORKER_PORTS
        ports = range(first, first + WORKER_PORTS)
        # Ray finds the session of other nodes on this machine in its temporary folder: one for each.
        folder = self.folder / name
        folder.mkdir()
        node = Node(name, folder, ports, f"{self.mark}-{name}")
        everywhere = {
            MARK: node.mark,
            "PYTHONPATH": str(TREE),
            "PYTHONWARNINGS": "ignore",
            "RAY_AUTH_MODE": "token" if self.token else "disabled",
            "RAY_AUTH_TOKEN": self.token or "",
            # A node that is gone is missed after two seconds instead of half a minute.
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "2000",
            "RAY_health_check_failure_threshold": "2",
            "RAY_num_prestart_python_workers": "0",
        }
        script = Path(sys.executable).parent / "ray"
        command = [
            *before, sys.executable, str(script), "start", *arguments, "--disable-usage-stats",
            "--node-ip-address=127.0.0.1", f"--temp-dir={folder}", f"--min-worker-port={ports.start}",
            f"--max-worker-port={ports.stop - 1}", "--object-store-memory=80000000",
        ]  # fmt: skip
        whole = os.environ | everywhere | dict(environment or {})
        done = subprocess.run(command, env=whole, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise RuntimeError(f"Node {name} did not start:\n{done.stdout}\n{done.stderr}")
        node.pids = {one.pid for one in self.processes() if _mark_of(one) == node.mark and one.name() == "raylet"}
        assert node.pids, f"Node {name} has no raylet"
        return node


def edited_code(folder: Path) -> Path:
    """A copy of the code with an edit, in ``folder``: what a node has that was not brought to the same commit."""
    for package in ("suite", "ablations", "reports"):
        shutil.copytree(TREE / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "suite" / "training.py").open("a") as file:
        file.write("# edited\n")
    return folder


def _mark_of(process: psutil.Process) -> str | None:
    with contextlib.suppress(psutil.Error):
        if process.status() != psutil.STATUS_ZOMBIE:
            return process.environ().get(MARK)
    return None


def marked(name: str, value: str) -> list[psutil.Process]:
    """Every live process but this one that has ``value`` in its environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            alive = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            if alive and process.environ().get(name) == value:
                found.append(process)
    return found


def _runs_cells(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "CellTrial" in " ".join(process.cmdline())
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _free_range(length: int) -> int:
    """The first of ``length`` ports of which none is in use now, below those that the system gives out itself."""
    # By the process: two that ask at once look in different places.
    low, high = 12000, 32000
    first = low + os.getpid() * length % (high - low - length)
    for _ in range(50):
        if all(_is_free(port) for port in range(first, first + length, 7)):
            return first
        first = low + (first - low + length) % (high - low - length)
    raise RuntimeError(f"There are no {length} free ports in a row on this machine.")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
