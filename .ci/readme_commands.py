"""Runs every command of the README's console blocks, with reduced steps, in a copy of its own folders."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REDUCED = "--set steps=6 --set evaluations=2"
COVERED = {"make run": "ablate run", "make test": None}
"""What CI runs otherwise: the demo as the command that make calls, the tests after this script."""


def main(folder: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, content in re.findall(r"```python title=(\S+)\n(.*?)```", readme, re.DOTALL):
        (folder / name).write_text(content, encoding="utf-8")
    blocks = re.findall(r"```console\n(.*?)```", readme, re.DOTALL)
    commands = [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    for command in commands:
        command = COVERED.get(command, command)
        if command is None:
            continue
        if re.match(r"ablate (run|plan)\b", command):
            command += f" {REDUCED}"
        print(f"$ {command}", flush=True)
        subprocess.run(f"{ROOT}/.venv/bin/{command}", shell=True, cwd=folder, check=True)


main(Path(sys.argv[1]))
