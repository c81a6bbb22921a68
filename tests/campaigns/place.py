"""Where a campaign works: its data, an undisturbed run, and the states from which tries begin."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import warm
from records import cells
from warm import At

NAMES = (r"\.tmp\w+$", ".tmp"), (r"\.\d+(?=/|$)", ".PID"), (r"[0-9a-f]{32}", "TOKEN")
"""Parts of file names that differ by process."""


@dataclass(frozen=True)
class Call:
    """A call that changes a file: the ``number``th of its stage."""

    stage: str
    number: int
    name: str
    path: str

    def __str__(self) -> str:
        return f"{self.stage} {self.number}: {self.name} {self.path}"


class Place:
    """A folder with a data set, and the records of two cells that nothing disturbed."""

    def __init__(self, folder: Path, variants: str = "softmax") -> None:
        self.folder, self.variants = folder, variants
        self.data, self.expected = folder / "data", folder / "expected"
        self.data.mkdir(parents=True)

        def write_data() -> int:
            from small_grid import write_small_data

            write_small_data(self.data)
            return 0

        ended = warm.warm_up(write_data, folder / "out")
        assert ended.code == 0, ended.text
        warm.draw_once()
        ended = warm.warm_up(warm.ablate(self.words(self.expected)), folder / "out")
        assert ended.code == 0, ended.text

    def words(self, runs: Path, *more: object) -> list[str]:
        return warm.study_words(runs, self.data, *more, variants=self.variants)

    @cached_property
    def interrupted(self) -> Path:
        """The run folder of a run that was killed soon after the first checkpoint of its second cell."""
        second = cells(self.expected / "demo")[1]
        runs = self.state(
            "interrupted",
            lambda call: call.name == "rename" and f"{second}/checkpoint/step-" in call.path,
            further=5,
        )
        assert not (runs / "demo" / second / "result.json").exists()
        assert len(list(runs.glob(f"demo/{second}/checkpoint/step-*"))) == 1
        return runs

    def state(self, name: str, is_reached: Callable[[Call], bool], further: int = 0) -> Path:
        """A run folder as a kill leaves it at the first call that ``is_reached``, or ``further`` calls after it."""
        at = next(call.number for call in self.calls("look", None) if is_reached(call))
        runs = self.folder / name
        ended = warm.command(self.words(runs), self.folder / "out", At(runs, at + further))
        assert ended.code == -9, ended.text
        return runs

    def calls(self, stage: str, begun: Path | None) -> list[Call]:
        """Those of an undisturbed run that begins from the run folder ``begun``, or from none."""
        runs, trace = self.folder / f"traced-{stage}", self.folder / "trace"
        trace.unlink(missing_ok=True)
        if begun is not None:
            shutil.copytree(begun, runs, symlinks=True)
        ended = warm.command(self.words(runs), self.folder / "out", At(runs, trace=trace))
        assert ended.code == 0, ended.text
        shutil.rmtree(runs)
        found = []
        for line in trace.read_text().splitlines():
            number, name, path = line.split(" ", 2)
            for pattern, instead in NAMES:
                path = re.sub(pattern, instead, path)
            found.append(Call(stage, int(number), name, path))
        return found

    @cached_property
    def stages(self) -> dict[str, tuple[Path | None, list[Call]]]:
        """State to begin from, and calls, of the start's cell, the cell that starts from it, and the report."""
        second = cells(self.expected / "demo")[1]
        begun = self.state("second", lambda call: call.path.startswith(f"/demo/{second}"))
        finished = self.state("finished", lambda call: call.path.startswith("/demo/report"))
        found: dict[str, tuple[Path | None, list[Call]]] = {}
        for stage, state, own in (("first", None, ""), ("second", begun, second), ("report", finished, "report")):
            calls = self.calls(stage, state)
            if stage == "first":  # What comes before it too.
                calls = [call for call in calls if not call.path.startswith((f"/demo/{second}", "/demo/report"))]
            else:
                calls = [call for call in calls if call.path.startswith(f"/demo/{own}")]
            found[stage] = state, calls
        return found

    def begin(self, name: str, state: Path | None) -> Path:
        """A new run folder with the state ``state``."""
        runs = self.folder / name
        shutil.rmtree(runs, ignore_errors=True)
        if state is not None:
            shutil.copytree(state, runs, symlinks=True)
        return runs


def spaced(calls: Sequence[Call], kept: int = 4) -> list[Call]:
    """Of calls that repeat the one before them (a file in many pieces) the first, the last and some between."""
    groups: list[list[Call]] = []
    for call in calls:
        if groups and (groups[-1][-1].name, groups[-1][-1].path) == (call.name, call.path):
            groups[-1].append(call)
        else:
            groups.append([call])
    chosen = []
    for group in groups:
        places = {round(part * (len(group) - 1) / (kept - 1)) for part in range(kept)}
        chosen += [group[place] for place in sorted(places)]
    return chosen


@dataclass(frozen=True)
class Given:
    """What a campaign is asked to do."""

    tries: int | None = None
    """At most so many, evenly spread; None: all."""
    only: tuple[int, ...] = ()
    """Tries of these numbers alone."""
    seed: int = 0
    jobs: int = 1
    """Tries side by side."""
    short: bool = False
    """The few that are most telling."""


def chosen(tries: Sequence[Any], given: Given) -> list[Any]:
    """Of the ``tries``, which are numbered from 0, those that are asked for."""
    if given.only:
        return [tries[number] for number in given.only]
    if given.tries is None or given.tries >= len(tries):
        return list(tries)
    return [tries[part * len(tries) // given.tries] for part in range(given.tries)]


def matching(tries: Sequence[Any], patterns: Sequence[str], text: Callable[[Any], str]) -> list[Any]:
    """For each of ``patterns`` the first of the ``tries`` whose text it is found in."""
    found = []
    for pattern in patterns:
        first = next((one for one in tries if re.search(pattern, text(one)) and one not in found), None)
        found += [] if first is None else [first]
    return found


def conclude(name: str, found: Sequence[dict[str, Any]], given: Given) -> int:
    """Says how many tries there were of each kind, and how many were wrong, of which kind; returns the latter."""
    tried = Counter(one["kind"] for one in found)
    wrong = [one for one in found if one["wrong"]]
    kinds = Counter(word for one in wrong for word in {text.partition(":")[0] for text in one["wrong"]})
    for kind, count in sorted(tried.items()):
        print(f"  {kind}: {count} tries, {sum(one['kind'] == kind for one in wrong)} wrong")
    for kind, count in sorted(kinds.items()):
        print(f"  wrong: {kind}: {count}")
    print(f"{name}: {len(found)} tries, {len(wrong)} wrong; seed {given.seed}", flush=True)
    return len(wrong)


def told(one: dict[str, Any], given: Given) -> None:
    """A line for a try that went wrong, or that was asked for by its number."""
    if one["wrong"] or given.only:
        print(f"try {one['number']}, {one['what']}: {'; '.join(one['wrong']) or 'right'}", flush=True)
