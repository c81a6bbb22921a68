"""What the page's scripts read: JSON inside a script, since a page on a disk may load scripts and nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, TypeVar

One = TypeVar("One")

# Inside a string of JSON these are only ever characters of text.
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def script(name: str, value: Any) -> str:
    """A script that hands ``value`` to the page under ``name``, its path without the ending.

    The value travels as a string that the page parses: as an object of JavaScript its names could mean something
    (``__proto__``). All that is not ASCII is escaped, whatever the page's encoding is taken for.
    """
    return f"page.arrived({_quoted(name)}, {_quoted(json.dumps(value, allow_nan=False, separators=(',', ':')))});\n"


def _quoted(text: str) -> str:
    quoted = json.dumps(text)
    for character, escape in ESCAPES.items():
        quoted = quoted.replace(character, escape)
    return quoted


def number(value: float | None) -> float | None:
    """Six digits of ``value``; None where it is not a number that JSON has."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")


def thinned(values: Sequence[One], most: int) -> list[One]:
    """At most ``most`` of ``values``, evenly spaced, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(place * (len(values) - 1) / (most - 1))] for place in range(most)]
