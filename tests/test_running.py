"""What surrounds a cell's training: leaving on request, checkpoints by the clock, a run folder in trouble."""

from __future__ import annotations

import dataclasses
import errno
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite import checkpoints, lease, pulse, registry, running
from suite.config import Cell, ModelSize, Protocol
from suite.errors import UserError
from suite.lease import Lease
from suite.plan import Job, Workplace, keep_plugins
from suite.pulse import Leave, Progress, drain_markers
from suite.records import CellFolder, RecordError, StudyFolder, read_lines
from suite.running import run_cell

CELL = Cell(
    variant="span_entmax",
    dataset="easy_vqa",
    protocol=Protocol(steps=9, batch_size=7, evaluations=3, learning_rate=1e-2),
    model=ModelSize(width=8, heads=2, intermediate=8),
    layers=(1, 1, 1),
)


class Place:
    """A study's folder in which one cell runs."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.workplace = Workplace(str(folder), str(data), launch="one")
        self.record = StudyFolder(folder).cell("cell")

    def run(
        self,
        report: Callable[[Progress], None] = lambda progress: None,
        leaving: threading.Event | None = None,
        **changes: Any,
    ) -> bool:
        workplace = dataclasses.replace(self.workplace, **changes)
        return run_cell(Job("cell", CELL, "row", None), workplace, report, leaving)


@pytest.fixture
def place(tmp_path: Path, data_folder: Path) -> Place:
    return Place(tmp_path / "study", data_folder)


def content(record: CellFolder) -> dict[str, Any]:
    """Everything that a finished cell says, but for how long it took."""
    return {
        "metrics": record.metrics().drop(columns="seconds").to_json(),
        "sites": (record.path / "sites.jsonl").read_text(),
        "predictions": (record.path / "predictions.parquet").read_bytes(),
        "model": (record.checkpoints / "step-00000009/model.safetensors").read_bytes(),
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> dict[str, Any]:
    place = Place(tmp_path_factory.mktemp("whole"), data_folder)
    assert place.run()
    return content(place.record)


def segments(record: CellFolder) -> list[int]:
    return [line["step"] for line in read_lines(record.path / "segments.jsonl")]


@pytest.mark.parametrize("step", [1, 3, 5, 8])
def test_a_cell_that_is_asked_to_leave_goes_on_from_that_very_step(
    place: Place, expected: dict[str, Any], step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaving = threading.Event()
    stepped = running.Pulse.stepped

    def ask(pulse: running.Pulse, at: int, *rest: Any) -> None:
        stepped(pulse, at, *rest)
        if at == step:
            pulse.leave()

    with monkeypatch.context() as patched:
        patched.setattr(running.Pulse, "stepped", ask)
        with pytest.raises(Leave):
            place.run(leaving=leaving)
    assert checkpoints.steps(place.record.checkpoints)[-1] == step
    assert place.record.state == "started"
    assert not (place.record.path / "lease").exists()
    assert place.run()
    assert segments(place.record) == [0, step]
    assert content(place.record) == expected


def test_a_checkpoint_is_written_between_evaluations_when_its_time_has_come(
    place: Place, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []
    save = checkpoints.save

    def note(folder: Path, step: int, *rest: Any, **named: Any) -> None:
        saved.append(step)
        save(folder, step, *rest, **named)
        if step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "save", note)
        with pytest.raises(KeyboardInterrupt):
            place.run(save_every=0.0)
    assert saved == [1, 2, 3, 4, 5]
    assert place.run()
    assert segments(place.record) == [0, 5]
    assert content(place.record) == expected


def test_what_is_asked_to_leave_before_it_begins_does_not(place: Place) -> None:
    leaving = threading.Event()
    leaving.set()
    with pytest.raises(Leave):
        place.run(leaving=leaving)
    assert place.record.state == "missing"


def test_on_a_node_that_is_drained_no_cell_begins(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits there for the end of the node; here the marker goes away."""
    study = Path(place.workplace.study)
    _, node, _ = drain_markers(study, "one", "node", "host")
    node.parent.mkdir(parents=True)
    node.touch()
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        assert place.record.state == "missing"
        waits.append(seconds)
        if len(waits) == 3:
            node.unlink()

    monkeypatch.setattr(running.time, "sleep", sleep)
    assert place.run(node="node")
    assert len(waits) == 3
    assert place.record.state == "finished"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.ESTALE])
