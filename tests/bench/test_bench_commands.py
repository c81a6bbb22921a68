"""`ablate bench` as people run it, at small sizes: what it prints follows from the samples that it keeps."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from suite import registry
from suite.bench.record import digits
from suite.cli import main

STUDY = """
from dataclasses import replace

from suite.config import Cell, Protocol, Study, only_layers
from suite.registry import register


@register("small", kind="study")
def study():
    softmax = Cell(variant="softmax", dataset="easy_vqa", protocol=Protocol(steps=10), layers=(1, 1, 2))
    other_seed = replace(softmax, seed=1)
    entmax = replace(softmax, variant="entmax")
    short = replace(softmax, layers=(1, 1, 1), protocol=Protocol(steps=10, optimizer="adamw"))
    pruned = only_layers(softmax, ((0,), (0,), (1,)))
    return Study("small", "Which is fast?", cells=(softmax, other_seed, entmax, short, pruned))
"""
ATTENTION = ["attention", "--heads", "2", "--width", "8", "--tokens", "72", "--threads", "1"]


@dataclass(frozen=True)
class Done:
    page: str
    samples: dict[str, Any]
    folder: Path

    def rows(self) -> list[dict[str, str]]:
        """The printed table."""
        lines = [line.strip("|").split("|") for line in self.page.splitlines() if line.startswith("| ")]
        head, _, *rest = ([cell.strip() for cell in line] for line in lines)
        return [dict(zip(head, line, strict=True)) for line in rest]

    def measured(self) -> list[dict[str, Any]]:
        return [row for row in self.samples["rows"] if row["seconds"]]


def finished(folder: Path, page: str) -> Done:
    assert (folder / "table.md").read_text() == page
    with Image.open(folder / "figure.png") as figure:
        assert np.asarray(figure.convert("L")).std() > 10
    assert (folder / "figure.pdf").read_bytes().startswith(b"%PDF")
    return Done(page, json.loads((folder / "samples.json").read_text()), folder)


def bench(folder: Path, *arguments: str) -> Done:
    """Runs the command in this process."""
    page, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(page), redirect_stderr(errors):
        assert main(["bench", *arguments, "--out", str(folder)]) == 0, errors.getvalue()
    return finished(folder, page.getvalue())


@pytest.fixture(scope="module")
def attention(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """In a process of its own, as it is run."""
    folder = tmp_path_factory.mktemp("attention")
    command = [sys.executable, "-m", "suite", "bench", *ATTENTION, "--keys", "36,20", "--rounds", "2"]
    done = subprocess.run([*command, "--out", folder], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return finished(folder, done.stdout)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Done:
    arguments = ("--size", "demo", "--batch", "3", "--rounds", "2", "--threads", "1")
    return bench(tmp_path_factory.mktemp("model"), "model", *arguments)


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("variants")
    plugin = folder / "small.py"
    plugin.write_text(STUDY)
    before = dict(registry._from_plugins)
    arguments = (
        "small",
        "--plugin",
        str(plugin),
        "--size",
        "demo",
        "--batch",
        "3",
        "--rounds",
        "2",
        "--threads",
        "1",
    )
    done = bench(folder, "variants", *arguments)
    registry._from_plugins.clear()
    registry._from_plugins.update(before)
    return done


def spread(samples: list[float] | np.ndarray) -> str:
    low, middle, high = np.percentile(samples, [25, 50, 75])
    return f"{digits(middle)} ({digits(low)}-{digits(high)})"


def totals(row: dict[str, Any]) -> np.ndarray:
    return np.sum(list(row["seconds"].values()), axis=0)


def beside(done: Done, row: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (other for other in done.measured() if other["case"] == row["case"] and other["name"] == name)
    return found


def test_attention_prints_what_follows_from_its_samples(attention: Done) -> None:
    expected = [
        {
            "heads": "2",
            "keys": str(row["case"]["keys"]),
            "batch": str(row["case"]["batch"]),
            "method": row["name"],
            "forward (ms)": spread([1e3 * seconds for seconds in row["seconds"]["forward"]]),
            "backward (ms)": spread([1e3 * seconds for seconds in row["seconds"]["backward"]]),
            "both (ms)": spread(1e3 * totals(row)),
            "/ softmax": spread(totals(row) / totals(beside(attention, row, "softmax"))),
            "peak (MiB a question)": digits(row["facts"]["peak_bytes"] / row["case"]["batch"] / 2**20),
        }
        for row in attention.measured()
    ]
    assert attention.rows() == expected


def test_attention_measures_everything_that_is_registered(attention: Done) -> None:
    names = {row["name"] for row in attention.measured()}
    (same,) = re.findall(r"Attends as softmax does, so without rows: (.*)\.", attention.page)
    assert set(registry.names("variant")) <= names | set(same.split(", "))
    sizes = {(row["case"]["keys"], row["case"]["batch"]) for row in attention.measured()}
    assert sizes == {(20, 3), (36, 2)}
    assert len(attention.measured()) == 2 * len(names)


def test_samples_come_with_what_made_them(attention: Done) -> None:
    samples = attention.samples
    assert samples["complete"] is True
    assert samples["arguments"]["keys"] == [36, 20]
    assert samples["arguments"]["rounds"] == 2
    assert samples["provenance"]["packages"]["torch"] == torch.__version__
    assert samples["provenance"]["hardware"]["cores"] > 0
    assert samples["provenance"]["command"][:3] == ["ablate", "bench", "attention"]
    for row in attention.measured():
        assert {part: len(seconds) for part, seconds in row["seconds"].items()} == {"forward": 2, "backward": 2}


def test_model_prints_what_follows_from_its_samples(model: Done) -> None:
    expected = []
    for row in model.measured():
        if row["name"] == "matrix product":
            continue
        reference, best = (beside(model, row, name) for name in ("transformers, padded to 20", "matrix product"))
        work = row["facts"]["multiply_adds"]
        share = (work / totals(row)) / (best["facts"]["multiply_adds"] / totals(best))
        expected.append(
            {
                "phase": row["case"]["phase"],
                "batch": "3",
                "model": row["name"],
                "questions/s": spread(3 / totals(row)),
                "speed-up": spread(totals(reference) / totals(row)),
                "share of peak (%)": spread(100 * share),
                "multiply-adds of a question (G)": digits(work / 3 / 1e9),
                "peak (MiB)": digits(row["facts"]["peak_bytes"] / 2**20),
            }
        )
        assert 0 < np.median(share) < 1
    assert len(expected) == 8
    assert model.rows() == expected
    for best in (row for row in model.measured() if row["name"] == "matrix product"):
        rate = spread(2e-9 * 2048**3 / totals(best))
        assert f"- {best['case']['phase']}, batch 3: peak {rate} GFLOP/s.\n" in model.page


def test_variants_prints_what_follows_from_its_samples(variants: Done) -> None:
    expected = [
        {
            "method": row["name"],
            **{f"{part} (ms)": spread([1e3 * s for s in seconds]) for part, seconds in row["seconds"].items()},
            "step (ms)": spread(1e3 * totals(row)),
            "/ softmax 1-1-2": spread(totals(row) / totals(variants.measured()[0])),
            "peak (MiB)": digits(row["facts"]["peak_bytes"] / 2**20),
        }
        for row in variants.measured()
    ]
    assert variants.rows() == expected


def test_variants_has_each_row_that_is_trained_once(variants: Done) -> None:
    rows = {row["name"]: row["facts"]["optimizer"] for row in variants.measured()}
    assert rows == {
        "softmax 1-1-2": "lookahead_lamb",
        "entmax 1-1-2": "lookahead_lamb",
        "softmax 1-1-1": "adamw",
    }
    assert all(set(row["seconds"]) == {"forward", "backward", "optimiser"} for row in variants.measured())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attention", "--keys", "0"], "expected a whole number of at least 1; received '0'"),
        (["attention", "--keys", "20,many"], "expected a whole number of at least 1; received 'many'"),
        (["attention", "--heads", "-1"], "expected a whole number of at least 1; received '-1'"),
        (["attention", "--rounds", "0"], "expected a whole number of at least 1; received '0'"),
        (["attention", "--variants", "entmx"], "There is no variant 'entmx'. Did you mean 'entmax'?"),
        (["attention", "--variants", "span", "--span", "-3"], "Expected a --span from 0 to 1024, as span has"),
        (["attention", "--plugin", "nowhere.py"], "There is no plug-in file nowhere.py."),
        (["attention", "--keys", "20", "--tokens", "1" + 15 * "0"], "The memory does not suffice"),
        (["attention", "--out", __file__], f"ablate: File exists: {__file__}."),
        (["model", "--batch", "8,0"], "expected a whole number of at least 1; received '0'"),
        (["model", "--size", "demo", "--dropout", "1"], "Expected a --dropout from 0 to below 1; received 1.0."),
        (["variants", "demmo"], "There is no study 'demmo'. Did you mean 'demo'?"),
        (
            ["variants", "--size", "demo", "--dropout", "-1"],
            "Expected a --dropout from 0 to below 1; received -1.0.",
        ),
        (["variants", "--variants", "spam"], "There is no variant 'spam'. Did you mean 'span'?"),
    ],
    ids=" ".join,
)
def test_mistakes_get_one_message(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["bench", *arguments, "--threads", "1"])
    except SystemExit as stop:  # argparse's way.
        code = stop.code
    shown = capsys.readouterr()
    assert code == 2
    assert message in shown.err
    assert shown.out == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *ATTENTION, "--device", "cuda", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "ablate: Expected a CUDA device; torch sees none. Use --device cpu.\n"
    assert not (tmp_path / "out").exists()


def test_ctrl_c_keeps_whole_rounds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "suite", "bench", *ATTENTION, "--variants", "entmax", "--keys", "20,256"]
    process = subprocess.Popen(
        [*command, "--rounds", "4", "--out", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in the background a child would ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "samples.json").exists():  # The first size is whole.
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        page, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Stopped: the rounds that were whole are kept." in errors
    assert "Traceback" not in errors
    done = finished(tmp_path, page)
    assert page.endswith("Stopped before its end.\n")
    assert done.samples["complete"] is False
    rounds: dict[int, set[int]] = {}
    for row in done.measured():
        rounds.setdefault(row["case"]["keys"], set()).update(len(part) for part in row["seconds"].values())
    assert rounds.pop(20) == {4}
    assert all(len(count) == 1 for count in rounds.values())
