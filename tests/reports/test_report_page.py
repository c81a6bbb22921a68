"""The pages in a real browser, opened from the disk: they work without a network, and no text of a record harms."""

from __future__ import annotations

import base64
import collections
import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import page_records
import pytest
from chromium import opened_browser
from figure_records import with_high_accuracies
from matplotlib.figure import Figure
from page_records import IMAGE, QUESTIONS, SCRIPT

import reports.page as page_scripts
from reports.costs import Cost
from reports.figures import Drawn
from reports.layout import DAGGER, lay_out
from reports.page import write_page
from reports.page.cells import POINTS, curves, log_end
from reports.page.charts import row_curves, row_data
from reports.page.data import script, thinned
from reports.page.example_data import quantised
from reports.page.index import STYLE
from reports.report import Claim, Finding, Report
from reports.statistics import Estimate
from reports.tables import build_report
from reports.verdicts import Verdict
from suite.records import StudyFolder

PHONE = {"width": 375, "height": 740}
CLAIM = Claim("span", f"Spans cost nothing {SCRIPT}", "Table 1", "Holds above -1.", "holds", "-0.3", ("span-s0",))
FINDING = Finding("span_entmax-s0", "not-learned", f"Expected 75 %, found 71.5 % {IMAGE}: train longer.")
COST = Cost("", "one CPU", 32, 0.31, 210.0, 8.2, 12.4, 1800.0, 700.0, 22.1, 0.31, f"an estimate {SCRIPT}")
DRAWN = Drawn("training", "Training", f"Accuracy over steps {IMAGE}", Figure())
VERDICT = Verdict("same sign", f"Both below, by 0.80 and 1.64 points {IMAGE}.")


Open = Callable[..., Any]


def with_verdicts(report: Report) -> Report:
    """The report with a claim, a finding, intervals, verdicts, and costs on two devices."""

    def measured(row: Any) -> Any:
        if row.measured is None:
            return row
        level = row.measured.accuracy
        estimate = Estimate(level, level - 0.5, level + 0.5, 0.25, 20, 1, 1000)
        cost = dataclasses.replace(COST, cell=row.cells[-1].id)
        costs = (cost, dataclasses.replace(cost, device=f"one GPU {IMAGE}", step_energy=None))
        return dataclasses.replace(row, estimate=estimate, verdict=VERDICT, costs=costs)

    blocks = [dataclasses.replace(block, rows=tuple(map(measured, block.rows))) for block in report.blocks]
    return dataclasses.replace(report, claims=(CLAIM,), findings=(FINDING,), blocks=tuple(blocks))


def write(study: Path, output: Path) -> Path:
    (output / "figures").mkdir(parents=True)
    (output / "figures" / "training.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 90.4 60"/>'
    )
    (output / "figures" / "training.pdf").write_bytes(b"%PDF-")
    write_page(with_verdicts(build_report(study)), output, [DRAWN])
    return output


@pytest.fixture(scope="module")
def study(small_study: Path) -> Path:
    return page_records.fill(small_study)


