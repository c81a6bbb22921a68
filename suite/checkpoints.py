"""A cell's checkpoints: the model as safetensors, the optimiser beside it, checked by hash when read.

Each lies in ``checkpoint/step-<n>/``, built under another name and renamed, so that a kill leaves none half
written. The last two are kept: where the newest is damaged, the one before serves.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from suite.errors import UserError
from suite.records import read_json, settle, write_json


def save(folder: Path, step: int, model: dict[str, Tensor], training: dict[str, Any] | None) -> None:
    """Writes the checkpoint of ``step``; without ``training`` it is a final one, and the only one kept.

    Raises OSError where it cannot be written, and then leaves nothing of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".step-*"):  # By a kill in the middle of a save.
        shutil.rmtree(left, ignore_errors=True)
    temporary = folder / f".step-{step:08d}.{os.getpid()}"
    try:
        _write(temporary, step, model, training)
    except BaseException:
        # On a disk that is full it would take what this cell waits for.
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    final = folder / f"step-{step:08d}"
    if final.exists():
        shutil.rmtree(final)
    os.replace(temporary, final)
    # What lies further is damaged: the cell went on from before it.
    kept = [each for each in steps(folder) if each <= step][-2 if training is not None else -1 :]
    for other in set(steps(folder)).difference(kept):
        shutil.rmtree(folder / f"step-{other:08d}")


def _write(folder: Path, step: int, model: dict[str, Tensor], training: dict[str, Any] | None) -> None:
    folder.mkdir()
    try:
        save_file({name: tensor.contiguous() for name, tensor in model.items()}, folder / "model.safetensors")
        if training is not None:
            torch.save(training, folder / "training.pt")
    except torch.OutOfMemoryError:
        raise
    except (SafetensorError, RuntimeError) as error:
        # Both have words of their own for a disk that is full, or that does not take what it is given.
        number = errno.EIO if shutil.disk_usage(folder).free > 1 << 20 else errno.ENOSPC
        raise OSError(number, os.strerror(number), str(folder)) from error
    files = {}
    for path in sorted(folder.iterdir()):
        settle(path)  # Before the checkpoint before the last is removed.
        files[path.name] = _digest(path)
    write_json(folder / "manifest.json", {"step": step, "sha256": files}, settled=True)
    # Who may read the record may read its model: safetensors lets nobody but the owner. Not every file system has
    # modes to set, and none of them is worth a checkpoint.
    with contextlib.suppress(OSError):
        shutil.copymode(folder / "manifest.json", folder / "model.safetensors")


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, ascending."""
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def load_model(folder: Path) -> dict[str, Tensor]:
    """The newest undamaged model; UserError where there is none."""
    _, path = _newest(folder) or _none(folder)
    return load_file(path / "model.safetensors")


def newest(folder: Path) -> int | None:
    """The step of the newest undamaged checkpoint; None where there is none yet.

    Raises UserError where there are checkpoints and all are damaged.
    """
    return (_newest(folder) or _none(folder))[0] if steps(folder) else None


def read(folder: Path, step: int) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Model and training state of the checkpoint of ``step``, which ``newest`` has found undamaged.

    A final checkpoint has no training state.
    """
    path = folder / f"step-{step:08d}"
    state = path / "training.pt"
    training = torch.load(state, weights_only=True, map_location="cpu") if state.exists() else None
    return load_file(path / "model.safetensors"), training


def load(folder: Path) -> tuple[int, dict[str, Tensor], dict[str, Any] | None] | None:
    """Step, model and training state of the newest undamaged checkpoint; None where there is none yet.

    Raises UserError where there are checkpoints and all are damaged.
    """
    step = newest(folder)
    return None if step is None else (step, *read(folder, step))


def _newest(folder: Path) -> tuple[int, Path] | None:
    for step in reversed(steps(folder)):
        path = folder / f"step-{step:08d}"
        if not (damage := _damage(path)):
            return step, path
        warnings.warn(f"{path} is damaged ({damage}): going back to the checkpoint before.", stacklevel=3)
    return None


def _none(folder: Path) -> tuple[int, Path]:
    raise UserError(
        f"{folder} has no checkpoint that is whole. "
        f"Delete {folder.parent} to train that cell from its beginning, and run again."
    )


def _damage(path: Path) -> str:
    try:
        files = read_json(path / "manifest.json")["sha256"]
    except (UserError, KeyError, TypeError):
        return "manifest.json does not read"
    for name, digest in files.items():
        if not (path / name).exists():
            return f"{name} is missing"
        if _digest(path / name) != digest:
            return f"{name} is not what was written"
    return ""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
