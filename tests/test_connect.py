"""A launch's own Ray is its user's alone; what a cluster answers is told: real Rays, and a second user."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from local_cluster import LocalCluster

from suite import connect, ray_private, schedule
from suite.errors import UserError

ROOT = Path(__file__).parent.parent
NOBODY = 65534

# What a launch has, said from inside; everything that listens was started by it.
OWN = """
import json, os, sys
from pathlib import Path
import psutil, ray
from suite import connect

with connect.started(1, 0):
    assert 5 == ray.get(ray.remote(lambda: 5).remote())
    here = psutil.Process()
    ports = [
        (one.name(), *link.laddr)
        for one in [here, *here.children(recursive=True)]
        for link in one.net_connections()
        if link.status == psutil.CONN_LISTEN
    ]
    token = os.environ["RAY_AUTH_TOKEN_PATH"]
    settings = {name: value for name, value in os.environ.items() if name in connect.SECRET}
    address = ray.get_runtime_context().gcs_address
    print(json.dumps({"ports": ports, "token": token, "settings": settings, "address": address}), flush=True)
    sys.stdin.readline()
print(json.dumps({name: value for name, value in os.environ.items() if name in connect.SECRET}), flush=True)
"""

# Everything is read as root; what is tried is tried as another user.
STRANGER = """
import os, sys
from pathlib import Path
from ray._raylet import GcsClient

address, token = sys.argv[1], Path(sys.argv[2])
os.setgroups([]); os.setgid(65534); os.setuid(65534)
tried = {
    "read the token": token.read_text,
    "list the folder": lambda: os.listdir(token.parent),
    "read the session": lambda: os.listdir(token.parent / "r"),
    "put a file there": lambda: (token.parent / "planted").write_text(""),
    "put a file into the session": lambda: (token.parent / "r" / "planted").write_text(""),
    "take the folder away": lambda: os.rename(token.parent, token.parent.with_name("taken")),
    "join": lambda: GcsClient(address=address),
}
for name, does in tried.items():
    try:
        does()
        print(f"{name}: done")
    except Exception as error:
        print(f"{name}: {type(error).__name__}")
"""


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], dict]]:
    """A launch in an environment that would open it to others, and what it has."""
    home = tmp_path / "home"
    home.mkdir()
    hostile = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "known", "RAY_ADDRESS": "10.0.0.1:6379"}
    environment = os.environ | hostile | {"HOME": str(home), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", OWN],
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    yield process, json.loads(process.stdout.readline())
    process.kill()
    process.communicate()


def test_a_launch_on_one_machine_is_its_user_s_alone(
    launch: tuple[subprocess.Popen[str], dict], tmp_path: Path
) -> None:
    process, has = launch
    names = {name for name, *_ in has["ports"]}
    assert {"gcs_server", "raylet"} <= names
    assert {address.removeprefix("::ffff:") for _, address, _ in has["ports"]} == {"127.0.0.1"}
    token = Path(has["token"])
    assert has["settings"] == {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    if os.getuid() == 0:
        tried = subprocess.run(
            [sys.executable, "-c", STRANGER, has["address"], str(token)], capture_output=True, text=True, timeout=60
        )
        refused = {name: error for name, _, error in (line.rpartition(": ") for line in tried.stdout.splitlines())}
        assert refused == dict.fromkeys(refused, "PermissionError") | {"join": "AuthenticationError"}, tried.stderr
        assert len(refused) == 7, tried.stderr
    answer, _ = process.communicate("\n", timeout=60)
    assert json.loads(answer) == {
        "RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "known", "RAY_ADDRESS": "10.0.0.1:6379"
    }  # fmt: skip
    assert not token.parent.exists()
    assert list((tmp_path / "home").iterdir()) == []


HOLD = """
import sys
from suite import connect, private
with connect._own_folder() as folder, private.own_folder(folder.parent, "ray-") as scratch:
    print(folder, scratch, flush=True)
    sys.stdin.readline()
"""


def test_what_a_killed_launch_leaves_is_swept_and_the_living_keep_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    killed, living = (
        subprocess.Popen(
            [sys.executable, "-c", HOLD], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    )
    assert killed.stdout is not None
    assert living.stdout is not None
    (left, scratch), (kept, beside) = (
        map(Path, one.stdout.readline().split()) for one in (killed, living) if one.stdout
    )
    assert scratch.name.startswith("ablate-ray-")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert left.is_dir()
    assert scratch.is_dir()
    with connect._own_folder() as own:
        assert not left.exists()
        assert not scratch.exists()
        assert beside.is_dir()
        assert (kept / "token").is_file()
        assert own != kept
    living.communicate("\n")
    assert not kept.exists()
    assert not beside.exists()
    assert not own.exists()


# What Ray cannot do here


def starts(gpus: int = 0) -> str:
    with pytest.raises(UserError) as caught, connect.started(1, gpus):
        pass
    return str(caught.value)


def test_a_temporary_folder_that_does_not_do_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("0" * 100)))
    assert "is too long for its sockets, which may have 107 characters. Give RAY_TMPDIR=" in starts()
    short = Path(tempfile.mkdtemp(prefix="abl-", dir="/tmp"))
    try:
        (short / "file").write_text("")
        monkeypatch.setenv("RAY_TMPDIR", str(short / "file"))
        assert f"Ray cannot start here: File exists: {short}/file. Give RAY_TMPDIR=" in starts()
        monkeypatch.setenv("RAY_TMPDIR", str(short))
        short.chmod(0o777)
        assert f"{short} can be written by others" in starts()
        if os.getuid() == 0:
            short.chmod(0o755)
            os.chown(short, NOBODY, NOBODY)
            assert f"{short} belongs to another user" in starts()
        assert [one.name for one in short.iterdir()] == ["file"]
    finally:
        shutil.rmtree(short)


def test_a_long_temporary_folder_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("0" * 100)))
    with connect._own_folder() as folder:
        assert folder.parent == Path("/tmp")


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles", "0"])
def test_gpus_that_are_hidden_are_told(visible: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    shown = "1" if visible == "0" else "0"
    assert starts(gpus=2).startswith(
        f"Ray cannot start here with --gpus 2: CUDA_VISIBLE_DEVICES shows {shown}, '{visible}'. Give fewer --gpus"
    )


def test_another_version_of_ray_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import ray_constants

    monkeypatch.delattr(ray_constants, "ENABLE_RAY_CLUSTER")
    assert starts().startswith(f"Expected Ray {ray_private.KNOWN}, whose own parts a launch relies on; received ")


# What a cluster answers


def joins(address: str) -> str:
    with pytest.raises(UserError) as caught, connect.joined(address):
        pass
    return str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "localhost", "ray://127.0.0.1:10001", "http://127.0.0.1:8265", "::1:6379", ":6379", "head:",
        "head:0", "head:65536", "head:port", "local", "10.0.0.1:6379/",
    ],
)  # fmt: skip
def test_what_is_no_host_and_port_is_told(address: str) -> None:
    assert "as host:port, such as 10.0.0.1:6379, or auto; received" in joins(address)


def test_where_nothing_listens_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        gone = f"127.0.0.1:{probe.getsockname()[1]}"
    assert f"No Ray cluster answers at {gone}: [Errno 111] Connection refused" in joins(gone)
    assert "No Ray cluster answers at no-such-host.invalid:6379" in joins("no-such-host.invalid:6379")
    assert "No Ray cluster answers at [::1]:1: " in joins("[::1]:1")
    monkeypatch.setenv("RAY_ADDRESS", gone)
    began = time.monotonic()
    assert f"No Ray cluster answers at {gone}: " in joins("auto")
    assert time.monotonic() - began < 10
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    assert "received 'ray://head:10001' (" in joins("auto")


def test_auto_tells_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", _None())
    assert "auto finds no Ray cluster: RAY_ADDRESS names none" in joins("auto")
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    assert "No Ray cluster answers at 127.0.0.1:1: " in joins("auto")


class _None:
    """No Ray runs on this machine, whatever others do there."""

    def __call__(self) -> frozenset[str]:
        return frozenset()

    def cache_clear(self) -> None:
        pass


def test_what_listens_and_is_no_ray_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "ANSWER", 3.0)
    with socket.socket() as mute:
        mute.bind(("", 0))
        mute.listen()
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        assert f"What listens at {address} does not answer as a Ray cluster within 3 s." in joins(address)


@pytest.mark.filterwarnings("default")  # Ray's own.
def test_a_cluster_lets_in_who_has_its_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in connect.SECRET:
        monkeypatch.delenv(name, raising=False)
    token = tmp_path / "token"
    token.write_text("5" * 64)
    with LocalCluster(nodes=0, token="5" * 64) as cluster:
        answers = f"The Ray cluster at {cluster.address} answers, but lets nobody in without its token: "
        assert answers in joins(cluster.address)
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        ray_private.read_token_again()
        assert answers in joins(cluster.address)
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "missing"))
        ray_private.read_token_again()
        assert answers in joins(cluster.address)
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        ray_private.read_token_again()
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        try:
            with connect.joined("auto"):
                assert ray.nodes()[0]["Alive"]
        finally:
            monkeypatch.undo()
            ray_private.read_token_again()
    assert f"auto: the Ray cluster at {cluster.address}." in capsys.readouterr().err


def test_a_program_may_launch_from_any_thread() -> None:
    told: list[str] = []

    def launches() -> None:
        with schedule._signals(lambda number, frame: told.append("signal"), signal.SIGTERM, signal.SIGHUP):
            told.append("ran")

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=launches)
    thread.start()
    thread.join()
    assert told == ["ran"]
    assert signal.getsignal(signal.SIGTERM) is before