def test_a_run_folder_in_trouble_is_waited_for(
    place: Place, expected: dict[str, Any], number: int, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    save, tries = checkpoints.save, []

    def trouble(folder: Path, step: int, *rest: Any, **named: Any) -> None:
        tries.append(step)
        if len(tries) in (2, 3):
            raise OSError(number, "trouble")
        save(folder, step, *rest, **named)

    monkeypatch.setattr(checkpoints, "save", trouble)
    monkeypatch.setattr(running.time, "sleep", lambda seconds: None)
    assert place.run()
    assert content(place.record) == expected
    assert segments(place.record) == [0, 3, 3]
    assert capsys.readouterr().err.count("waits for its run folder") == 2


def test_trouble_that_comes_again_after_a_checkpoint_is_waited_for_anew(
    place: Place, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The patience is for one trouble, not for a cell's whole life."""
    save, tries = checkpoints.save, []

    def trouble(folder: Path, step: int, *rest: Any, **named: Any) -> None:
        tries.append(step)
        if tries.count(step) == 1:
            raise OSError(errno.EIO, "trouble")
        save(folder, step, *rest, **named)

    monkeypatch.setattr(checkpoints, "save", trouble)
    monkeypatch.setattr(running, "_wait", lambda folder, least, most: most)
    assert place.run(patience=5.0)
    assert tries == [3, 3, 6, 6, 9, 9]
    assert content(place.record) == expected


def test_a_run_folder_that_stays_in_trouble_is_the_users(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def trouble(*_: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save", trouble)
    with pytest.raises(UserError, match=r"cannot be written: No space left on device\. Mend that and run the same"):
        place.run(patience=0.0)
    assert place.record.failure() is None


def test_a_file_that_is_missing_is_the_cells_failure(place: Place, tmp_path: Path) -> None:
    (tmp_path / "empty/easy_vqa").mkdir(parents=True)
    assert not place.run(data=str(tmp_path / "empty"))
    assert (place.record.failure() or {})["kind"] == "data or configuration"


def test_no_checkpoint_of_a_loss_that_is_no_number_is_kept(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the cell would go on from it."""
    step = running.training.train_step

    def broken(model: Any, *rest: Any) -> Any:
        loss = step(model, *rest)
        return loss * float("nan") if rest[4] == 4 else loss

    monkeypatch.setattr(running.training, "train_step", broken)
    assert not place.run(save_every=0.0)
    failure = place.record.failure() or {}
    assert failure["kind"] == "not finite"
    assert checkpoints.steps(place.record.checkpoints)[-1] == 4


def test_a_cell_that_was_taken_over_waits_for_who_has_it_now(
    place: Place, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one whose process slept too long finds when it wakes."""
    now, waits = Lease(place.record.path, "two"), []

    def taken(progress: Progress) -> None:
        if progress.step == 3 and now.path is None:
            with monkeypatch.context() as patched:
                patched.setattr(lease, "SILENCE", -1.0)
                now.take()

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            now.check()
            now.release()

    monkeypatch.setattr(lease.time, "sleep", sleep)
    assert place.run(taken)
    assert segments(place.record) == [0, 3]
    assert content(place.record) == expected
    said = capsys.readouterr().err
    assert "Another process has taken over" in said
    assert said.count("waits for process") == 1


def test_who_waits_for_another_process_leaves_when_asked(place: Place) -> None:
    other, leaving = Lease(place.record.path, "two"), threading.Event()
    other.take()
    threading.Timer(0.2, leaving.set).start()
    with pytest.raises(Leave):
        place.run(leaving=leaving)
    other.check()
    other.release()


def test_who_waits_for_the_run_folder_leaves_when_asked(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    leaving = threading.Event()

    def trouble(*_: Any, **named: Any) -> None:
        leaving.set()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save", trouble)
    monkeypatch.setattr(running.time, "sleep", lambda seconds: None)
    with pytest.raises(Leave):
        place.run(leaving=leaving)


def test_a_cell_that_was_given_up_before_it_began_runs_the_next_time(place: Place) -> None:
    place.record.path.mkdir(parents=True)
    place.record.write_failure({"kind": "infrastructure", "message": "Its worker died 3 times"})
    assert place.run()
    assert place.record.failure() is None


def test_a_file_system_that_does_not_answer_ends_no_beats(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the cell would look abandoned, and hear no more wishes."""
    asked: list[int] = []
    done = threading.Event()

    def leaves() -> bool:
        asked.append(1)
        if len(asked) == 1:
            raise OSError(errno.EIO, "trouble")
        done.set()
        return True

    monkeypatch.setattr(pulse, "BEAT", 0.01)
    place.record.path.mkdir(parents=True)
    with pulse.Pulse(place.record, leaves=leaves) as one:
        assert done.wait(20)
        one._ended.set()
        one._thread.join()
        assert one.wish is pulse.Wish.LEAVE


@pytest.mark.parametrize("text", ["", "{", "{}"])
def test_a_configuration_that_does_not_read_is_the_cell_s_failure_alone(place: Place, text: str) -> None:
    """Not the launch's, which other cells have part in."""
    place.record.path.mkdir(parents=True)
    (place.record.path / "config.json").write_text(text)
    assert not place.run()
    failure = place.record.failure()
    assert failure is not None
    assert failure["kind"] == "data or configuration"
    assert "config.json" in failure["message"]
    assert not (place.record.path / "lease").exists()
    place.record.set_aside("damaged")  # As --rerun-damaged does.
    assert place.run()


VARIANT = """
from dataclasses import dataclass
from suite.attention import SoftmaxWeights, Variant
from suite.registry import register

class Weights(SoftmaxWeights):
    def forward(self, scores, mask, positions):
        {act}
        return super().forward(scores, mask, positions)

@register("{name}")
@dataclass(frozen=True)
class Named(Variant):
    def weights(self, site):
        return Weights()
"""
ENDS = {
    "exits": ("raise SystemExit(0)", "SystemExit: 0"),
    "closes": ("raise GeneratorExit('closed')", "GeneratorExit: closed"),
    "own_kind": ("raise type('Mine', (BaseException,), {})('mine')", "Mine: mine"),
    "surrogate": (r"raise OSError(2, 'No such file', '/caf\udce9/x')", r"caf\udce9"),
    "unprintable": ("raise type('Mine', (Exception,), {'__str__': lambda self: 1 / 0})()", "cannot be read: Zero"),
    "long": ("raise ValueError('x' * 10_000_000)", "9,996,000 characters more"),
}


@pytest.mark.parametrize("name", ENDS)
def test_whatever_a_cell_raises_is_its_own_failure(
    place: Place, plugin: Callable[..., Path], name: str, data_folder: Path
) -> None:
    """Exits, what no text can be written of, what is too long to be read: the launch goes on."""
    act, said = ENDS[name]
    [kept] = keep_plugins(StudyFolder(place.workplace.study), [plugin(VARIANT.format(act=act, name=name))])
    cell = dataclasses.replace(CELL, variant=name, arguments={})
    registry.load_plugin(kept)
    workplace = dataclasses.replace(place.workplace, plugins=(kept,))
    assert not run_cell(Job("cell", cell, "row", None), workplace, lambda progress: None)
    failure = place.record.failure() or {}
    assert failure["kind"] == "code"
    assert said in failure["message"]
    assert len(failure["message"]) < 5000
    failure["message"].encode()
    assert place.record.log.read_text(encoding="utf-8")
    assert not (place.record.path / "lease").exists()


def test_what_a_method_leaves_behind_in_torch_reaches_no_other_cell(
    place: Place, plugin: Callable[..., Path], expected: dict[str, Any]
) -> None:
    act = (
        "import torch, numpy, random; torch.set_default_dtype(torch.float64); torch.set_flush_denormal(True); "
        "torch.set_float32_matmul_precision('medium'); torch.backends.mkldnn.enabled = False; "
        "torch.use_deterministic_algorithms(True); numpy.random.seed(7); torch.set_grad_enabled(False); "
        "raise ValueError"
    )
    [kept] = keep_plugins(StudyFolder(place.workplace.study), [plugin(VARIANT.format(act=act, name="leaves"))])
    workplace = dataclasses.replace(place.workplace, plugins=(kept,))
    cell = dataclasses.replace(CELL, variant="leaves", arguments={})
    registry.load_plugin(kept)
    assert not run_cell(Job("other", cell, "row", None), workplace, lambda progress: None)
    assert place.run()
    assert content(place.record) == expected


def test_a_kept_plugin_that_was_changed_trains_nothing(place: Place, plugin: Callable[..., Path]) -> None:
    """By a colleague in a shared run folder, or by a disk: its cells would bear the name of another method."""
    folder = StudyFolder(place.workplace.study)
    own = plugin(VARIANT.format(act="pass", name="kept"))
    [kept] = keep_plugins(folder, [own])
    Path(kept).write_text(VARIANT.format(act="scores = scores * 0.0", name="kept"))
    assert not place.run(plugins=(kept,))
    failure = place.record.failure() or {}
    assert "is not the file that the launch copied there" in failure["message"]
    assert keep_plugins(folder, [own]) == (kept,)
    assert Path(kept).read_text() == own.read_text()


def test_a_record_in_which_is_a_link_is_not_written_to(place: Place, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name in ("lease", "checkpoint", "examples", "log.txt", "metrics.jsonl"):
        place.record.path.mkdir(parents=True)
        (place.record.path / name).symlink_to(theirs)
        with pytest.raises(RecordError, match="is a link"):
            place.run()
        assert not list(theirs.iterdir())
        shutil.rmtree(place.record.path)
    place.record.path.symlink_to(theirs)
    with pytest.raises(RecordError, match="is a link"):
        place.run()
    assert not list(theirs.iterdir())


def test_lines_that_changed_since_the_checkpoint_are_not_gone_on_from(place: Place) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.run(stop)
    path = place.record.path / "metrics.jsonl"
    whole = path.read_bytes()
    for content in (whole.replace(b'"step": 3', b'"step": 2'), whole[whole.index(b"\n") + 1 :], b""):
        path.write_bytes(content)
        assert not place.run()
        failure = place.record.failure() or {}
        assert "metrics.jsonl" in failure["message"]
        assert "is damaged" in failure["message"]
        assert "Delete" not in failure["message"]
    path.write_bytes(whole)
    assert place.run()
