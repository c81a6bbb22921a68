"""One cell's page as data: sections of facts and tables, curves, the log's end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from statistics import fmean
from typing import Any

from reports.cells import LONGEST, CellRecord
from reports.page.data import number, thinned
from reports.text import shortened
from suite.errors import clean

POINTS = 200
"""Evaluations of a cell's curves that its page has room for."""
SITE_POINTS = 60
"""The same of what each attention site learned."""
LOG_LINES = 100
LOG_WIDTH = 400
"""Characters of one line of a log."""
LONG_VALUE = 10_000
"""Characters of a value that a cell's page has room for."""
CURVES = ("accuracy", "loss", "train_loss", "penalty", "learning_rate")


def cell_data(cell: CellRecord, label: str, learned: Sequence[str], measured: bool) -> dict[str, Any]:
    """The page of ``cell``, a cell of the row ``label``; times, machines and logs only if ``measured``."""
    record = cell.record
    config = record.config() if (cell.folder / "config.json").exists() else {}
    sections = _configuration(cell.configuration)
    if cell.result is not None:
        left_out = ("files",) if measured else ("files", "seconds")  # Digests tell a reader nothing.
        result = {name: value for name, value in cell.result.items() if name not in left_out}
        counts = result["uncounted_operators"].items()
        result["uncounted_operators"] = [f"{name.rpartition('::')[2]} {count}" for name, count in counts]
        sections.insert(0, _facts("Result", _flat(result)))
    if (stopped := record.stopped()) is not None:
        sections.insert(0, _facts("Stopped by the search's scheduler", _flat(stopped)))
    if config:
        sections.append(_facts("Code", _flat(config.get("code", {}))))
        sections.append(_facts("Packages", _flat(config.get("packages", {}))))
    if config and measured:
        sections.append(_facts("Hardware", _flat(config.get("hardware", {}))))
        for cost in record.costs():
            sections.append(_facts(f"Cost on {cost.get('device', 'a device')}", _flat(cost)))
        sections.append(_table("Segments: where and how it ran", record.lines("segments")))
        sections.append(_table("Workers that were lost", record.lines("faults")))
    sections.append(_table("Result files for the test server", map(_submission, record.submissions())))
    sections.append(_table("What the test server answered", cell.server.values()))
    failure = record.failure() or {}
    told = ("kind", "message", "where") if measured else ("kind", "message")
    lines, whole = log_end(record.log) if measured else ([], True)
    return {
        "id": cell.id,
        "role": cell.role,
        "state": cell.state,
        "stale": cell.stale,
        "row": label,
        "start": cell.start,
        # Where the log lies is a path of one machine: its end is on the page.
        "failure": [[name, clean(shortened(str(failure[name]), LONGEST))] for name in told if failure.get(name)],
        "sections": [section for section in sections if section["rows"]],
        "curves": curves(cell.metrics),
        "learned": list(learned),
        "log": lines,
        "log_whole": whole,
    }


def _configuration(configuration: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The cell's own choices, its protocol, its model, and folded what it starts from."""
    groups = ("protocol", "model", "start")
    own = {name: value for name, value in configuration.items() if name not in groups}
    sections = [_facts("Configuration", _flat(own))]
    for name in groups:
        if configuration[name] is not None:
            sections.append(_facts(name.capitalize(), _flat(configuration[name]), folded=name == "start"))
    return sections


def curves(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Step and every curve of ``metrics.jsonl``, and of how many evaluations they are."""
    kept = thinned(lines, POINTS)
    found = {name: [number(line.get(name)) for line in kept] for name in CURVES}
    return {
        "step": [line["step"] for line in kept],
        "evaluations": len(lines),
        **{name: values for name, values in found.items() if any(value is not None for value in values)},
    }


def sites(cell: CellRecord) -> dict[str, list[dict[str, Any]]]:
    """Column of ``sites.jsonl`` -> per attention site the mean, least and greatest over heads, by step."""
    by_site: dict[str, list[dict[str, Any]]] = {}
    for line in cell.record.lines("sites"):
        by_site.setdefault(line["site"], []).append(line)
    found: dict[str, list[dict[str, Any]]] = {}
    for site, lines in by_site.items():
        for name in dict.fromkeys(name for line in lines for name in line):
            if name in ("step", "site", "stack", "queries", "keys", "index"):
                continue
            heads = [(line["step"], values) for line in lines if (values := _heads(line.get(name)))]
            if not heads:
                continue
            kept = thinned(heads, SITE_POINTS)
            found.setdefault(name, []).append(
                {
                    "site": site,
                    "stack": lines[0]["stack"],
                    "direction": f"{lines[0]['queries']} to {lines[0]['keys']}",
                    "index": lines[0]["index"],
                    "evaluations": len(heads),
                    "step": [step for step, _ in kept],
                    "mean": [number(fmean(values)) for _, values in kept],
                    "low": [number(min(values)) for _, values in kept],
                    "high": [number(max(values)) for _, values in kept],
                }
            )
    return found


def _heads(value: Any) -> list[float]:
    """One number per head; none where the column holds something else."""
    values = value if isinstance(value, list) else [value]
    numbers = [float(one) for one in values if isinstance(one, int | float)]
    return numbers if len(numbers) == len(values) else []


def log_end(path: Path) -> tuple[list[str], bool]:
    """The last lines of a log, long ones cut with a word on it, and whether they are the whole log."""
    most = 4 * LOG_LINES * LOG_WIDTH
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return [], True
    with file:
        size = file.seek(0, 2)
        file.seek(max(0, size - most))
        lines = file.read().decode(errors="replace").splitlines()
    return [shortened(clean(line), LOG_WIDTH) for line in lines[-LOG_LINES:]], size <= most and len(
        lines
    ) <= LOG_LINES


def _submission(line: Mapping[str, Any]) -> dict[str, Any]:
    return {name: PurePath(str(value)).name if name == "file" else value for name, value in line.items()}


def _facts(title: str, facts: Iterable[tuple[str, str]], folded: bool = False) -> dict[str, Any]:
    return {
        "title": title,
        "columns": None,
        "folded": folded,
        "rows": [[clean(shortened(name, LONGEST)), clean(shortened(value, LONG_VALUE))] for name, value in facts],
    }


def _table(title: str, lines: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    flat = [dict(_flat(line)) for line in lines]
    columns = list(dict.fromkeys(name for line in flat for name in line))
    rows = [[clean(shortened(line.get(name, ""), LONG_VALUE)) for name in columns] for line in flat]
    return {"title": title, "columns": [clean(shortened(name, LONGEST)) for name in columns], "rows": rows}


def _flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Nested objects as lines ``outer.inner``, values as a reader would write them."""
    lines = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            lines += _flat(value, f"{before}{name}.")
        else:
            lines.append((before + name, _written(value)))
    return lines


def _written(value: Any) -> str:
    if value is None or value in ([], {}, ""):
        return "none"
    if isinstance(value, list):
        return ", ".join(map(_written, value))
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.8g}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        return f"{value:,}"
    return json.dumps(value, ensure_ascii=False)
