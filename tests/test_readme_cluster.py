"""The README's section about clusters, followed word for word, in namespaces of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SMALL = "layers=2,2,2 width=16 heads=2 intermediate=16 steps=6 evaluations=2 batch_size=16 test=validation"
SETTINGS = " ".join(f"--set {setting}" for setting in SMALL.split())
# Ray's processes, ports and folder are the section's own, and end with it: `ray stop` ends all that it sees.
ISOLATED = ("unshare", "--pid", "--fork", "--mount", "--mount-proc", "--net", "--kill-child")


def section() -> list[str]:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```console title=cluster\n(.*?)```", readme, re.DOTALL)
    assert block is not None
    return [line.removeprefix("$ ") for line in block[1].splitlines()]


def test_the_section_runs_as_it_stands(tmp_path: Path) -> None:
    if subprocess.run([*ISOLATED, "true"], capture_output=True).returncode:
        pytest.skip("namespaces need root")
    lines = [line.replace("FIRST", "127.0.0.1") for line in section()]
    lines = [f"{line} {SETTINGS}" if re.match("ablate (run|plan)", line) else line for line in lines]
    assert any(line.startswith("ablate run") for line in lines)
    script = ["set -e", "ip link set lo up", "mkdir -p /tmp/ray", "mount -t tmpfs tmpfs /tmp/ray", *lines]
    tools = Path(sys.executable).parent
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*ISOLATED, "bash", "-xc", "\n".join(script)],
        cwd=tmp_path,
        # A home of its own: the token is kept there.
        env=os.environ | {"PATH": path, "HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    results = list(tmp_path.glob("runs/demo/*/result.json"))
    study = json.loads((tmp_path / "runs/demo/study.json").read_text())
    assert len(results) == len(study["cells"])
    assert shutil.which("ray", path=path) == str(tools / "ray")
