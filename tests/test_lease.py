"""Who runs a cell, with real processes: taken over from the dead at once, never from the living."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from suite import lease
from suite.files import remove, replacing, write_bytes
from suite.lease import CHECK, Holder, Lease, LeaseLost, held, holder_of, sweep

ROUNDS = 25

HOLDER = """
import sys, time
from pathlib import Path
from suite.lease import Lease

Lease(Path(sys.argv[1]), "theirs").take()
print("taken", flush=True)
time.sleep(600)
"""

# Every round: all that wait for the file of that round at once go for the same stale lease.
RACER = """
import sys, time
from pathlib import Path
from suite.lease import Lease, LeaseLost

place, name, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for number in range(rounds):
    cell = place / str(number)
    mine = Lease(cell, name)
    (place / f"ready-{number}-{name}").touch()
    while not (place / f"go-{number}").exists():
        pass

    def waits(holder):
        if (place / f"over-{number}").exists():
            raise InterruptedError

    try:
        mine.take(waits)
        try:
            mine.check()
            (cell / f"has-{name}").touch()
        except LeaseLost:
            (cell / f"lost-{name}").touch()
        while not (place / f"over-{number}").exists():
            time.sleep(0.01)
        mine.check()
    except (InterruptedError, LeaseLost):
        pass
    (place / f"done-{number}-{name}").touch()
    mine.release()
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "POLL", 0.02)


def _python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
    )


def _holder(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds the lease of ``folder``."""
    process = _python(HOLDER, folder)
    assert process.stdout is not None
    assert process.stdout.readline() == "taken\n"
    return process


def _end(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def _wait(true) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_lease_is_taken_and_given_back(tmp_path: Path) -> None:
    mine = Lease(tmp_path / "cell", "ours")
    mine.take()
    mine.check()
    holder = holder_of(tmp_path / "cell")
    assert holder is not None
    assert (holder.launch, holder.pid) == ("ours", os.getpid())
    mine.release()
    assert holder_of(tmp_path / "cell") is None
    assert not list((tmp_path / "cell").iterdir())
    with pytest.raises(LeaseLost):
        mine.check()


def test_a_living_holder_is_waited_for_and_a_killed_one_taken_over_from_at_once(tmp_path: Path) -> None:
    process = _holder(tmp_path)
    told: list[int] = []
    mine = Lease(tmp_path)
    thread = threading.Thread(target=mine.take, args=(lambda holder: told.append(holder.pid if holder else 0),))
    try:
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
        assert set(told) == {process.pid}
        # Nobody asks for its exit code before the lease is taken: it stays in the process table.
        os.kill(process.pid, signal.SIGKILL)
        thread.join(5)
        assert not thread.is_alive()
    finally:
        _end(process)
        thread.join()
    mine.check()
    assert [path.stem for path in (tmp_path / "lease").iterdir()] == ["000002"]
    mine.release()


def test_who_waits_can_be_called_away(tmp_path: Path) -> None:
    process = _holder(tmp_path)

    def waiting(holder: object) -> None:
        raise InterruptedError

    try:
        with pytest.raises(InterruptedError):
            Lease(tmp_path).take(waiting)
        assert holder_of(tmp_path) is not None
    finally:
        _end(process)


def _elsewhere(one: Lease) -> Lease:
    """The lease as one of a process on another machine."""
    one.holder = replace(one.holder, machine="another", pid=1)
    return one


def test_another_machine_that_is_silent_is_taken_over_from_and_notices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SILENCE", 0.6)
    theirs = _elsewhere(Lease(tmp_path, "theirs"))
    theirs.take()
    mine, began, beating = Lease(tmp_path, "ours"), time.monotonic(), True

    def waiting(holder: object) -> None:
        nonlocal beating
        beating = time.monotonic() - began < 1.5
        if beating:
            theirs.beat()

    mine.take(waiting)
    assert not beating, "taken over from a holder that showed that it lives"
    assert time.monotonic() - began > 1.5 + 0.6 - 0.1
    mine.check()
    with pytest.raises(LeaseLost):
        theirs.check()
    theirs.beat()
    theirs.release()
    mine.check()
    mine.release()


def test_who_lost_the_cell_does_not_take_anothers_lease_of_the_same_number_for_its_own(tmp_path: Path) -> None:
    slept, meanwhile, later = Lease(tmp_path, "slept"), Lease(tmp_path), Lease(tmp_path, "later")
    _elsewhere(slept).take()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "SILENCE", 0.0)
        meanwhile.take()
    meanwhile.release()
    later.take()
    assert later.path is not None
    assert slept.path is not None
    assert later.path.parent == slept.path.parent
    assert later.path != slept.path
    with pytest.raises(LeaseLost):
        slept.check()
    slept.release()
    later.check()
    later.release()


def test_who_looked_before_the_lease_was_given_back_waits_for_who_has_it_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given back between the listing and the look, and taken again at once."""
    first, second, slow = Lease(tmp_path, "first"), Lease(tmp_path, "second"), Lease(tmp_path, "slow")
    first.take()
    look, looks = lease._look, []

    def given_back(path: Path) -> Any:
        if not looks:
            looks.append(path)
            monkeypatch.setattr(lease, "_look", look)
            first.release()
            seen = look(path)
            second.take()
            return seen
        return look(path)

    monkeypatch.setattr(lease, "_look", given_back)

    def waiting(holder: lease.Holder | None) -> None:
        if holder is not None:
            assert holder.launch == "second"
            raise InterruptedError

    with pytest.raises(InterruptedError):
        slow.take(waiting)
    second.check()
    second.release()


def test_who_was_slow_does_not_come_before_who_came_meanwhile(tmp_path: Path) -> None:
    """It saw nobody, and since then one has taken the cell, died, and another has taken it over."""
    slow, now = Lease(tmp_path, "slow"), Lease(tmp_path, "now")
    assert now._create(2)
    assert not slow._create(1)
    now.check()
    now.release()


def test_numbers_that_begin_anew_take_the_cell_from_nobody(tmp_path: Path) -> None:
    """It saw one that was gone, and since then all have given the cell back, and another has taken it."""
    slow, now = Lease(tmp_path, "slow"), Lease(tmp_path, "now")
    now.take()
    assert not slow._create(8, "gone")
    assert not slow._create(8)
    now.check()
    now.release()


def test_what_a_kill_left_of_a_takeover_is_taken_over_too(tmp_path: Path) -> None:
    gone = [replace(Lease(tmp_path).holder, pid=2**22 + 1, token=token) for token in ("first", "second")]
    for number, holder in enumerate(gone, 1):
        (tmp_path / f"lease/{number:06d}/{holder.token}").mkdir(parents=True)
        (tmp_path / f"lease/{number:06d}/{holder.token}/holder.json").write_text(json.dumps(asdict(holder)))
    mine = Lease(tmp_path)
    mine.take()
    assert [path.name for path in (tmp_path / "lease").iterdir()] == ["000003"]
    mine.release()
    assert not list(tmp_path.iterdir())


def test_one_of_two_processes_gets_a_stale_lease(tmp_path: Path) -> None:
    gone = asdict(replace(Lease(tmp_path).holder, pid=2**22 + 1, token="gone"))
    names = ("one", "two")
    racers = [_python(RACER, tmp_path, name, ROUNDS) for name in names]
    try:
        for number in range(ROUNDS):
            stale = tmp_path / str(number) / "lease" / "000007" / "gone" / "holder.json"
            stale.parent.mkdir(parents=True)
            stale.write_text(json.dumps(gone))
            _wait(lambda number=number: all((tmp_path / f"ready-{number}-{name}").exists() for name in names))
            (tmp_path / f"go-{number}").touch()
            _wait(lambda number=number: list((tmp_path / str(number)).glob("*-*")))
            time.sleep(0.05)
            has = [path.name for path in (tmp_path / str(number)).glob("*-*")]
            (tmp_path / f"over-{number}").touch()
            assert len(has) == 1, (number, has)
            assert has[0].startswith("has-")
            _wait(lambda number=number: all((tmp_path / f"done-{number}-{name}").exists() for name in names))
    finally:
        _end(*racers)


def test_a_full_disk_leaves_no_half_lease_and_takes_no_touch(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        mine, next_one = Lease(tmp_path / "cell"), Lease(tmp_path / "next")
        mine.take()
        assert mine.path is not None
        holder = mine.path / "holder.json"
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "filler").write_bytes(bytes(1 << 20))
        before = os.stat(holder).st_mtime_ns
        time.sleep(0.02)
        mine.beat()
        mine.check()
        assert os.stat(holder).st_mtime_ns > before
        with pytest.raises(OSError, match="No space left"):
            next_one.take()
        assert next_one.path is None
        assert not [path for path in (tmp_path / "next").glob("**/*") if path.is_file()]
        mine.release()
        (tmp_path / "filler").unlink()
        next_one.take()
        next_one.check()
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


@pytest.mark.parametrize(
    "damage", [{"pid": "x"}, {"pid": True}, {"pid": 0}, {"born": "1"}, {"born": float("nan")}, {"launch": "../up"},
               {"host": "a/b"}, {"node": "\0"}, {"launch": None}, {"launch": "x" * 300}, None]
)  # fmt: skip
def test_a_lease_of_damaged_bytes_is_waited_for_in_words_until_it_was_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: dict[str, Any] | None
) -> None:
    monkeypatch.setattr(lease, "SILENCE", 0.2)
    theirs = tmp_path / "lease/000001/theirs/holder.json"
    theirs.parent.mkdir(parents=True)
    holder = asdict(Lease(tmp_path).holder) | (damage or {})
    theirs.write_bytes(json.dumps(holder).encode() if damage else b"\xff\xfe\0")
    assert holder_of(tmp_path) is None
    told: list[lease.Holder | None] = []
    mine = Lease(tmp_path)
    mine.take(told.append)
    assert set(told) == {None}
    mine.check()
    mine.release()


