"""Cells that should not be trusted: what a reader would want to know before believing a number."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from reports.cells import LONGEST, CellRecord, is_per_head
from reports.predictions import damage_explained, read_predictions
from reports.report import Finding, Report
from reports.text import shortened
from suite import forms
from suite.files import parse_lines
from suite.records import CellFolder, RecordError


def checks(report: Report) -> tuple[Finding, ...]:
    """What is wrong with the cells of the report's rows, in its order; nothing where all can be trusted."""
    cells = [cell for row in report.rows for cell in row.cells]
    finished = [cell for cell in cells if cell.result is not None]
    trained = [cell for cell in finished if cell.keep is None]
    reference = report.paper.reference.cell
    softmax = reference["variant"] if reference else ""
    found = [
        *not_finite(cells),
        *not_learned(trained, report.question_prior),
        *not_moved(trained),
        *nothing_dropped(trained, softmax),
        *equals_softmax(trained, softmax),
    ]
    places = {cell.id: place for place, cell in enumerate(cells)}
    return tuple(sorted(found, key=lambda one: places[one.cell]))


def not_learned(cells: Iterable[CellRecord], prior: float | None) -> Iterator[Finding]:
    """Worse than knowing nothing but the question."""
    for cell in cells:
        if prior is not None and cell.accuracy < prior:
            yield Finding(
                cell.id,
                "not-learned",
                f"Did not learn: expected more than {prior:.2f} %, which the most frequent answer to each question "
                f"has, found {cell.accuracy:.2f} % on the test split. Look at its loss; train longer, or with "
                "another learning rate.",
            )


STILL = 1e-6
"""Relative change up to which a learned number has stood still: some units of float32's last place."""


def not_moved(cells: Iterable[CellRecord]) -> Iterator[Finding]:
    """Spans, alphas and the like that are at the end what they were at the beginning, in every head."""
    for cell in cells:
        first, last = _ends(cell.record)
        for name in sorted(_per_head(first) & _per_head(last)):
            before, after = (
                {(line["site"], head): number for line in end for head, number in enumerate(line.get(name) or ())}
                for end in (first, last)
            )
            if all(math.isclose(number, after.get(at, math.inf), rel_tol=STILL) for at, number in before.items()):
                yield Finding(
                    cell.id,
                    "not-moved",
                    f"{name} never moved: expected it to be learned, found the same {len(before)} numbers, one per "
                    f"head, at steps {first[0]['step']:,} and {last[0]['step']:,}. See that the optimiser has it "
                    "and that its gradient is not 0.",
                )


