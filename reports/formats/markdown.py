"""The tables in Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reports.layout import lay_out
from reports.report import Report


def markdown(report: Report) -> str:
    """Pipe tables, as GitHub reads them."""
    layout = lay_out(report)
    lines = [escape_markdown(layout.heading)]
    for block in layout.tables:
        header = [f"{column.side}: {column.title}" if column.side else column.title for column in block.columns]
        lines += ["", f"### {escape_markdown(block.title)}", "", _pipes(header)]
        lines.append("|" + "|".join(["---", *["---:"] * (len(header) - 1)]) + "|")
        lines += [_pipes(row) for row in block.rows]
    lines.append("")
    lines += [f"- {escape_markdown(line)}" for line in (*layout.floors, *layout.remarks)]
    lines += [f"- {escape_markdown(f'[{note.mark}]')} {escape_markdown(note.text)}" for note in layout.notes]
    return "\n".join(lines) + "\n"


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(escape_markdown, cells)) + " |"


def escape_markdown(text: str) -> str:
    """``text`` as Markdown that shows exactly it, inside a pipe table too."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&!])", r"\\\1", text)
