"""Runs a small grid on a cluster of this machine again and again, while workers, nodes, drivers and disks fail.

    python tests/chaos.py --runs 50 --seed 0 [--folder F] [--faults worker,node,driver,disk]

Each run has one to three faults at random moments; ``--seed`` fixes which and when. Afterwards the command must
have ended well, with the records and the tables of a run without faults, and nothing may be left. Exit code 1 on
any difference. Filling the disk needs root, for a small file system of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from local_cluster import LocalCluster, marked  # noqa: E402
from small_grid import differences, left_over, nodes, run_command, write_small_data  # noqa: E402

from suite import cli  # noqa: E402

KINDS = ("worker", "node", "driver", "disk")
NODES = 2
STEPS, EVALUATIONS = 400, 8
"""Cells of some seconds: a node that joins in the place of a lost one finds some left to run."""
SPAN = 20.0
"""Seconds after the first checkpoint within which faults come; about what the grid takes."""
FULL = 4.0
"""Seconds that the disk is full."""
PATIENCE = 240.0
"""Seconds that a run may take."""
MARK = "ABLATE_TEST"


@dataclass
class Fault:
    kind: str
    after: float
    """Seconds after the first checkpoint, at the earliest."""


@dataclass
class Outcome:
    """What one run showed."""

    faults: list[str] = field(default_factory=list)
    """Those that hit."""
    launches: int = 0
    nodes: int = 0
    """On which cells ran."""
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    log: str = ""


class Disk:
    """A small file system at ``folder``, where that is allowed; else the folder alone, which cannot be filled."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder]
        self.mounted = subprocess.run(mount, capture_output=True).returncode == 0

    def fill(self) -> None:
        with contextlib.suppress(OSError), (self.folder / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 12))

    def free(self) -> None:
        (self.folder / "filler").unlink(missing_ok=True)

    def clear(self) -> None:
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def remove(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", self.folder], check=True)


class Chaos:
    """The place of all runs: data, a disk for the records, a cluster, and the records of a run without faults."""

    def __init__(self, folder: Path, kinds: Sequence[str]) -> None:
        self.folder, self.mark = folder, uuid.uuid4().hex
        self.data = folder / "data"
        self.data.mkdir(parents=True)
        write_small_data(self.data)
        self.disk = Disk(folder / "disk")
        self.kinds = [kind for kind in kinds if kind != "disk" or self.disk.mounted]
        self.expected = folder / "expected"
        subprocess.run(
            self._command(self.expected, "--no-ray"), env=self._environment(), capture_output=True, check=True
        )
        self._report(self.expected)
        self.cluster = LocalCluster(NODES)

    def close(self) -> None:
        for process in marked(MARK, self.mark):
            process.kill()
        self.cluster.stop()
        self.disk.remove()

    def run(self, faults: Sequence[Fault], random_targets: random.Random) -> Outcome:
        self.disk.clear()
        self._restore_cluster()
        outcome, began = Outcome(), time.monotonic()
        runs = self.disk.folder
        study, waiting = runs / "demo", sorted(faults, key=lambda fault: fault.after)
        finished: dict[str, tuple[int, int, int]] = {}
        free_at = first = 0.0
        with (self.folder / "driver.txt").open("w+") as log:
            driver = self._launch(runs, log, outcome)
            while True:
                self._note(study, finished, outcome)
                now = time.monotonic()
                if not first and list(study.glob("*/checkpoint/step-*")):
                    first = now
                if free_at and now > free_at:
                    self.disk.free()
                    free_at = 0.0
                if driver.poll() is not None and not free_at:
                    if driver.returncode == 0 or outcome.launches > 4:
                        break
                    if driver.returncode not in (-9, 2):
                        outcome.wrong.append(f"the command ended with {driver.returncode}")
                        break
                    # What a user does: after a kill, or a disk that stayed full for longer than was waited for.
                    driver = self._launch(runs, log, outcome)
                elif (
                    (waiting and first and now - first > waiting[0].after and not free_at)
                    and self._strike(waiting[0].kind, driver, random_targets)
                ):  # fmt: skip
                    outcome.faults.append(waiting.pop(0).kind)
                    free_at = now + FULL if outcome.faults[-1] == "disk" else 0.0
                if now - began > PATIENCE:
                    outcome.wrong.append(f"not finished after {PATIENCE:.0f} s")
                    driver.kill()
                    break
                time.sleep(0.05)
            driver.wait()
            self.disk.free()
            log.seek(0)
            outcome.log = log.read()
        outcome.seconds = time.monotonic() - began
        if not outcome.wrong:
            self._check(study, finished, driver.returncode, outcome)
        return outcome

    def _strike(self, kind: str, driver: subprocess.Popen[bytes], random_targets: random.Random) -> bool:
        """Whether there was anything to hit."""
        workers = sorted(self.cluster.workers(), key=lambda worker: worker.pid)
        if driver.poll() is not None or not workers:
            return False
        if kind == "worker":
            random_targets.choice(workers).kill()
        elif kind == "node":
            busy = [node for node in self.cluster.nodes if self.cluster.workers(node)]
            if not busy:  # It has just ended.
                return False
            self.cluster.kill_node(random_targets.choice(busy))
            self.cluster.add_node()
        elif kind == "driver":
            driver.kill()
        else:
            self.disk.fill()
        return True

    def _note(self, study: Path, finished: dict[str, tuple[int, int, int]], outcome: Outcome) -> None:
        """A cell that is finished stays as it is, and is not begun again."""
        for result in study.glob("*/result.json"):
            with contextlib.suppress(FileNotFoundError):
                stat = result.stat()
                segments = len((result.parent / "segments.jsonl").read_text().splitlines())
                seen = (stat.st_ino, stat.st_mtime_ns, segments)
                if finished.setdefault(result.parent.name, seen) != seen:
                    outcome.wrong.append(f"{result.parent.name} ran again after it was finished")

    def _check(
        self, study: Path, finished: dict[str, tuple[int, int, int]], code: int | None, outcome: Outcome
    ) -> None:
        wrong = outcome.wrong
        if code:
            wrong.append(f"the command ended with {code}")
        self._note(study, finished, outcome)
        wrong += differences(study, self.expected / "demo")
        wrong += [f"left: {name}" for name in left_over(study)]
        outcome.nodes = len(nodes(study))
        if outcome.nodes < NODES:
            wrong.append(f"all cells ran on {outcome.nodes} node")
        self._report(study.parent)
        wrong += _unequal(study / "report", self.expected / "demo/report")
        deadline = time.monotonic() + 20
        while (left := [*marked(MARK, self.mark), *self.cluster.workers()]) and time.monotonic() < deadline:
            time.sleep(0.2)
        wrong += [f"stray process {process}" for process in left]

    def _restore_cluster(self) -> None:
        for node in list(self.cluster.nodes):
            if not self.cluster.is_alive(node):
                self.cluster.nodes.remove(node)
        while len(self.cluster.nodes) < NODES:
            self.cluster.add_node()

    def _launch(self, runs: Path, log: io.TextIOWrapper, outcome: Outcome) -> subprocess.Popen[bytes]:
        outcome.launches += 1
        command = self._command(runs, "--address", self.cluster.address)
        return subprocess.Popen(command, env=self._environment(), stdout=log, stderr=log)

    def _command(self, runs: Path, *more: str) -> list[str]:
        return run_command(
            runs, self.data, "--seeds=2", *more, steps=STEPS, evaluations=EVALUATIONS, learning_rate=1e-2
        )

    def _environment(self) -> dict[str, str]:
        # What a killed driver leaves of its temporary files goes with the rest.
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        return os.environ | {
            MARK: self.mark, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "RAY_AUTH_MODE": "disabled"
        }  # fmt: skip

    def _report(self, runs: Path) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            assert cli.main(["report", "--runs", str(runs), "--no-measured"]) == 0


def _unequal(one: Path, other: Path) -> list[str]:
    names = {path.relative_to(top) for top in (one, other) for path in top.rglob("*") if path.is_file()}
    return [
        f"report/{name}"
        for name in sorted(names)
        if not all((top / name).exists() for top in (one, other))
        or (one / name).read_bytes() != (other / name).read_bytes()
    ]


def plan(runs: int, seed: int, kinds: Sequence[str]) -> list[list[Fault]]:
    """The faults of each run; every kind comes once before any comes twice."""
    chosen, planned, next_kinds = random.Random(seed), [], []
    for _ in range(runs):
        faults = []
        for _ in range(chosen.randint(1, 3)):
            if not next_kinds:
                next_kinds = chosen.sample(kinds, len(kinds))
            faults.append(Fault(next_kinds.pop(), chosen.uniform(0, SPAN)))
        planned.append(faults)
    return planned


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--folder", type=Path, help="for everything that it writes; kept (default: a temporary one)"
    )
    parser.add_argument("--faults", default=",".join(KINDS), help=f"kinds of faults ({','.join(KINDS)})")
    arguments = parser.parse_args(argv)
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="ablate-chaos-"))
    folder = folder.resolve()
    # What was started is ended and unmounted, also where this script is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    began, wrong, fewest, hit = time.monotonic(), 0, NODES, Counter[str]()
    chaos = Chaos(folder / uuid.uuid4().hex[:8], arguments.faults.split(","))
    try:
        for number, faults in enumerate(plan(arguments.runs, arguments.seed, chaos.kinds), 1):
            outcome = chaos.run(faults, random.Random(arguments.seed * 10_000 + number))
            hit.update(outcome.faults)
            wrong += bool(outcome.wrong)
            fewest = min(fewest, outcome.nodes)
            said = "; ".join(outcome.wrong) or "as without faults"
            print(
                f"run {number}: {', '.join(outcome.faults) or 'no fault'}; {outcome.launches} launches, "
                f"{outcome.nodes} nodes, {outcome.seconds:.0f} s: {said}",
                flush=True,
            )
            if outcome.wrong:
                kept = folder / f"wrong-{arguments.seed}-{number}"
                shutil.copytree(chaos.disk.folder, kept, dirs_exist_ok=True)
                (kept / "driver.txt").write_text(outcome.log)
                print(f"  kept: {kept}", flush=True)
    finally:
        chaos.close()
        if not arguments.folder and not wrong:
            shutil.rmtree(folder, ignore_errors=True)
    kinds, seconds = ", ".join(f"{kind} {hit[kind]}" for kind in KINDS), time.monotonic() - began
    print(
        f"{arguments.runs} runs in {seconds:.0f} s, each on at least {fewest} nodes; {sum(hit.values())} faults "
        f"({kinds}); {wrong} runs wrong"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
