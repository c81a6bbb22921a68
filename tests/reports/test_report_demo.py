"""The demo grid at three seeds and a few steps, run as a user runs it: its report holds all that it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from chromium import opened_browser

pytestmark = pytest.mark.long
FEW = {"steps": 4, "evaluations": 1, "batch_size": 16, "width": 16, "heads": 2, "intermediate": 16}
SEEDS = 3
ROWS = (
    "softmax-9-5-5",
    "span-9-5-5",
    "entmax-9-5-5",
    "layerdrop-10-6-6",
    "span-entmax-9-5-5",
    "default-10-6-6",
    "layerdrop-9-5-5",
)


def ablate(*words: str, cwd: Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "suite", *words], cwd=cwd, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == expect, done.stderr + done.stdout
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the grid was run, with its records and report in runs/demo."""
    folder = tmp_path_factory.mktemp("demo")
    # The split of validation has a twentieth of the questions of test.
    settings = [f"--set={name}={value}" for name, value in (FEW | {"test": "validation"}).items()]
    ablate("run", "--no-ray", "--seeds", str(SEEDS), *settings, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> Path:
    return folder / "runs" / "demo" / "report"


@pytest.fixture(scope="module")
def table(report: Path) -> pd.DataFrame:
    """Our rows of tables.csv."""
    table = pd.read_csv(report / "tables.csv")
    return table[table["table"].str.startswith("Table") & table["cells"].notna()].reset_index(drop=True)


def test_seven_rows_have_three_seeds_intervals_and_adjusted_p_values(table: pd.DataFrame) -> None:
    assert len(table) == len(ROWS)
    assert (table["seeds_finished"] == SEEDS).all()
    assert (
        (table["estimate_low"] <= table["test_accuracy"]) & (table["test_accuracy"] <= table["estimate_high"])
    ).all()
    against = table[table["variant"] != "softmax"]
    assert len(against) == len(ROWS) - 1
    assert against[["difference_low", "difference_high", "p", "p_adjusted", "detectable"]].notna().all(axis=None)
    assert (against["difference_low"] <= against["difference"]).all()
    assert (against["difference"] <= against["difference_high"]).all()
    # Holm (1979), step by step.
    ordered, so_far = against.sort_values("p"), 0.0
    for place, (_, row) in enumerate(ordered.iterrows()):
        so_far = min(1.0, max(so_far, (len(ordered) - place) * row["p"]))
        assert row["p_adjusted"] == pytest.approx(so_far, abs=1e-12)


def test_numbers_are_those_of_the_predictions(folder: Path, table: pd.DataFrame) -> None:
    means = {}
    for _, row in table.iterrows():
        cells = row["cells"].split()
        assert len(cells) == SEEDS
        scores = [pd.read_parquet(folder / "runs/demo" / cell / "predictions.parquet")["score"] for cell in cells]
        means[row["label"]] = 100 * sum(score.mean() for score in scores) / SEEDS
        assert row["test_accuracy"] == pytest.approx(means[row["label"]], abs=1e-9)
    for _, row in table.iterrows():
        assert row["difference"] == pytest.approx(means[row["label"]] - means[table["label"][0]], abs=1e-9)


def test_every_figure_is_there(folder: Path, report: Path, table: pd.DataFrame) -> None:
    expected = {"training", "test-accuracy", "layerdrop", "answers", "cost", "types", "density"}
    # Of other rows every head attends to everything: after so few steps that may be all.
    for key, cells in zip(ROWS, table["cells"], strict=True):
        lines = (folder / "runs" / "demo" / cells.split()[0] / "sites.jsonl").read_text().splitlines()
        last = [line for line in map(json.loads, lines) if line["step"] == FEW["steps"]]
        if any(share < 1 for line in last for share in line["density"]):
            expected.add(f"density-{key}")
    expected |= {f"span-{row}" for row in ("span-9-5-5", "span-entmax-9-5-5")}
    expected |= {f"alpha-{row}" for row in ("entmax-9-5-5", "span-entmax-9-5-5")}
    for form in ("pdf", "svg", "png"):
        assert {path.stem for path in (report / "figures").glob(f"*.{form}")} == expected


def test_the_page_shows_all_of_it(report: Path) -> None:
    wrong: list[str] = []
    with opened_browser() as browser:
        page = browser.new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda one: wrong.append(one.url) if not one.url.startswith("file:") else None)
        page.goto((report / "index.html").as_uri())
        text = page.inner_text("body")
        for words in (
            "Table 1: comparison on VQA",
            "Table 2: ablation",
            "Spans of the language and vision stacks",
        ):
            assert words in text
        pictures = page.locator("img[src$='.svg']")
        assert pictures.count() == len(list((report / "figures").glob("*.svg")))
        for place in range(pictures.count()):
            pictures.nth(place).scroll_into_view_if_needed()
            pictures.nth(place).evaluate("image => image.decode()")  # Raises for one that is no picture.
    assert wrong == []
