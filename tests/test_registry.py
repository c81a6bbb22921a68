"""Names and plug-ins: what is known, what is refused and in which words, and whose source names a cell."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from suite import registry
from suite.errors import UserError
from suite.registry import find, load_plugin, make_study, names, source_digest

Write = Callable[..., Path]

MINE = """
from dataclasses import dataclass
from ablations.variants.entmax import EntmaxWeights
from suite.attention import Variant
from suite.registry import register

@register("mine")
@dataclass(frozen=True)
class Mine(Variant):
    pass
"""


# Names


def test_the_built_in_parts_come_from_entry_points() -> None:
    assert set(names("variant")) >= {"softmax", "span", "entmax", "span_entmax", "layerdrop"}
    assert "demo" in names("study")
    assert "easy_vqa" in names("dataset")
    assert names("report")


@pytest.mark.parametrize(
    ("kind", "name", "nearest"),
    [("variant", "entmx", "entmax"), ("study", "demmo", "demo"), ("dataset", "easy-vqa", "easy_vqa")],
)
def test_an_unknown_name_is_refused_with_the_nearest(kind: registry.Kind, name: str, nearest: str) -> None:
    with pytest.raises(UserError, match=f"no {kind} '{name}'. Did you mean '{nearest}'"):
        find(kind, name)


def test_an_unknown_name_far_from_all_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"no variant 'xyz'\. Known: .*entmax.*softmax"):
        find("variant", "xyz")


# Plug-ins


def test_a_plugin_makes_its_variant_known(plugin: Write) -> None:
    load_plugin(plugin(MINE))
    assert find("variant", "mine").__name__ == "Mine"
    assert "mine" in names("variant")


def test_a_plugin_that_is_loaded_twice_runs_once(plugin: Write) -> None:
    path = plugin(MINE)
    load_plugin(path)
    first = find("variant", "mine")
    load_plugin(path)
    assert find("variant", "mine") is first


def test_a_copy_of_a_loaded_plugin_is_the_same_plugin(plugin: Write) -> None:
    """A launch copies plug-ins into the study's folder, and its workers load the copies."""
    load_plugin(plugin(MINE))
    load_plugin(plugin(MINE, "study/plugin.py"))
    assert names("variant").count("mine") == 1


def test_a_plugin_may_register_other_kinds(plugin: Write) -> None:
    load_plugin(plugin("from suite.registry import register\n@register('mine', 'study')\ndef study(): return 7\n"))
    assert find("study", "mine")() == 7


def test_a_missing_plugin_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no plug-in file .*absent\.py"):
        load_plugin(tmp_path / "absent.py")


def test_a_plugin_that_is_not_python_is_refused(plugin: Write) -> None:
    with pytest.raises(UserError, match=r"plugin\.txt is not a Python file"):
        load_plugin(plugin(MINE, "plugin.txt"))


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("import suite\n\nimport no_such_package\n", 3, "ModuleNotFoundError: No module named 'no_such_package'"),
        ("def broken():\n    return 1 / 0\n\n\nbroken()\n", 2, "ZeroDivisionError: division by zero"),
        ("x = 1\nif x\n    pass\n", 2, "SyntaxError"),
        ("import json\n\njson.loads('{')\n", 3, "JSONDecodeError"),
    ],
)
def test_a_plugin_that_does_not_load_is_refused_with_file_and_line(
    plugin: Write, text: str, line: int, message: str
) -> None:
    with pytest.raises(UserError, match=rf"plugin\.py:{line}: the plug-in does not load: {message}"):
        load_plugin(plugin(text))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 1 / 0", r"plugin\.py:7: the study 'mine' is not made: ZeroDivisionError: division by zero"),
        ("return 1", r"plugin\.py: the function of the study 'mine' is expected to return .*Study, and returned 1"),
    ],
)
def test_a_study_that_is_not_made_is_refused_with_file_and_line(plugin: Write, body: str, message: str) -> None:
    text = f"""
from suite.registry import register


@register("mine", "study")
def study():
    {body}
"""
    load_plugin(plugin(text))
    with pytest.raises(UserError, match=message):
        make_study("mine")


def test_a_plugin_that_does_not_load_leaves_nothing_behind(plugin: Write) -> None:
    before = names("variant"), set(sys.modules)
    with pytest.raises(UserError):
        load_plugin(plugin(MINE + "\n1 / 0\n"))
    assert (names("variant"), {m for m in sys.modules if m.startswith("ablate_plugin_")} - before[1]) == (
        before[0], set(),
    )  # fmt: skip


def test_a_plugin_that_registers_nothing_is_refused_with_what_to_write(plugin: Write) -> None:
    with pytest.raises(UserError, match=r"plugin\.py registers nothing\. Put @register"):
        load_plugin(plugin("x = 1\n"))


@pytest.mark.parametrize("taken", ["softmax", "mine"])
def test_a_name_that_is_taken_is_refused(plugin: Write, taken: str) -> None:
    load_plugin(plugin(MINE))
    with pytest.raises(UserError, match=f"variant '{taken}', which exists already"):
        load_plugin(plugin(MINE.replace("mine", taken) + "# other\n", "other.py"))


# Whose source names a cell


@pytest.fixture
def edited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Gives a module of the built-in variants another text, on a copy."""
    found = registry._file_of

    def edit(module: str) -> None:
        copy = tmp_path / f"{module}.py"
        copy.write_text(found(module).read_text() + "\n# edited\n")
        before = registry._file_of
        monkeypatch.setattr(registry, "_file_of", lambda name: copy if name == module else before(name))

    return edit


def built_in() -> dict[str, str]:
    return {name: source_digest(name) for name in ("softmax", "span", "entmax", "span_entmax", "layerdrop")}


@pytest.mark.parametrize(
    ("module", "changed"),
    [
        ("softmax", {"softmax"}),
        ("layerdrop", {"layerdrop"}),
        ("entmax", {"entmax", "span_entmax"}),
        ("span", {"span", "span_entmax"}),
        ("span_entmax", {"span_entmax"}),
    ],
)
def test_an_edit_reaches_the_variants_that_import_the_file_and_no_other(
    edited: Callable[[str], None], module: str, changed: set[str]
) -> None:
    before = built_in()
    edited(f"ablations.variants.{module}")
    assert {name for name, digest in built_in().items() if digest != before[name]} == changed


def test_a_plugin_follows_the_built_in_files_that_it_imports(plugin: Write, edited: Callable[[str], None]) -> None:
    load_plugin(plugin(MINE))
    before = source_digest("mine")
    edited("ablations.variants.entmax")
    assert source_digest("mine") != before


def test_a_plugin_follows_the_c_beside_it(plugin: Write) -> None:
    path = plugin(MINE)
    load_plugin(path)
    before = source_digest("mine")
    path.with_suffix(".c").write_text("int one(void) { return 1; }")
    assert source_digest("mine") != before


def test_a_plugin_follows_a_module_that_it_imports_from_its_package(
    plugin: Write, edited: Callable[[str], None]
) -> None:
    load_plugin(
        plugin(MINE.replace("ablations.variants.entmax import EntmaxWeights", "ablations.variants import entmax"))
    )
    before = source_digest("mine")
    edited("ablations.variants.entmax")
    assert source_digest("mine") != before


def test_an_installed_variant_follows_its_relative_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "third_party"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "method.py").write_text("from .helper import x\nfrom . import other\n")
    for helper in ("helper", "other"):
        (package / f"{helper}.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    entry = importlib.metadata.EntryPoint("theirs", "third_party.method:x", "ablate.variants")
    monkeypatch.setattr(registry, "_entry_points", lambda kind: {"theirs": entry})
    monkeypatch.setattr(registry, "_registering_packages", lambda: {"third_party"})
    digests = [source_digest("theirs")]
    for helper in ("helper", "other"):
        (package / f"{helper}.py").write_text("x = 2\n")
        digests.append(source_digest("theirs"))
    assert len(set(digests)) == 3


def test_the_digest_does_not_change_with_line_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Git may check a file out with either."""
    before, found = source_digest("softmax"), registry._file_of
    copy = tmp_path / "softmax.py"
    copy.write_bytes(found("ablations.variants.softmax").read_bytes().replace(b"\n", b"\r\n"))
    monkeypatch.setattr(registry, "_file_of", lambda name: copy)
    assert source_digest("softmax") == before


def test_the_source_of_an_unknown_variant_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'entmax'"):
        source_digest("entmx")
