"""Whether every byte of a record is what was written, checkpoints included."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from suite import checkpoints
from suite.errors import UserError
from suite.files import damaged
from suite.records import LINES, CellFolder


def damages(record: CellFolder) -> list[str]:
    """What is wrong with the record of a cell, a sentence for each file; nothing where it is whole.

    Reads all of it. Of a cell that is not finished only what knows itself can be held against something.
    """
    found = []

    def look(act: Callable[[], object]) -> None:
        try:
            act()
        except UserError as error:
            found.append(str(error))

    look(record.check_links)
    if (record.path / "config.json").exists():
        look(record.config)
    for name in LINES:
        look(partial(record.lines, name))
    for optional in (record.failure, record.stopped, record.costs, record.server):
        look(optional)
    result = None
    try:
        result = record.result()
    except UserError as error:
        found.append(str(error))
    if result is None:
        look(lambda: checkpoints.newest(record.checkpoints))
        return found
    for name in record.digests():
        look(partial(record.verify, name))
    if result["steps"] and (told := checkpoints.damage_of_model(record.checkpoints, result["steps"])):
        path = checkpoints.place(record.checkpoints, result["steps"])
        found.append(str(damaged(path, told)))
    return list(dict.fromkeys(found))
