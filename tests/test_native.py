"""C is compiled once, kept by content, and never needed: real compilers, missing ones and broken files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from suite import native

TWICE = "int twice(int x) { return 2 * x; }\n"
needs_compiler = pytest.mark.skipif(
    subprocess.run(["which", "cc"], capture_output=True).returncode != 0, reason="this machine has no C compiler"
)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    path = tmp_path / "twice.c"
    path.write_text(TWICE)
    return path


def fresh(source: Path):
    return native.load.__wrapped__(source)


@needs_compiler
def test_a_library_is_compiled_once_for_its_content(source: Path, tmp_path: Path) -> None:
    assert fresh(source).twice(21) == 42
    (library,) = (tmp_path / "cache").rglob("*.so")
    stamp = library.stat().st_mtime_ns
    assert fresh(source).twice(4) == 8
    assert library.stat().st_mtime_ns == stamp
    source.write_text(TWICE.replace("2 * x", "3 * x"))
    assert fresh(source).twice(4) == 12
    assert len(list((tmp_path / "cache").rglob("*.so"))) == 2


@needs_compiler
def test_processes_that_compile_at_once_do_not_meet(source: Path, tmp_path: Path) -> None:
    code = f"from pathlib import Path; from suite import native; print(native.load(Path({str(source)!r})).twice(3))"
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=120)[0] for process in started] == ["6\n"] * 3
    assert len(list((tmp_path / "cache").rglob("*.so"))) == 1


@needs_compiler
def test_a_broken_file_is_said_and_done_without(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source.write_text("int twice(int x) { return 2 * y; }\n")
    assert fresh(source) is None
    message = capsys.readouterr().err
    assert "twice.c cannot be compiled, and runs in torch, slower" in message
    assert "undeclared" in message


def test_without_a_compiler_there_is_none_and_it_is_said(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert fresh(source) is None
    assert "there is no compiler `no-such-compiler`" in capsys.readouterr().err


@needs_compiler
def test_a_cache_that_cannot_be_written_is_done_without(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert fresh(source).twice(21) == 42
