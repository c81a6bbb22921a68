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
CAPTIONS = "captions.txt"


def write_figures(drawn: Sequence[Drawn], folder: Path) -> None:
    """All of ``drawn`` in every format, with captions.txt."""
    folder.mkdir(parents=True, exist_ok=True)
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
