"""Run folders as somebody else could send them: links, paths for names, escapes, changed plug-ins.

The commands run over each, as this user and, where this one is root, as another. Nothing outside the study's folder
may be created, changed or removed, nothing from there may get into the records or the report, nothing that a record
says may reach a terminal as an escape, and no command may end in a traceback.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import signal
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import warm
from PIL import Image
from place import Given, Place, chosen, conclude, told
from records import cells

CANARY = "the-canary-of-this-home"
ESCAPE = "\x1b]0;title\x07\x1b[2J"
NOBODY = 65534
COMMANDS = (
    "status", "plan", "run", "report", "report --check", "drain", "predict", "export", "logs", "score add"
)  # fmt: skip
PLUGIN = '''
from dataclasses import dataclass, replace
from suite.attention import SoftmaxWeights, Variant
from suite.registry import register

@register({name!r})
@dataclass(frozen=True)
class Other(Variant):
    """Softmax under another name."""
    def weights(self, site):
        return SoftmaxWeights()
'''


@dataclass(frozen=True)
class Scene:
    """The folder of a try: ``runs/demo`` is hostile, ``outside`` and all else is the user's."""

    folder: Path
    finished: str
    other: str
    """Ids of a cell that is finished, and of the row, which is not finished in the state ``interrupted``."""

    @property
    def study(self) -> Path:
        return self.folder / "runs/demo"

    @property
    def outside(self) -> Path:
        return self.folder / "outside"

    @property
    def plugin(self) -> Path:
        return self.folder / "plugin.py"

    def link(self, name: str, to: str) -> None:
        """``name`` in the study leads to ``to`` outside, in the place of what is there."""
        path = self.study / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(self.outside / to)

    def edit(self, name: str, change: Callable[[Any], None]) -> None:
        """Changes the JSON file ``name``, by hand."""
        path = self.study / name
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    def ids(self) -> dict[str, str]:
        return {"FINISHED": self.finished, "OTHER": self.other}


@dataclass(frozen=True)
class Attack:
    name: str
    state: str
    """finished or interrupted."""
    prepare: Callable[[Scene], None]
    commands: tuple[str, ...] = COMMANDS
    more: Callable[[Scene], list[str]] = lambda scene: []
    """Further words of `plan` and `run`."""


def linked(name: str, to: str, state: str, commands: tuple[str, ...] = COMMANDS, *more: str) -> Attack:
    """A link; FINISHED and OTHER in ``name`` are the cells."""

    def prepare(scene: Scene) -> None:
        place = name
        for word, cell in scene.ids().items():
            place = place.replace(word, cell)
        scene.link(place, to)

    return Attack(f"{state}: {name} -> {to}", state, prepare, commands, lambda scene: list(more))


def named(what: str, name: Callable[[Scene], Any], field: str = "id") -> Attack:
    """A study that calls its last cell, or that cell's start, as ``name`` gives."""

    def prepare(scene: Scene) -> None:
        def change(study: dict) -> None:
            study["cells"][-1][field] = name(scene)

        scene.edit("study.json", change)

    return Attack(f"finished: {field} {what}", "finished", prepare)


def registered(name: str) -> Attack:
    def prepare(scene: Scene) -> None:
        scene.plugin.write_text(PLUGIN.format(name=name))

    def more(scene: Scene) -> list[str]:
        return [f"--plugin={scene.plugin}", f"--variants={name}"]

    return Attack(f"variant {name[:20]!r}", "finished", prepare, ("plan", "run", "status", "report", "drain"), more)


def led(name: str) -> Attack:
    """A lease of a process that lives, which says that its launch, node or machine is a path."""

    def prepare(scene: Scene) -> None:
        (scene.study / "drain").mkdir()
        for path in (scene.study / scene.other / "lease").rglob("*"):
            if path.is_file():
                text = path.read_text()
                path.write_text(text.replace(f'"{name.upper()}"', json.dumps(f"../../../outside/{name}")))

    return Attack(f"lease: {name} is a path", "held", prepare, ("status", "drain"))


