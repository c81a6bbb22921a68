"""Imports point one way, and each heavy dependency enters through one file."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def imports(file: Path) -> set[str]:
    """Every module that ``file`` imports anywhere, also inside functions, by its full name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # `from suite import flops` imports suite.flops; a name that is no module does no harm here.
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def importers(package: str, *modules: str) -> dict[str, set[str]]:
    """The files of ``package`` that import one of ``modules`` or what lies in it, with what they import."""
    inside = tuple(f"{module}." for module in modules)
    found = {}
    for file in sorted((ROOT / package).rglob("*.py")):
        names = {name for name in imports(file) if name in modules or name.startswith(inside)}
        if names:
            found[file.relative_to(ROOT).as_posix()] = names
    return found


def test_the_engine_imports_neither_variants_nor_reports() -> None:
    assert importers("suite", "ablations", "reports") == {}


@pytest.mark.parametrize(
    ("modules", "files"),
    [
        (["fvcore"], {"suite/flops.py"}),
        (
            ["ray"],
            {
                *("suite/connect.py", "suite/grid.py", "suite/halving.py", "suite/ray_private.py"),
                *("suite/schedule.py", "suite/workers.py"),
            },
        ),
        (["torch.distributed", "deepspeed"], {"suite/engine.py"}),
        (["codecarbon"], {"suite/bench/energy.py"}),
        (["playwright"], set()),
    ],
    ids=["fvcore", "ray", "distributed", "codecarbon", "playwright"],
)
@pytest.mark.parametrize("package", ["suite", "ablations", "reports"])
def test_a_heavy_dependency_enters_through_one_file(package: str, modules: list[str], files: set[str]) -> None:
    assert set(importers(package, *modules)) <= files


def test_variants_and_studies_import_the_seam_alone() -> None:
    allowed = ("suite.attention", "suite.config", "suite.space", "suite.registry", "suite.errors", "suite.native")
    used = {name for names in importers("ablations", "suite").values() for name in names}
    # `from suite import native` is found as suite and suite.native.
    assert {name for name in used if name != "suite" and not name.startswith(allowed)} == set()


def test_reports_import_records_and_the_look_of_figures_alone() -> None:
    records = ("suite.records", "suite.files", "suite.forms", "suite.lease")
    allowed = (*records, "suite.look", "suite.errors")
    used = {name for names in importers("reports", "suite").values() for name in names}
    # `from suite import forms` is found as suite and suite.forms.
    assert {
        name
        for name in used - {"suite"}
        if name not in allowed and not name.startswith(tuple(f"{one}." for one in allowed))
    } == set()


def test_reports_import_no_variant_and_no_framework() -> None:
    assert importers("reports", "torch", "ray", "transformers", "ablations") == {}


def test_records_become_a_report_then_figures_then_pages() -> None:
    """Data knows no format: what is read and reckoned imports no figure, format or page, and figures no page."""
    above = {"reports.figures": 0, "reports.formats": 0, "reports.page": 1, "reports.build": 2}
    for package, level in above.items():
        users = importers("reports", package)
        own = package.replace(".", "/")
        higher = tuple(name.replace(".", "/") for name, other in above.items() if other > level)
        assert {file for file in users if not file.startswith((own, *higher))} == set()


def test_imports_of_reports_go_one_way() -> None:
    """No file imports itself by way of others, and none defers an import of its own house into a function."""
    files = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for file in (ROOT / "reports").rglob("*.py")
    }
    left = {
        # `from reports.page import index` inside reports.page is of the file alone.
        module: {name for name in imports(file) & files.keys() if not f"{module}.".startswith(f"{name}.")}
        for module, file in files.items()
    }
    while free := [module for module, needed in left.items() if not needed]:
        left = {module: needed - {*free} for module, needed in left.items() if module not in free}
    assert left == {}
    deferred = [
        module
        for module, file in files.items()
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("reports", "suite"))
    ]
    assert deferred == []


def test_what_draws_enters_in_functions_alone() -> None:
    """Tables build, and `import reports.build` is quick, without matplotlib, rich and Pillow."""
    heavy = ("matplotlib", "rich", "PIL")
    found = [
        f"{file.relative_to(ROOT).as_posix()}: {node.module}"
        for file in (ROOT / "reports").rglob("*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in heavy
    ]
    assert found == []


def test_relative_imports_are_not_used() -> None:
    """The other tests here, and the digest of a variant's source, read full names."""
    relative = [
        file.relative_to(ROOT).as_posix()
        for package in ("suite", "ablations", "reports")
        for file in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


@pytest.mark.parametrize("modules", ["reports.build", "suite.config, suite.records, suite.registry", "suite.cli"])
def test_what_needs_no_framework_loads_none(modules: str) -> None:
    """`ablate status` and `ablate report` answer without seconds of imports."""
    heavy = ("torch", "ray", "transformers", "deepspeed", "fvcore")
    code = f"import sys, {modules}; print(*sorted(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []
