"""`ablate bench cost` on small real cells: what it writes, what it leaves alone, when it refuses."""

from __future__ import annotations

import math
import mmap
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_grid import write_thin_study

from suite import plan, provenance, registry
from suite.bench import cell as at_work
from suite.bench import cost
from suite.bench.cell import ALONE, STEPS, FinishedCell, Samples
from suite.bench.energy import Meter, open_meter
from suite.bench.record import digits
from suite.cli import _parser, main
from suite.config import Cell, ModelSize, Protocol, Study, only_layers
from suite.data.store import open_dataset
from suite.engine import Engine
from suite.errors import UserError
from suite.lease import Lease
from suite.optimisers import build_optimiser, learning_rate
from suite.records import CellFolder, RecordError, StudyFolder
from suite.running import run_cell
from suite.training import Batches, Objective, load_trained, train_step

PLUGIN = '''
from suite.attention import Variant
from suite.registry import register
from dataclasses import dataclass


@register("mine")
@dataclass(frozen=True)
class Mine(Variant):
    """Softmax under another name."""
'''
CELL = Cell(
    variant="mine",
    dataset="easy_vqa",
    protocol=Protocol(steps=6, batch_size=8, evaluations=2),
    model=ModelSize(width=16, heads=2, intermediate=16),
    layers=(2, 2, 2),
)
ROUNDS = 2
NO_METER = Meter((), "not measured: this is a test")


