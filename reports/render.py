"""The same tables in four formats: terminal, Markdown, LaTeX and CSV. All text from data is escaped here."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from reports.layout import ABSENT, COMPARISONS, Column, Layout, TextTable, lay_out, plain
from reports.statistics import Estimate
from reports.tables import Comparison, Report, Row

if TYPE_CHECKING:
    from rich.table import Table as RichTable


LABEL_WIDTH = 20
"""Terminal columns that labels need to stay readable."""
LINE = 90
"""Characters that a page of LaTeX has room for in \\scriptsize beside the labels: wider tables come in parts."""


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
        for columns in _parts(table, width, functools.partial(_widths, layout, table))
    ]
    text = io.StringIO()
    colours = "standard" if styled else None
    # Wider than the terminal at worst, but never without a number.
    widest = max(width, *(sum(_widths(layout, table, columns)) for table, columns in parts))
    console = Console(file=text, width=widest, force_terminal=styled, color_system=colours, highlight=False)
    # Text, never str, for all that is printed: rich would read markup such as [red] in a str.
    console.print(Text(layout.heading), width=width)
    console.print()
    for table, columns in parts:
        console.print(_rich_table(layout, table, columns, width))
    notes = (f"[{note.mark}] {note.text}" for note in layout.notes)
    for line in (*layout.floors, *layout.remarks, *notes):
        console.print(Text(line), width=width)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _parts(table: TextTable, width: int, widths: Callable[[list[int]], list[int]]) -> list[list[int]]:
    """The columns of each part of a table: of as many sections as fit beside the labels, at least of one.

    ``widths`` says what each of some columns needs.
    """
    parts: list[list[int]] = []
    for first, end in itertools.pairwise([1, *table.breaks, len(table.columns)]):
        section = range(first, end)
        if parts and sum(widths([*parts[-1], *section])) <= width:
            parts[-1] += section
        else:
            parts.append([0, *section])
    return parts


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


def _pipes(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(map(escape_markdown, cells)) + " |"


def escape_markdown(text: str) -> str:
    """``text`` as Markdown that shows exactly it, inside a pipe table too."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&!])", r"\\\1", text)


def latex(report: Report) -> str:
    """One ``table*`` per block; needs the package booktabs and nothing else."""
    layout = lay_out(report)
    return "% Written by reports.build: do not edit. Needs \\usepackage{booktabs}.\n" + "\n".join(
        _latex_table(layout, number) for number in range(len(layout.tables))
    )


def _latex_table(layout: Layout, number: int) -> str:
    block = layout.tables[number]
    below = [*layout.floors, *layout.remarks, *(f"[{note.mark}] {note.text}" for note in block.notes)]
    return "\n".join(
        [
            "\\begin{table*}[tp]",
            "\\centering\\scriptsize\\setlength{\\tabcolsep}{3pt}",
            f"\\caption{{{escape_latex(block.title)}. {escape_latex(layout.heading)}}}",
            "\n\\par\\medskip\n".join(
                _tabular(block, columns) for columns in _parts(block, LINE, functools.partial(_latex_widths, block))
            ),
            "\\par\\smallskip",
            "\\parbox{\\textwidth}{\\scriptsize " + " \\\\\n".join(map(escape_latex, below)) + "}",
            "\\end{table*}",
            "",
        ]
    )


def _latex_widths(block: TextTable, columns: Sequence[int]) -> list[int]:
    """Characters of columns whose lines do not break, with the gap before each; labels have a share of the page."""
    texts = [[block.columns[number].title, *(row[number] for row in block.rows)] for number in columns[1:]]
    return [0, *(2 + max(map(len, column)) for column in texts)]


