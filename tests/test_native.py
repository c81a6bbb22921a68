"""C is compiled once, kept by content, and never needed: real compilers, missing ones and broken files."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

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


def fresh(source: Path) -> Any:
    native._load.cache_clear()
    return native.load(source)


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


def library_of(cache: Path) -> Path:
    (library,) = cache.rglob("*.so")
    return library


@needs_compiler
@pytest.mark.parametrize("damage", ["empty", "half", "flipped"])
def test_a_library_that_a_power_cut_damaged_is_compiled_again(damage: str, source: Path, tmp_path: Path) -> None:
    assert fresh(source).twice(21) == 42
    library = library_of(tmp_path / "cache")
    whole = library.read_bytes()
    library.unlink()  # Not into the file that this process has mapped.
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    library.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "flipped": bytes(flipped)}[damage])
    library.chmod(0o700)
    assert fresh(source).twice(4) == 8
    assert library_of(tmp_path / "cache").read_bytes() == whole
    assert native.loaded()["twice.c"] == f"C {hashlib.sha256(whole).hexdigest()[:32]}"


def test_what_runs_instead_of_c_is_known(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    fresh(source)
    assert native.loaded()["twice.c"] == "torch: there is no compiler `no-such-compiler`"
    monkeypatch.setenv("CC", "cc 'with half a quote")
    assert fresh(source) is None


@needs_compiler
def test_a_compiler_that_fails_for_a_moment_is_asked_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flaky = tmp_path / "flaky"
    flaky.write_text('#!/bin/sh\ncase "$*" in *--version*) exec cc "$@" ;; esac\necho "disk full" >&2; exit 1\n')
    flaky.chmod(0o755)
    monkeypatch.setenv("CC", str(flaky))
    assert fresh(source) is None
    assert native.loaded()["twice.c"] == "torch: disk full"
    flaky.write_text('#!/bin/sh\nexec cc "$@"\n')
    assert fresh(source).twice(2) == 4
    assert not list((tmp_path / "cache").rglob(".*"))


@needs_compiler
def test_a_cache_that_others_may_write_is_not_trusted(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    assert fresh(source).twice(21) == 42
    folder = tmp_path / "cache" / native.NAME
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    library = library_of(folder)
    planted = source.with_name("planted.c")
    planted.write_text("int twice(int x) { return 666; }\n")

    def plant() -> None:
        """As who knows how a name comes about."""
        made = library.with_name("made")
        subprocess.run(["cc", "-shared", "-fPIC", str(planted), "-o", str(made)], check=True)
        digest = hashlib.sha256(made.read_bytes()).hexdigest()[:32]
        library.unlink(missing_ok=True)
        made.rename(library.with_name(f"{library.stem.rpartition('-')[0]}-{digest}.so"))

    plant()
    for mode, place in ((0o777, folder), (0o775, folder), (0o777, folder.parent)):
        place.chmod(mode)
        assert fresh(source).twice(21) == 42
        assert (
            f"What is compiled is not kept in {folder}: {place} can be written by others."
            in capsys.readouterr().err
        )
        place.chmod(0o700)
    if os.getuid() == 0:
        os.chown(folder, 65534, 65534)
        assert fresh(source).twice(21) == 42
        os.chown(folder, 0, 0)
        for file in folder.glob("*.so"):
            os.chown(file, 65534, 65534)
        assert fresh(source).twice(21) == 42
    kept = tmp_path / "temporary" / f"{native.NAME}-{os.geteuid()}"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert [one.name for one in (tmp_path / "temporary").iterdir()] == [kept.name]


@needs_compiler
def test_without_a_home_one_folder_is_kept_for_all_processes(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "temporary").mkdir()
    code = f"from pathlib import Path; from suite import native; print(native.load(Path({str(source)!r})).twice(3))"
    environment = {"HOME": str(tmp_path / "file" / "home"), "TMPDIR": str(tmp_path / "temporary")}
    environment["XDG_CACHE_HOME"] = ""
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=True
        )
        assert done.stdout == "6\n"
    (folder,) = (tmp_path / "temporary").iterdir()
    assert len(list(folder.iterdir())) == 1


@needs_compiler
def test_a_name_that_somebody_else_has_taken_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "temporary" / f"{native.NAME}-{os.geteuid()}").symlink_to(tmp_path)
    assert fresh(source).twice(21) == 42
    assert len(list((tmp_path / "temporary").iterdir())) == 1
