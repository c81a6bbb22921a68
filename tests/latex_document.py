"""A report's tables in a document of two columns, as a paper has them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

PAPER = (
    "\\documentclass[twocolumn]{article}\\usepackage[margin=0.75in]{geometry}\\usepackage{booktabs}"
    "\\begin{document}\\input{tables}\\end{document}"
)


def compile_log(tables: str, folder: Path) -> str:
    """What pdflatex says of ``tables``, compiled in ``folder``. Skips the test where it is not installed."""
    program = shutil.which("pdflatex")
    if program is None:
        pytest.skip("pdflatex is not installed")
    (folder / "tables.tex").write_text(tables, encoding="utf-8")
    (folder / "paper.tex").write_text(PAPER)
    command = [program, "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout
