"""Flips bits in, cuts and zeroes every kind of file of records and data: is it told, or of no effect, or silent?

`report`: `status` and `report` over finished records, all outputs against those of whole records. `predict`: the
answers of a cell, from its record and its data set. `resume`: an interrupted run is run again, its records against
an undisturbed run's. `plan`: `plan` and `run` on a damaged study.json. Of each damage (``--seed`` says which) one
of:

    detected    another exit code, or a line that names the file, without a traceback
    harmless    all outputs are equal
    SILENT      outputs differ without a word
    TRACEBACK   or the process crashed
    HANG
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import warm
from place import Given, Place
from records import content, plain

TRIES = {"report": 1300, "predict": 450, "resume": 450, "plan": 300}
KINDS = ("detected", "harmless", "SILENT", "TRACEBACK", "HANG")
CUT, ZEROED = 0.1, 0.1
"""Shares of the damages; the others are one bit."""
RAISED = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt)\b.*", re.MULTILINE)
REPORTED = ("status", "report")


@dataclass(frozen=True)
class Damage:
    path: str
    """Below the try's folder."""
    kind: str
    """flip, cut or zero."""
    offset: int
    length: int
    """Bytes that are zeroed; of a flip the bit."""

    def __str__(self) -> str:
        more = {"flip": f" bit {self.length}", "cut": "", "zero": f" to {self.offset + self.length}"}[self.kind]
        return f"{self.kind} {self.path} at {self.offset}{more}"

    def of(self, whole: bytes) -> bytes:
        if self.kind == "cut":
            return whole[: self.offset]
        changed = bytearray(whole)
        if self.kind == "flip":
            changed[self.offset] ^= 1 << self.length
        else:
            changed[self.offset : self.offset + self.length] = bytes(self.length)
        return bytes(changed)


@dataclass(frozen=True)
class Outcome:
    code: int
    text: str
    outputs: dict[str, bytes]
    hung: bool = False


@dataclass(frozen=True)
class Part:
    """One of the four: where its tries begin, what is damaged, what is done then, and what that gives."""

    begun: Path
    """A folder with ``runs`` and ``data``, which each try gets a copy of."""
    targets: Callable[[str], bool]
    """Which of its files are damaged."""
    act: Callable[[Path], list[list[str]]]
    """Commands in a try's folder."""
    outputs: Callable[[Path], dict[str, bytes]]
    says_times: bool = False
    """What the commands say is no output, as it has seconds."""


def drawn(part: Part, name: str, number: int, seed: int) -> Damage:
    """The damage of the try ``number``: every kind of file as often, whatever its size."""
    draw = random.Random(f"{name} {seed} {number}")
    kinds: dict[str, list[str]] = {}
    for path in sorted(part.begun.rglob("*")):
        file = str(path.relative_to(part.begun))
        if path.is_file() and path.stat().st_size and part.targets(file):
            kinds.setdefault(re.sub(r"\d+", "N", path.name), []).append(file)
    while True:
        file = draw.choice(kinds[draw.choice(sorted(kinds))])
        whole, chance = (part.begun / file).read_bytes(), draw.random()
        offset = draw.randrange(len(whole))
        if chance < CUT:
            return Damage(file, "cut", offset, 0)
        if chance < CUT + ZEROED:
            length = min(draw.randint(1, 64), len(whole) - offset)
            if any(whole[offset : offset + length]):
                return Damage(file, "zero", offset, length)
            continue
        return Damage(file, "flip", offset, draw.randrange(8))


def outcome(part: Part, place: Place, name: str, damage: Damage | None) -> Outcome:
    folder = place.folder / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(part.begun, folder, symlinks=True)
    if damage is not None:
        path = folder / damage.path
        path.write_bytes(damage.of(path.read_bytes()))

    def work() -> int:
        code = 0
        for words in part.act(folder):
            code = max(code, warm.ablate(words)())
        return code

    ended = warm.fork(work, place.folder / f"{name}.txt").ended()
    try:
        outputs = part.outputs(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        outputs = {"unread": str(error).encode()}
    text = _plain_text(ended.text.replace(str(folder), "TRY"))
    tables = outputs.get("report/tables.md", b"").decode(errors="replace")
    shutil.rmtree(folder, ignore_errors=True)
    (place.folder / f"{name}.txt").unlink()
    return Outcome(
        ended.code, text + tables, outputs | ({} if part.says_times else {"said": text.encode()}), ended.hung
    )


def _plain_text(text: str) -> str:
    """What a command said, without times."""
    return re.sub(r"\d+ questions/s  all done in about [\d:]+| in \d+:\d+(:\d+)?|, \d+ s left", "", text)


def told(damage: Damage, whole: Outcome, found: Outcome) -> str:
    if found.hung:
        return "HANG"
    if "Traceback (most recent call last)" in found.text or found.code not in (0, 1, 2):
        return "TRACEBACK"
    if found.code == whole.code and found.outputs == whole.outputs:
        return "harmless"
    if found.code != whole.code:
        return "detected"
    name, squeezed = Path(damage.path).name, [re.sub(r"\s+", "", one.text) for one in (whole, found)]
    return "detected" if squeezed[1].count(name) > squeezed[0].count(name) else "SILENT"


def changed(whole: Outcome, found: Outcome) -> list[str]:
    """Which outputs differ, and how the first does, in few characters."""
    names = [
        name
        for name in sorted({*whole.outputs, *found.outputs})
        if whole.outputs.get(name) != found.outputs.get(name)
    ]
    if not names:
        return []
    name = next((name for name in names if name.endswith((".csv", ".md"))), names[0])
    one, other = whole.outputs.get(name, b""), found.outputs.get(name, b"")
    at = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    cut = slice(max(at - 12, 0), at + 24)
    return [f"{len(names)} outputs: {', '.join(names[:4])}", f"{name}: {one[cut]!r} became {other[cut]!r}"]


def report_outputs(study: Path) -> dict[str, bytes]:
    """All files of a report; of provenance.json not the digests of inputs, which say that an input has changed."""
    found = {}
    for path in sorted((study / "report").rglob("*")):
        if path.is_file():
            found[f"report/{path.relative_to(study / 'report')}"] = path.read_bytes()
    told = found.pop("report/provenance.json", None)
    if told is not None:
        made = json.loads(told)
        kept = {key: made[key] for key in made if key not in ("inputs", "outputs", "check")}
        found["report/provenance.json"] = json.dumps(kept, sort_keys=True).encode()
    return found


def record_outputs(study: Path) -> dict[str, bytes]:
    """The records of all cells as a reader gets them, and the study."""
    found = {}
    listed = json.loads((study / "study.json").read_text())
    found["study.json"] = json.dumps(plain(listed), sort_keys=True).encode()
    for cell in [one["id"] for one in listed["cells"]]:
        if (study / cell).exists():
            for name, value in content(study / cell).items():
                found[f"{cell}/{name}"] = value if isinstance(value, bytes) else json.dumps(value).encode()
    return found


def parts(place: Place) -> dict[str, Part]:
    """Makes the states from which tries begin."""
    from records import cells

    first, second = cells(place.expected / "demo")[:2]

    def begun(name: str, runs: Path) -> Path:
        folder = place.folder / name
        shutil.copytree(runs, folder / "runs", symlinks=True)
        shutil.copytree(place.data, folder / "data")
        return folder

    finished = begun("whole", place.expected)
    shutil.rmtree(finished / "runs/demo/report")
    out, shared = place.folder / "out", ["--runs", finished / "runs"]
    for words in (
        ["predict", "demo", second, "--out", place.folder / "answers.json", "--data", place.data, *shared],
        ["score", "add", second, "--split", "test-dev", "41.5", *shared],
    ):
        ended = warm.warm_up(warm.ablate(words), out)
        assert ended.code == 0, ended.text

    def places(folder: Path) -> list[str]:
        return ["demo", "--runs", str(folder / "runs")]

    def reported(folder: Path) -> list[list[str]]:
        return [[word, *places(folder)] for word in REPORTED]

    def run(folder: Path) -> list[str]:
        words = place.words(folder / "runs")
        return [f"--data={folder / 'data'}" if word.startswith("--data=") else word for word in words]

    def answered(folder: Path) -> dict[str, bytes]:
        path = folder / "answers.json"
        return {"answers": path.read_bytes()} if path.exists() else {}

    of_records = re.compile(r"runs/demo/(?!report/)(?!.*(log\.txt|live\.json)$)").match
    of_start = f"runs/demo/{first}/checkpoint"
    return {
        "report": Part(
            finished,
            # A report reads no model. What a log says is shown as it is.
            lambda file: bool(of_records(file)) and "/checkpoint/" not in file,
            reported,
            lambda folder: report_outputs(folder / "runs/demo"),
        ),
        "predict": Part(
            finished,
            lambda file: file.startswith(("data/", f"runs/demo/{second}/")) or file == "runs/demo/study.json",
            lambda folder: [
                [
                    *("predict", "demo", second, "--runs", str(folder / "runs"), "--data", str(folder / "data")),
                    *("--out", str(folder / "answers.json")),
                ]
            ],
            answered,
        ),
        "resume": Part(
            begun("begun", place.interrupted),
            lambda file: bool(of_records(file)) or file.startswith(of_start),
            lambda folder: [run(folder)],
            lambda folder: record_outputs(folder / "runs/demo"),
            says_times=True,
        ),
        "plan": Part(
            finished,
            lambda file: file == "runs/demo/study.json",
            lambda folder: [["plan", *(word for word in run(folder)[1:] if word != "--no-ray")], run(folder)],
            lambda folder: record_outputs(folder / "runs/demo") | report_outputs(folder / "runs/demo"),
        ),
    }


SHORT = {"report": 8, "predict": 3, "resume": 3, "plan": 2}


def run(place: Place, given: Given, names: Sequence[str] = tuple(TRIES)) -> int:
    """How many damages were silent, told as a traceback, or made a command hang."""
    made, out = parts(place), place.folder / "out"
    counts, wrong = Counter[tuple[str, str]](), Counter[tuple[str, str, str]]()
    for name in names:
        part = made[name]
        # Its commands import what the first of them has not.
        first = shutil.copytree(part.begun, place.folder / f"first-{name}", symlinks=True)
        warm.warm_up(lambda part=part, first=first: max(warm.ablate(words)() for words in part.act(first)), out)
        shutil.rmtree(first)
        whole, again = (outcome(part, place, "undamaged", None) for _ in range(2))
        assert whole.code == 0, whole.text
        assert whole.outputs == again.outputs, changed(whole, again)

        def tried(number: int, name: str = name, part: Part = part, whole: Outcome = whole) -> dict[str, Any]:
            damage = drawn(part, name, number, given.seed)
            found = outcome(part, place, f"{name}-{number}", damage)
            kind = told(damage, whole, found)
            said = changed(whole, found) if kind == "SILENT" else RAISED.findall(found.text)[-1:]
            return {"number": number, "kind": kind, "damage": str(damage), "file": damage.path, "said": said}

        count = TRIES[name] if given.tries is None else max(given.tries * TRIES[name] // sum(TRIES.values()), 1)
        count = SHORT[name] if given.short else count
        numbers = given.only or range(count)
        for one in warm.spread(numbers, tried, given.jobs):
            counts[name, one["kind"]] += 1
            if one["kind"] in ("SILENT", "TRACEBACK", "HANG"):
                wrong[name, one["kind"], re.sub(r"\d+", "N", Path(one["file"]).name)] += 1
                print(
                    f"{one['kind']} {name} {one['number']}: {one['damage']}: {'; '.join(one['said'])}", flush=True
                )
    for name in names:
        print(f"  {name}: " + ", ".join(f"{kind} {counts[name, kind]}" for kind in KINDS))
    for (name, kind, file), count in sorted(wrong.items()):
        print(f"  wrong: {name}, {file}: {kind} {count}")
    print(f"flips: {counts.total()} tries, {wrong.total()} wrong; seed {given.seed}", flush=True)
    return wrong.total()
