"""Stops a process before a call that changes a file, for longer than the lease, while another takes its cell over.

Of most tries the second process finishes; then the first one goes on and must end well by itself, and may change
nothing of the finished record. Of the others (``both``) the second one is stopped in its middle while the first one
goes on, then it goes on too: the record must end finished, with what a run has that nothing disturbed.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import warm
from place import Call, Given, Place, chosen, conclude, matching, spaced, told
from records import changes, differences, left_over, snapshot
from warm import At

SILENCE = 3.0
"""Seconds of a lease: more than a living process is silent for."""
POINTS, BOTH = 240, 60
"""Tries of each of the two kinds."""


def planned(stages: dict[str, tuple[Path | None, list[Call]]], seed: int) -> list[tuple[str, Call, int]]:
    """Kind, call at which the first process stops, and of ``both`` the call at which the second one does."""
    calls = [call for stage in ("first", "second") for call in stages[stage][1]]
    points = spaced(calls)
    rest = [call for call in calls if call not in points]
    random.Random(seed).shuffle(rest)
    points += rest[: max(POINTS - len(points), 0)]
    tries = [("other finishes", call, 0) for call in points]
    draw = random.Random(seed + 1)
    for part in range(BOTH):
        call = points[part * len(points) // BOTH]
        later = [other.number for other in spaced(stages[call.stage][1]) if other.number > 16]
        tries.append(("both", call, draw.choice(later)))
    return tries


def tried(place: Place, one: tuple[int, str, Call, int], state: Path | None) -> dict[str, Any]:
    number, kind, call, other_stop = one
    runs = place.begin(f"try-{number}", state)
    expected, study, wrong = place.expected / "demo", runs / "demo", []
    words = warm.ablate(place.words(runs), SILENCE)
    first = warm.fork(words, place.folder / f"first-{number}.txt", At(runs, call.number, "stop"))
    what = f"stopped at {call}" + (f", the other at {other_stop}" if other_stop else "")
    if not first.is_stopped():
        return {"number": number, "kind": "not met", "what": what, "wrong": _badly("the undisturbed", first)}
    at = At(runs, other_stop, "stop") if other_stop else None
    second = warm.fork(words, place.folder / f"second-{number}.txt", at)
    before = None
    if not second.is_stopped():
        wrong += _badly("the other", second)
        wrong += [f"records: {one}" for one in differences(study, expected)]
        before = snapshot(study)
    first.go_on()
    wrong += _badly("the stopped", first)
    if before is None:
        second.go_on()
        wrong += _badly("the other", second)
    else:
        wrong += [f"finished record {one}" for one in changes(before, snapshot(study))]
    wrong += [f"records: {one}" for one in differences(study, expected)]
    wrong += left_over(study, expected)
    shutil.rmtree(runs, ignore_errors=True)
    for child in (first, second):
        child.out.unlink()
    return {"number": number, "kind": kind, "what": what, "wrong": list(dict.fromkeys(wrong))}


def _badly(who: str, child: warm.Child) -> list[str]:
    """How the process did not end well."""
    ended = child.ended()
    said = ended.text.strip()[-200:]
    if ended.hung:
        return [f"hang: {who}: {said}"]
    if ended.has_traceback:
        return [f"traceback: {who}: {said}"]
    return [f"exit code: {ended.code} of {who}: {said}"] if ended.code else []


SHORT = (
    *("finishes.* open .*metrics.jsonl", "finishes.* mkdir .*checkpoint"),
    *("finishes.* rename .*checkpoint/step-", "finishes.* rename .*result.json", "both.* first", "both.* second"),
)


def run(place: Place, given: Given) -> int:
    """How many tries went wrong."""
    stages = place.stages
    tries = [(number, *one) for number, one in enumerate(planned(stages, given.seed))]
    taken = matching(tries, SHORT, lambda one: f"{one[1]} {one[2]}") if given.short else chosen(tries, given)
    found = []

    def work(one: tuple[int, str, Call, int]) -> dict[str, Any]:
        return tried(place, one, stages[one[2].stage][0])

    # While it waits for a lease to become silent a try does nothing.
    for one in warm.spread(taken, work, 2 * given.jobs):
        told(one, given)
        found.append(one)
    return conclude("stalls", found, given)