def _ends(record: CellFolder) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The lines of the first and of the last evaluation: those between, the most of the file, are not read.

    Empty where there are not two, or where nothing is learned.
    """
    path = record.path / "sites.jsonl"
    try:
        *texts, _ = record.read(path.name).split(b"\n")
    except FileNotFoundError:
        return [], []

    def evaluation(texts: Iterable[bytes]) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
        for text in texts:
            (line,) = parse_lines(path, text + b"\n")
            forms.check(path, line, forms.LINES["sites"])
            if lines and line["step"] != lines[0]["step"]:
                break
            lines.append(line)
        return lines

    try:
        first = evaluation(texts)
        if not _per_head(first):
            return [], []
        last = evaluation(reversed(texts))
    except RecordError:
        record.lines("sites")  # Which counts its lines.
        raise
    return (first, last) if first[0]["step"] != last[0]["step"] else ([], [])


def _per_head(lines: Iterable[Mapping[str, Any]]) -> set[str]:
    """The columns with a number per head that a method has of its own."""
    return {name for line in lines for name, value in line.items() if name != "density" and is_per_head(value)}


def nothing_dropped(cells: Sequence[CellRecord], softmax: str) -> Iterator[Finding]:
    """LayerDrop that ran every layer of a stack in the test, or costs what a model does that drops none."""
    whole: dict[str, tuple[str, float]] = {}
    for cell in cells:
        if cell.configuration["variant"] == softmax or (_is_layerdrop(cell) and not _dropping(cell)):
            assert cell.result is not None
            whole.setdefault(_size(cell), (cell.id, cell.result["macs_reference"]))
    for cell in (cell for cell in cells if _is_layerdrop(cell) and _dropping(cell)):
        assert cell.result is not None
        wanted = f"Dropped nothing: expected p = {_dropping(cell)} layers fewer in each stack, found"
        stacks = zip((cell.result.get("kept") or {}).items(), cell.configuration["layers"], strict=False)
        untouched = [f"{stack} ({layers})" for (stack, kept), layers in stacks if len(kept) == layers]
        undropped, macs = whole.get(_size(cell), ("", math.inf))
        if untouched:
            found = f"all layers of {', '.join(untouched)} run in the test"
        elif cell.result["macs_reference"] >= macs:
            found = f"the {macs:,.0f} multiply-adds of {undropped}, which drops none"
        else:
            continue
        yield Finding(cell.id, "nothing-dropped", f"{wanted} {found}. Do not read it as LayerDrop's number.")


def _is_layerdrop(cell: CellRecord) -> bool:
    return cell.configuration["variant"].startswith("layerdrop")


def _dropping(cell: CellRecord) -> int:
    """The layers of each stack that the cell is asked to drop."""
    return cell.configuration["arguments"].get("p", 0)


def _size(cell: CellRecord) -> str:
    """All that multiply-adds depend on but the method."""
    return json.dumps([cell.configuration[name] for name in ("dataset", "layers", "model")], sort_keys=True)


def not_finite(cells: Iterable[CellRecord]) -> Iterator[Finding]:
    """Cells whose training ended early because a number was none; none was then recorded."""
    for cell in cells:
        failure = cell.record.failure() if cell.state == "failed" else None
        if failure and failure.get("kind") == "not finite":
            message = shortened(failure["message"], LONGEST)
            yield Finding(cell.id, "not-finite", f"Training ended early: expected finite numbers, found: {message}")


def equals_softmax(cells: Sequence[CellRecord], softmax: str) -> Iterator[Finding]:
    """Other variants whose answers and confidences are to the bit those of softmax at the same seed."""

    def asked(cell: CellRecord) -> tuple[Any, ...]:
        one = cell.configuration
        return one["dataset"], one["test"], one["seed"], cell.accuracy

    # Of different accuracies the predictions differ: their files are not read.
    groups: dict[tuple[Any, ...], list[CellRecord]] = {}
    for cell in cells:
        groups.setdefault(asked(cell), []).append(cell)
    for group in groups.values():
        plain = [cell for cell in group if cell.configuration["variant"] == softmax]
        # LayerDrop at p = 0 is softmax, by its own definition.
        others = [cell for cell in group if cell not in plain and not (_is_layerdrop(cell) and not _dropping(cell))]
        if not plain or not others:
            continue
        known = {digest: cell.id for cell in reversed(plain) if (digest := _digest(cell))}
        for cell in others:
            digest = _digest(cell)
            if digest in known:
                yield Finding(
                    cell.id,
                    "equals-softmax",
                    f"Equals softmax: expected predictions of its own, found the answers and confidences of "
                    f"{known[digest]} to the last bit. See that the variant reaches the model.",
                )


def _digest(cell: CellRecord) -> str | None:
    """Of the answers and confidences in the order of the questions; None without predictions."""
    table = read_predictions(cell.record, ["answer", "top_confidences"])
    if table is None:
        return None
    with damage_explained(cell.record):
        answers, confidences = (table[name].combine_chunks() for name in ("answer", "top_confidences"))
        digest = hashlib.sha256(json.dumps(answers.to_pylist()).encode())
        digest.update(confidences.flatten().to_numpy(zero_copy_only=False).tobytes())
        return digest.hexdigest()
