"""The command as people run it: real processes, real Ray, real pictures, a small model and few steps."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest
from small_grid import lasting, write_thin_study

from suite import cli
from suite.records import load_cells

ABLATE = [sys.executable, "-m", "suite"]
SMALL = ("layers=2,2,2", "width=16", "heads=2", "intermediate=16", "steps=24", "evaluations=4", "batch_size=16")
MARK = "ABLATE_TEST"
# Both depths of LayerDrop with p = 1 become one cell where every row has the same layers.
CELLS = 8
README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
TOPK = README.partition("```python title=topk.py\n")[2].partition("```")[0]
RAISES = """
from dataclasses import dataclass

from suite.attention import SoftmaxWeights, Variant
from suite.registry import register


class RaisesWeights(SoftmaxWeights):
    def attend(self, query, key, value, mask, positions):
        self.calls = getattr(self, "calls", 0) + self.training
        if self.calls == 10:
            raise RuntimeError("the tenth step is too much")
        return super().attend(query, key, value, mask, positions)


@register("raises")
@dataclass(frozen=True)
class Raises(Variant):
    def weights(self, site):
        return RaisesWeights()
"""


def command(*arguments: object, small: bool = True) -> list[str]:
    settings = [part for setting in SMALL for part in ("--set", setting)] if small else []
    return [*ABLATE, *map(str, arguments), *settings]


def ablate(*arguments: object, cwd: Path, small: bool = False, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs the command in ``cwd``; its exit code must be ``expect``, and never with a traceback."""
    done = subprocess.run(command(*arguments, small=small), cwd=cwd, capture_output=True, text=True, timeout=400)
    assert done.returncode == expect, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    ablate("data", "prepare", "easy_vqa", "--data", folder, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo grid run to its end, one cell after another, without Ray."""
    folder = tmp_path_factory.mktemp("whole")
    ablate("run", "--data", data, "--no-ray", cwd=folder, small=True)
    return folder


def cells(folder: Path) -> dict[str, Path]:
    study = json.loads((folder / "runs/demo/study.json").read_text())
    return {cell["id"]: folder / "runs/demo" / cell["id"] for cell in study["cells"]}


def content(cell: Path) -> dict[str, object]:
    """Everything that a cell's record says but when, where and how long."""
    found: dict[str, object] = {}
    for name in ("config", "result"):
        plain = json.loads((cell / f"{name}.json").read_text())
        found[name] = lasting(plain)
    for name in ("metrics", "sites"):
        lines = [json.loads(line) for line in (cell / f"{name}.jsonl").read_text().splitlines()]
        found[name] = [lasting(line) for line in lines]
    found["predictions"] = pd.read_parquet(cell / "predictions.parquet").to_json()
    found["examples"] = {path.name: path.read_bytes() for path in (cell / "examples").iterdir()}
    return found


def assert_same_records(one: Path, other: Path) -> None:
    assert cells(one).keys() == cells(other).keys()
    for name in cells(one):
        assert content(cells(one)[name]) == content(cells(other)[name]), name


def test_every_cell_is_recorded_whole(whole: Path) -> None:
    assert len(cells(whole)) == CELLS
    for cell in cells(whole).values():
        recorded = content(cell)
        result = recorded["result"]
        assert isinstance(result, dict)
        assert 0 <= result["accuracy"]["test"] <= 100
        assert result["macs_reference"] >= result["macs"] > 0
        assert [line["step"] for line in recorded["metrics"]] == [0, 6, 12, 18, 24]
        assert len(pd.read_parquet(cell / "predictions.parquet")) == 9673


def test_predictions_give_the_recorded_accuracy(whole: Path) -> None:
    for cell in cells(whole).values():
        table = pd.read_parquet(cell / "predictions.parquet")
        result = json.loads((cell / "result.json").read_text())
        assert 100 * table["score"].mean() == result["accuracy"]["test"]
        assert (table["top_answers"].str[0] == table["answer"]).all()
        assert all(len(row) == 5 and (row[:-1] >= row[1:]).all() for row in table["top_confidences"])


def test_second_run_finds_nothing_to_do(whole: Path, data: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.glob("runs/demo/*-s0-*/*.json*")}
    assert len({path.parent for path in before}) == len(load_cells(whole / "runs/demo"))
    done = ablate("run", "--no-report", "--data", data, cwd=whole, small=True)
    assert "nothing to run" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in whole.glob("runs/demo/*-s0-*/*.json*")} == before


