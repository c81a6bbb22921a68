"""The published style of figure, as files beside the page, with captions and links."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from reports.page.markup import Markup, element


class Captioned(Protocol):
    """A figure that was drawn, by the name of its files."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def caption(self) -> str: ...


def shown(output: Path, figures: Sequence[Captioned]) -> list[Markup]:
    """A figure with its caption and files for each of ``figures``, or for each SVG file under ``output``."""
    if figures:
        return [_figure(output, one.name, one.title, one.caption) for one in figures]
    names = sorted(path.stem for path in (output / "figures").glob("*.svg"))
    return [_figure(output, name, name.replace("-", " "), "") for name in names]


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
            *([element("p", caption)] if caption else []),
            element("p", *links, class_="links"),
        ),
        class_="published",
    )
