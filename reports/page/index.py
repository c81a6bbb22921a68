"""The two pages: the report of a study, and the frame that shows any one cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from reports.layout import lay_out
from reports.page import results
from reports.page.example_data import Examples
from reports.page.markup import Markup, element, joined
from reports.report import Report
from reports.text import plain

BASE = ("base.js", "tables.js", "charts.js")
INDEX = ("curves.js", "overview.js", "attention.js", "examples.js")
CELL = ("curves.js", "cell.js")
SCRIPTS = ("theme.js", *dict.fromkeys((*BASE, *INDEX, *CELL)))
STYLE = "page.css"

# 'self' is this folder where a server shows it; file: where it is opened from a disk. No network either way.
POLICY = (
    "default-src 'none'; script-src 'self' file:; style-src 'self' file:; img-src 'self' file:; "
    "base-uri 'none'; form-action 'none'"
)


def index_html(report: Report, figures: Sequence[Markup], examples: Examples) -> str:
    layout, cells = lay_out(report), report.cells
    states = Counter(cell.state for cell in cells)
    sections = {
        "results": ("Results", results.tables(report, layout)),
        "claims": ("The paper's claims", results.claims(report.claims)),
        "trust": ("Results to distrust", results.findings(report.findings)),
        "costs": ("What each method costs", results.costs(report)),
        "figures": ("Figures", _figures(figures)),
        "examples": ("Examples", _examples(examples)),
        "cells": ("Cells", results.cells(cells)),
    }
    shown = {name: section for name, section in sections.items() if section[1]}
    count = ", ".join(f"{number:,} {state}" for state, number in states.items())
    return _page(
        title=f"{report.name}: {report.question}",
        body=(
            element("a", "Skip to the results", href="#results", class_="skip"),
            element(
                "header",
                _bar(element("span", report.name, class_="study")),
                element("h1", plain(report.question)),
                element("p", layout.heading, class_="lead"),
                element("p", f"{len(cells):,} cells: {count}." if cells else "No cells.", class_="quiet"),
                element(
                    "nav",
                    *(element("a", title, href=f"#{name}") for name, (title, _) in shown.items()),
                    aria_label="Sections",
                ),
            ),
            element("main", *(_section(name, title, content) for name, (title, content) in shown.items())),
            element("footer", element("p", f"Paper: {report.paper.citation}.")),
        ),
        scripts=(*BASE, *INDEX),
        data=True,
    )


def cell_html(report: Report) -> str:
    """The page of any cell: ``cell.html#ID``."""
    return _page(
        title=f"Cell of {report.name}",
        body=(
            element("a", "Skip to the cell", href="#cell", class_="skip"),
            element("header", _bar(element("a", f"← {report.name}", href="index.html#cells", class_="study"))),
            element(
                "main",
                element("noscript", element("p", "This page needs JavaScript.", class_="quiet")),
                id="cell",
                tabindex="-1",
            ),
        ),
        scripts=(*BASE, *CELL),
        data=False,
    )


def _page(title: str, body: Sequence[Markup], scripts: Sequence[str], data: bool) -> str:
    names = [*scripts[:1], *(["study.js"] if data else []), *scripts[1:]]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", plain(title)),
        element("link", rel="stylesheet", href=f"page/{STYLE}"),
        # Before anything is drawn, so that no other colour flashes up.
        element("script", src="page/theme.js"),
        *(element("script", src=f"page/{name}", defer=True) for name in names),
    )
    return "<!doctype html>\n" + element("html", head, "\n", element("body", *body), lang="en") + "\n"


def _bar(name: Markup) -> Markup:
    return element("div", name, element("button", "Theme", type="button", id="theme", hidden=True), class_="bar")


def _section(name: str, title: str, content: Markup) -> Markup:
    return joined(
        "\n",
        element(
            "section",
            element("h2", title, id=f"{name}-title"),
            content,
            id=name,
            aria_labelledby=f"{name}-title",
        ),
    )


def _figures(figures: Sequence[Markup]) -> Markup:
    return joined(
        element("noscript", element("p", "Charts that tell their values need JavaScript.", class_="quiet")),
        element("div", id="charts"),
        *([element("h3", "As files, for print"), element("div", *figures, class_="gallery")] if figures else []),
    )


def _examples(examples: Examples) -> Markup:
    if not examples.questions:
        return element("p", "No finished cell has kept example questions.", class_="quiet")
    return element("div", element("p", "The example browser needs JavaScript.", class_="quiet"), id="browser")
