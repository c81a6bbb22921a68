"""The published style of figure, as files beside the page, with captions and links."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from reports.figures import Drawn
from reports.page.markup import Markup, element


def shown(output: Path, figures: Sequence[Drawn]) -> list[Markup]:
    """Each of ``figures`` with its caption and its files under ``output``."""
    return [_figure(output, one.name, one.title, one.caption) for one in figures]


def _size(path: Path) -> tuple[int, int] | None:
    """Width and height of an SVG file, so that the page keeps its place until it is loaded; None where unknown."""
    with path.open(encoding="utf-8") as file:
        found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', file.read(2000))
    return (round(float(found[1])), round(float(found[2]))) if found else None


def _figure(output: Path, name: str, title: str, caption: str) -> Markup:
    files = [form for form in ("svg", "pdf", "png") if (output / "figures" / f"{name}.{form}").exists()]
    width, height = _size(output / "figures" / f"{name}.svg") or (None, None)
    links = [element("a", form.upper(), href=f"figures/{quote(name)}.{form}") for form in files]
    return element(
        "figure",
        element(
            "a",
            element("img", src=f"figures/{quote(name)}.svg", alt=title, loading="lazy", width=width, height=height),
            href=f"figures/{quote(name)}.svg",
            class_="sheet",
        ),
        element(
            "figcaption",
            element("strong", title),
            element("p", caption),
            element("p", *links, class_="links"),
        ),
        class_="published",
    )
