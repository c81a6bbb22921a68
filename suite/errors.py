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
