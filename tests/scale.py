"""The commands that read records, over a study of a thousand cells with ten thousand predictions each.

    python tests/scale.py [--seeds 145] [--folder F]

Writes records as a launch leaves them, of the demo's seven rows at many seeds, and prints how long `ablate plan`,
`status` and `report` take and what memory the report holds. Nothing is trained.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import psutil

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT)]

from suite import provenance  # noqa: E402
from suite.config import Placement, to_plain  # noqa: E402
from suite.plan import Job, load_study  # noqa: E402
from suite.records import StudyFolder  # noqa: E402
from suite.search import Planned  # noqa: E402

QUESTIONS, IMAGES = 10_000, 1_000
ANSWERS = np.array(["yes", "no", "red", "blue", "circle", "triangle"], dtype=object)
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=145, metavar="N", help="of every row (145: 1,017 cells)")
    parser.add_argument("--folder", type=Path, help="keeps the records here; those that are there are used")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(arguments.folder or Path(temporary), arguments.seeds)


def measure(folder: Path, seeds: int) -> None:
    runs, data = folder / "runs", folder / "data"
    if not (runs / "demo").exists():
        write_records(runs, data, seeds)
    places = ("--runs", str(runs))
    plan = ("plan", "demo", *places, "--data", str(data), "--seeds", str(seeds))
    for name, command in {"plan": plan, "status": ("status", "demo", *places)}.items():
        seconds = sorted(run(*command)[0] for _ in range(ROUNDS))
        print(f"{name}: {median(seconds):.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f}, {ROUNDS} runs)", flush=True)
    seconds, memory = run("report", "demo", *places)
    size = sum(path.stat().st_size for path in (runs / "demo" / "report").rglob("*") if path.is_file())
    print(f"report: {seconds:.1f} s, {memory / 2**20:,.0f} MiB at the most, {size / 2**20:.1f} MiB written")


def write_records(runs: Path, data: Path, seeds: int) -> None:
    """Finished cells with plausible curves and predictions: the same questions are hard for all of them."""
    study = load_study("demo", {}, None, seeds)
    planned = Planned(study, data, StudyFolder(runs / "demo"))
    planned.write()
    began, code = time.monotonic(), provenance.code()
    for number, job in enumerate(planned.jobs):
        write_record(planned.folder, job, code, number)
    print(f"{len(planned.jobs):,} cells written in {time.monotonic() - began:.0f} s", flush=True)


def write_record(folder: StudyFolder, job: Job, code: dict[str, Any], number: int) -> None:
    rng, record, cell = np.random.default_rng(number), folder.cell(job.id), job.cell
    record.write_config(
        {"id": job.id, "cell": to_plain(cell), "start": job.start, "code": code}
        | {"packages": {"torch": "2"}, "hardware": provenance.hardware(), "placement": asdict(Placement())}
    )
    segment = {"step": 0, "node": "", "device": "cpu", "start": None} | asdict(Placement())
    record.append("segments", [segment | provenance.hardware()])
    steps = cell.protocol.evaluation_steps()
    for step in steps:
        done = step / cell.protocol.steps
        line = {"step": step, "seconds": 100 * done, "train_loss": 1 - 0.9 * done, "penalty": 0.0}
        line |= {"loss": 1 - 0.9 * done + rng.normal(0, 0.01), "accuracy": 60 + 35 * done, "learning_rate": 1e-4}
        record.append("metrics", [line])
        record.append("sites", [site | {"step": step} for site in sites(cell.layers, cell.variant, done, rng)])
    hard = np.random.default_rng(0).uniform(size=QUESTIONS)
    right = hard + rng.normal(0, 0.1, QUESTIONS) < rng.normal(0.93, 0.01)
    confidences = -np.sort(-rng.uniform(size=(QUESTIONS, 5)))
    answers = ANSWERS[rng.integers(0, len(ANSWERS), (QUESTIONS, 1))]
    record.write_predictions(
        pd.DataFrame(
            {
                "question_id": np.arange(QUESTIONS),
                "image_id": np.arange(QUESTIONS) * IMAGES // QUESTIONS,
                "question_type": np.where(np.arange(QUESTIONS) % 3 == 0, "yes/no", "color"),
                "answer_type": np.where(np.arange(QUESTIONS) % 3 == 0, "yes/no", "other"),
                "official": np.nan,
                "answer": answers[:, 0],
                "score": right.astype(float),
                "top_answers": list(np.broadcast_to(ANSWERS[:5], (QUESTIONS, 5))),
                "top_confidences": list(confidences),
            }
        )
    )
    # As the layer that every other pruning with p = 1 drops.
    dropped = cell.arguments.get("p", 0)
    running = (layers - dropped for layers in cell.layers)
    kept = {
        stack: list(range(count)) for stack, count in zip(("language", "vision", "cross"), running, strict=True)
    }
    record.write_result(
        {
            "accuracy": {cell.validation: 95.0, cell.test: 100 * float(right.mean())},
            "official": {},
            "macs": 10**9,
            "macs_reference": 11 * 10**8,
            "uncounted_operators": {},
            "parameters": 10**6,
            "kept": kept,
            "steps": cell.protocol.steps,
            "seconds": 100.0,
        }
    )
    record.log.write_text("a line\n" * 300)


def sites(
    layers: tuple[int, int, int], variant: str, done: float, rng: np.random.Generator
) -> list[dict[str, Any]]:
    directions = {
        "language": ["words-words"],
        "vision": ["boxes-boxes"],
        "cross": ["words-boxes", "boxes-words", "words-words", "boxes-boxes"],
    }
    lines = []
    for (stack, pairs), depth in zip(directions.items(), layers, strict=True):
        for index, pair in ((index, pair) for index in range(depth) for pair in pairs):
            queries, keys = pair.split("-")
            line = {"site": f"{stack}.{index}.{pair}", "stack": stack, "queries": queries, "keys": keys}
            line |= {"index": index, "density": [1.0] * 4}
            if "span" in variant:
                line["span"] = (300 - 100 * done + rng.normal(0, 5, 4)).tolist()
            if "entmax" in variant:
                line["alpha"] = (1.5 + 0.1 * done + rng.normal(0, 0.01, 4)).tolist()
            lines.append(line)
    return lines


def run(*words: str) -> tuple[float, int]:
    """Seconds of one command, and the most memory that it held, bytes."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([sys.executable, "-m", "suite", *words], stdout=output, stderr=output, cwd=ROOT)
        most, watched = 0, psutil.Process(process.pid)
        while process.poll() is None:
            try:
                most = max(most, watched.memory_info().rss)
            except psutil.NoSuchProcess:
                break
            time.sleep(0.005)
        code = process.wait()
        seconds = time.perf_counter() - began
        output.seek(0)
        assert code == 0, output.read().decode()
    return seconds, most


if __name__ == "__main__":
    main()
