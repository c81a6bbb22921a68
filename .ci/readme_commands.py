"""Runs what the README shows, in a folder of its own: console blocks, files, Python.

With few steps, and tested on the questions of the validation split, of which there are fewer. The files of VQA 2.0
are generated, and its study runs with a small model."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FEW = "--set steps=4 --set evaluations=1"
REDUCED = {
    "": f"{FEW} --set test=validation --set layers=2,2,2",
    "depth": f"{FEW} --set test=validation",
    "paper": f"{FEW} --set batch_size=4 --set width=32 --set heads=2 --set intermediate=64",
}
"""For the commands that plan or run a study, by its name; the first for all others."""
REPORTED = ("ablate run", "ablate run paper")
"""Runs whose report a command of its own builds."""
# make run is this command behind an installation that CI has done; the tests are CI's next step.
COVERED = {"make run": "ablate run", "make test": None}


def main(folder: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    run("python -m suite.data.generate lxmert", folder)
    for kind, name, content in re.findall(r"```(console|python)(?: title=(\S+))?\n(.*?)```", readme, re.DOTALL):
        if name == "cluster":
            continue  # tests/test_readme_cluster.py follows it, on a cluster of its own.
        if name:
            (folder / name).write_text(content, encoding="utf-8")
        elif kind == "python":
            run(f"python -c '{content}'", folder)
        else:
            for line in content.splitlines():
                command = COVERED.get(line.removeprefix("$ "), line.removeprefix("$ "))
                if command is not None:
                    study = re.match(r"ablate (?:run|plan) ?(\w*)", command)
                    reduced = REDUCED.get(study[1], REDUCED[""]) if study else ""
                    if study and study[0].rstrip() in REPORTED:
                        reduced += " --no-report"
                    reduced += (
                        f"--rounds 1 --cells {cell(folder, 'demo')}" if command == "ablate bench cost" else ""
                    )
                    run(f"{command.replace('CELL', cell(folder))} {reduced}", folder)


def cell(folder: Path, study: str = "paper") -> str:
    """A finished cell of a study, once there is one."""
    finished = sorted(folder.glob(f"runs/{study}/*/result.json"))
    return finished[0].parent.name if finished else "CELL"


def run(command: str, folder: Path) -> None:
    print(f"$ {command}", flush=True)
    subprocess.run(f"{ROOT}/.venv/bin/{command}", shell=True, cwd=folder, check=True)


main(Path(sys.argv[1]))