def _changed_plugin(scene: Scene) -> None:
    source = PLUGIN.format(name="other")
    scene.plugin.write_text(source)
    for kept in scene.study.glob("plugins/*/plugin.py"):
        kept.write_text(f"open({str(scene.outside / 'created')!r}, 'w').close()\n{source}")


def _escaping_engine(scene: Scene) -> None:
    def change(config: dict) -> None:
        config["code"]["engine"] = "/../../../outside/moved"

    (scene.study / "stale" / f"{scene.finished}-").mkdir(parents=True)
    scene.edit(f"{scene.finished}/config.json", change)


def _escaping_picture(scene: Scene, reference: str) -> None:
    import pyarrow.parquet
    from small_grid import write_small_data
    from small_set import sealed

    folder = scene.folder / "data/easy_vqa"
    shutil.rmtree(folder)
    write_small_data(scene.folder / "data")
    images = pyarrow.parquet.read_table(folder / "images.parquet")
    column = images.schema.get_field_index("picture")
    changed = pyarrow.array([reference] * images.num_rows, images.schema.field(column).type)
    pyarrow.parquet.write_table(
        images.set_column(column, images.schema.field(column), changed), folder / "images.parquet"
    )
    sealed(folder)


def _failed(scene: Scene) -> None:
    failure = {"kind": "code", "message": f"Error: {ESCAPE}", "where": f"{ESCAPE}.py:1", "log": ESCAPE}
    (scene.study / scene.other / "failure.json").write_text(json.dumps(failure))


def _escaping_example(scene: Scene) -> None:
    def change(questions: list) -> None:
        for question in questions:
            question["picture"] = "0.png"

    scene.edit(f"{scene.finished}/examples/questions.json", change)
    scene.link(f"{scene.finished}/examples/0.png", "secret.png")


def _listed_figures(scene: Scene) -> None:
    (scene.outside / "built.txt").write_text("keep.txt\nsecret.txt\n")
    scene.link("report/figures", "")


def attacks() -> list[Attack]:
    found = []
    for name in ("report", "report/page", "report/page/cells", "report/figures", "plugins", "drain", "stale"):
        found.append(linked(name, "", "finished"))
    for name in ("report/index.html", "report/tables.csv", "report/provenance.json", "study.json", ".probe"):
        found.append(linked(name, "keep.txt", "finished"))
    found.append(Attack("finished: report/figures lists files", "finished", _listed_figures))
    for state, cell in (("finished", "FINISHED"), ("interrupted", "OTHER")):
        for name in ("lease", "checkpoint", "checkpoint/step-00000001", "examples"):
            found.append(linked(f"{cell}/{name}", "", state))
        found.append(linked(cell, "cell", state))
        for name in (
            *("log.txt", "live.json", "failure.json", ".probe", "metrics.jsonl", "sites.jsonl", "segments.jsonl"),
            *("faults.jsonl", "submissions.jsonl", "server.jsonl", "cost.json", "config.json", "result.json"),
            *("stopped.json", "predictions.parquet", "examples/questions.json", "examples/attention.npz"),
        ):
            found.append(linked(f"{cell}/{name}", "keep.txt", state))
        found.append(linked(f"{cell}/log.txt", "secret.txt", state))
        for name in ("faults", "submissions", "server"):
            found.append(linked(f"{cell}/{name}.jsonl", "secret.jsonl", state))
    found.append(linked("OTHER/failure.json", "failure.json", "interrupted", ("status", "plan", "report")))
    found.append(linked("OTHER/lease/000001.json", "keep.txt", "interrupted"))
    for state, cell in (("finished", "FINISHED"), ("interrupted", "OTHER")):
        found.append(linked(f"{cell}/lease/000001", "", state))
        found.append(linked(f"{cell}/lease/000001/{'0' * 32}", "", state))
    found.append(linked("FINISHED/lease", "", "stale", ("run",), "--rerun-stale"))
    found.append(linked("plugins", "", "interrupted", ("plan", "run"), "--plugin=PLUGIN"))
    found.append(linked("stale", "", "stale", ("run",), "--rerun-stale"))
    found.append(Attack("finished: a picture of the examples is a link", "finished", _escaping_example))
    for reference in ("../../outside/secret.png", "ABSOLUTE"):

        def escaping(scene: Scene, reference: str = reference) -> None:
            given = str(scene.outside / "secret.png") if reference == "ABSOLUTE" else reference
            _escaping_picture(scene, given)

        found.append(Attack(f"interrupted: a picture of the data set is {reference}", "interrupted", escaping))
    for field in ("id", "start"):
        found += [
            named("../../../outside/made", lambda scene: "../../../outside/made", field),
            named("../../../../outside/made", lambda scene: "../../../../outside/made", field),
            named("../../outside/cell", lambda scene: "../../outside/cell", field),
            named("absolute", lambda scene: str(scene.outside / "cell"), field),
            named("a/b", lambda scene: "a/b", field),
            named(".", lambda scene: ".", field),
            named("..", lambda scene: "..", field),
            named("empty", lambda scene: "", field),
            named("with an escape", lambda scene: f"x{ESCAPE}", field),
            named("with a zero", lambda scene: "x\0y", field),
            named("of 300 letters", lambda scene: "x" * 300, field),
            named("a number", lambda scene: 7, field),
            named("a list", lambda scene: ["x"], field),
        ]
    found += [led("launch"), led("node"), led("host")]
    found.append(replace(linked("drain", "empty", "held"), commands=("status", "drain")))
    for name in ("submissions.jsonl", "server.jsonl", "faults.jsonl"):
        found.append(linked(f"FINISHED/{name}", "empty.jsonl", "finished"))
    for name in ("lease", "checkpoint", "examples"):
        found.append(linked(f"OTHER/{name}", "empty", "interrupted"))
    found += [registered(name) for name in ("../up", "../../outside/up", "top/k", "", ".", "x" * 250, ESCAPE)]
    found.append(Attack("failure with escapes", "interrupted", _failed, ("status", "plan", "report")))
    found.append(Attack("engine is a path", "stale", _escaping_engine, ("run",), lambda scene: ["--rerun-stale"]))
    found.append(
        Attack(
            "kept plug-in is another", "plugin", _changed_plugin, ("status", "plan", "run", "report"),
            lambda scene: [f"--plugin={scene.plugin}", "--variants=softmax,other"],
        )
    )  # fmt: skip
    return found