def test_report_needs_nothing_but_records(whole: Path) -> None:
    shown = ablate("report", cwd=whole).stdout
    assert "Table 1" in shown
    assert "Table 2" in shown
    table = pd.read_csv(whole / "runs/demo/report/tables.csv")
    measured = table[table["cells"].notna()].set_index("cells")["test_accuracy"]
    compared = [cell["id"] for cell in _study(whole)["cells"] if cell["role"] != "start"]
    assert sorted(measured.index) == sorted(compared)
    for name in compared:
        result = json.loads((cells(whole)[name] / "result.json").read_text())
        assert measured[name] == result["accuracy"]["test"]


@pytest.mark.long
def test_ray_leaves_the_records_that_one_process_leaves(
    whole: Path, data: Path, tmp_path: Path, stray: None
) -> None:
    done = ablate("run", "--no-report", "--data", data, "--cpus", 2, cwd=tmp_path, small=True)
    assert_same_records(whole, tmp_path)
    assert f"{CELLS} of {CELLS} cells" in done.stderr
    assert not list(tmp_path.glob("runs/demo/.ray*"))


@pytest.mark.long
def test_killed_grid_continues_to_the_same_records(whole: Path, data: Path, tmp_path: Path, stray: None) -> None:
    """kill -9 of the command and its workers, twice, at moments when cells are half done."""
    for wanted in (1, 4):
        process = subprocess.Popen(
            command("run", "--no-report", "--data", data, "--cpus", 2),
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_until(lambda wanted=wanted: _half_done(tmp_path, finished=wanted), process)
        finally:
            family = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):  # It may have died with the command.
                    if "ray::" in " ".join(member.cmdline()):
                        member.kill()
            process.wait()
    finished = {name: _stamp(cell) for name, cell in cells(tmp_path).items() if (cell / "result.json").exists()}
    assert finished
    assert len(finished) < CELLS
    ablate("run", "--no-report", "--data", data, "--cpus", 2, cwd=tmp_path, small=True)
    assert_same_records(whole, tmp_path)
    assert {name: _stamp(cells(tmp_path)[name]) for name in finished} == finished
    segments = [len((cell / "segments.jsonl").read_text().splitlines()) for cell in cells(tmp_path).values()]
    assert max(segments) > 1, "no cell was continued from a checkpoint"


def _half_done(folder: Path, finished: int) -> bool:
    """At least ``finished`` cells are done, and one that is not has a checkpoint."""
    found = [path for path in (folder / "runs/demo").glob("*-s0-*") if path.is_dir()]
    done = [path for path in found if (path / "result.json").exists()]
    begun = [path for path in found if path not in done and list(path.glob("checkpoint/step-*"))]
    return len(done) >= finished and bool(begun)