@pytest.fixture(scope="module")
def report(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(study, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened_browser() as browser:
        yield browser


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Open]:
    """Opens a page of the report; at the end nothing was asked for but files, and no script had an error."""
    contexts, requests, errors = [], [], []

    def open_page(name: str = "index.html", folder: Path = report, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto((folder / name.partition("#")[0]).as_uri() + "".join(name.partition("#")[1:]))
        return page

    yield open_page
    harm = [page.evaluate("window.harmed") for context in contexts for page in context.pages]
    for context in contexts:
        context.close()
    assert not errors
    assert requests
    assert all(url.startswith("file:") for url in requests)
    assert not any(harm)


def table(page: Any, title: str) -> Any:
    return page.locator("table.data", has=page.locator("caption", has_text=title))


def column(table: Any, place: int) -> list[str]:
    texts = table.locator(f"tbody tr > :nth-child({place + 1}):visible").all_inner_texts()
    return [text.strip() for text in texts]


def test_the_index_has_everything_and_loads_nothing_but_files(opened: Open) -> None:
    page = opened()
    assert page.title().startswith("small: What does each method cost?")
    sections = ["results", "claims", "trust", "costs", "figures", "examples", "cells"]
    assert page.locator("main > section").evaluate_all("all => all.map(one => one.id)") == sections
    assert page.get_by_role("heading", level=1).inner_text().startswith("What does each method cost? <img src=x")
    claim = page.locator(".claim")
    assert claim.locator(".verdict").inner_text().split() == ["✓", "holds"]
    assert SCRIPT in claim.inner_text()
    assert claim.locator("a[href='cell.html#span-s0']").count() == 1
    assert "found 71.5 % <img" in page.locator("#trust").inner_text()
    costs = page.locator("#costs")
    assert costs.locator("caption").all_inner_texts() == [
        "Measured cost on one CPU",
        f"Measured cost on one GPU {IMAGE}",
    ]
    assert costs.locator("a[href='cell.html#softmax-s1']").count() == 2
    assert SCRIPT in costs.locator(".notes").first.inner_text()
    assert "Cost: measured by" in costs.inner_text()
    assert "Measured cost" not in page.locator("#results").inner_text()
    assert "Accuracy over steps <img" in page.locator("figure.published").inner_text()
    assert page.locator("figure.published a[href='figures/training.pdf']").count() == 1
    assert page.locator("figure.published img[width='90'][height='60']").count() == 1
    page.locator("#charts svg").nth(3).wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_tables_fit_a_laptop(opened: Open, scheme: str) -> None:
    page = opened(color_scheme=scheme)
    for number in (1, 2):
        width = "one => [one.scrollWidth, one.clientWidth]"
        needed, given = page.locator(".box", has=table(page, f"Table {number}")).evaluate(width)
        assert needed <= given


def test_notes_are_folded_once_and_open_by_keyboard_and_in_print(opened: Open, study: Path) -> None:
    page = opened()
    folded = page.locator("#results .folded")
    summary, notes = folded.locator("summary"), folded.locator("p")
    report = build_report(study)
    tables = lay_out(report).tables[: len(report.blocks)]
    marks = {note.mark for text in tables for note in text.notes} - {DAGGER}
    assert notes.locator("b").all_text_contents() == sorted(marks)
    assert summary.inner_text() == f"Notes {min(marks)} to {max(marks)} on the published numbers"
    assert not notes.first.is_visible()
    summary.press("Enter")
    assert notes.first.is_visible()
    summary.press("Enter")
    page.emulate_media(media="print")
    assert notes.first.evaluate("one => one.getBoundingClientRect().height") > 0
    # That a row has not learned to look is never folded.
    assert page.locator("#results > div > .notes b", has_text=DAGGER).first.is_visible()


@pytest.mark.parametrize("place", ["claims", "costs", "figures", "examples"])
def test_an_address_leads_to_its_section_whatever_is_drawn_above(opened: Open, place: str) -> None:
    page = opened(f"index.html#{place}")
    page.locator("#charts svg").nth(3).wait_for()
    page.locator(".answers tbody tr").first.wait_for()
    page.wait_for_function(
        "name => Math.abs(document.getElementById(name).getBoundingClientRect().top - 24) < 2", arg=place
    )


def test_the_policy_keeps_the_page_off_the_network(browser: Any, report: Path) -> None:
    page = browser.new_page()
    page.goto((report / "index.html").as_uri())
    blocked = page.evaluate(
        """async () => {
            const found = [];
            document.addEventListener("securitypolicyviolation", (event) => found.push(event.effectiveDirective));
            const script = document.createElement("script");
            script.textContent = "window.harmed = 3";
            document.head.append(script);
            new Image().src = "http://127.0.0.1:9/picture.png";
            await fetch("http://127.0.0.1:9/").catch(() => {});
            await new Promise((resolve) => setTimeout(resolve, 100));
            return found;
        }"""
    )
    assert sorted(blocked) == ["connect-src", "img-src", "script-src-elem"]
    assert page.evaluate("window.harmed") is None
    page.close()


def test_tables_sort_by_their_headers(opened: Open) -> None:
    page = opened()
    further = table(page, "Table 1")
    header = further.get_by_role("columnheader", name="test-dev")
    before = column(further, 1)
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert [float(text) for text in column(further, 1)] == sorted(map(float, before))
    header.get_by_role("button").press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert [float(text) for text in column(further, 1)] == sorted(map(float, before), reverse=True)
    header.get_by_role("button").press("Space")
    assert header.get_attribute("aria-sort") == "none"
    assert column(further, 1) == before
    # What is no number is last either way.
    test = further.get_by_role("columnheader", name="test", exact=True).get_by_role("button")
    for order in (False, True):
        test.click()
        numbers = [float(text.split()[0]) for text in column(further, 4) if text[0].isdigit()]
        assert numbers == sorted(numbers, reverse=order)
        assert [text[0].isdigit() for text in column(further, 4)] == [True] * 2 + [False] * 7
    assert further.locator("[aria-sort]:not([aria-sort=none])").count() == 1


def test_tables_filter_by_text_and_state(opened: Open) -> None:
    page = opened()
    results = page.locator("#results")
    results.get_by_label("Filter").fill("layerdrop 9-5-5")
    assert results.locator("output").inner_text() == "1 of 14 lines"
    assert column(table(page, "Table 2"), 0)[0].startswith("LayerDrop p = 1, 9-5-5")
    results.get_by_label("Filter").fill("")
    results.get_by_label("State").select_option("failed")
    assert results.locator("output").inner_text() == "1 of 14 lines"
    assert column(table(page, "Table 1"), 4) == ["failed"]
    results.get_by_label("Filter").fill("nothing like it")
    assert results.get_by_text("No line matches.").first.is_visible()
    cells = page.locator("#cells")
    cells.get_by_label("State").select_option("missing")
    assert column(cells.locator("table"), 0) == ["default-deep-s0"]


def test_a_row_leads_to_its_cells_and_these_to_what_they_were(opened: Open) -> None:
    page = opened()
    row = table(page, "Table 1").locator("tbody tr", has_text="softmax, 9-5-5")
    assert row.locator("td[title='From softmax-s0, softmax-s1']", has_text="92.89").count() == 1
    row.locator("summary").press("Enter")
    assert row.get_by_role("link").all_inner_texts() == ["softmax-s0", "softmax-s1"]
    assert row.locator("details p").inner_text() == VERDICT.reason
    row.get_by_role("link", name="softmax-s0").click()
    page.get_by_role("heading", name="softmax-s0").wait_for()
    text = page.locator("main").inner_text()
    assert "finished row of softmax, 9-5-5, from start-s0" in text
    for title in ("Result", "Protocol", "Packages", "Hardware", "Segments: where and how it ran", "Curves"):
        assert page.get_by_role("heading", name=title, exact=True).count() == 1, title
    assert page.get_by_text("2.13.0").count() == 1
    assert page.locator("td", has_text="dev.json").inner_text() == "dev.json"
    log = page.get_by_role("region", name="Log").inner_text().splitlines()
    assert (len(log), log[0]) == (100, f"line 151 {IMAGE}")
    assert log[-1] == "x" * 400 + " … (4,600 characters more)"
    page.get_by_role("link", name="start-s0").click()
    page.get_by_role("heading", name="start-s0").wait_for()
    assert page.get_by_role("region", name="Log").count() == 0


def test_a_failed_cell_says_why_and_one_that_is_not_there_too(opened: Open, browser: Any, report: Path) -> None:
    page = opened("cell.html#entmax-s0")
    assert "is *NaN*" in page.locator(".failure").inner_text()
    assert "<b>it</b>" in page.locator(".failure").inner_text()
    assert "\u202e" not in page.locator("main").inner_text()
    lost = browser.new_page()
    lost.goto((report / "cell.html").as_uri() + "#..%2F..%2Fnone")
    lost.get_by_role("heading", name="No cell").wait_for()
    assert "has no cell of this name" in lost.locator("main").inner_text()
    lost.goto((report / "cell.html").as_uri())
    lost.get_by_role("heading", name="No cell").wait_for()
    lost.close()


def chart(page: Any, title: str) -> Any:
    return page.locator("figure.interactive", has=page.locator("figcaption", has_text=title))


def test_charts_tell_values_to_pointer_and_keyboard(opened: Open, study: Path) -> None:
    page = opened()
    accuracy = chart(page, "Test accuracy")
    accuracy.locator("circle.dot").first.hover()
    tip = accuracy.locator(".tip")
    assert tip.inner_text().splitlines() == [
        "softmax, 9-5-5",
        "test accuracy: 92.89 %",
        "95 % interval 92.39 to 93.39",
        "softmax-s0: 92.12 %",
        "softmax-s1: 93.65 %",
    ]
    training = chart(page, "Training")
    training.locator("polyline").nth(3).wait_for()
    training.locator(".chart > svg").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    line = StudyFolder(study).cell("span-s0").metrics().iloc[2]
    assert training.locator(".tip").inner_text().splitlines() == [
        "adaptive attention span, 9-5-5",
        f"training steps: {line['step']:g}",
        f"validation accuracy (%): {line['accuracy']:.6g}",
    ]
    assert training.locator("[aria-live=polite]").first.inner_text().startswith("adaptive attention span")


def test_what_attention_learned_is_shown_for_a_chosen_row(opened: Open, study: Path) -> None:
    page = opened()
    learned = chart(page, "What attention learned")
    learned.get_by_label("Row", exact=True).select_option("adaptive sparse (entmax), 9-5-5")
    learned.get_by_label("Quantity", exact=True).select_option("alpha")
    learned.get_by_label("Where", exact=True).select_option("cross, words to boxes")
    assert learned.locator("polyline").count() == 5
    learned.locator(".chart > svg").focus()
    page.keyboard.press("ArrowLeft")
    lines = StudyFolder(study).cell("entmax-s0").sites()
    first = lines[lines["site"] == "cross.0.words-boxes"].iloc[0]
    read = learned.locator(".tip").inner_text()
    assert f"mean over heads: {np.mean(first['alpha']):.6g}" in read
    assert f"least {min(first['alpha']):.6g}, greatest {max(first['alpha']):.6g}" in read


def test_examples_are_browsed_by_keyboard(opened: Open) -> None:
    page = opened()
    browser = page.locator(".browser")
    asked = browser.locator(".asked")
    asked.get_by_text(QUESTIONS[0]).wait_for()
    browser.focus()
    page.keyboard.press("j")
    browser.get_by_text("Example 2 of 3").wait_for()
    assert asked.inner_text() == QUESTIONS[1]
    page.keyboard.press("ArrowRight")
    browser.get_by_text("Example 3 of 3").wait_for()
    assert "The picture was not kept" in browser.inner_text()
    assert browser.locator(".picture image").count() == 0
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("ArrowLeft")
    browser.get_by_text("Example 1 of 3").wait_for()
    assert browser.locator(".picture image").count() == 1
    assert browser.locator(".answers tbody tr").count() == 3
    answers = browser.locator(".answers tbody tr").nth(1)
    assert answers.inner_text().split("\t")[1].split() == ["yes", "60.0", "%"]
    assert SCRIPT in answers.inner_text()


def test_weights_of_a_layer_and_head_are_those_of_the_record(opened: Open, study: Path) -> None:
    page = opened()
    browser = page.locator(".browser")
    browser.get_by_label("Row", exact=True).select_option("adaptive attention span, 9-5-5")
    browser.get_by_label("Layer", exact=True).select_option("cross.2.words-boxes")
    browser.get_by_role("button", name="Head 3").press("Enter")
    assert browser.get_by_role("button", name="Head 3").get_attribute("aria-pressed") == "true"
    chip = browser.get_by_role("group", name="Words").get_by_role("button", name="blue", exact=True)
    chip.press("Enter")
    weights = StudyFolder(study).cell("span-s0").attention()["cross.2.words-boxes"][0, 2, 4]
    texts = (
        browser.get_by_role("group", name="Boxes").locator(".chip").evaluate_all("all => all.map(one => one.title)")
    )
    shown = [float(text.removeprefix("weight ")) for text in texts]
    assert np.abs(shown - weights).max() < 0.5 / 255 + 0.0006 + 1 / 255 * (weights[0] < 1 / 255)
    assert shown[0] > 0, "a weight that is not 0 must not become one"
    assert shown[-1] == 0
    assert f"“blue” attends to {np.count_nonzero(weights)} of 6 boxes" in browser.locator(".keys").inner_text()
    browser.locator(".weights rect[data-q='4'][data-k='2']").hover()
    assert browser.locator(".reading").inner_text() == f"blue → 3: {shown[2]:.3f}"
    # A box as the query, by a click on the picture, and its keys among the words.
    browser.get_by_label("Layer", exact=True).select_option("cross.0.boxes-words")
    box = browser.locator(".picture .region").last
    box.dispatch_event("click")
    assert browser.locator(".picture .chosen").count() == 1
    assert browser.get_by_role("group", name="Words").locator(".chip.key").count() == 10


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_pages_fit_a_phone_in_light_and_dark(opened: Open, scheme: str) -> None:
    for name in ("index.html", "cell.html#softmax-s0"):
        page = opened(name, viewport=PHONE, color_scheme=scheme)
        page.locator("figure.interactive svg").first.wait_for()
        if name == "index.html":
            page.locator(".answers").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        ground, ink = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        )
        light, dark = sorted(
            (ground, ink), key=lambda colour: sum(map(int, re.findall(r"\d+", colour))), reverse=True
        )
        assert (ground if scheme == "light" else ink) == light
        assert light != dark


def test_the_theme_is_a_choice_that_stays(opened: Open) -> None:
    page = opened(color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_role("button", name="Colours: system. Change").press("Enter")
    page.get_by_role("button", name="Colours: light. Change").press("Enter")
    assert page.evaluate(ground) != light
    page.reload()
    assert page.get_by_role("button", name="Colours: dark. Change").is_visible()
    assert page.evaluate(ground) != light


def test_the_keyboard_skips_to_the_results_and_sees_where_it_is(opened: Open) -> None:
    page = opened()
    page.keyboard.press("Tab")
    focused = page.locator(":focus")
    assert focused.inner_text() == "Skip to the results"
    assert focused.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    assert page.locator("main").count() == page.locator("header").count() == page.locator("nav").count() == 1
    unnamed = "all => all.filter((one) => !one.labels?.length && !one.textContent.trim() && !one.ariaLabel).length"
    assert page.locator("button, select, input").evaluate_all(unnamed) == 0


def test_a_thousand_cells_open_at_once(opened: Open, tmp_path: Path) -> None:
    study = page_records.write_large(tmp_path / "large")
    write_page(build_report(study), tmp_path / "report", [])
    page = opened(folder=tmp_path / "report")
    # It loads no more for a thousand cells than a browser has at once.
    scripts = page.evaluate("[...document.scripts].map((one) => one.getAttribute('src')).filter(Boolean)")
    assert scripts
    assert len(scripts) < 12
    assert sum((tmp_path / "report" / one).stat().st_size for one in scripts) < 1_000_000
    cells = page.locator("#cells")
    assert cells.locator("tbody tr:visible").count() == 100
    cells.get_by_role("button", name="Show 100 more of 900 hidden lines").click()
    assert cells.locator("tbody tr:visible").count() == 200
    cells.get_by_label("Filter").fill("s1-0999")
    assert cells.locator("output").inner_text() == "1 of 1,000 lines"
    cells.get_by_role("link", name="span-s1-0999").click()
    page.get_by_role("heading", name="span-s1-0999").wait_for()
    assert (tmp_path / "report" / "index.html").stat().st_size < 2_000_000


def test_a_cell_of_any_name_has_its_page(opened: Open, tmp_path: Path) -> None:
    study = page_records.write_large(tmp_path / "odd", count=2, name="__proto__.A+b_1e-05")
    write_page(build_report(study), tmp_path / "report", [])
    page = opened(folder=tmp_path / "report")
    page.locator("#cells").get_by_role("link").last.click()
    page.get_by_role("heading", name="__proto__.A+b_1e-05-s1-0001").wait_for()


ELSEWHERE = (
    "../../x",
    "..%2F..%2Fx",
    "../x",
    "%2e%2e/x",
    "..",
    ".",
    "x/../../x",
    "/x",
    "//x",
    "..%5Cx",
    "constructor",
    "",
)


def test_no_address_loads_a_script_that_is_not_of_the_report(browser: Any, report: Path, tmp_path: Path) -> None:
    place = tmp_path / "site" / "deep" / "report"
    shutil.copytree(report, place)
    for folder in (place.parents[1], place.parent, place, place / "page", place / "page" / "cells" / "x"):
        folder.mkdir(exist_ok=True)
        (folder / "x.js").write_text("window.harmed = 3")
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for name in ELSEWHERE:
        page.goto("about:blank")
        page.goto(f"{(place / 'cell.html').as_uri()}#{name}")
        page.get_by_role("heading", name="No cell").wait_for()
        assert page.evaluate("window.harmed") is None, name
    assert not [url for url in asked if url.endswith("x.js")]
    # No name that any script of the page asks for leads out of its folder.
    told = page.evaluate("page.load('cells/../../x').then(() => 'loaded', (error) => error.message)")
    assert told == "There is no such data."
    page.close()


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_records_give_the_same_bytes_wherever_they_lie(study: Path, report: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(study, tmp_path / "elsewhere" / "small")
    again = write(moved, tmp_path / "report")
    assert written(again) == written(report)
    assert not [name for name, content in written(again).items() if str(study.parent).encode() in content]


def test_without_what_is_measured_no_page_tells_time_or_machine(study: Path, tmp_path: Path) -> None:
    write_page(build_report(study, measured=False), tmp_path, [])
    for name, content in written(tmp_path).items():
        if name.startswith("page/cells"):
            assert not [word for word in (b"seconds", b"node-1", b"Segments", b"line 200") if word in content], name


def test_a_row_of_many_seeds_has_its_mean_and_the_first_of_them(study: Path) -> None:
    row = next(row for row in build_report(study).rows if len(row.cells) == 2)
    curves = row_curves(row)
    assert curves is not None
    assert (curves["seeds"], [one["cell"] for one in curves["drawn"]]) == (2, ["softmax-s0", "softmax-s1"])
    seeds = [StudyFolder(study).cell(cell.id).metrics().set_index("step")["accuracy"] for cell in row.cells]
    mean = (seeds[0] + seeds[1]) / 2
    assert curves["mean"]["step"] == mean.index.tolist()
    assert curves["mean"]["accuracy"] == pytest.approx(mean.tolist(), rel=1e-5)


def test_the_axis_of_accuracies_is_broken_where_it_is_empty(opened: Open, study: Path, tmp_path: Path) -> None:
    report = build_report(study)
    assert row_data(report, collections.defaultdict(list))["parts"] is None
    report = with_high_accuracies(report)
    low, top = row_data(report, collections.defaultdict(list))["parts"]
    assert low[0] < 66.8 < 67.0 < low[1] < 68 < 99 < top[0] < 99.76 < 100 < top[1]
    (tmp_path / "figures").mkdir()
    write_page(report, tmp_path, ())
    accuracy = chart(opened(folder=tmp_path), "Test accuracy")
    accuracy.locator("path.break").wait_for()
    dots = accuracy.locator("circle.dot").evaluate_all("all => all.map(one => Number(one.getAttribute('cx')))")
    assert max(dots) - min(dots) > 60, "rows that differ are told apart"
    accuracy.locator("circle.dot").first.hover()
    assert "95 % interval 99.89 to 100.00" in accuracy.locator(".tip").inner_text()
    ticks = accuracy.locator("svg > text").all_text_contents()
    assert {"67", "99.8"} <= set(ticks)


def luminance(colour: str) -> float:
    """The relative luminance of WCAG 2 of ``#rrggbb``."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_have_the_contrast_that_wcag_asks_for(theme: int) -> None:
    text = (Path(page_scripts.__file__).parent / STYLE).read_text()
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", text)
    colours = {name: values[theme] for name, *values in pairs}
    for ground in ("ground", "sheet", "tint"):
        for name in ("ink", "quiet", "accent", "bad", "good"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    for ground in ("ground", "sheet"):
        for name in ("edge", "weight", "first", "last", *(f"c{number}" for number in range(7))):
            assert contrast(colours[name], colours[ground]) >= 3, (name, ground)


def test_fingers_find_controls_on_a_phone(opened: Open) -> None:
    page = opened(viewport=PHONE, has_touch=True, is_mobile=True)
    page.locator(".answers").wait_for()
    page.locator("#charts svg").nth(3).wait_for()
    small = """all => all.filter((one) => one.checkVisibility() && one.getBoundingClientRect().height < 40)
        .map((one) => one.outerHTML)"""
    assert page.locator("button, select, input, summary, nav a").evaluate_all(small) == []


def test_boxes_are_numbered_in_the_picture(opened: Open) -> None:
    page = opened()
    picture = page.locator(".picture")
    picture.locator("text").first.wait_for()
    assert picture.locator("text").all_text_contents() == ["1", "2", "3", "4", "5", "6"]
    width, height = picture.locator("svg").evaluate("one => [one.clientWidth, one.clientHeight]")
    assert width / height == pytest.approx(96 / 64, rel=0.02), "no empty strips beside the picture"


def test_data_in_a_script_cannot_end_it() -> None:
    hostile = {"__proto__": [SCRIPT, "\u2028\u2029", "\ud800", "&amp;'\"\\", "\u202e"]}
    text = script("cells/x", hostile)
    assert text.isascii()
    assert not set("<>&\u2028") & set(text)
    quoted = text.removeprefix('page.arrived("cells/x", ').removesuffix(");\n")
    assert json.loads(json.loads(quoted)) == hostile


def test_long_curves_are_thinned_and_say_so(tmp_path: Path) -> None:
    lines = [{"step": step, "accuracy": step / 10, "loss": None} for step in range(1001)]
    shown = curves(lines)
    assert shown["evaluations"] == 1001
    assert len(shown["step"]) == len(shown["accuracy"]) == POINTS
    assert (shown["step"][0], shown["step"][-1]) == (0, 1000)
    assert "loss" not in shown
    assert thinned([1, 2, 3], 3) == [1, 2, 3]
    (tmp_path / "log.txt").write_text("one\ntwo\n")
    assert log_end(tmp_path / "log.txt") == (["one", "two"], True)
    assert log_end(tmp_path / "none.txt") == ([], True)


def test_quantised_weights_keep_what_is_0_and_what_is_not(study: Path, report: Path) -> None:
    weights = np.array([0.0, 1e-7, 0.001, 0.5, 1.0], np.float32)
    assert quantised(weights, 1.0).tolist() == [0, 1, 1, 128, 255]
    assert quantised(3 * weights, 3.0).tolist() == [0, 1, 1, 128, 255]
    text = (report / "page" / "attention" / "0-0.js").read_text()
    quoted = text.removeprefix('page.arrived("attention/0-0", ').removesuffix(");\n")
    for site in json.loads(json.loads(quoted))["sites"]:
        kept = StudyFolder(study).cell("softmax-s0").attention()[site["site"]]
        steps = np.frombuffer(base64.b64decode(site["steps"]), np.uint8).reshape(site["shape"])
        heads, rows, columns = steps.shape
        assert ((steps == 0) == (kept[0, :heads, :rows, :columns] == 0)).all()
        assert not kept[0, :, rows:].any()
        assert not kept[0, :, :, columns:].any()
