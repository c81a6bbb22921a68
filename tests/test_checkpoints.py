"""Checkpoints: whatever a kill or a disk does, the newest whole one serves."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from suite import checkpoints
from suite.errors import UserError


def model(step: int) -> dict[str, Tensor]:
    return {"weight": torch.full((2, 3), float(step)), "bias": torch.arange(3.0) + step}


def training(step: int) -> dict[str, Any]:
    return {"optimiser": {"state": {0: {"mean": torch.full((2,), float(step)), "step": step}}}, "seconds": 0.1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With checkpoints of steps 2 and 4."""
    for step in (2, 4):
        checkpoints.save(tmp_path / "checkpoint", step, model(step), training(step))
    return tmp_path / "checkpoint"


def damage(path: Path, how: str) -> None:
    match how:
        case "truncated":
            path.write_bytes(path.read_bytes()[:-1])
        case "changed":
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
        case "missing":
            path.unlink()


def loaded_step(folder: Path) -> int:
    loaded = checkpoints.load(folder)
    assert loaded is not None
    step, weights, state = loaded
    # All three must be of one step, whichever it is.
    assert torch.equal(weights["weight"], model(step)["weight"])
    assert state["optimiser"]["state"][0]["step"] == step
    return step


def test_without_a_checkpoint_there_is_nothing_to_load(tmp_path: Path) -> None:
    assert checkpoints.load(tmp_path / "checkpoint") is None


def test_what_is_saved_comes_back_to_the_bit(folder: Path) -> None:
    step, weights, state = checkpoints.load(folder) or pytest.fail("nothing to load")
    assert step == 4
    assert weights.keys() == model(4).keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in model(4).items())
    assert state["seconds"] == 0.1
    assert torch.equal(state["optimiser"]["state"][0]["mean"], torch.full((2,), 4.0))


def test_who_reads_the_record_may_read_the_model(folder: Path) -> None:
    assert len({path.stat().st_mode for path in folder.glob("step-00000004/*")}) == 1


def test_a_file_system_without_modes_takes_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr("shutil.copymode", refused)
    checkpoints.save(tmp_path, 2, model(2), training(2))
    assert loaded_step(tmp_path) == 2


def test_tensors_that_are_not_contiguous_are_saved(tmp_path: Path) -> None:
    tensor = torch.arange(6.0).view(2, 3).T
    checkpoints.save(tmp_path, 1, {"weight": tensor}, None)
    assert torch.equal(checkpoints.load_model(tmp_path)["weight"], tensor)


def test_the_last_two_are_kept(folder: Path) -> None:
    checkpoints.save(folder, 10, model(10), training(10))
    assert checkpoints.steps(folder) == [4, 10]


def test_a_final_checkpoint_is_the_model_alone(folder: Path) -> None:
    checkpoints.save(folder, 6, model(6), None)
    assert checkpoints.steps(folder) == [6]
    assert sorted(path.name for path in (folder / "step-00000006").iterdir()) == [
        "manifest.json",
        "model.safetensors",
    ]


def test_saving_a_step_again_replaces_it(folder: Path) -> None:
    checkpoints.save(folder, 4, model(7), training(4))
    assert torch.equal(checkpoints.load_model(folder)["weight"], model(7)["weight"])


@pytest.mark.parametrize("how", ["truncated", "changed", "missing"])
@pytest.mark.parametrize("file", ["model.safetensors", "training.pt"])
def test_where_the_newest_is_damaged_the_one_before_serves_with_a_warning(
    folder: Path, file: str, how: str
) -> None:
    damage(folder / "step-00000004" / file, how)
    with pytest.warns(UserWarning, match=rf"step-00000004 is damaged \({file}.*going back"):
        assert loaded_step(folder) == 2


def test_a_damaged_checkpoint_is_not_one_of_the_two(folder: Path) -> None:
    damage(folder / "step-00000004" / "model.safetensors", "truncated")
    checkpoints.save(folder, 3, model(3), training(3))
    assert checkpoints.steps(folder) == [2, 3]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}"], ids=repr)
def test_a_damaged_manifest_is_a_damaged_checkpoint(folder: Path, content: bytes) -> None:
    (folder / "step-00000004" / "manifest.json").write_bytes(content)
    with pytest.warns(UserWarning, match=r"step-00000004 is damaged \(manifest\.json"):
        assert loaded_step(folder) == 2


def test_where_all_are_damaged_the_error_says_what_to_do(folder: Path) -> None:
    for step in (2, 4):
        damage(folder / f"step-{step:08d}" / "model.safetensors", "truncated")
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(UserError, match=r"no checkpoint that is whole\. Restore one from a copy"),
    ):
        checkpoints.load(folder)


def test_a_start_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint that is whole"):
        checkpoints.load_model(tmp_path / "checkpoint")


@pytest.mark.parametrize("function", ["save_file", "digest", "write_document"])
def test_a_kill_in_the_middle_of_a_save_leaves_the_checkpoints_as_they_were(
    folder: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, function, killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(folder, 6, model(6), training(6))
    assert checkpoints.steps(folder) == [2, 4]
    assert loaded_step(folder) == 4


def test_what_a_kill_left_is_gone_after_the_next_save(folder: Path) -> None:
    """Each is as large as a checkpoint, and every restart has another process id."""
    left = folder / f".step-00000006.{os.getpid() + 1}"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    checkpoints.save(folder, 6, model(6), training(6))
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000004", "step-00000006"]


def test_code_in_a_training_state_is_not_run(folder: Path) -> None:
    """A checkpoint may come from another machine: only plain values and tensors are unpickled."""

    class Code:
        def __reduce__(self) -> tuple:
            return (print, ("run",))

    checkpoints.save(folder, 6, model(6), {"optimiser": Code()})
    with pytest.raises(Exception, match="Weights only load failed"):
        checkpoints.load(folder)


def test_a_full_disk_is_an_error_of_the_disk_and_leaves_nothing(tmp_path: Path) -> None:
    """safetensors and torch have words of their own for it."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        folder, large = tmp_path / "checkpoint", {"weight": torch.zeros(100_000)}
        checkpoints.save(folder, 2, model(2), training(2))
        for weights, state in ((large, training(4)), (model(4), {"optimiser": large})):
            with pytest.raises(OSError, match="No space left"):
                checkpoints.save(folder, 4, weights, state)
            assert [path.name for path in folder.iterdir()] == ["step-00000002"]
        checkpoints.save(folder, 4, model(4), training(4))
        assert checkpoints.steps(folder) == [2, 4]
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)
