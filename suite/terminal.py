"""What is said on stderr while work goes on. Who listened may go: the work goes on, and it is said to nobody."""

from __future__ import annotations

import os
import select
import sys
from typing import TextIO

from rich.console import Console


def say(text: str, to: TextIO | None = None) -> None:
    """Prints to stderr, or to what it was when ``to`` was taken from it."""
    try:
        print(text, file=to or sys.stderr, flush=True)
    except OSError:
        let_go()


def let_go() -> None:
    """What is printed from now on to a terminal that was closed, or a pipe that nobody reads, goes nowhere."""
    outputs = select.poll()
    for output in (1, 2):
        outputs.register(output, 0)  # What is asked for is told besides: errors and closed ends.
    gone = [output for output, state in outputs.poll(0) if state & (select.POLLERR | select.POLLHUP)]
    if gone:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for output in gone:
            os.dup2(nowhere, output)
        os.close(nowhere)


class Terminal(Console):
    """rich's console, which would end the process where nobody reads."""

    def on_broken_pipe(self) -> None:
        let_go()
