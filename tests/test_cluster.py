"""Launches that are told to stop, drained, starved, doubled, or lose their workers end with the same records.

On a real cluster of several nodes on this machine where nodes matter, else on one node or without Ray.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest
from local_cluster import LocalCluster, edited_code, marked
from small_grid import cells, content, differences, left_over, nodes, run_command, write_small_data

from suite import provenance
from suite.records import read_lines

ROOT = Path(__file__).parent.parent
MARK = "ABLATE_TEST"
STEPS = 400

# A variant whose workers meet ``fate`` at the eighth call of one attention site, in training.
FATED = """
import os
import time
from dataclasses import dataclass
from pathlib import Path

from suite.attention import SoftmaxWeights, Variant
from suite.registry import register


class FatedWeights(SoftmaxWeights):
    calls = 0

    def attend(self, query, key, value, mask, positions):
        self.calls += self.training
        if self.calls == 8:
            {fate}
        return super().attend(query, key, value, mask, positions)


@register("fated")
@dataclass(frozen=True)
class Fated(Variant):
    def weights(self, site):
        return FatedWeights()
"""


class Place:
    """Data, and launches of the small grid, of which none leaves a process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark = folder, uuid.uuid4().hex
        self.data = write_small_data(folder)
        self.environment = os.environ | {MARK: self.mark, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}

    def start(
        self,
        runs: Path,
        *more: object,
        variants: str = "softmax,span",
        steps: int = STEPS,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen:
        command = run_command(
            runs, self.data, *more, variants=variants, steps=steps, evaluations=4, learning_rate=1e-2
        )
        return subprocess.Popen(
            command,
            cwd=self.folder,  # Ray has the workers import what lies in the driver's folder.
            env=environment or self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, runs: Path, *more: object, expect: int = 0, **settings: object) -> str:
        return ended(self.start(runs, *more, **settings), expect)  # pyright: ignore

    def strays(self) -> list[psutil.Process]:
        deadline = time.monotonic() + 30
        while (left := marked(MARK, self.mark)) and time.monotonic() < deadline:
            time.sleep(0.2)
        return left


def ended(process: subprocess.Popen, expect: int = 0) -> str:
    said, _ = process.communicate(timeout=200)
    assert process.returncode == expect, said
    assert "Traceback" not in said
    return said


def wait_until(true, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not true():
        if process.poll() is not None:
            raise AssertionError(f"the command ended too early:\n{process.communicate()[0]}")
        assert time.monotonic() < deadline
        time.sleep(0.05)


def trained(runs: Path) -> list[Path]:
    """The folders of the cells that run now and have been evaluated after a step."""
    return [
        cell
        for cell in {holder.parents[3] for holder in runs.glob("demo/*/lease/*/*/holder.json")}
        if not (cell / "result.json").exists() and any(line["step"] for line in read_lines(cell / "metrics.jsonl"))
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def expected(place: Place) -> Path:
    """The records of a run without Ray and without faults."""
    runs = place.folder / "expected"
    place.run(runs, "--no-ray")
    return runs / "demo"


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(2) as started:
        yield started


@pytest.fixture
def runs(tmp_path: Path, place: Place) -> Iterator[Path]:
    yield tmp_path / "runs"
    assert not place.strays()
    assert not left_over(tmp_path / "runs/demo")


def test_a_cluster_gives_the_records_that_one_process_gives(
    place: Place, expected: Path, cluster: LocalCluster, runs: Path
) -> None:
    place.run(runs, "--address", cluster.address, "--seeds=2", variants="span")
    assert len(nodes(runs / "demo")) == 2
    alone, found = cells(expected), cells(runs / "demo")
    both = alone.keys() & found.keys()
    assert len(both) == 2
    for name in both:
        assert content(found[name]) == content(alone[name])
    assert not cluster.workers()


def test_a_cell_whose_worker_is_told_to_leave_goes_on_elsewhere_and_drain_ends_the_launch(
    place: Place, expected: Path, cluster: LocalCluster, runs: Path
) -> None:
    process = place.start(runs, "--address", cluster.address)
    wait_until(lambda: trained(runs), process)
    (cell,) = trained(runs)
    (lease,) = cell.glob("lease/*/*/holder.json")
    os.kill(json.loads(lease.read_text())["pid"], signal.SIGTERM)
    wait_until(lambda: (cell / "faults.jsonl").exists(), process)
    (fault,) = read_lines(cell / "faults.jsonl")
    assert fault["kind"] == "left"
    assert fault["step"] > 0

    wait_until(lambda: trained(runs), process)
    drain = [sys.executable, "-m", "suite", "drain", "--all", "--runs", str(runs)]
    drained = subprocess.run(drain, env=place.environment, capture_output=True, text=True, timeout=120)
    assert drained.returncode == 0, drained.stderr
    assert "left: " in drained.stdout
    said = ended(process, 128 + signal.SIGTERM)
    assert "The same command continues" in said
    assert not place.strays()
    assert not cluster.workers()
    assert not list(runs.glob("demo/*/lease"))
    assert [path for path in runs.glob("demo/*/checkpoint") if path.is_dir()]
    place.run(runs, "--address", cluster.address)
    assert not differences(runs / "demo", expected)


@pytest.mark.long
def test_a_second_launch_waits_for_the_cells_of_the_first(
    place: Place, expected: Path, cluster: LocalCluster, runs: Path
) -> None:
    before = artifact_names(cluster)
    both = [place.start(runs, "--address", cluster.address) for _ in range(2)]
    for process in both:
        ended(process)
    assert not differences(runs / "demo", expected)
    for cell in cells(runs / "demo").values():
        assert len(read_lines(cell / "segments.jsonl")) == 1
    # By these names alone Ray tells launches apart that begin within one second.
    assert len(artifact_names(cluster) - before) == 2


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
def test_a_node_that_comes_later_with_other_code_trains_nothing(
    place: Place, tmp_path: Path, runs: Path, workers: int
) -> None:
    with LocalCluster(0) as cluster:
        first = cluster.add_node(cpus=workers)
        process = place.start(runs, "--address", cluster.address, "--workers", workers, steps=2 * STEPS)
        wait_until(lambda: list(runs.glob("demo/*/live.json")), process)
        code = tmp_path / "code"
        code.mkdir()
        cluster.add_node(cpus=workers, environment={"PYTHONPATH": str(edited_code(code))})
        if workers == 2:  # The process that waits for them runs elsewhere, with the driver's code.
            cluster.kill_node(first)
        said = ended(process, 2)
    assert "The launch ends: " in said
    assert "has another version of the suite: expected the engine" in said
    begun = [json.loads(config.read_text()) for config in runs.glob("demo/*/config.json")]
    assert {config["code"]["engine"] for config in begun} == {provenance.engine_digest()}
    assert not list(runs.glob("demo/*/failure.json"))
    assert not list(runs.glob("demo/.check-*"))


def artifact_names(cluster: LocalCluster) -> set[str]:
    """Of the folders in which Ray keeps what the launches write."""
    return {path.name for path in cluster.folder.glob("*/session_*/artifacts/*/*")}


@pytest.mark.long
@pytest.mark.parametrize(("how", "number"), [("--cpus=1", signal.SIGINT), ("--no-ray", signal.SIGTERM)])
def test_a_launch_that_is_told_to_stop_writes_checkpoints_first(
    place: Place, expected: Path, runs: Path, how: str, number: signal.Signals
) -> None:
    process = place.start(runs, how)
    wait_until(lambda: trained(runs), process)
    (cell,) = trained(runs)
    process.send_signal(number)
    ended(process, 128 + number)
    assert not place.strays()
    step = max(int(path.name[5:]) for path in cell.glob("checkpoint/step-*"))
    place.run(runs, "--no-ray")
    assert [line["step"] for line in read_lines(cell / "segments.jsonl")] == [0, step]
    assert not differences(runs / "demo", expected)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_launch_that_is_told_to_stop_while_ray_starts_leaves_nothing_of_it(
    place: Place, runs: Path, number: signal.Signals
) -> None:
    process = place.start(runs, "--cpus=1", variants="softmax")
    wait_until(lambda: "gcs_server" in {one.name() for one in marked(MARK, place.mark)}, process)
    process.send_signal(number)
    assert "ablate: stopped." in ended(process, 128 + number)
    assert not place.strays()


@pytest.mark.parametrize("how", [pytest.param("--cpus=1", marks=pytest.mark.long), "--no-ray"])
def test_a_terminal_that_is_closed_does_not_keep_the_cells_from_their_checkpoints(
    place: Place, runs: Path, how: str
) -> None:
    """The launch can no longer say what it does: every word to that terminal is an error."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *run_command(runs, place.data, how, variants="softmax", steps=STEPS)],
        env=place.environment, stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    os.set_blocking(ours, False)

    def begun() -> bool:
        with contextlib.suppress(BlockingIOError):
            while os.read(ours, 1 << 12):
                pass
        return bool(trained(runs))

    wait_until(begun, process)
    (cell,) = trained(runs)
    os.close(ours)
    assert process.wait(timeout=100) == 128 + signal.SIGHUP
    assert not place.strays()
    assert list(cell.glob("checkpoint/step-*"))
    assert not (cell / "result.json").exists()
    assert not left_over(runs / "demo")


GREEDY = """
from dataclasses import dataclass
from suite.attention import SoftmaxWeights, Variant
from suite.registry import register

class GreedyWeights(SoftmaxWeights):
    kept: list[bytes] = []

    def attend(self, query, key, value, mask, positions):
        self.calls = getattr(self, "calls", 0) + self.training
        if self.calls > 5:  # Before the first checkpoint.
            self.kept.append(b"x" * (1 << 28))
        return super().attend(query, key, value, mask, positions)

@register("greedy")
@dataclass(frozen=True)
class Greedy(Variant):
    def weights(self, site):
        return GreedyWeights()
"""
"""A method that takes more and more memory."""


@pytest.mark.long
def test_a_cell_that_takes_all_memory_fails_alone(place: Place, tmp_path: Path) -> None:
    """Ray ends a worker where its node runs low, and the others go on."""
    memory, left = psutil.virtual_memory(), 6 << 30  # What other tests take meanwhile must not count.
    if memory.available < 2 * left:
        pytest.skip("Needs 12 GiB of memory.")
    runs, plugin = tmp_path / "runs", tmp_path / "greedy.py"
    plugin.write_text(GREEDY)
    limit = {
        "RAY_memory_usage_threshold": str((memory.total - memory.available + left) / memory.total),
        "RAY_memory_monitor_refresh_ms": "50",
    }
    process = place.start(
        runs, "--cpus=1", "--plugin", plugin,
        variants="softmax,greedy", steps=40, environment=place.environment | limit,
    )  # fmt: skip
    said = ended(process, 1)
    assert "low on memory" in said, said
    failures = [json.loads(path.read_text()) for path in runs.glob("demo/*/failure.json")]
    assert [failure["kind"] for failure in failures] == ["out of memory"]
    assert "died 3 times" in failures[0]["message"]
    assert len(list(runs.glob("demo/softmax-*/result.json"))) == 2  # The start and the row.
    assert not place.strays()


@pytest.mark.long
def test_a_pipe_that_nobody_reads_does_not_end_the_launch(place: Place, expected: Path, runs: Path) -> None:
    """As of a `tee` or `less` that has ended."""
    process = place.start(runs, "--cpus=1")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=200) == 0
    assert not differences(runs / "demo", expected)


def test_nohup_is_heard(place: Place, runs: Path) -> None:
    process = subprocess.Popen(
        ["nohup", *run_command(runs, place.data, "--no-ray", variants="softmax", steps=40, evaluations=2)],
        env=place.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    wait_until(lambda: list(runs.glob("demo/*/config.json")), process)
    process.send_signal(signal.SIGHUP)
    ended(process)


@pytest.mark.long
def test_hung_and_dying_workers_leave_the_others_alone(place: Place, tmp_path: Path) -> None:
    """One that sleeps for ever, once, and one that dies always; in one launch, and both beside softmax."""
    runs, once = tmp_path / "runs", tmp_path / "once"
    sleeps = FATED.format(
        fate=f"if not Path({str(once)!r}).exists(): Path({str(once)!r}).touch(); time.sleep(9999)"
    )
    dies = FATED.format(fate="os._exit(1)").replace("fated", "dies").replace("Fated", "Dies")
    (tmp_path / "sleeps.py").write_text(sleeps)
    (tmp_path / "dies.py").write_text(dies)
    said = place.run(
        runs, "--cpus=2", "--hung-after=0.15", "--plugin", tmp_path / "sleeps.py", "--plugin", tmp_path / "dies.py",
        variants="softmax,fated,dies", steps=40, expect=1,
    )  # fmt: skip
    assert once.exists()
    states = cells(runs / "demo")
    (fated,) = (cell for name, cell in states.items() if name.startswith("fated"))
    assert (fated / "result.json").exists()
    assert len(read_lines(fated / "faults.jsonl")) == 1
    log = (fated / "log.txt").read_text()
    assert "Timeout (0:00:09)!" in log
    assert "in attend" in log
    (dead,) = (cell for name, cell in states.items() if name.startswith("dies"))
    failure = json.loads((dead / "failure.json").read_text())
    assert failure["kind"] == "infrastructure"
    faults = read_lines(dead / "faults.jsonl")
    assert [(fault["kind"], fault["step"]) for fault in faults] == [("worker died", 0)] * 3
    assert "died 3 times" in said
    assert "1 of 4 cells did not finish" in said
    assert sum((cell / "result.json").exists() for cell in states.values()) == 3
    assert not place.strays()


@pytest.mark.long
def test_a_disk_that_is_full_for_a_while_is_waited_for(place: Place, expected: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        process = place.start(disk, "--no-ray")
        wait_until(lambda: trained(disk), process)
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 12))
        time.sleep(6)
        filler.unlink()
        assert "waits for its run folder" in ended(process)
        assert not differences(disk / "demo", expected)
        assert not left_over(disk / "demo")
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
