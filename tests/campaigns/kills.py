"""Kills a run of two small cells at every call that changes a file, or has that call fail, and runs it again.

Each call of the run is met by a kill, each write by a kill after its first half, each call by one error out of
EIO, ENOSPC and ESTALE, whose seed says which. Then the same command must end well, with the records of a run that
nothing disturbed, and leave nothing else.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import warm
from place import Call, Given, Place, chosen, conclude, matching, spaced, told
from records import differences, left_over
from warm import At

SILENCE, LIMIT = 600.0, 60.0
"""Seconds of a lease, and of a run: one that took as long waits for a process that is dead."""
ERRORS = ("EIO", "ENOSPC", "ESTALE")


def planned(stages: dict[str, tuple[Path | None, list[Call]]], seed: int) -> list[tuple[Call, str]]:
    """Call and fault of each try."""
    tries = []
    for place, call in enumerate(call for _, calls in stages.values() for call in spaced(calls)):
        tries.append((call, "kill"))
        if call.name == "write":
            tries.append((call, "kill-halfway"))
        tries.append((call, ERRORS[(place + seed) % 3]))
    return tries


def tried(place: Place, one: tuple[int, Call, str], state: Path | None) -> dict[str, Any]:
    number, call, fault = one
    runs = place.begin(f"try-{number}", state)
    out = place.folder / f"try-{number}.txt"
    words, wrong, kind = place.words(runs), [], fault
    first = warm.command(words, out, At(runs, call.number, fault), SILENCE)
    if first.hung:
        wrong.append("hang: the run that met it")
    if first.has_traceback:
        wrong.append(f"traceback: {first.text.strip().splitlines()[-1]}")
    if fault.startswith("kill") and first.code != -9:
        kind = "not met"
    if fault in ERRORS:
        kind = f"{fault}, {'mended itself' if first.code == 0 else f'ended with {first.code}'}"
        if first.code not in (0, 2):
            wrong.append(f"exit code: {first.code} for a passing {fault}: {first.text.strip()[-200:]}")
    if first.code:
        again = warm.command(words, out, silence=SILENCE, limit=LIMIT)
        if again.hung:
            said = "" if " waits " in again.text else " without a word"
            wrong.append(f"waits: the run after it waits{said} for a process that is dead")
        elif again.code:
            wrong.append(f"exit code: {again.code} of the run after it: {again.text.strip()[-200:]}")
        if again.has_traceback:
            wrong.append(f"traceback: {again.text.strip().splitlines()[-1]}")
    expected = place.expected / "demo"
    if not any(one.startswith("waits") for one in wrong):
        wrong += [f"records: {one}" for one in differences(runs / "demo", expected)]
        wrong += left_over(runs / "demo", expected)
    shutil.rmtree(runs, ignore_errors=True)
    out.unlink(missing_ok=True)
    return {"number": number, "kind": kind, "what": f"{fault} at {call}", "wrong": wrong}


SHORT = (
    *("^kill at .*write .*study.json", "^kill at .*open .*lease/", "^kill at .*write .*lease/"),
    *("^kill at .*rename .*checkpoint/step-", "^kill at .*rename .*result.json", "^kill-half.*write .*metrics"),
    *("^kill at .*write .*index.html", "^E.* at .*metrics", "^E.* at .*open .*checkpoint"),
)


def run(place: Place, given: Given) -> int:
    """How many tries went wrong."""
    stages = place.stages
    tries = [(number, *one) for number, one in enumerate(planned(stages, given.seed))]
    counts = ", ".join(f"{stage} {len(calls)}" for stage, (_, calls) in stages.items())
    print(f"calls that change a file: {counts}; {len(tries)} tries", flush=True)
    taken = matching(tries, SHORT, lambda one: f"{one[2]} at {one[1]}") if given.short else chosen(tries, given)
    found = []

    def work(one: tuple[int, Call, str]) -> dict[str, Any]:
        return tried(place, one, stages[one[1].stage][0])

    for one in warm.spread(taken, work, given.jobs):
        told(one, given)
        found.append(one)
    return conclude("kills", found, given)