def _outside(folder: Path) -> None:
    """What the user has beside the study."""
    (folder / "cell/checkpoint/step-00000006").mkdir(parents=True)
    (folder / "cell/lease").mkdir()
    (folder / "step-00000001").mkdir()
    (folder / "empty").mkdir()
    (folder / "empty.jsonl").touch()
    for name in (
        "keep.txt",
        "made.js",
        "cell/config.json",
        "cell/checkpoint/step-00000006/kept",
        "step-00000001/kept",
    ):
        (folder / name).write_text(f"{CANARY}\n" * 10)
    (folder / "000001.json").write_text(json.dumps({"mine": CANARY}))
    (folder / "secret.txt").write_text(f"{CANARY}\n" * 10)
    Image.new("RGB", (64, 64)).save(folder / "secret.png")
    with (folder / "secret.png").open("ab") as file:
        file.write(CANARY.encode())  # What follows its end is no part of a picture, and is copied with it.
    (folder / "secret.jsonl").write_text(json.dumps({"split": "test-dev", "accuracy": 1, "sha256": CANARY}) + "\n")
    failure = {"kind": "code", "message": CANARY, "where": CANARY, "log": CANARY}
    (folder / "failure.json").write_text(json.dumps(failure))


def _seen(folder: Path, study: Path) -> dict[str, tuple]:
    """All files and folders of the try but those of the study and of what the commands are to write."""
    found = {}
    for top, names, files in os.walk(folder):
        here = Path(top)
        names[:] = [name for name in names if here / name not in (study, folder / "out")]
        for name in (*names, *files):
            path = here / name
            status = path.lstat()
            content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(status.st_mode) else ""
            # Of a folder the time says that something was put there or taken away.
            found[str(path.relative_to(folder))] = (status.st_ino, status.st_mode, status.st_mtime_ns, content)
    return found


