"""Runs a bench and keeps what it measured: samples, table and figure in one folder."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from matplotlib.figure import Figure

from suite import provenance
from suite.bench import show
from suite.bench.measure import MEMORY, Settings
from suite.bench.record import Record
from suite.errors import UserError, clean
from suite.terminal import say


class Bench(Protocol):
    """One comparison."""

    @property
    def name(self) -> str: ...

    @property
    def reference(self) -> str:
        """Name of the row that ratios are to."""
        ...

    def arguments(self) -> dict[str, Any]:
        """What was asked for, as values of JSON."""
        ...

    def measure(self, record: Record, settings: Settings) -> Iterator[None]:
        """Adds rows and notes to ``record``; pauses wherever what there is may be kept."""
        ...

    def table(self, record: Record) -> list[dict[str, str]]:
        """Column -> text of each row."""
        ...

    def findings(self, record: Record) -> list[str]:
        """What the table says, in sentences."""
        ...

    def figure(self, record: Record) -> Figure:
        """A picture of it."""
        ...


def run(bench: Bench, settings: Settings, folder: Path, command: Sequence[str]) -> int:
    """Measures, writes into ``folder`` and prints the table; 0, or 130 where Ctrl-C stopped it.

    ``samples.json`` holds every sample with the machine, the versions and the arguments, ``table.md`` what is
    printed; the figure is ``figure.png`` and ``figure.pdf``. A bench that is stopped keeps its whole rounds.
    Raises UserError where memory does not suffice, and keeps what was measured before.
    """
    torch.set_num_threads(settings.threads)
    folder.mkdir(parents=True, exist_ok=True)
    gpu = torch.cuda.get_device_name() if settings.device == "cuda" else None
    record = Record(
        bench=bench.name,
        reference=bench.reference,
        arguments=bench.arguments() | dataclasses.asdict(settings),
        provenance={
            "command": list(command),
            "began": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "code": provenance.code(),
            "packages": provenance.packages(),
            "hardware": provenance.hardware() | {"gpu": gpu},
        },
    )
    trouble = None
    try:
        for _ in bench.measure(record, settings):
            # After each part: whatever ends this process later, the part is kept.
            record.write(folder / "samples.json")
        record.complete = True
    except KeyboardInterrupt:
        say("Stopped: the rounds that were whole are kept.")
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        trouble = UserError(f"The memory does not suffice: {error} Give smaller sizes.")
    record.write(folder / "samples.json")
    if record.measured():
        text = report(bench, record)
        (folder / "table.md").write_text(text, encoding="utf-8")
        show.save(bench.figure(record), folder)
        print(clean(text), end="")
        say(f"Samples, table and figure: {folder}")
    if trouble:
        raise trouble
    return 0 if record.complete else 130


def report(bench: Bench, record: Record) -> str:
    """The record as a page of Markdown."""
    arguments, machine = record.arguments, record.provenance["hardware"]
    versions = ", ".join(
        f"{name} {record.provenance['packages'][name]}" for name in ("torch", "transformers", "entmax")
    )
    where = machine["gpu"] or f"{machine['processor']}, {machine['cores']} cores, {arguments['threads']} threads"
    rounds = " or ".join(map(str, sorted({len(row.totals()) for row in record.measured()})))
    notes = list(record.notes)
    if any("peak_bytes" in row.facts for row in record.rows):
        notes.append(f"Peak memory: {MEMORY[arguments['device']]}.")
    parts = [
        f"# ablate bench {record.bench}",
        f"{where}; {versions}. Medians (quartiles) over {rounds} rounds, in each of which everything ran in turn; "
        "ratios are medians of the rounds' ratios.",
        "\n".join(f"- {note}" for note in notes),
        show.markdown(bench.table(record)),
        "\n".join(f"- {finding}" for finding in bench.findings(record)),
        "" if record.complete else "Stopped before its end.",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"
