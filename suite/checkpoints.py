"""Model and training state on disk, so that a killed cell continues; checked by hash when read.

Each lies in ``checkpoint/step-<n>/``, built elsewhere and renamed, so that a kill leaves none half written. The
last two are kept: where the newest is damaged, the one before serves.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from suite.errors import UserError
from suite.files import (
    Staging,
    check_no_link,
    digest,
    is_left,
    read_json,
    remove,
    replacing,
    settle,
    write_document,
)

_STEP = re.compile(r"step-(\d{8,})")
_OLD_LEFT = re.compile(r"\.step-\d{8}\.\d+")
"""Temporary names of older engines."""


def save(
    folder: Path,
    step: int,
    model: dict[str, Tensor],
    training: dict[str, Any] | None,
    marks: Mapping[str, Any] | None = None,
    staging: Staging | None = None,
) -> None:
    """Writes the checkpoint of ``step``; without ``training`` it is a final one, and the only one kept.

    ``marks`` say how far the record's lines had come (CellFolder.marks). Raises OSError where it cannot be written,
    and then leaves nothing of it; with ``staging`` what that raises, where the record is another process's by now.
    """
    check_no_link(folder.parent.parent, folder)
    folder.mkdir(parents=staging is None, exist_ok=True)
    for left in folder.glob(".step-*"):  # By a kill in the middle of a save.
        if is_left(left) or _OLD_LEFT.fullmatch(left.name):
            shutil.rmtree(left, ignore_errors=True)
    final = place(folder, step)
    with replacing(final, staging=staging) as temporary:
        _write(temporary, step, model, training, marks or {})
        remove(final, staging)
    # What lies further is damaged: the cell went on from before it. What is whole is not this process's to remove.
    kept = [each for each in steps(folder) if each <= step][-2 if training is not None else -1 :]
    for other in set(steps(folder)).difference(kept):
        if other < step or _damage(place(folder, other)):
            remove(place(folder, other), staging)


def place(folder: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` lies."""
    return folder / f"step-{step:08d}"


def _write(
    folder: Path,
    step: int,
    model: dict[str, Tensor],
    training: dict[str, Any] | None,
    marks: Mapping[str, Any],
) -> None:
    folder.mkdir()
    try:
        save_file({name: tensor.contiguous() for name, tensor in model.items()}, folder / "model.safetensors")
        if training is not None:
            torch.save(training, folder / "training.pt")
    except torch.OutOfMemoryError:
        raise
    except (SafetensorError, RuntimeError) as error:
        # Both have words of their own for a disk that is full, or that does not take what it is given.
        if not folder.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder)) from error
        number = errno.EIO if shutil.disk_usage(folder).free > 1 << 20 else errno.ENOSPC
        raise OSError(number, os.strerror(number), str(folder)) from error
    files = {}
    for path in sorted(folder.iterdir()):
        settle(path)  # Before the checkpoint before the last is removed.
        files[path.name] = digest(path)
    write_document(folder / "manifest.json", {"step": step, "sha256": files, "lines": marks}, settled=True)
    # Who may read the record may read its model: safetensors lets nobody but the owner. Not every file system has
    # modes to set, and none of them is worth a checkpoint.
    with contextlib.suppress(OSError):
        shutil.copymode(folder / "manifest.json", folder / "model.safetensors")


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, ascending; what a user has put beside them is none."""
    names = (_STEP.fullmatch(path.name) for path in folder.glob("step-*"))
    return sorted(int(name[1]) for name in names if name)


def load_model(folder: Path, step: int | None = None) -> dict[str, Tensor]:
    """The newest undamaged model; with ``step`` that of this step and no other, as a finished cell ended with it.

    UserError where there is none.
    """
    if step is None:
        _, path = _newest(folder) or _none(folder)
    else:
        path = place(folder, step)
        if damage := _damage(path):
            raise UserError(
                f"{path} is not the model that the cell ended with ({damage}), and no other stands for it. Restore "
                "it from a copy, or have the cell set aside and trained again: `ablate run STUDY --rerun-damaged`."
            )
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
    path = place(folder, step)
    state = path / "training.pt"
    training = torch.load(state, weights_only=True, map_location="cpu") if state.exists() else None
    return load_file(path / "model.safetensors"), training


def marks(folder: Path, step: int) -> Mapping[str, Any]:
    """How far the record's lines had come at the checkpoint of ``step``; nothing where an older engine saved it."""
    return read_json(place(folder, step) / "manifest.json").get("lines", {})


def load(folder: Path) -> tuple[int, dict[str, Tensor], dict[str, Any] | None] | None:
    """Step, model and training state of the newest undamaged checkpoint; None where there is none yet.

    Raises UserError where there are checkpoints and all are damaged.
    """
    step = newest(folder)
    return None if step is None else (step, *read(folder, step))


def _newest(folder: Path) -> tuple[int, Path] | None:
    for step in reversed(steps(folder)):
        path = place(folder, step)
        if not (damage := _damage(path)):
            return step, path
        warnings.warn(f"{path} is damaged ({damage}): going back to the checkpoint before.", stacklevel=3)
    return None


def _none(folder: Path) -> tuple[int, Path]:
    raise UserError(
        f"{folder} has no checkpoint that is whole. Restore one from a copy, or have the cell set aside and "
        "trained from its beginning: `ablate run STUDY --rerun-damaged`."
    )


def _damage(path: Path) -> str:
    """What is wrong with a checkpoint, in a few words; nothing where it is what was saved."""
    if not path.is_dir() or path.is_symlink():
        return "it is missing"
    try:
        manifest = read_json(path / "manifest.json")
        files, step = manifest["sha256"], manifest["step"]
        lines = manifest.get("lines", {})
        right = isinstance(files, dict) and all(isinstance(one, str) and "/" not in one for one in files)
        right = (
            right
            and isinstance(lines, dict)
            and all(
                isinstance(one, dict) and isinstance(one.get("bytes"), int) and isinstance(one.get("sha256"), str)
                for one in lines.values()
            )
        )
    except (UserError, KeyError, TypeError, AttributeError):
        return "manifest.json does not read"
    if not right or path.name != f"step-{step:08d}":
        return "manifest.json is not of this checkpoint"
    for name in {"model.safetensors", *files}:
        if not (path / name).is_file() or (path / name).is_symlink():
            return f"{name} is missing"
        if name not in files or digest(path / name) != files[name]:
            return f"{name} is not what was written"
    if (path / "training.pt").exists() and "training.pt" not in files:
        return "training.pt is not what was written"
    return ""


def damage_of_model(folder: Path, step: int) -> str:
    """What is wrong with the checkpoint of a finished cell's last step; nothing where it is whole."""
    return _damage(place(folder, step))