def _holds_canary(*folders: Path) -> list[str]:
    found = []
    for folder in folders:
        for top, _, files in os.walk(folder):
            for path in (Path(top) / name for name in files):
                if not path.is_symlink() and path.is_file() and CANARY.encode() in path.read_bytes():
                    found.append(str(path.relative_to(folder.parent)))
    return found


def words_of(command: str, scene: Scene, place: Place, more: list[str]) -> list[str]:
    places = ["demo", "--runs", str(scene.folder / "runs")]
    data, out = f"--data={scene.folder / 'data'}", scene.folder / "out"
    run = [data if word.startswith("--data=") else word for word in place.words(scene.folder / "runs")]
    run = [word for word in run if not (word.startswith("--variants") and any("--variants" in one for one in more))]
    more = [word.replace("PLUGIN", str(scene.plugin)) for word in more]
    return {
        "status": ["status", *places],
        "plan": ["plan", *(word for word in run[1:] if word != "--no-ray"), *more],
        "run": [*run, *more],
        "report": ["report", *places],
        "report --check": ["report", *places, "--check"],
        "drain": ["drain", "--all", "--wait", "0", "--runs", str(scene.folder / "runs")],
        "predict": ["predict", "demo", scene.finished, *places[1:], data, "--out", str(out / "answers.json")],
        "export": ["export", "demo", scene.finished, *places[1:], data, "--out", str(out / "export")],
        "logs": ["logs", "demo", scene.finished, *places[1:]],
        "score add": ["score", "add", scene.finished, "--split", "test-dev", "50", *places[1:]],
    }[command]


def tried(
    place: Place, one: tuple[int, Attack, int | None], states: dict[str, Path], ids: tuple[str, str]
) -> dict[str, Any]:
    number, attack, uid = one
    folder = place.folder / f"try-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    state = {"stale": "finished", "held": "interrupted", "plugin": "finished"}.get(attack.state, attack.state)
    # A report shows most of a row: of finished records that is the one that is attacked.
    scene = Scene(folder, ids[1] if state == "finished" else ids[0], ids[1])
    folder.mkdir()
    (folder / "out").mkdir()
    (folder / "outside").mkdir()
    _outside(folder / "outside")
    shutil.copytree(states[state], folder / "runs", symlinks=True)
    shutil.copytree(place.data, folder / "data")
    scene.plugin.write_text(PLUGIN.format(name="other"))
    out, holder, wrong = place.folder / f"try-{number}.txt", None, []
    if attack.state == "stale":

        def change(value: dict) -> None:
            value["code"]["engine"] = "0" * 16

        scene.edit(f"{scene.finished}/config.json", change)
    if attack.state == "plugin":
        words = words_of("plan", scene, place, attack.more(scene))
        ended = warm.command(words, out)
        assert ended.code in (0, 1), ended.text
    if attack.state == "held":
        holder = warm.fork(functools.partial(_hold, scene.study / scene.other), out.with_suffix(".holder"))
        until = time.monotonic() + 30
        while not any((scene.study / scene.other / "lease").glob("**/*")) and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.2)
    # Of some attacks the preparation uses pandas, which has threads: in a process of its own.
    prepared = warm.fork(lambda: attack.prepare(scene) or 0, out).ended()
    assert prepared.code == 0, prepared.text
    if uid is not None:
        for top, names, files in os.walk(folder):
            for name in (top, *(os.path.join(top, name) for name in (*names, *files))):
                os.chown(name, uid, uid, follow_symlinks=False)
    before, codes = _seen(folder, scene.study), []
    for command in attack.commands:
        ended = warm.command(words_of(command, scene, place, attack.more(scene)), out, limit=60, uid=uid)
        codes.append(ended.code)
        if ended.hung:
            wrong.append(f"hang: {command}")
        if ended.has_traceback or ended.code not in (0, 1, 2):
            wrong.append(f"traceback: {command}: {ended.text.strip().splitlines()[-1][:200]}")
        if command != "logs" and ("\x1b]" in ended.text or "\x1b[2J" in ended.text):
            wrong.append(f"escape: {command}")
        after = _seen(folder, scene.study)
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                what = "changed" if name in before and name in after else "created" if name in after else "removed"
                wrong.append(f"outside {what}: {name}, by {command}")
        before = after
        if read := _holds_canary(scene.study, folder / "out"):
            wrong.append(f"read in: {', '.join(read[:3])}, by {command}")
            break
    if holder is not None:
        os.kill(holder.pid, signal.SIGKILL)
        holder.ended()
        holder.out.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    out.unlink(missing_ok=True)
    kind = "as another user" if uid is not None else "as this user"
    return {"number": number, "kind": kind, "what": f"{attack.name} ({kind}, {codes})", "wrong": wrong}


