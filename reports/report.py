"""What a report holds, as data: the rows of its tables, changes, claims and findings.

Accuracies are in per cent, differences in points, changes in per cent of the softmax row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from reports.by_type import ByType
from reports.cells import CellRecord, Pair
from reports.costs import Cost
from reports.published import Paper, Published
from reports.statistics import Estimate
from reports.verdicts import Verdict


@dataclass(frozen=True)
class Measured:
    """What the finished cells of one row measured, as means over their seeds."""

    accuracy: float
    """Test accuracy, per cent."""
    accuracies: tuple[float, ...]
    """The same, one per finished cell."""
    macs: float
    """Multiply-adds of what runs, for one question."""
    macs_reference: float
    """Multiply-adds comparable with the paper: every word padded, both halves of the last layer."""
    uncounted_operators: Mapping[str, int]
    parameters: float
    seconds: float
    """Training time."""
    official: float | None
    """Official test accuracy, per cent, of the cells that have it; None where none has."""
    server: Mapping[str, float]
    """The test server's split -> accuracy that it answered, per cent, of the cells that have it."""


@dataclass(frozen=True)
class Row:
    """One table row: a published result, cells of ours, or both."""

    key: str
    """Names the row in file names."""
    label: str
    short: str
    """The label for a legend: arguments that do not tell rows of this study apart are left out, and the layers that
    an evaluation keeps."""
    published: Published | None
    cells: tuple[CellRecord, ...]
    state: str
    """``finished``, or in words why there is no measurement."""
    measured: Measured | None
    difference: float | None
    """Test accuracy minus that of the reference row, points: over the seeds that both have, where any are."""
    macs_change: float | None
    """macs_reference against that of the reference row, per cent."""
    looked: bool | None
    """False where the accuracy is below the study's threshold; None where there is none to compare."""
    notes: tuple[str, ...]
    estimate: Estimate | None = None
    """Of the test accuracy; None where a finished cell has no predictions."""
    paired: Estimate | None = None
    """Of ``difference``: question by question, and seed by seed."""
    verdict: Verdict | None = None
    """Against the published row."""
    costs: tuple[Cost, ...] = ()
    """Of its first measured cell, one per device."""

    @property
    def trained(self) -> bool:
        """Whether its cells were trained, and not evaluated only, with other layers than they were trained with."""
        return all(cell.keep is None for cell in self.cells)

    @property
    def finished(self) -> int:
        """The number of finished cells (seeds)."""
        return sum(cell.state == "finished" for cell in self.cells)

    @property
    def stale(self) -> bool:
        """Whether a number of this row comes from an engine that has changed since."""
        return any(cell.stale for cell in self.cells)


@dataclass(frozen=True)
class Block:
    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Comparison:
    """What one change is worth: pairs of cells that differ in it, one pair per seed."""

    label: str
    """The change."""
    base: tuple[CellRecord, ...]
    """The cells without it."""
    changed: tuple[CellRecord, ...]
    """Those with it, each at the place of its partner."""
    paired: Estimate | None = None
    """Of ``difference``; p is adjusted over the comparisons of the study."""

    @property
    def finished(self) -> list[tuple[float, float]]:
        """Test accuracies (without, with) of the pairs of which both cells are finished, per cent."""
        return [
            (one.accuracy, other.accuracy)
            for one, other in zip(self.base, self.changed, strict=True)
            if one.result is not None and other.result is not None
        ]

    @property
    def difference(self) -> float | None:
        """Accuracy with the change minus without it, points: the mean over the finished pairs."""
        return fmean(changed - base for base, changed in self.finished) if self.finished else None

    @property
    def finished_pairs(self) -> list[Pair]:
        """The pairs (with, without) of which both cells are finished."""
        pairs = zip(self.changed, self.base, strict=True)
        return [pair for pair in pairs if all(cell.result is not None for cell in pair)]


Told = Literal["holds", "does not hold", "cannot tell"]


@dataclass(frozen=True)
class Claim:
    key: str
    text: str
    """As the paper says it, shortened."""
    source: str
    """Section, table or figure of the paper."""
    rule: str
    """When it holds, when it does not; anything else cannot be told."""
    verdict: Told
    evidence: str
    """The numbers that the rule was applied to."""
    cells: tuple[str, ...]
    """Ids of the cells that the numbers are from."""
    seeds: int = 0
    """How many the verdict is over; 0 where none counts, as in what a model costs."""
    stale: bool = False
    """Whether a number comes from an engine that has changed since."""

    @property
    def said(self) -> str:
        """The verdict with what a reader must not miss: ``holds (1 seed)``."""
        aside = ", ".join([*(["1 seed"] if self.seeds == 1 else []), *(["stale"] if self.stale else [])])
        return f"{self.verdict} ({aside})" if aside and self.verdict != "cannot tell" else self.verdict


@dataclass(frozen=True)
class Finding:
    cell: str
    """Id."""
    check: str
    """Which check it is: not-learned, not-moved, nothing-dropped, not-finite or equals-softmax."""
    message: str
    """Expected, found, and what to do."""


@dataclass(frozen=True)
class Report:
    """All tables of one study."""

    name: str
    question: str
    """What the study asks."""
    cells: tuple[CellRecord, ...]
    """All of them, in rows or not."""
    dataset: str
    """The data set's title."""
    heading: str
    """On which data and budget our numbers come from."""
    reference: str
    """Which row differences are taken against, as a sentence."""
    paper: Paper
    question_prior: float | None
    """Accuracy of each question text's most frequent training answer, per cent."""
    looked: float | None
    """Accuracy below which a row has not learned to look, per cent."""
    blocks: tuple[Block, ...]
    floors: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    comparable: bool
    """Whether data and size of model of all rows are the paper's: the sizes of differences can be compared."""
    measured: bool
    """Whether the tables show what no second run repeats: seconds."""
    by_type: ByType | None
    """Accuracies by type of answer and question, by the row's key; None where no question has a type."""
    claims: tuple[Claim, ...] = ()
    findings: tuple[Finding, ...] = ()
    searches: tuple[str, ...] = ()
    """How the arguments of each variant that was searched were found, a sentence each."""

    @property
    def rows(self) -> list[Row]:
        """The rows of all blocks that have cells of ours."""
        return [row for block in self.blocks for row in block.rows if row.cells]
