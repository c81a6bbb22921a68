"""The Slurm script, run as it is, with stand-ins for what a Slurm node has: srun, scontrol, Ray and ablate."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster/slurm.sbatch"
WAIT = 60
"""Seconds after which something hangs; on a busy machine a stand-in may take some."""

LOG = 'log() { echo "$$ ${0##*/} $*" >>"$LOG"; }; log "$@"\n'

# Runs the command once per node, all of them on this machine, with what differs between nodes. Like srun, it hands
# a signal on to all of them and ends with the highest of their codes.
SRUN = """
nodes=1
while [[ ${1:-} == --* ]]; do
    case $1 in --nodes=*) nodes=${1#*=} ;; esac
    shift
done
started=()
end() { kill -TERM "${started[@]}" 2>/dev/null; }
trap end TERM
for ((node = 0; node < nodes; node++)); do
    SLURM_NODEID=$node SLURM_CPUS_ON_NODE=1 ABLATE_RAY_TMP=$ABLATE_RAY_TMP-$node "$@" &
    started+=($!)
done
code=0
while [ -n "$(jobs -pr)" ]; do
    wait -n; one=$?
    if [ $one -gt $code ]; then code=$one; fi
done
exit $code
"""
SCONTROL = 'if [ "$1" = show ]; then echo "   JobState=$JOB_STATE Reason=None"; fi\n'
# `ray health-check` says yes as soon as a head was started.
RAY = """
if [ "$1" = health-check ]; then [ -e "$LOG.head" ]; exit; fi
case " $* " in *" --head "*) touch "$LOG.head" ;; esac
echo "mode=$RAY_AUTH_MODE token=$RAY_AUTH_TOKEN_PATH secret=${RAY_AUTH_TOKEN-none}" >"$LOG.auth"
stat -c %a "$RAY_AUTH_TOKEN_PATH" >>"$LOG.auth"
[ -z "${RAY_FAILS-}" ] || { sleep 1; exit 9; }
exec sleep 300
"""
ABLATE = 'if [ "$1" = run ]; then touch "$LOG.runs"; [ -z "${STAYS-}" ] || exec sleep 300; exit "${CODE:-0}"; fi\n'


class Job:
    """One run of the script in a folder whose path has a space."""

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self.folder, self.process = folder, process
        self.log_file = folder / "log"

    @property
    def log(self) -> list[str]:
        """What the stand-ins were called with, in order, without health checks."""
        lines = [line.split(" ", 1)[1] for line in self.log_file.read_text().splitlines()]
        return [line for line in lines if not line.startswith("ray health-check")]

    def calls(self, start: str) -> list[str]:
        return [line for line in self.log if line.startswith(start)]

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT
        while not condition():
            assert time.monotonic() < end, self.log
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)

    def runs(self) -> None:
        self.until(lambda: (self.folder / "log.runs").exists() and len(self.calls("ray start")) == 2)

    def end(self) -> tuple[int, str]:
        """Its exit code and what it said, after a look that nothing of it is left."""
        _, said = self.process.communicate(timeout=WAIT)
        for line in self.log_file.read_text().splitlines():
            assert not psutil.pid_exists(int(line.split()[0])), line
        assert list((self.folder / "runs").glob(".ray-token-*")) == []
        assert [name for name in os.listdir("/tmp") if name.startswith(f"ablate-{self.folder.name}-")] == []
        return self.process.returncode, said


@contextmanager
def submitted(folder: Path, number: int, *words: str, **environment: str) -> Iterator[Job]:
    """The script as Slurm starts it on the first of two nodes."""
    folder = folder / f"the job {number}"
    tools = folder / "bin"
    tools.mkdir(parents=True)
    for name, text in {
        "srun": SRUN,
        "scontrol": SCONTROL,
        "ray": RAY,
        "ablate": ABLATE,
    }.items():
        (tools / name).write_text("#!/usr/bin/env bash\n" + LOG + text)
        (tools / name).chmod(0o755)
    ours: Mapping[str, str] = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "LOG": str(folder / "log"),
        "JOB_STATE": "RUNNING",
        "SLURM_JOB_ID": str(number),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_SUBMIT_DIR": str(folder),
    }
    others = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
    with subprocess.Popen(
        ["bash", str(SCRIPT), *(words or ("demo",))],
        env=others | ours | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield Job(folder, process)
        finally:
            # Where the test failed, its processes go all the same.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def number() -> int:
    """A job's number that no other test has at the time."""
    return os.getpid() * 10


def test_a_study_runs_on_all_nodes_and_everything_ends_with_it(tmp_path: Path, number: int) -> None:
    with submitted(tmp_path, number, "paper", "--set", "note=a b") as job:
        code, _ = job.end()
    folder = f"{tmp_path}/the job {number}"
    assert code == 0
    assert job.calls("ablate") == [
        f"ablate run paper --address auto --runs {folder}/runs --data {folder}/data --set note=a b"
    ]
    assert job.calls("scontrol") == []
    head = next(call for call in job.calls("ray start") if "--head" in call)
    assert "--num-cpus=1" in head
    assert "--num-gpus=0" in head
    assert "--block" in head


def test_the_token_is_in_a_private_file_and_nowhere_else(tmp_path: Path, number: int) -> None:
    with submitted(tmp_path, number, STAYS="1") as job:
        job.runs()
        (token,) = (job.folder / "runs").glob(".ray-token-*")
        secret = token.read_text()
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        assert len(secret) == 64
        job.until(lambda: (job.folder / "log.auth").read_text().endswith("\n600\n"))
        assert (job.folder / "log.auth").read_text() == f"mode=token token={token} secret=none\n600\n"
        assert secret not in job.log_file.read_text()
        job.process.terminate()
        job.end()