def _hold(cell: Path) -> int:
    """Runs the cell, as far as others can see."""
    from suite.lease import Lease

    Lease(cell, "LAUNCH", "NODE").take()
    time.sleep(600)
    return 0


SHORT = {
    "finished: report -> ": ("report",),
    "finished: report/page -> ": ("report",),
    "finished: report/figures lists files": ("report",),
    "finished: .probe -> keep.txt": ("plan",),
    "held: drain -> empty": ("drain",),
    "finished: FINISHED/log.txt -> secret.txt": ("report",),
    "finished: FINISHED/lease -> ": ("run",),
    "finished: FINISHED/server.jsonl -> empty.jsonl": ("score add",),
    "finished: FINISHED/submissions.jsonl -> keep.txt": ("predict",),
    "interrupted: OTHER/log.txt -> keep.txt": ("run",),
    "interrupted: OTHER/checkpoint -> empty": ("run",),
    "interrupted: OTHER/lease -> empty": ("run",),
    "interrupted: plugins -> ": ("plan",),
    "finished: a picture of the examples is a link": ("report",),
    "interrupted: a picture of the data set is ABSOLUTE": ("run",),
    "finished: id ../../../../outside/made": ("report", "status"),
    "finished: id with an escape": ("status",),
    "lease: launch is a path": ("drain",),
    "variant '../up'": ("run",),
    "failure with escapes": ("status",),
    "engine is a path": ("run",),
    "kept plug-in is another": ("run",),
}
"""Attacks of the short form, each with the commands that it is about."""


def run(place: Place, given: Given) -> int:
    """How many tries went wrong."""
    place.folder.chmod(0o755)
    finished, other, *_ = cells(place.expected / "demo")
    states = {"finished": place.expected, "interrupted": place.interrupted}
    whole = Scene(place.folder / "entire", finished, other)
    shutil.copytree(place.expected, whole.folder / "runs")
    shutil.copytree(place.data, whole.folder / "data")
    (whole.folder / "out").mkdir()
    for command in COMMANDS:  # Each once: what they import, the tries begin with.
        ended = warm.warm_up(warm.ablate(words_of(command, whole, place, [])), place.folder / "out")
        assert ended.code == 0, ended.text
    uids: list[int | None] = [None]
    if os.getuid() == 0 and not given.short and _can_run_as(NOBODY, whole, place):
        uids.append(NOBODY)
    known = attacks()
    if given.short:
        assert not SHORT.keys() - {attack.name for attack in known}
        known = [replace(attack, commands=SHORT[attack.name]) for attack in known if attack.name in SHORT]
    tries = [(number, *one) for number, one in enumerate((attack, uid) for uid in uids for attack in known)]
    found = []

    def work(one: tuple[int, Attack, int | None]) -> dict[str, Any]:
        return tried(place, one, states, (finished, other))

    for one in warm.spread(chosen(tries, given), work, given.jobs):
        told(one, given)
        found.append(one)
    return conclude("hostile", found, given)


def _can_run_as(uid: int, whole: Scene, place: Place) -> bool:
    """Whether the other user can run the commands over whole records: Python's files may be this user's alone."""
    for top, names, files in os.walk(whole.folder):
        for name in (top, *(os.path.join(top, name) for name in (*names, *files))):
            os.chown(name, uid, uid, follow_symlinks=False)
    for command in ("status", "plan", "run", "report"):
        ended = warm.command(words_of(command, whole, place, []), place.folder / "out", uid=uid)
        if ended.code:
            print(f"not tried as another user: `{command}` ends with {ended.code}: {ended.text.strip()[-300:]}")
            return False
    return True