def test_a_process_is_known_by_the_ticks_since_its_machine_started(tmp_path: Path) -> None:
    """No clock that is set changes these."""
    mine = Lease(tmp_path)
    stat = Path("/proc/self/stat")
    if not stat.exists():
        pytest.skip("the system tells only seconds since 1970")
    assert mine.holder.born == float(stat.read_text().rpartition(")")[2].split()[19])
    assert not mine.holder.is_gone()
    assert replace(mine.holder, born=mine.holder.born + 1).is_gone()


def test_a_lease_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it is made, it is nobody's: nobody waits for it."""
    rename, made = os.rename, Lease(tmp_path)

    def killed(old: Path, new: Path) -> None:
        assert json.loads((Path(old) / made.holder.token / "holder.json").read_bytes()) == asdict(made.holder)
        assert holder_of(tmp_path) is None
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        made.take()
    monkeypatch.setattr(os, "rename", rename)

    def waiting(holder: lease.Holder | None) -> None:
        raise AssertionError("it waits")

    other = Lease(tmp_path)
    other.take(waiting)
    other.release()


def test_what_was_prepared_goes_with_the_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that stood still before a rename, or before it began to write, changes nothing any more."""
    monkeypatch.setattr(lease, "SILENCE", 0.0)
    slept, now = _elsewhere(Lease(tmp_path, "slept")), Lease(tmp_path, "now")
    slept.take()

    def stalls() -> None:
        with replacing(tmp_path / "result.json", staging=slept) as temporary:
            temporary.write_text("theirs")
            now.take()
            write_bytes(tmp_path / "result.json", b"ours", staging=now)

    with pytest.raises(LeaseLost):
        stalls()
    with pytest.raises(LeaseLost):
        write_bytes(tmp_path / "result.json", b"theirs", staging=slept)
    with pytest.raises(LeaseLost):
        remove(tmp_path / "result.json", slept)
    now.release()
    for act in (lambda: write_bytes(tmp_path / "result.json", b"theirs", staging=slept),
                lambda: remove(tmp_path / "result.json", slept)):  # fmt: skip
        with pytest.raises(LeaseLost):
            act()
    slept.release()
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert (tmp_path / "result.json").read_bytes() == b"ours"


def test_who_is_slow_after_it_has_taken_over_removes_nobodys_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stood still before it removed what it had taken over from; numbers begin anew meanwhile."""
    first, slow, later = _elsewhere(Lease(tmp_path, "first")), Lease(tmp_path, "slow"), Lease(tmp_path, "later")
    first.take()
    end = Lease._end

    def stalls(self: Lease, path: Path) -> None:
        monkeypatch.setattr(Lease, "_end", end)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lease, "SILENCE", 0.0)
            between = Lease(tmp_path, "between")
            between.take()
        between.release()
        later.take()
        end(self, path)

    monkeypatch.setattr(lease, "SILENCE", 0.0)
    monkeypatch.setattr(Lease, "_end", stalls)
    slow.take()
    with pytest.raises(LeaseLost):
        slow.check()
    slow.release()
    later.check()
    assert later.path is not None
    assert (later.path / "holder.json").exists()
    later.release()


def test_another_has_the_lease_or_nobody(tmp_path: Path) -> None:
    with held(tmp_path) as mine:
        assert mine is not None
        with held(tmp_path) as second:
            assert second is None
        mine.check()
    assert not list(tmp_path.iterdir())


