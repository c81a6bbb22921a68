"""Asks the cells that run on a machine to write their checkpoints and leave it. Imports no torch."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from pathlib import Path

from suite.files import check_no_link
from suite.lease import Holder, holder_of
from suite.pulse import drain_markers
from suite.records import StudyFolder


def running(studies: Sequence[Path]) -> dict[Path, Holder]:
    """The folders of the cells that run now, with who runs them."""
    folders = [
        config.parent
        for study in studies
        for config in sorted(study.glob("*/config.json"))
        if not study.is_symlink() and not config.parent.is_symlink() and not (config.parent / "lease").is_symlink()
    ]
    return {folder: holder for folder in folders if (holder := holder_of(folder))}


def drain(studies: Sequence[Path], everywhere: bool, wait: float) -> tuple[list[str], list[str]]:
    """Has the cells that run on this machine, or ``everywhere``, leave; the ids of those that did and did not.

    Returns once all have, after ``wait`` seconds at most. Until their launch ends no other cell of it begins here.
    """
    here = socket.gethostname()
    found = running(studies)
    asked = {folder: holder for folder, holder in found.items() if everywhere or holder.host == here}
    for folder, holder in found.items():
        everyone, _, host = drain_markers(folder.parent, holder.launch, holder.node, here)
        marker = everyone if everywhere else host
        StudyFolder(folder.parent).check_links()
        marker.parent.mkdir(exist_ok=True)
        check_no_link(folder.parent, marker)
        marker.touch()
    until = time.monotonic() + wait
    staying = asked
    while staying and time.monotonic() < until:
        time.sleep(0.5)
        staying = {folder: holder for folder, holder in staying.items() if holder_of(folder) == holder}
    return [folder.name for folder in asked if folder not in staying], [folder.name for folder in staying]
