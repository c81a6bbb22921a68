"""HTML from Python: text is escaped unless it is markup already, so that no text of a record can become markup."""

from __future__ import annotations

import html

from suite.errors import clean

VOID = ("meta", "link", "img")


class Markup(str):
    """HTML that ``element`` or ``joined`` made; any other string is text."""


def element(name: str, /, *children: str, **attributes: str | int | bool | None) -> Markup:
    """``<name attributes>children</name>``, without the attributes that are None or False.

    An underscore in an attribute's name is written ``-``; one at its end keeps it from being a word of Python.
    """
    written = ""
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            written += f" {key}"
        elif value is not None and value is not False:
            written += f' {key}="{escaped(str(value))}"'
    if name in VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{joined(*children)}</{name}>")


def joined(*children: str) -> Markup:
    return Markup("".join(child if isinstance(child, Markup) else escaped(child) for child in children))


def escaped(text: str) -> str:
    return html.escape(clean(text), quote=True)