def test_what_killed_drivers_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    here = Lease(tmp_path).holder
    drivers = {
        "alive": here,
        "elsewhere": replace(here, machine="another", pid=1),
        "dead": replace(here, born=here.born - 1e6),
    }
    for name, holder in drivers.items():
        (tmp_path / f"{CHECK}{name}").write_text(json.dumps(asdict(holder)))
        (tmp_path / f"{CHECK}{name}.answer").write_text("")
    sweep(tmp_path)
    kept = {f"{CHECK}{name}{part}" for name in ("alive", "elsewhere") for part in ("", ".answer")}
    assert {path.name for path in tmp_path.iterdir()} == kept


@pytest.mark.parametrize(
    ("call", "place"),
    # Of the lease; of its holder; of what it prepared, itself, its number and the folder of all.
    [("rename", 0), ("unlink", 0), ("rmdir", 0), ("rmdir", 1), ("rmdir", 2), ("rmdir", 3)],
)
def test_an_error_that_passes_leaves_nothing_of_a_lease_that_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, place: int
) -> None:
    """It would keep everybody else from the cell for as long as this process lives."""
    mine, real, calls = Lease(tmp_path), getattr(os, call), []
    mine.take()
    assert mine.path is not None
    (mine.path / "prepared").mkdir()

    def fails_once(path: Any, *others: Any, **options: Any) -> None:
        calls.append(path)
        if len(calls) == place + 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        real(path, *others, **options)

    monkeypatch.setattr(os, call, fails_once)
    mine.release()
    assert len(calls) > place
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_removed_keeps_nothing_else_of_an_ended_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes to it under its new name finds as little as can be to put in a record's place."""
    mine, unlink = Lease(tmp_path), os.unlink
    mine.take()
    assert mine.path is not None
    for name in ("a", "b", "c"):
        (mine.path / name).write_text("prepared")

    def fails(path: Any, **options: Any) -> None:
        if Path(path).name == "b":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", fails)
    mine.release()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["b"]


def test_looking_for_links_is_not_disturbed_by_who_gives_a_lease_back(tmp_path: Path) -> None:
    ended, other = threading.Event(), tmp_path / "lease" / ".other"

    def come_and_go() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError):  # The folder of all goes with the last lease, at any moment.
                other.mkdir(parents=True, exist_ok=True)
                other.rmdir()

    others = threading.Thread(target=come_and_go)
    others.start()
    try:
        for _ in range(500):
            with held(tmp_path) as mine:
                assert mine is not None
    finally:
        ended.set()
        others.join()


LEFT = ([".{0}/{0}/holder.json"], [".{0}.ended/report/index.html"], ["000001/", "000002/"], ["000001.json"])


@pytest.mark.parametrize("left", LEFT)
def test_who_takes_a_lease_sweeps_what_the_killed_left_among_them(tmp_path: Path, left: list[str]) -> None:
    for name in left:
        place = tmp_path / "lease" / name.format(uuid.uuid4().hex)
        (place if name.endswith("/") else place.parent).mkdir(parents=True)
        if not name.endswith("/"):
            place.write_text("{}")
    mine = Lease(tmp_path)
    mine.take()
    assert mine.path is not None
    assert [path.name for path in (tmp_path / "lease").iterdir()] == [mine.path.parent.name]
    mine.release()
    assert not list(tmp_path.iterdir())


def test_a_lease_whose_draft_was_swept_is_taken_at_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two come at once to a cell that nobody has; the faster sweeps what the slower had prepared."""
    late, early, rename, waited = Lease(tmp_path), Lease(tmp_path), os.rename, []

    def overtaken(source: Path, target: Path) -> None:
        monkeypatch.setattr(lease.os, "rename", rename)
        early.take()
        rename(source, target)

    def waiting(holder: Holder | None) -> None:
        waited.append(holder)
        early.release()

    monkeypatch.setattr(lease.os, "rename", overtaken)
    late.take(waiting)
    assert waited == [early.holder]
    late.check()


def test_sweeping_leaves_the_lease_of_who_takes_the_cell_over_meanwhile(tmp_path: Path) -> None:
    """A process that stood still before it sweeps wakes up between another's lease and the end of its own."""
    slow = Lease(tmp_path)
    slow.take()
    taken = tmp_path / "lease/000002" / uuid.uuid4().hex / "holder.json"
    taken.parent.mkdir(parents=True)
    taken.write_text("{}")
    slow._tidy()
    assert taken.exists()
    with pytest.raises(LeaseLost):
        slow.check()
