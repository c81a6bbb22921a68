"""The tables for a terminal, as wide as it is."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reports.layout import Layout, lay_out
from reports.report import Report
from reports.text import Column, TextTable

if TYPE_CHECKING:
    from rich.table import Table as RichTable

LABEL_WIDTH = 20
"""Terminal columns that labels need to stay readable."""


def terminal(report: Report, width: int = 100, styled: bool = False) -> str:
    """The tables for a terminal of ``width`` columns; ``styled`` adds bold and dim.

    Where rows do not fit, a table comes in parts, each with the labels: accuracies first, costs last.
    """
    from rich.console import Console
    from rich.text import Text

    layout = lay_out(report)
    parts = [
        (table, columns)
        for table in layout.tables
        for columns in table.parts(width, functools.partial(_widths, layout, table))
    ]
    text = io.StringIO()
    colours = "standard" if styled else None
    # Wider than the terminal at worst, but never without a number.
    widest = max(width, *(sum(_widths(layout, table, columns)) for table, columns in parts))
    # Not to a notebook around it: the text is what is asked for.
    console = Console(
        file=text, width=widest, force_terminal=styled, force_jupyter=False, color_system=colours, highlight=False
    )
    # Text, never str, for all that is printed: rich would read markup such as [red] in a str.
    console.print(Text(layout.heading), width=width)
    console.print()
    for table, columns in parts:
        console.print(_rich_table(layout, table, columns, width))
    notes = (f"[{note.mark}] {note.text}" for note in layout.notes)
    for line in (*layout.floors, *layout.remarks, *notes):
        console.print(Text(line), width=width)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _heads(column: Column) -> list[str]:
    """A column's title in three lines: whose, what, unit."""
    # A type may be of several words.
    cut = column.title.rpartition if column.title.endswith(")") else column.title.partition
    title, _, unit = cut(" ")
    return [column.side, title, unit]


def _widths(layout: Layout, table: TextTable, columns: Sequence[int]) -> list[int]:
    """The least width of each column with the gap before it: lines may break between words, never within.

    The same for all tables with these columns, so that one can be read below the other. Those of a table that is
    never parted have room and do not break.
    """
    rows = [row for other in layout.tables if other.columns == table.columns for row in other.rows]
    widths = []
    for number in columns:
        texts = [*_heads(table.columns[number]), *(row[number] for row in rows)]
        words = [len(word) for text in texts for word in (_words(text) if table.breaks else [text])]
        # A wider gap where ours begins: it must not read on from the paper's.
        gap = 3 if number and table.columns[number].side != table.columns[number - 1].side else 1
        widths.append(gap + (LABEL_WIDTH if number == 0 else max(words)))
    return widths


def _words(text: str) -> list[str]:
    """What a line may not break within: ``93.12 ± 0.41`` is one."""
    return re.split(r"(?<!±)\s+(?!±)", text)


def _rich_table(layout: Layout, block: TextTable, columns: Sequence[int], width: int) -> RichTable:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(block.title, "bold"), title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    # Labels take what is left, up to the longest; SIMPLE_HEAD draws a blank between columns and at both ends.
    _, *widths = _widths(layout, block, columns)
    longest = max(len(row[0]) for other in layout.tables if other.columns == block.columns for row in other.rows)
    labels = min(width - sum(widths) - 2, longest)
    table.add_column(Text(f"\n\n{block.columns[0].title}"), overflow="fold", width=max(labels, LABEL_WIDTH - 1))
    for number, least in zip(columns[1:], widths, strict=True):
        column = block.columns[number]
        style = "dim" if column.side == "paper" else ""
        table.add_column(Text("\n".join(_heads(column))), justify="right", style=style, width=least - 1)
    for row in block.rows:
        table.add_row(*(Text(row[number]) for number in columns))
    return table