@dataclass(frozen=True)
class Ran:
    """A study with finished cells, and what measuring them left."""

    study: StudyFolder
    data: Path
    plugin: Path
    ids: dict[str, str]
    page: str
    said: str
    cwd: Path
    before: dict[str, bytes]

    def measured(self, name: str) -> dict[str, Any]:
        (measurement,) = self.study.cell(self.ids[name]).costs()
        return measurement

    def finished(self, name: str) -> FinishedCell:
        return FinishedCell(str(self.study.path), self.ids[name], str(self.data), "cpu", 1, (str(self.plugin),))

    def command(self, *more: str) -> list[str]:
        places = [f"--runs={self.study.path.parent}", f"--data={self.data}", "--threads=1", f"--rounds={ROUNDS}"]
        return ["bench", "cost", "small", *places, *more]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def ran(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """The command run once, with a folder that is empty as the current one."""
    folder = tmp_path_factory.mktemp("cost")
    plugin, cwd = folder / "mine.py", folder / "cwd"
    plugin.write_text(PLUGIN)
    cwd.mkdir()
    before = dict(registry._from_plugins), dict(registry._plugin_files)
    with pytest.MonkeyPatch.context() as patch:
        registry.load_plugin(plugin)
        patch.chdir(cwd)
        patch.setattr(at_work, "LEAST_SECONDS", 0.05)
        dropped = replace(CELL, variant="layerdrop", arguments={"p": 1})
        cells = {"mine": CELL, "seed": replace(CELL, seed=1), "only": only_layers(CELL, ((0,), (0,), (0, 1)))}
        study, runs = Study("small", "?", tuple(cells.values()), floors=(dropped,)), folder / "runs"
        record = StudyFolder(runs / "small")
        jobs = plan.plan(study, data_folder)
        plan.write_study(record, study, jobs, data_folder)
        workplace = plan.Workplace(str(record.path), str(data_folder))
        assert all(run_cell(job, workplace, lambda progress: None) for job in jobs)
        ids = {name: next(job.id for job in jobs if job.cell == plan.resolve(one)) for name, one in cells.items()}
        ids["dropped"] = next(job.id for job in jobs if job.role == "floor")
        files = content(record.path)
        page, said = StringIO(), StringIO()
        ran = Ran(record, data_folder, plugin, ids, "", "", cwd, files)
        with redirect_stdout(page), redirect_stderr(said):
            assert main(ran.command(f"--plugin={plugin}")) == 0, said.getvalue()
        yield replace(ran, page=page.getvalue(), said=said.getvalue())
    for known, old in zip((registry._from_plugins, registry._plugin_files), before, strict=True):
        known.clear()
        known.update(old)


def test_the_first_finished_cell_of_each_row_is_measured_and_nothing_else_is_touched(ran: Ran) -> None:
    after = content(ran.study.path)
    assert {name for name in after if name not in ran.before} == {
        f"{ran.ids['mine']}/cost.json",
        f"{ran.ids['only']}/cost.json",
    }
    assert {name: after[name] for name in ran.before} == ran.before
    assert list(ran.cwd.iterdir()) == []


def test_a_measurement_has_all_that_its_reader_asks(ran: Ran) -> None:
    measured = ran.measured("mine")
    assert measured["device"] == f"{provenance.processor()}, 1 thread"
    assert (measured["kind"], measured["threads"], measured["rounds"]) == ("cpu", 1, ROUNDS)
    assert measured["batch_size"] == 8
    assert len(measured["load"]) == 2
    assert measured["other_cores"] >= 0
    assert measured["packages"]["torch"] == torch.__version__
    assert measured["code"]["engine"] == provenance.engine_digest()
    for name, least in (("train_step_seconds", STEPS * ROUNDS), ("questions_per_second", ROUNDS)):
        spread = measured[name]
        assert 0 < spread["low"] <= spread["median"] <= spread["high"]
        assert spread["samples"] >= least
    latency = measured["latency_ms"]
    assert 0 < latency["p50"] <= latency["p99"]
    assert latency["samples"] == ALONE * ROUNDS
    # In batches a question takes less than alone.
    assert 1e3 / measured["questions_per_second"]["median"] < latency["p50"]
    assert measured["train_memory_mib"] > 0
    assert measured["predict_memory_mib"] > 0
    assert measured["step_joules"] > measured["question_joules"] > 0
    assert "codecarbon 3" in measured["energy_source"]


def test_a_cell_that_is_evaluated_only_has_no_numbers_of_training(ran: Ran) -> None:
    measured = ran.measured("only")
    assert [measured[name] for name in ("train_step_seconds", "train_memory_mib", "step_joules")] == [None] * 3
    assert measured["questions_per_second"]["median"] > 0
    assert measured["question_joules"] > 0


def test_the_printed_table_is_that_of_the_files(ran: Ran) -> None:
    head, _, mine, only = ([cell.strip() for cell in line.strip("|").split("|")] for line in ran.page.splitlines())
    shown, measured = dict(zip(head, mine, strict=True)), ran.measured("mine")
    low, middle, high = (1e3 * measured["train_step_seconds"][part] for part in ("low", "median", "high"))
    assert shown["cell"] == "mine 2-2-2"
    assert shown["step (ms)"] == f"{digits(middle)} ({digits(low)}-{digits(high)})"
    assert shown["p99 (ms)"] == digits(measured["latency_ms"]["p99"])
    assert shown["question (J)"] == digits(measured["question_joules"])
    assert dict(zip(head, only, strict=True))["step (ms)"] == "-"


def test_progress_says_what_how_far_and_how_long(ran: Ran) -> None:
    assert "2 cells on" in ran.said
    assert "peak memory, 1 of 2: mine 2-2-2" in ran.said
    assert f"round 1 of {ROUNDS}: " in ran.said
    assert " s left" in ran.said


def test_the_report_shows_it(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "small", f"--runs={ran.study.path.parent}"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert f"Measured cost on {provenance.processor()}, 1 thread" in page


def test_one_benchs_default_is_not_anothers() -> None:
    rounds = {name: _parser().parse_args(["bench", name]).rounds for name in ("cost", "variants", "model", "grid")}
    assert rounds == {"cost": 5, "variants": 5, "model": 5, "grid": 1}


def test_a_step_is_the_engines_own(ran: Ran) -> None:
    """After two of them the weights are those that the training's own parts make, layers dropped included."""
    one = ran.finished("dropped")
    model = one.model()
    step = one.training(model)
    for number in range(2):
        step(number)
    job, dataset = one.cell, open_dataset(ran.data / "easy_vqa")
    expected = load_trained(ran.study, one.id, dataset).train()
    optimiser, engine = build_optimiser(expected, job.protocol), Engine()
    engine.prepare(Objective(expected, job.protocol), optimiser, job.protocol.clip)
    batches = Batches(dataset.rows("train"), 8, 0)
    for number in range(2):
        engine.set_rate(learning_rate(job.protocol, number))
        train_step(expected, optimiser, dataset, [batches[number]], job, number, torch.device("cpu"), engine)
    ours, theirs = model.state_dict(), expected.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    # The next turn begins from the record's weights again.
    again, recorded = one.model().state_dict(), load_trained(ran.study, one.id, dataset).state_dict()
    assert all(torch.equal(again[name], recorded[name]) for name in recorded)


def test_turns_take_steps_in_which_other_layers_are_dropped(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def note(model: Any, optimiser: Any, dataset: Any, parts: Any, cell: Cell, step: int, *more: Any) -> None:
        seen.append(step)

    monkeypatch.setattr(at_work, "train_step", note)
    monkeypatch.setattr(at_work, "LEAST_SECONDS", 0.0)
    samples = Samples()
    for number in range(ROUNDS):
        ran.finished("dropped").turn(number, ROUNDS, NO_METER, samples)
    assert seen[: 1 + STEPS] == [0, 1, 2, 3]
    assert seen[1 + STEPS] == 4
    assert len(samples.step_seconds) == STEPS * ROUNDS
    assert samples.step_joules == samples.question_joules == []


def test_every_turn_asks_other_questions_alone_over_the_whole_split(ran: Ran) -> None:
    one = ran.finished("mine")
    asked = [one._alone(number, ROUNDS) for number in range(ROUNDS)]
    assert [len(rows) for rows in asked] == [ALONE] * ROUNDS
    assert set(np.concatenate(asked)) == set(open_dataset(ran.data / "easy_vqa").rows("test"))


def refused(ran: Ran, *more: str) -> str:
    """What the command says where it refuses; it has then written nothing."""
    before, said = content(ran.study.path), StringIO()
    with redirect_stderr(said):
        assert main(ran.command(*more)) == 2
    assert content(ran.study.path) == before
    return said.getvalue()


def test_it_refuses_while_a_cell_of_the_study_runs(ran: Ran) -> None:
    lease = Lease(ran.study.cell(ran.ids["dropped"]).path)
    lease.take()
    try:
        said = refused(ran)
    finally:
        lease.release()
    assert f"{ran.ids['dropped']} by process {os.getpid()} on {socket.gethostname()}" in said
    assert "ablate drain" in said


def test_a_cell_that_begins_to_run_meanwhile_spoils_the_measurement(
    ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = Lease(ran.study.cell(ran.ids["dropped"]).path)
    monkeypatch.setattr(cost, "peak_memory", lambda cell: (1.0, 1.0))
    turn = FinishedCell.turn

    def beginning(self: FinishedCell, *arguments: Any) -> None:
        turn(self, *arguments)
        if lease.path is None:
            lease.take()

    monkeypatch.setattr(FinishedCell, "turn", beginning)
    try:
        before, said = ran.measured("mine"), StringIO()
        with redirect_stderr(said):
            assert main(ran.command()) == 2
        assert ran.measured("mine") == before
    finally:
        lease.release()
    assert "are being run" in said.getvalue()


def test_cells_that_are_not_there_or_not_finished_are_told(ran: Ran, tmp_path: Path) -> None:
    said = refused(ran, "--cells", ran.ids["mine"][:-1] + "?")
    assert f"Did you mean '{ran.ids['mine']}'?" in said
    result = ran.study.cell(ran.ids["dropped"]).path / "result.json"
    aside = result.rename(tmp_path / "result.json")
    try:
        assert f"{ran.ids['dropped']} is started. Run it first" in refused(ran, "--cells", ran.ids["dropped"])
    finally:
        aside.rename(result)
    empty = write_thin_study(tmp_path / "empty")
    with pytest.raises(UserError, match="No row of"):
        cost.first_finished(empty)


def test_a_file_that_cannot_be_read_is_told_before_anything_is_measured(ran: Ran) -> None:
    path = ran.study.cell(ran.ids["mine"]).path / "cost.json"
    whole = path.read_bytes()
    path.write_text("{")
    try:
        assert "move it away and measure again" in refused(ran)
    finally:
        path.write_bytes(whole)


def test_measuring_again_replaces_the_devices_own_measurement_alone(tmp_path: Path) -> None:
    record = CellFolder(tmp_path)
    record.write_cost({"device": "A, 1 thread", "rounds": 1})
    record.write_cost({"device": "A, 2 threads", "rounds": 1})
    record.write_cost({"device": "A, 1 thread", "rounds": 7})
    assert record.costs() == [{"device": "A, 2 threads", "rounds": 1}, {"device": "A, 1 thread", "rounds": 7}]
    whole = (tmp_path / "cost.json").read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        record.write_cost({"device": "A, 1 thread", "rounds": math.nan})
    assert [path.name for path in tmp_path.iterdir()] == ["cost.json"]
    assert (tmp_path / "cost.json").read_bytes() == whole


RESULT = {
    "accuracy": {},
    "macs": 1,
    "macs_reference": 1,
    "uncounted_operators": {},
    "parameters": 1,
    "steps": 1,
    "seconds": 1.0,
}


def test_a_measurement_stays_as_long_as_the_model_that_it_is_of(tmp_path: Path) -> None:
    def made() -> CellFolder:
        record = CellFolder(tmp_path / "cell")
        record.write_config({"code": {"engine": "old"}})
        record.write_result(RESULT)
        record.write_cost({"device": "A"})
        return record

    record = made()
    record.tidy()
    assert record.costs() == [{"device": "A"}]
    record.write_config({"code": {"engine": "new"}})  # As where it is trained again.
    assert record.costs() == []
    record = made()
    record.clear()
    assert record.costs() == []
    record = made()
    record.set_aside()
    assert record.costs() == []
    assert CellFolder(tmp_path / "stale" / "cell").costs() == [{"device": "A"}]


@pytest.mark.parametrize("text", ["{", "[]", '{"measurements": [3]}', '{"measurements": [{}]}'])
def test_a_record_of_something_else_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "cost.json").write_text(text)
    with pytest.raises(RecordError, match=r"cost\.json is damaged"):
        CellFolder(tmp_path).costs()


def test_without_codecarbon_there_is_no_energy_and_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    meter = open_meter("cpu")
    assert "codecarbon, the extra 'energy', is not installed" in meter.source
    ran: list[int] = []
    assert meter.joules(partial(ran.append, 1)) is None
    assert ran == [1]


ENERGY = """
import contextlib, io, os, socket, time, warnings
import torch
warnings.simplefilter("error")
def refuse(*arguments): raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = refuse
from suite.bench.energy import open_meter
printed = io.StringIO()
with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
    meter = open_meter("cpu")
    began = time.perf_counter()
    joules = meter.joules(lambda: sum(range(10_000_000)))
    seconds = time.perf_counter() - began
assert printed.getvalue() == "", printed.getvalue()
assert os.listdir() == []
(part,) = meter.parts
least, most = (0.09 * part._tdp, part._tdp) if part._mode == "cpu_load" else (0.5, 1000)
print(least, joules / seconds, most, meter.source, sep="\\n")
"""


def test_energy_needs_no_network_writes_nothing_and_says_nothing(tmp_path: Path) -> None:
    """The power is one that a processor has: of an estimate between a tenth of its full load and all of it."""
    done = subprocess.run([sys.executable, "-c", ENERGY], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    least, watts, most, source = done.stdout.splitlines()
    assert float(least) <= float(watts) <= float(most)
    assert source.startswith("processor: ")
    assert "codecarbon" in source


def test_a_peak_is_found_of_what_is_gone_again() -> None:
    before = at_work._resident(forget=True)
    # Pages of its own: what an array takes may be resident already, left over from another one.
    with mmap.mmap(-1, 64 * at_work.MEBIBYTE) as block:
        np.frombuffer(block, dtype=np.uint8)[:] = 1
    assert 60 < (at_work._resident() - before) / at_work.MEBIBYTE < 72
    assert at_work._resident(forget=True) <= before + 4 * at_work.MEBIBYTE
    assert (at_work._resident() - before) / at_work.MEBIBYTE < 4


def test_a_process_that_dies_is_a_users_error() -> None:
    with pytest.raises(UserError, match="the process died"):
        cost._fresh(partial(os._exit, 1))


def test_other_processes_are_seen() -> None:
    command = [sys.executable, "-c", "print('begun', flush=True)\nwhile True: pass"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "begun\n"
            others = cost.Others()
            time.sleep(1)
            assert 0.2 < others.cores() <= (os.cpu_count() or 1) + 0.5
            assert ", process " in others.busiest()
        finally:
            process.kill()
