"""What is recorded of a checkout is its own, whatever the user's settings, environment and compiler are."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from suite import provenance


def git(folder: Path, *arguments: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    who = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], env=kept, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    root = tmp_path / "checkout"
    for name in ("suite/engine.py", "ablations/softmax.py", "reports/build.py", "README.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("one\n")
    (root / ".gitignore").write_text("__pycache__/\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return root


def test_changes_are_told_by_what_the_files_hold(checkout: Path) -> None:
    assert provenance._changes(checkout) is None
    (checkout / "suite" / "engine.py").write_text("two\n")
    two = provenance._changes(checkout)
    (checkout / "suite" / "engine.py").write_text("three\n")
    assert len({None, two, provenance._changes(checkout)}) == 3
    (checkout / "suite" / "engine.py").write_text("one\n")
    assert provenance._changes(checkout) is None
    (checkout / "suite" / "engine.py").unlink()
    assert provenance._changes(checkout) not in (None, "unknown")


def test_new_files_of_the_packages_are_changes(checkout: Path) -> None:
    (checkout / "notes.txt").write_text("")
    (checkout / "suite" / "__pycache__").mkdir()
    (checkout / "suite" / "__pycache__" / "engine.pyc").write_text("")
    assert provenance._changes(checkout) is None
    (checkout / "ablations" / os.fsdecode(b"caf\xe9.py")).write_text("")
    assert provenance._changes(checkout) not in (None, "unknown")


@pytest.mark.parametrize(
    "settings",
    [
        "[diff]\n\texternal = true\n",
        "[diff]\n\tnoprefix = true\n\tcontext = 0\n\trelative = true\n\trenames = copies\n",
        "[color]\n\tui = always\n[core]\n\tquotePath = false\n\tpager = false\n",
        "[core]\n\tfsmonitor = true\n\texcludesFile = ~/ignored\n",
    ],
    ids=["external", "prefixes", "colours", "monitor"],
)
def test_the_user_s_settings_of_git_change_nothing(settings: str, checkout: Path) -> None:
    (checkout / "suite" / "engine.py").write_text("two\n")
    (checkout / "suite" / "new.py").write_text("")
    before = provenance._changes(checkout)
    home = Path(os.environ["HOME"])
    (home / ".gitconfig").write_text(settings)
    (home / "ignored").write_text("*.py\n")
    assert provenance._changes(checkout) == before


def test_another_repository_in_the_environment_or_around_is_not_asked(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = git(checkout, "rev-parse", "HEAD")
    other = checkout / "reports" / "inner"
    (other / "suite").mkdir(parents=True)
    git(checkout, "worktree", "add", "-q", "--detach", str(checkout.parent / "tree"))
    monkeypatch.setenv("GIT_DIR", str(checkout.parent / "elsewhere.git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(checkout.parent))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "true")
    for root in (checkout, checkout.parent / "tree"):
        assert (provenance._git(root, "rev-parse", "--verify", "HEAD") or "").strip() == own
    (checkout / "suite" / "engine.py").write_text("two\n")
    assert provenance._changes(checkout) not in (None, "unknown")
    (other / ".git").write_text("gitdir: nowhere\n")
    assert provenance._git(other, "rev-parse", "--verify", "HEAD") is None
    assert provenance._changes(other) == "unknown"


def test_a_checkout_of_somebody_else_is_not_taken_for_unchanged(checkout: Path) -> None:
    if os.getuid():
        pytest.skip("only root gives files away")
    (checkout / "suite" / "engine.py").write_text("two\n")
    for path in (checkout, *checkout.rglob("*")):
        os.chown(path, 65534, 65534)
    assert provenance._changes(checkout) is not None


def test_without_git_nothing_is_taken_for_unchanged(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert provenance._changes(checkout) == "unknown"


@pytest.mark.parametrize(
    ("given", "command"),
    [("", ["cc"]), (" ", ["cc"]), ("ccache gcc", ["ccache", "gcc"]), ("gcc 'x", ["gcc 'x"])],
)
def test_any_name_of_a_compiler_is_taken(given: str, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", given)
    assert provenance.compiler() == command


def test_a_compiler_may_say_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\nprintf '%s' \"$LC_ALL \"; printf '\\351\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("CC", str(tool))
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert provenance.compiler_version() == "C \ufffd"