def _wait_until(true, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while not true():
        assert process.poll() is None, "the command ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _stamp(cell: Path) -> dict[str, int]:
    """When each file of the record was written; not of what a kill leaves beside it, which the next launch removes:
    what says that the cell runs, and files under the temporary names of a process that was writing them."""
    return {path.name: path.stat().st_mtime_ns for path in cell.glob("[!.]*.*") if path.name != "live.json"}


@pytest.fixture
def stray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails where a command of the test leaves a process behind, known by a mark in its environment."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    yield
    deadline = time.monotonic() + 90  # Ray's agents outlive a killed raylet by a minute.
    while (left := _marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    for process in left:
        process.kill()
    assert not left


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def test_the_readmes_variant_is_short_and_keeps_the_contract(tmp_path: Path) -> None:
    assert len(TOPK.splitlines()) < 40
    (tmp_path / "topk.py").write_text(TOPK)
    ablate("variants", "check", "topk", "--plugin", "topk.py", cwd=tmp_path)


def test_plugin_gets_rows_and_an_edit_trains_anew(whole: Path, data: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "topk.py"
    plugin.write_text(TOPK)
    run = ("run", "--data", data, "--no-ray", "--plugin", plugin, "--variants", "softmax,topk")
    assert "topk" in ablate(*run, cwd=tmp_path, small=True).stdout
    first = {name for name in cells(tmp_path) if name.startswith("topk")}
    assert len(first) == 1
    table = pd.read_csv(tmp_path / "runs/demo/report/tables.csv")
    row = table[table["cells"].fillna("").str.startswith("topk")].squeeze()
    assert row["macs_reference"] > 0
    assert 0 <= row["test_accuracy"] <= 100
    run = (*run, "--no-report")
    assert "nothing to run" in ablate(*run, cwd=tmp_path, small=True).stderr

    plugin.write_text(TOPK.replace("k: int = 3", "k: int = 2"))
    assert "1 of 3 cells to run" in ablate(*run, cwd=tmp_path, small=True).stderr
    assert not first & cells(tmp_path).keys()
    untouched = [name for name in cells(tmp_path) if not name.startswith("topk")]
    assert set(untouched) == set(cells(whole))


def test_failing_variant_fails_alone(data: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "raises.py"
    plugin.write_text(RAISES)
    arguments = ("run", "--data", data, "--plugin", plugin, "--variants", "softmax,raises", "--cpus", 2)
    done = ablate(*arguments, cwd=tmp_path, small=True, expect=1)
    (failed,) = (name for name in cells(tmp_path) if name.startswith("raises"))
    assert f"{failed}: RuntimeError: the tenth step is too much" in done.stderr
    assert "raises.py:12" in done.stderr
    log = tmp_path / "runs/demo" / failed / "log.txt"
    assert str(log) in done.stderr
    assert "the tenth step is too much" in log.read_text()
    assert f"ablate run --data {data}" in done.stderr
    others = [cell for name, cell in cells(tmp_path).items() if name.startswith("softmax")]
    assert sum((cell / "result.json").exists() for cell in others) == 2
    assert "failed" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "demmo"], "There is no study 'demmo'. Did you mean 'demo'?"),
        (["run", "--variants", ","], "expected names with commas between them, received none"),
        (["run", "--variants", "entmx"], "There is no variant 'entmx'. Did you mean 'entmax'?"),
        (["run", "--set", "stesp=3"], "There is no field 'stesp'. Did you mean 'steps'?"),
        (["run", "--set", "steps=many"], "steps takes a whole number; received 'many'."),
        (["run", "--set", "steps=0"], "steps must be a whole number of at least 1; received 0."),
        (["run", "--set", "optimizer=sgd"], "There is no value of optimizer 'sgd'."),
        (["run", "--set", "heads=5"], "width 64 must be a multiple of heads 5."),
        (["run", "--set", "train=trian"], "easy-VQA has no split 'trian'"),
        (["run", "--set", "layers=1,1,1"], "LayerDrop needs p from 0 to 0 for a stack of 1 layers; received 1."),
        (["run", "--plugin", "nowhere.py"], "There is no plug-in file nowhere.py."),
        (["run", "--runs", "s3://bucket/runs"], "is an object store"),
        (["run", "--gpus-per-cell", "1", "--no-ray"], "A cell needs 1 CPUs and 1 GPUs on one node"),
        (["run", "--cpus", "0"], "expected a whole number of at least 1; received '0'"),
        (["run", "--gpus", "-1"], "expected a whole number; received '-1'"),
        (["run", "--gpus-per-cell", "1.5"], "gpus is a fraction up to 1 or a whole number"),
        (["run", "--address", ""], "expected host:port or auto, received nothing"),
        (["report", "demo"], "No study at runs/demo"),
        (["status", "demo"], "No study at runs/demo"),
        (["variants", "check", "sofmax"], "There is no variant 'sofmax'. Did you mean 'softmax'?"),
        (["variants", "list", "sofmax"], "There is no variant 'sofmax'. Did you mean 'softmax'?"),
        (["data", "info", "easy_vqq"], "There is no dataset 'easy_vqq'. Did you mean 'easy_vqa'?"),
    ],
    ids=" ".join,
)
def test_mistakes_get_one_message(
    arguments: list[str], message: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "run":
        arguments = [*arguments, "--data", str(data)]
    try:
        code = cli.main(arguments)
    except SystemExit as ended:  # By argparse, of words that it does not know.
        code = ended.code
    assert code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpus-per-cell", "1", "--cpus", "2"], "A cell needs 1 CPUs and 1 GPUs on one node"),
        (["--address", "127.0.0.1:1"], "No Ray cluster answers at 127.0.0.1:1"),
    ],
)
def test_what_ray_has_against_a_launch_is_one_message(
    options: list[str], message: str, data: Path, tmp_path: Path
) -> None:
    assert message in ablate("run", *options, "--data", data, cwd=tmp_path, expect=2).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["drain", "--runs", "runs", "--study", "dmo"], "No study at runs/dmo"),
        (["drain", "--runs", "elsewhere"], "There is no folder of records elsewhere."),
        (["status", "--runs", "runs", "--watch", "--json"], "Give one of them."),
    ],
)
def test_watching_a_study_that_is_not_there_is_a_mistake(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_the_cells_that_run_are_watched_first() -> None:
    states = ["finished", "missing", "running", "failed (stale)", "winner of the search, not known yet", "finished"]
    rows = [{"id": str(place), "state": state, "step": None} for place, state in enumerate(states)]
    said, _, _, *shown = cli._watched(rows).splitlines()
    assert said == "6 cells: 1 running, 1 failed, 2 missing, 2 finished"
    assert [line.split()[0] for line in shown] == ["2", "3", "1", "4", "0", "5"]


def test_the_log_of_an_interrupted_cell_is_not_followed_for_ever(tmp_path: Path) -> None:
    folder = write_thin_study(tmp_path / "demo", "one")
    folder.cell("one").write_config({})
    folder.cell("one").log.write_text("what it said\n")
    command = [sys.executable, "-m", "suite", "logs", "one", "--follow", "--runs", str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, timeout=30).stdout == "what it said\n"


def test_a_terminal_that_does_not_know_a_character_shows_the_others(tmp_path: Path) -> None:
    """As on a machine whose locale is not of UTF-8, where a report would end in an error."""
    folder = write_thin_study(tmp_path / "demo", "one")
    folder.cell("one").write_config({})
    folder.cell("one").log.write_text("α is 1.5\n", encoding="utf-8")
    command = [sys.executable, "-m", "suite", "logs", "one", "--runs", str(tmp_path)]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.returncode) == ("? is 1.5\n", 0), done.stderr


