"""The errors that are a user's to mend: a message without a traceback, and a non-zero exit; what may be shown."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable


class UserError(ValueError):
    """Says what was expected, what was received and what to do."""


class UnfitNode(UserError):
    """A node that has not what the driver expects of it: what it trained would be another cell. Ends the launch."""


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not among ``known``, with the nearest that is."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return UserError(f"There is no {what} '{name}'.{hint} Known: {', '.join(known) or 'none'}.")


SHOWN = 80  # characters of a value in a message
FEW = 5  # of many values


def shown(value: object) -> str:
    """A value for a message, cut short."""
    text = ascii(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def few(values: Iterable[object], most: int = FEW) -> str:
    """The first of many values for a message, each cut short, and how many more there are."""
    values = list(values)
    named = ", ".join(map(shown, values[:most])) or "nothing"
    return f"{named} and {len(values) - most} more" if len(values) > most else named


def clean(text: str) -> str:
    """``text`` without control and formatting characters, which a terminal would obey: escapes, bidirectional
    overrides, half surrogates. Spaces and line ends stay."""
    if text.isprintable():
        return text
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    return "".join(
        character if character in "\n\t" or not unicodedata.category(character).startswith("C") else " "
        for character in text
    )