@pytest.mark.parametrize("told", [signal.SIGUSR1, signal.SIGTERM])
def test_a_job_that_must_go_drains_every_node_and_queues_again(
    tmp_path: Path, number: int, told: signal.Signals
) -> None:
    with submitted(tmp_path, number, STAYS="1") as job:
        job.runs()
        job.process.send_signal(told)
        code, said = job.end()
    assert code == 75
    drains = job.calls("ablate drain")
    assert drains == [f"ablate drain --study demo --runs {job.folder}/runs"] * 2
    assert job.log[-1] == f"scontrol requeue {number}"
    assert "queued again" in said


def test_a_job_that_slurm_ended_stays_ended(tmp_path: Path, number: int) -> None:
    with submitted(tmp_path, number, STAYS="1", JOB_STATE="COMPLETING") as job:
        job.runs()
        # As Slurm does then: it tells all of the job at once. The script first: it would else see its nodes end.
        told = psutil.Process(job.process.pid).children(recursive=True)
        job.process.terminate()
        for process in told:
            with suppress(psutil.NoSuchProcess):  # Some last for a moment.
                if process.name() != "srun":
                    process.terminate()
        code, _ = job.end()
    assert code == 75
    # No step starts in a job that has ended.
    assert job.calls("ablate drain") == []
    assert job.calls("scontrol requeue") == []


def test_nodes_that_are_told_to_stop_queue_the_job_again(tmp_path: Path, number: int) -> None:
    with submitted(tmp_path, number, STAYS="1") as job:
        job.runs()
        # Slurm tells all processes of the step: Ray's, and the shells above them.
        for line in job.log_file.read_text().splitlines():
            process, called = line.split(" ", 1)
            if called.startswith("ray start"):
                shell = psutil.Process(int(process)).parent()
                assert shell is not None
                shell.terminate()
        code, _ = job.end()
    assert code == 75
    assert job.calls("scontrol requeue") == [f"scontrol requeue {number}"]


def test_a_study_with_failed_cells_is_a_failed_job(tmp_path: Path, number: int) -> None:
    with submitted(tmp_path, number, CODE="3") as job:
        code, _ = job.end()
    assert code == 3
    assert job.calls("scontrol") == []


def test_ray_that_does_not_run_is_a_failed_job_that_does_not_queue_again(tmp_path: Path, number: int) -> None:
    with submitted(tmp_path, number, STAYS="1", RAY_FAILS="1") as job:
        code, said = job.end()
    assert code in (1, 9)
    assert "Ray" in said
    assert job.calls("scontrol requeue") == []


def test_ray_does_not_start_in_a_folder_that_somebody_else_has_made(tmp_path: Path, number: int) -> None:
    # Another's folder cannot be removed; a file system of its own cannot either, even by root.
    theirs = Path(f"/tmp/ablate-{number}-0")
    theirs.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(theirs)], capture_output=True).returncode:
        theirs.rmdir()
        pytest.skip("mounting needs root")
    try:
        with submitted(tmp_path, number, STAYS="1", SLURM_JOB_NUM_NODES="1") as job:
            _, said = job.process.communicate(timeout=WAIT)
    finally:
        subprocess.run(["umount", str(theirs)], check=True)
        theirs.rmdir()
    assert job.process.returncode != 0
    assert "Ray did not start" in said
    assert job.calls("ray start") == []


def test_two_jobs_on_one_machine_do_not_meet(tmp_path: Path, number: int) -> None:
    with (
        submitted(tmp_path, number, STAYS="1") as one,
        submitted(tmp_path, number + 1, STAYS="1") as other,
    ):
        for job in (one, other):
            job.runs()
        options = [
            {option.partition("=")[0]: option for option in head.split() if "=" in option}
            for job in (one, other)
            for head in job.calls("ray start")
            if "--head" in head
        ]
        for name in ("--port", "--temp-dir"):
            assert options[0][name] != options[1][name]
        assert options[0]["--dashboard-agent-listen-port"] == "--dashboard-agent-listen-port=0"
        one.process.terminate()
        one.end()
        assert other.process.poll() is None
        other.process.terminate()
        other.end()


def test_without_slurm_it_says_how_it_is_started() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    for words, said in (([], "usage: sbatch"), (["demo"], "submit it with sbatch")):
        done = subprocess.run(["bash", str(SCRIPT), *words], capture_output=True, text=True, env=environment)
        assert done.returncode != 0
        assert said in done.stderr


def test_rays_own_processes_start_find_each_other_and_end(tmp_path: Path, number: int) -> None:
    """With the real Ray: two nodes on this machine, a driver that has the token, and nothing left."""
    driver = """\
import time, ray
ray.init("auto")
while len([node for node in ray.nodes() if node["Alive"]]) < 2:
    time.sleep(0.1)
print("joined by", len(ray.nodes()), flush=True)
"""
    folder = tmp_path / f"the job {number}"
    python = Path(sys.executable)
    environment = {"PATH": f"{folder / 'bin'}:{python.parent}:{os.environ['PATH']}", "RAY_AUTH_TOKEN_PATH": ""}
    with submitted(tmp_path, number, **environment) as job:
        # Before srun comes to call them.
        (job.folder / "bin/ray").unlink()
        (job.folder / "bin/ablate").write_text(f"#!/usr/bin/env bash\nexec \"{python}\" -c '{driver}'\n")
        out, said = job.process.communicate(timeout=WAIT)
    assert job.process.returncode == 0, said
    assert "joined by 2" in out
    left = [name for name in os.listdir("/tmp") if name.startswith(f"ablate-{number}")]
    assert left == []
    for process in psutil.process_iter(["cmdline"]):
        assert f"/tmp/ablate-{number}" not in " ".join(process.info["cmdline"] or [])
