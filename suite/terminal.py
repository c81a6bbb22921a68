"""What is said on stderr while work goes on. Who listened may go: the work goes on, and it is said to nobody.

What is said holds other people's names and messages: a terminal shows them and obeys none of them.
"""

from __future__ import annotations

import os
import select
import sys
from typing import Any, TextIO

from rich.console import Console

from suite.errors import clean


def say(text: str, to: TextIO | None = None) -> None:
    """Prints to stderr, or to what it was when ``to`` was taken from it."""
    try:
        print(clean(text), file=to or sys.stderr, flush=True)
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


def open_closed() -> None:
    """Gives a command that was started with closed streams (``>&-``) open ones, which lead nowhere.

    Else the first file that it opens is where others print to, and nothing can be printed.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # The lowest number that is free: this one.
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


class Terminal(Console):
    """rich's console as its stream is, whatever notebook or setting of colours is around it.

    rich itself would end the process where nobody reads.
    """

    def __init__(self, file: TextIO, **named: Any) -> None:
        super().__init__(file=file, force_terminal=file.isatty(), force_jupyter=False, **named)

    def on_broken_pipe(self) -> None:
        let_go()