def _tabular(block: TextTable, chosen: Sequence[int]) -> str:
    """The columns ``chosen`` of a table, as tall as its rows."""
    columns, groups, rules, first = [block.columns[number] for number in chosen], [], [], 1
    for side, members in itertools.groupby(columns, key=lambda column: column.side):
        span = len(list(members))
        groups.append(f"\\multicolumn{{{span}}}{{c}}{{{escape_latex(side)}}}" if side else "")
        rules += [f"\\cmidrule(lr){{{first}-{first + span - 1}}}"] if side else []
        first += span
    rows = [" & ".join(_latex_cell(row[number]) for number in chosen) for row in block.rows]
    return "\n".join(
        [
            f"\\begin{{tabular}}{{@{{}}p{{0.25\\textwidth}}{'r' * (len(columns) - 1)}@{{}}}}",
            "\\toprule",
            " & ".join(groups) + " \\\\",
            "".join(rules),
            " & ".join(escape_latex(column.title) for column in columns) + " \\\\",
            "\\midrule",
            *(f"{row} \\\\" for row in rows),
            "\\bottomrule",
            "\\end{tabular}",
        ]
    )


def _latex_cell(text: str) -> str:
    if text == ABSENT:
        return "--"
    # In mathematics a minus is a minus and not a hyphen.
    if re.fullmatch(r"[+-]\d+(\.\d+)?( ± \d+\.\d+)?", text):
        return f"${text.replace('±', PLUS_MINUS)}$"
    return escape_latex(text)


PLUS_MINUS = r"\pm"


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{\char34}",
    "`": r"{\char96}",
    # After a line's end \\ these would be read as its arguments.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "†": r"\textdagger{}",
    "±": r"$\pm$",
}


def escape_latex(text: str) -> str:
    """``text`` as LaTeX that shows it; characters that pdflatex does not know are named by their code."""
    return "".join(_LATEX.get(one, one if one.isascii() else f"(U+{ord(one):04X})") for one in text)


CSV_COLUMNS = (
    "table",
    "label",
    "variant",
    "arguments",
    "layers",
    "keep",
    "published_test_dev",
    "published_test_std",
    "published_difference",
    "published_flops_change",
    "published_source",
    "published_origin",
    "state",
    "stale",
    "seeds_finished",
    "seeds",
    "test_accuracy",
    "test_accuracies",
    "base_accuracies",
    "official_accuracy",
    "server_test_dev",
    "server_test_std",
    "estimate_low",
    "estimate_high",
    "standard_error",
    "degrees_of_freedom",
    "difference",
    "difference_low",
    "difference_high",
    "difference_standard_error",
    "difference_degrees_of_freedom",
    "difference_seeds",
    "p",
    "p_adjusted",
    "detectable",
    "verdict",
    "verdict_reason",
    "looked",
    "macs",
    "macs_reference",
    "macs_reference_change",
    "uncounted_operators",
    "parameters",
    "seconds",
    "cells",
    "notes",
)