def test_a_variant_is_checked_as_users_do(tmp_path: Path) -> None:
    """tests/test_contract.py checks all of them."""
    kept = ablate("variants", "check", "span", cwd=tmp_path).stdout
    assert {line.partition(":")[0] for line in kept.splitlines()} == {"span"}
    (listed,) = ablate("variants", "list", "span", cwd=tmp_path).stdout.splitlines()
    assert listed.startswith("span ")


def test_half_written_data_is_named_and_kept(data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "data" / "easy_vqa"
    broken.mkdir(parents=True)
    for path in (data / "easy_vqa").iterdir():
        (broken / path.name).write_bytes(path.read_bytes()[: 1000 if path.name == "regions.npy" else None])
    done = ablate("run", cwd=tmp_path, expect=2)
    assert "regions.npy" in done.stderr
    assert "ablate data prepare easy_vqa" in done.stderr
    assert (broken / "regions.npy").stat().st_size == 1000


def test_corrupt_checkpoint_is_named(data: Path, tmp_path: Path, whole: Path) -> None:
    (start,) = (c["start"] for c in _study(whole)["cells"] if c["role"] == "row" and c["cell"]["variant"] == "span")
    shutil.copytree(whole / "runs/demo" / start, tmp_path / "runs/demo" / start)
    for path in (tmp_path / "runs/demo" / start).glob("checkpoint/*/model.safetensors"):
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    run = ("run", "--no-report", "--data", data, "--no-ray", "--variants", "span")
    done = ablate(*run, cwd=tmp_path, small=True, expect=1)
    assert f"runs/demo/{start}/checkpoint" in done.stderr
    assert "is not the model that the cell ended with" in done.stderr
    assert "--rerun-damaged" in done.stderr


def _study(folder: Path) -> dict:
    return json.loads((folder / "runs/demo/study.json").read_text())


def test_full_disk_is_said_and_loses_nothing(data: Path, tmp_path: Path) -> None:
    disk = tmp_path / "small"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        run = ("run", "--no-report", "--data", data, "--runs", disk, "--no-ray", "--variants", "softmax")
        done = ablate(*run, "--patience", 0, cwd=tmp_path, small=True, expect=2)
        assert "cannot be written: No space left on device" in done.stderr
        subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
        ablate(*run, cwd=tmp_path, small=True)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_status_and_plan_say_where_the_cells_are(whole: Path, data: Path) -> None:
    states = json.loads(ablate("status", "--json", cwd=whole).stdout)
    assert {row["state"] for row in states} == {"finished"}
    assert {row["step"] for row in states} == {"24/24"}
    planned = json.loads(ablate("plan", "--json", "--data", data, cwd=whole, small=True).stdout)
    assert [row["id"] for row in planned["cells"]] == [row["id"] for row in states]
    assert planned["totals"]["missing"] == 0
