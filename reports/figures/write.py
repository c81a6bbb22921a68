"""Figures as files: PDF, SVG and PNG of the same bytes for the same records, and their captions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from reports.figures.drawing import Drawn
from suite.look import style
from suite.records import write_bytes, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Format = Literal["pdf", "svg", "png"]
FORMATS: tuple[Format, ...] = ("pdf", "svg", "png")
LIST = "built.txt"
"""Names the files of the last build: the next one removes those that it does not write, and nothing else."""
CAPTIONS = "captions.txt"


def write_figures(drawn: Sequence[Drawn], folder: Path) -> None:
    """All of ``drawn`` in every format, with captions.txt; those of an earlier build are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{one.name}.{form}" for one in drawn for form in FORMATS] + [CAPTIONS]
    for name in _listed(folder):
        if name not in names:
            (folder / name).unlink(missing_ok=True)
    # Listed before they are written, so that a build that was cut short leaves nothing unlisted.
    write_text(folder / LIST, "".join(f"{name}\n" for name in names))
    write_text(folder / CAPTIONS, "\n".join(f"{one.name}: {one.title}\n{one.caption}\n" for one in drawn))
    for one in drawn:
        for form in FORMATS:
            write_bytes(folder / f"{one.name}.{form}", encode(one.figure, form))


def encode(figure: Figure, form: Format) -> bytes:
    """The figure as a file's bytes, without the date and program that matplotlib would note."""
    empty = {
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        "svg": {"Date": None, "Creator": None},
        "png": {"Software": None},
    }
    file = io.BytesIO()
    with style():
        figure.savefig(file, format=form, dpi=300, metadata=empty[form])
    return file.getvalue()


def _listed(folder: Path) -> list[str]:
    path = folder / LIST
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [name for name in lines if Path(name).name == name]