def comma_separated(report: Report) -> str:
    """Raw, unrounded numbers, a line per row of the tables and floor; where one is missing, the state says why.

    Accuracies in per cent, differences in points, changes in per cent; lists have spaces between. A change has the
    accuracies of its finished pairs with it and, as ``base_accuracies``, without it.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = [column for column in CSV_COLUMNS if report.measured or column != "seconds"]
    writer.writerow(columns)
    for block in report.blocks:
        for row in block.rows:
            writer.writerow(_csv_line(_csv_values(block.title, row), columns))
    prior: dict[str, object] = {"table": "Floors", "label": "question prior", "state": "not known"}
    if report.question_prior is not None:
        prior |= {"state": "finished", "test_accuracy": report.question_prior}
    writer.writerow(_csv_line(prior, columns))
    for row in report.floors:
        writer.writerow(_csv_line(_csv_values("Floors", row), columns))
    for line in report.comparisons:
        writer.writerow(_csv_line(_csv_change(line), columns))
    return file.getvalue()


TYPES_COLUMNS = ("key", "label", "kind", "type", "questions", "accuracy", "score")


def types_comma_separated(report: Report) -> str | None:
    """A line per row and type, unrounded, accuracy in per cent; None where no question has a type.

    ``score`` is ``official``, or ``soft`` for LXMERT's soft score.
    """
    if report.by_type is None:
        return None
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(TYPES_COLUMNS)
    score = "official" if report.by_type.official else "soft"
    for row in report.rows:
        for one in report.by_type.rows.get(row.key, ()):
            values = {"key": row.key, "label": row.label, "score": score} | dataclasses.asdict(one)
            writer.writerow(_csv_line(values, TYPES_COLUMNS))
    return file.getvalue()


def _csv_change(line: Comparison) -> dict[str, object]:
    states = dict.fromkeys(cell.state for cell in (*line.base, *line.changed))
    return {
        "table": COMPARISONS,
        "label": line.label,
        "state": "finished" if line.finished else ", ".join(states),
        "stale": any(cell.stale for cell in (*line.base, *line.changed)),
        "seeds_finished": len(line.finished),
        "seeds": len(line.base),
        "test_accuracy": fmean(changed for _, changed in line.finished) if line.finished else None,
        "test_accuracies": " ".join(repr(changed) for _, changed in line.finished),
        "base_accuracies": " ".join(repr(base) for base, _ in line.finished),
        "difference": line.difference,
        **_csv_difference(line.paired),
        "cells": " ".join(f"{base.id} {changed.id}" for base, changed in zip(line.base, line.changed, strict=True)),
    }


def _csv_values(table: str, row: Row) -> dict[str, object]:
    published, measured = row.published, row.measured
    configuration = row.cells[0].configuration if row.cells else None
    values: dict[str, object] = {
        "table": table,
        "label": row.label,
        "variant": configuration["variant"] if configuration else None,
        "arguments": json.dumps(configuration["arguments"], sort_keys=True) if configuration else None,
        "layers": "-".join(map(str, configuration["layers"])) if configuration else None,
        "keep": None if row.trained else json.dumps(row.cells[0].keep),
        "state": row.state,
        "stale": row.stale,
        "seeds_finished": row.finished,
        "seeds": len(row.cells),
        "difference": row.difference,
        **_csv_difference(row.paired),
        "verdict": row.verdict.word if row.verdict else None,
        "verdict_reason": row.verdict.reason if row.verdict else None,
        "looked": row.looked,
        "macs_reference_change": row.macs_change,
        "cells": " ".join(cell.id for cell in row.cells),
        "notes": " ".join(row.notes),
    }
    if published:
        values |= {
            "published_test_dev": published.test_dev,
            "published_test_std": published.test_std,
            "published_difference": published.difference,
            "published_flops_change": published.flops_change,
            "published_source": published.source,
            "published_origin": published.origin,
        }
    if measured:
        values |= {
            "test_accuracy": measured.accuracy,
            "test_accuracies": " ".join(map(repr, measured.accuracies)),
            "official_accuracy": measured.official,
            "server_test_dev": measured.server.get("test-dev"),
            "server_test_std": measured.server.get("test-std"),
            "macs": measured.macs,
            "macs_reference": measured.macs_reference,
            "uncounted_operators": json.dumps(measured.uncounted_operators, sort_keys=True),
            "parameters": measured.parameters,
            "seconds": measured.seconds if row.trained else None,
        }
    if row.estimate:
        values |= {
            "estimate_low": row.estimate.low,
            "estimate_high": row.estimate.high,
            "standard_error": row.estimate.error,
            "degrees_of_freedom": row.estimate.freedom,
        }
    return values


def _csv_difference(paired: Estimate | None) -> dict[str, object]:
    if paired is None:
        return {}
    return {
        "difference_low": paired.low,
        "difference_high": paired.high,
        "difference_standard_error": paired.error,
        "difference_degrees_of_freedom": paired.freedom,
        "difference_seeds": paired.seeds,
        "p": paired.p,
        "p_adjusted": paired.adjusted,
        "detectable": paired.detectable,
    }


def _csv_line(values: Mapping[str, object], columns: Sequence[str]) -> list[str]:
    return [_csv_cell(values.get(column)) for column in columns]


def _csv_cell(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        return repr(value)
    text = plain(value)
    # A spreadsheet would run such a text as a formula.
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
