"""What is checked before a study starts: judged from answers, and asked of the nodes of a real cluster."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from suite import forecast, plan, preflight, room
from suite.config import Cell, ModelSize, Placement, Protocol, Study
from suite.data.generate import write_pretrained
from suite.errors import UserError
from suite.models.pretrained import identity
from suite.plan import Job, Workplace
from suite.preflight import disk_faults, expected_of, faults, look
from suite.room import Node, check_room, need, placed, shortage
from tests.local_cluster import TREE, LocalCluster, edited_code

CELL = Cell(
    "softmax", "easy_vqa", Protocol(steps=2, batch_size=4, evaluations=1), layers=(1, 1, 1), train=("train",),
    model=ModelSize(width=8, heads=2, intermediate=8),
)  # fmt: skip
BIG = 64 * 2**30


def jobs_of(data: Path, *cells: Cell) -> list[Job]:
    return plan.plan(Study("test", "?", cells or (CELL,)), data)


@pytest.fixture
def workplace(tmp_path: Path, data_folder: Path) -> Workplace:
    (tmp_path / "runs").mkdir()
    return Workplace(study=str(tmp_path / "runs"), data=str(data_folder))


# What an answer means


def judged(jobs: list[Job], workplace: Workplace, **changes: Any) -> list[str]:
    """Faults of this machine's own answer with ``changes``."""
    with expected_of(jobs, workplace) as expected:
        return faults(expected, look(dataclasses.asdict(expected)) | changes, "node one")


def test_the_driver_s_own_machine_has_all_that_it_expects(workplace: Workplace, data_folder: Path) -> None:
    assert judged(jobs_of(data_folder), workplace) == []
    assert list(Path(workplace.study).iterdir()) == []


def test_answers_are_plain_values(workplace: Workplace, data_folder: Path) -> None:
    with expected_of(jobs_of(data_folder), workplace) as expected:
        answer = look(json.loads(json.dumps(dataclasses.asdict(expected))))
    assert json.loads(json.dumps(answer)) == json.loads(json.dumps(answer))


@pytest.mark.parametrize("name", preflight.PACKAGES)
def test_another_version_of_what_computes_is_told(name: str, workplace: Workplace, data_folder: Path) -> None:
    with expected_of(jobs_of(data_folder), workplace) as expected:
        packages = dict(expected.packages)
    for version, shown in (("0.1", "0.1"), (None, "(not installed)")):
        (fault,) = judged(jobs_of(data_folder), workplace, packages=packages | {name: version})
        assert fault.startswith(f"node one has {name} {shown}, expected the driver's {packages[name]}. ")


def test_builds_of_one_version_agree(workplace: Workplace, data_folder: Path) -> None:
    with expected_of(jobs_of(data_folder), workplace) as expected:
        packages = dict(expected.packages)
    other = f"{str(packages['torch']).partition('+')[0]}+cu130"
    assert judged(jobs_of(data_folder), workplace, packages=packages | {"torch": other}) == []


def test_another_engine_is_told(workplace: Workplace, data_folder: Path) -> None:
    (fault,) = judged(jobs_of(data_folder), workplace, engine="0" * 16)
    assert fault.startswith("node one has another version of the suite: expected the engine ")
    assert "same commit" in fault


def test_a_folder_that_the_node_does_not_see_is_told(
    workplace: Workplace, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "PATIENCE", 0.0)
    with expected_of(jobs_of(data_folder), workplace) as expected:
        elsewhere = dataclasses.replace(expected, file=str(tmp_path / "elsewhere" / ".check"))
        answer = look(dataclasses.asdict(elsewhere))
        (fault,) = faults(expected, answer, "node one")
    assert f"node one does not share the run folder {workplace.study}" in fault
    assert "which the driver wrote; it is not there" in fault


def test_a_folder_of_the_node_s_own_is_told(
    workplace: Workplace, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy: it has what the driver wrote, and the driver does not see what the node writes."""
    monkeypatch.setattr(preflight, "PATIENCE", 0.0)
    (fault,) = judged(jobs_of(data_folder), workplace, folder=("node-that-is-not-there", None))
    assert "what it writes does not arrive at the driver" in fault


def test_data_that_is_missing_or_other_is_told(workplace: Workplace, data_folder: Path) -> None:
    jobs = jobs_of(data_folder)
    (fault,) = judged(jobs, workplace, datasets={"easy_vqa": ("0" * 64, None)})
    assert "has another data set easy_vqa" in fault
    with expected_of(jobs, workplace) as expected:
        answer = look(dataclasses.asdict(dataclasses.replace(expected, data="/nowhere")))
        (fault,) = faults(expected, answer, "node one")
    assert "node one cannot read the data set easy_vqa: /nowhere/easy_vqa does not exist" in fault


def test_weights_that_are_missing_or_other_are_told(
    workplace: Workplace, data_folder: Path, tmp_path: Path
) -> None:
    write_pretrained(tmp_path, seed=0, width=8, heads=2, intermediate=8, layers=(1, 1, 1))
    path = tmp_path / "model_LXRT.pth"
    jobs = jobs_of(data_folder, dataclasses.replace(CELL, pretrained=str(path)))
    assert judged(jobs, workplace) == []
    with expected_of(jobs, workplace) as expected:
        path.unlink()
        identity.cache_clear()
        (fault,) = faults(expected, look(dataclasses.asdict(expected)), "node one")
    assert f"node one lacks the planned weights {path}: There is no file or folder" in fault
    with expected_of(jobs, workplace) as expected:
        answer = look(dataclasses.asdict(dataclasses.replace(expected, pretrained={})))
        (fault,) = faults(expected, answer | {"pretrained": {str(path): ("1" * 64, None)}}, "node one")
    assert "received 111111111111. Give all nodes the same file." in fault


def test_a_plug_in_that_does_not_load_and_a_method_of_another_source_are_told(
    workplace: Workplace, data_folder: Path
) -> None:
    (fault,) = judged(jobs_of(data_folder), workplace, methods={"softmax": ("0" * 16, None)})
    assert "another source of the variant softmax" in fault
    reason = "plugin.py:1: No module named 'only_here'."
    (fault,) = judged(jobs_of(data_folder), workplace, plugins={"/runs/plugin.py": (None, reason)})
    assert f"node one cannot load the plug-in plugin.py: {reason}" in fault


def test_faults_stop_a_run_with_all_of_them() -> None:
    preflight.refuse([])
    with pytest.raises(UserError, match=r"^Nothing was started:\n  one\n  two$"):
        preflight.refuse(["one", "two"])


# Room


def test_a_disk_without_room_for_the_checkpoints_is_told(
    workplace: Workplace, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = jobs_of(data_folder, *(dataclasses.replace(CELL, seed=seed) for seed in range(9)))
    assert disk_faults(jobs, workplace, slots=2) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=9000))
    (fault,) = disk_faults(jobs, workplace, slots=2)
    assert "The checkpoints of 9 cells, 2 at a time, take about" in fault
    assert "0.0 GiB free" in fault


@pytest.mark.parametrize(
    ("gpus", "threads", "slots"), [(0.0, 1, 5), (0.0, 4, 1), (1.0, 1, 2), (0.5, 1, 4), (0.3, 1, 4), (2.0, 1, 1)]
)
def test_as_many_cells_run_as_fit_on_single_nodes(gpus: float, threads: int, slots: int) -> None:
    nodes = [Node("a", "a", cpus=4, gpus=2), Node("b", "b", cpus=1, gpus=0)]
    assert check_room(Placement(threads, gpus), nodes) == slots


def test_memory_that_ray_knows_of_bounds_the_cells_of_a_node() -> None:
    nodes = [Node("a", "a", cpus=4, gpus=0, memory=BIG), Node("b", "b", cpus=4, gpus=0)]
    assert check_room(Placement(gpus=0.0), nodes, memory=BIG / 2) == 2 + 4
    with pytest.raises(UserError, match=r"128\.0 GiB of memory on one node; the largest node has .* 64\.0 GiB"):
        check_room(Placement(gpus=0.0), nodes[:1], memory=2 * BIG)


def test_workers_of_a_cell_may_be_on_several_nodes() -> None:
    nodes = [Node(name, name, cpus=1, gpus=0) for name in "abc"]
    assert check_room(Placement(gpus=0.0, workers=3), nodes) == 1
    with pytest.raises(UserError, match="needs 4 workers of 1 CPUs and 0 GPUs each; all nodes have room for 3"):
        check_room(Placement(gpus=0.0, workers=4), nodes)


def test_what_is_lacking_is_of_one_node() -> None:
    nodes = [Node("a", "a", cpus=64, gpus=0), Node("b", "b", cpus=2, gpus=1)]
    assert shortage(Placement(4, 1.0), nodes) == (
        "A cell needs 4 CPUs and 1 GPUs on one node; the largest node has 2 CPUs and 1 GPUs"
    )
    assert shortage(Placement(gpus=0.0), []) == "A cell needs 1 CPUs and 0 GPUs on one node; there is no node"
    assert need(Placement(2, 0.5), 3.0) == {"CPU": 2, "GPU": 0.5, "memory": 3.0}


def test_a_gpu_per_cell_is_taken_where_a_node_has_one() -> None:
    nodes = [Node("a", "a", cpus=1, gpus=0), Node("b", "b", cpus=1, gpus=2)]
    assert [placed(Placement(), some).gpus for some in (nodes, nodes[:1])] == [1.0, 0.0]
    assert placed(Placement(gpus=0.5), nodes).gpus == 0.5


# On a real cluster

PLUGIN = '''
import os
from dataclasses import dataclass

import only_here
from suite.attention import Variant
from suite.config import Cell, ModelSize, Protocol, Study
from suite.registry import register


@register("sees")
@dataclass(frozen=True)
class Sees(Variant):
    """Softmax that prints which GPUs its process may use."""

    def weights(self, site):
        print("GPUs:", os.environ.get("CUDA_VISIBLE_DEVICES"))
        return super().weights(site)


@register("tiny", "study")
def study():
    protocol = Protocol(steps=2, batch_size=4, evaluations=1)
    return Study("tiny", "?", (Cell("sees", "easy_vqa", protocol, layers=(1, 1, 1), model=ModelSize(8, 2, 8)),))
'''


@dataclasses.dataclass
class Place:
    """A cluster, and a folder to run the command in."""

    cluster: LocalCluster
    folder: Path
    data: Path
    environment: dict[str, str]

    def command(self, *arguments: object) -> list[str]:
        plugin = ["--plugin", str(self.folder / "plugin.py")]
        words = [*arguments, "tiny", "--data", self.data, "--address", self.cluster.address, *plugin]
        words += ["--no-report"] if arguments[0] == "run" else []
        return [sys.executable, "-m", "suite", *map(str, words)]

    def ablate(self, *arguments: object, expect: int) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == expect, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def cells(self) -> list[Path]:
        return sorted(path.parent for path in self.folder.glob("runs/tiny/*/config.json"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Iterator[Place]:
    """A cluster of a head alone, which runs no cells."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "plugin.py").write_text(PLUGIN)
    (folder / "modules").mkdir()
    (folder / "modules" / "only_here.py").write_text("")
    environment = os.environ | {"PYTHONPATH": f"{TREE}:{folder / 'modules'}", "RAY_AUTH_MODE": "disabled"}
    with LocalCluster(nodes=0) as cluster:
        yield Place(cluster, folder, data_folder, environment)


@pytest.fixture(scope="module")
def waited(place: Place) -> tuple[Place, list[str]]:
    """The place with a node of 4 CPUs and 2 declared GPUs that a run waited for, and what the run said."""
    run = subprocess.Popen(
        place.command("run", "--gpus-per-cell", 1, "--wait"),
        cwd=place.folder, env=place.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    said: list[str] = []
    assert run.stderr is not None
    reader = threading.Thread(target=lambda stream: said.extend(stream), args=(run.stderr,))
    reader.start()
    try:
        until = time.monotonic() + 100
        while not any("Waiting for room" in line for line in said):
            assert run.poll() is None, said
            assert time.monotonic() < until
            time.sleep(0.1)
        place.cluster.add_node(cpus=4, gpus=2, environment={"PYTHONPATH": place.environment["PYTHONPATH"]})
        run.wait(timeout=150)
    finally:
        run.kill()
        run.wait()
        reader.join()
        run.stderr.close()
    return place, said


def gpus_seen(cells: list[Path]) -> list[str]:
    """What each cell has said that it sees. There is no GPU: cells fail once their model is to go there."""
    logs = [(cell / "log.txt").read_text() for cell in cells]
    return [next(line for line in log.splitlines() if line.startswith("GPUs:")) for log in logs]


def test_a_cluster_without_room_refuses_at_once(place: Place) -> None:
    done = place.ablate("plan", "--gpus-per-cell", 1, "--json", expect=1)
    found = json.loads(done.stdout)
    (finding,) = found["findings"]
    assert "A cell needs 1 CPUs and 1 GPUs on one node; the largest node has 0 CPUs and 0 GPUs" in finding
    assert "--wait" in finding
    assert found["totals"]["slots"] == 0
    assert [node["cells"] for node in found["nodes"]] == [0]


def test_a_run_waits_for_a_node_that_can_hold_a_cell(waited: tuple[Place, list[str]]) -> None:
    place, said = waited
    (waiting,) = (line for line in said if "Waiting" in line)
    assert "A cell needs 1 CPUs and 1 GPUs on one node; the largest node has 0 CPUs and 0 GPUs" in waiting
    assert set(gpus_seen(place.cells())) <= {"GPUs: 0", "GPUs: 1"}


@pytest.mark.long
def test_two_cells_share_a_gpu(waited: tuple[Place, list[str]]) -> None:
    place, _ = waited
    before = place.cells()
    done = place.ablate("run", "--gpus-per-cell", 0.5, "--seeds", 3, expect=1)
    assert "3 of 3 cells did not finish" in done.stderr
    new = [cell for cell in place.cells() if cell not in before]
    assert len(new) == 2
    assert set(gpus_seen(new)) <= {"GPUs: 0", "GPUs: 1"}


def test_every_fault_of_every_node_is_told_before_anything_starts(
    waited: tuple[Place, list[str]], tmp_path: Path
) -> None:
    place, _ = waited
    runs = place.folder / "runs"
    hidden = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none "{runs}" && exec "$@"', "sh"]
    may_hide = subprocess.run([*hidden, "true"], capture_output=True).returncode == 0  # Needs root.
    if may_hide:
        place.cluster.add_node(before=hidden)
    place.cluster.add_node(environment={"PYTHONPATH": str(edited_code(tmp_path))})
    before = place.cells()
    refused = place.ablate("run", "--gpus-per-cell", 0, "--seeds", 9, expect=2)
    _, started, text = refused.stderr.partition("Nothing was started:\n")
    assert started
    assert len(text.splitlines()) == (3 if may_hide else 2), text
    assert may_hide == (f"does not share the run folder {runs / 'tiny'}: expected" in text)
    assert "has another version of the suite: expected the engine" in text
    assert "cannot load the plug-in plugin.py" in text
    assert "No module named 'only_here'" in text
    assert place.cells() == before
    assert not list(runs.glob("*/.check-*"))


# What of this machine a launch may use

NVIDIA_SMI = """#!/bin/sh
case "$*" in
-L)
    echo "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa-1)"
    echo "  MIG 1g.5gb      Device  0: (UUID: MIG-cccc-3)"
    echo "GPU 1: NVIDIA L4 (UUID: GPU-bbbb-2)" ;;
*) printf 'NVIDIA A100-SXM4-40GB\\nNVIDIA L4\\n' ;;
esac
"""
A100, L4 = "NVIDIA A100-SXM4-40GB", "NVIDIA L4"


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, [A100, L4]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1", [L4]),
        ("1,0", [L4, A100]),
        (" 0 , 1", [A100, L4]),
        ("0,-1,1", [A100]),
        ("0,7,1", [A100]),
        ("GPU-bbbb", [L4]),
        ("GPU-aaaa-1,GPU-bbbb-2", [A100, L4]),
        ("GPU-dddd", []),
        ("MIG-cccc-3", [f"{A100} MIG 1g.5gb"]),
    ],
)
def test_gpus_that_are_hidden_are_not_counted(
    visible: str | None, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(NVIDIA_SMI)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert preflight.visible_gpu_names() == names
    assert forecast.here(cpus=None, gpus=None).gpus == len(names)


def test_gpus_that_are_hidden_are_not_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match="with --gpus 1: CUDA_VISIBLE_DEVICES shows 0"):
        forecast.here(cpus=None, gpus=1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is Linux's")
def test_cores_that_a_job_may_not_use_are_not_counted() -> None:
    one = "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    code = f"import os; {one}; from suite import room; print(room.cores())"
    done = subprocess.run([sys.executable, "-c", code], cwd=TREE, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/job\n", {"job/cpu.max": "max 100000"}, math.inf),
        ("0::/job\n", {"job/cpu.max": "150000 100000"}, 1.5),
        ("0::/job/task\n", {"job/cpu.max": "400000 100000", "job/task/cpu.max": "max 100000"}, 4.0),
        ("0::/\n", {"cpu.max": "200000 100000"}, 2.0),
        ("0::/docker/of/the/host\n", {"cpu.max": "200000 100000"}, 2.0),
        ("3:cpuset:/\n2:cpu,cpuacct:/job\n0::/\n",
         {"cpu/job/cpu.cfs_quota_us": "300000", "cpu/job/cpu.cfs_period_us": "100000"}, 3.0),
        ("2:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
        ("2:cpu:/\n", {}, math.inf),
        ("2:cpu:/\n", {"cpu/cpu.cfs_quota_us": "many", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
        ("no groups\n", {}, math.inf),
    ],
)  # fmt: skip
def test_a_container_s_share_of_the_cores_is_known(
    groups: str, files: dict[str, str], cores: float, tmp_path: Path
) -> None:
    listed = tmp_path / "listed"
    listed.write_text(groups)
    for name, text in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(f"{text}\n")
    assert room._quota(tmp_path / "root", listed) == cores
