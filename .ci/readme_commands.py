"""Runs what the README shows, in a folder of its own: console blocks, files, Python.

With few steps, and tested on the questions of the validation split, of which there are fewer."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REDUCED = "--set steps=6 --set evaluations=2 --set test=validation"
# make run is this command behind an installation that CI has done; the tests are CI's next step.
COVERED = {"make run": "ablate run", "make test": None}


def main(folder: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for kind, name, content in re.findall(r"```(console|python)(?: title=(\S+))?\n(.*?)```", readme, re.DOTALL):
        if name:
            (folder / name).write_text(content, encoding="utf-8")
        elif kind == "python":
            run(f"python -c '{content}'", folder)
        else:
            for line in content.splitlines():
                command = COVERED.get(line.removeprefix("$ "), line.removeprefix("$ "))
                if command is not None:
                    reduced = REDUCED if re.match(r"ablate (run|plan)\b", command) else ""
                    run(f"{command} {reduced}", folder)


def run(command: str, folder: Path) -> None:
    print(f"$ {command}", flush=True)
    subprocess.run(f"{ROOT}/.venv/bin/{command}", shell=True, cwd=folder, check=True)


main(Path(sys.argv[1]))
