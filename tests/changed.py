"""Files of records with something else in them, as a hand, or an older engine, would have written them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from suite.files import read_json, read_lines, write_json, write_text


def change(path: Path, **values: object) -> None:
    """The JSON object at ``path`` with other values, and without a check."""
    write_json(path, read_json(path) | values)


def change_accuracy(path: Path, **splits: float) -> None:
    """The result at ``path`` with other accuracies of some splits."""
    change(path, accuracy=read_json(path)["accuracy"] | splits)


def change_lines(path: Path, changed: Callable[[dict[str, Any]], Mapping[str, object]]) -> None:
    """Each line of the ``.jsonl`` file at ``path`` as ``changed`` gives it, without a check."""
    write_lines(path, map(changed, read_lines(path)))


def write_lines(path: Path, lines: Iterable[Mapping[str, object]]) -> None:
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
