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
        (["ray"], {"suite/grid.py", "suite/halving.py", "suite/schedule.py", "suite/workers.py"}),
        (["torch.distributed", "deepspeed"], {"suite/engine.py"}),
    ],
    ids=["fvcore", "ray", "distributed"],
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
    used = {name for names in importers("reports", "suite").values() for name in names}
    assert {name for name in used if not name.startswith(("suite.records", "suite.look", "suite.errors"))} == set()


def test_reports_import_no_variant_and_no_framework() -> None:
    assert importers("reports", "torch", "ray", "transformers", "ablations") == {}


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
