"""The tables in LaTeX, for a paper."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence

from reports.layout import Layout, lay_out
from reports.report import Report
from reports.text import ABSENT, TextTable

LINE = 100
"""Characters that a page of LaTeX has room for in \\scriptsize beside the labels: wider tables come in parts."""
PLUS_MINUS = r"\pm"
_ESCAPES = {
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


def latex(report: Report) -> str:
    """One ``table*`` per block; needs the package booktabs and nothing else."""
    layout = lay_out(report)
    return "% Written by reports.build: do not edit. Needs \\usepackage{booktabs}.\n" + "\n".join(
        _table(layout, number) for number in range(len(layout.tables))
    )


def _table(layout: Layout, number: int) -> str:
    block = layout.tables[number]
    below = [*layout.floors, *layout.remarks, *(f"[{note.mark}] {note.text}" for note in block.notes)]
    return "\n".join(
        [
            "\\begin{table*}[tp]",
            "\\centering\\scriptsize\\setlength{\\tabcolsep}{3pt}",
            f"\\caption{{{escape_latex(block.title)}. {escape_latex(layout.heading)}}}",
            "\n\\par\\medskip\n".join(
                _tabular(block, columns) for columns in block.parts(LINE, functools.partial(_widths, block))
            ),
            "\\par\\smallskip",
            "\\parbox{\\textwidth}{\\scriptsize " + " \\\\\n".join(map(escape_latex, below)) + "}",
            "\\end{table*}",
            "",
        ]
    )


def _widths(block: TextTable, columns: Sequence[int]) -> list[int]:
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
    rows = [" & ".join(_cell(row[number]) for number in chosen) for row in block.rows]
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


def _cell(text: str) -> str:
    if text == ABSENT:
        return "--"
    # In mathematics a minus is a minus and not a hyphen.
    if re.fullmatch(r"[+-]\d+(\.\d+)?( ± \d+\.\d+)?", text):
        return f"${text.replace('±', PLUS_MINUS)}$"
    return escape_latex(text)


def escape_latex(text: str) -> str:
    """``text`` as LaTeX that shows it; characters that pdflatex does not know are named by their code."""
    return "".join(_ESCAPES.get(one, one if one.isascii() else f"(U+{ord(one):04X})") for one in text)
