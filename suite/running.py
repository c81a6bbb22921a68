"""``run_cell``: what surrounds the training of a cell. Who may write its record, and what becomes of a fault.

What goes wrong in code or data is recorded and never tried again by itself. A run folder that cannot be written
is waited for. Anything else ends the process, and whoever started it starts the cell again elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import torch

from suite import checkpoints, provenance, training
from suite.config import to_plain
from suite.errors import UnfitNode, UserError
from suite.lease import Holder, Lease, LeaseLost
from suite.plan import Job, Workplace
from suite.pulse import Leave, Progress, Pulse, drain_markers
from suite.records import CellFolder, RecordError, StudyFolder
from suite.terminal import say

TROUBLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN
}  # fmt: skip
"""What a file system answers for a while and then no longer."""

Train = Callable[[Job, Workplace, CellFolder, Pulse], None]


class WorkerDied(RuntimeError):
    """A process that trained part of the cell is gone: the cell starts again from its checkpoint."""


def run_cell(
    job: Job,
    workplace: Workplace,
    report: Callable[[Progress], None],
    leaving: threading.Event | None = None,
    train: Train = training.train_and_test,
) -> bool:
    """Trains, tests and records one cell; True where it is finished afterwards, or a trial that is stopped.

    Waits while another process runs it, and continues from the newest checkpoint. What goes wrong in code or data
    is written to ``failure.json`` and the log of the cell, not raised. Raises Leave where the cell was asked to
    leave, by ``leaving`` or by those who drain its node, and UserError where its record could not be written for
    ``workplace.patience`` seconds since its last checkpoint, or a node of its workers is unfit.
    """
    record = StudyFolder(workplace.study).cell(job.id)
    waited, wait, reached = 0.0, 1.0, 0
    while True:
        try:
            return _ended(job, record) or _run_leased(job, workplace, record, report, leaving, train)
        except LeaseLost as lost:  # By a process that was stopped for long, or cut off from the others.
            say(str(lost))
            continue
        except OSError as error:
            with contextlib.suppress(OSError):
                before, reached = reached, max(checkpoints.steps(record.checkpoints), default=0)
                if reached > before:  # A cell of days may meet trouble more than once.
                    waited, wait = 0.0, 1.0
            if waited >= workplace.patience:
                raise UserError(
                    f"The record {record.path} cannot be written: {error.strerror}. Mend that and run the same "
                    "command: finished cells stay, and this one continues from its last checkpoint."
                ) from error
            say(f"{record.id} waits for its run folder, {record.path}: {error.strerror}.")
        waited += _wait(record.path, wait, workplace.patience - waited)
        if leaving is not None and leaving.is_set():
            raise Leave
        wait = min(2 * wait, 60.0)


def _ended(job: Job, record: CellFolder) -> bool:
    """Another process has finished it; of a search's trial, or stopped it."""
    return record.state == "finished" or (job.role == "trial" and record.state == "stopped")


def _wait(folder: Path, least: float, most: float) -> float:
    """Waits until ``folder`` can be written, ``least`` to ``most`` seconds; returns how many it were."""
    began = time.monotonic()
    time.sleep(min(least, most))
    while not _writable(folder) and time.monotonic() - began < most:
        time.sleep(1)
    return time.monotonic() - began


def _run_leased(
    job: Job,
    workplace: Workplace,
    record: CellFolder,
    report: Callable[[Progress], None],
    leaving: threading.Event | None,
    train: Train,
) -> bool:
    lease = Lease(record.path, workplace.launch, workplace.node)
    markers = drain_markers(Path(workplace.study), workplace.launch, lease.holder.node, lease.holder.host)

    def leaves() -> bool:
        lease.beat()
        return (leaving is not None and leaving.is_set()) or any(marker.exists() for marker in markers)

    while leaves():  # A node that is about to be lost: what begins here would be lost with it.
        if leaving is not None and leaving.is_set():
            raise Leave
        time.sleep(1)
    said: set[Holder] = set()

    def waiting(holder: Holder | None) -> None:
        if leaves():
            raise Leave
        if holder is not None and holder not in said:
            say(f"{record.id} waits for process {holder.pid} on {holder.host}, which runs it.")
            said.add(holder)

    lease.take(waiting)
    try:
        if _ended(job, record):
            return True
        record.guard = lease.check
        return _run_recorded(job, workplace, record, report, leaves, train)
    finally:
        record.guard = None
        lease.release()


def _run_recorded(
    job: Job,
    workplace: Workplace,
    record: CellFolder,
    report: Callable[[Progress], None],
    leaves: Callable[[], bool],
    train: Train,
) -> bool:
    # A cell whose worker died again and again before it began has a failure and nothing else.
    begun = (record.path / "config.json").exists()
    try:
        restarted = begun and _engine_of(record) != provenance.engine_digest()
    except RecordError as error:  # This cell's alone: the others of the launch go on.
        record.write_failure(_failure(error, record))
        return False
    if restarted:
        record.clear()
    record.write_config(
        {
            "id": job.id,
            "cell": to_plain(job.cell),
            "start": job.start,
            "pretrained": job.pretrained,
            "code": provenance.code(),
            "packages": provenance.packages(),
            "hardware": provenance.hardware() | {"gpus": _gpu_names()},
        }
    )
    with record.log.open("a", encoding="utf-8") as log, redirected(log):
        pulse = Pulse(record, report, leaves, workplace.save_every, workplace.hung_after, log)
        try:
            if restarted:
                print("The engine has changed since this cell began: it begins again.")
            with pulse:
                train(job, workplace, record, pulse)
        except (Leave, LeaseLost, WorkerDied, UnfitNode):
            raise
        except Exception as error:
            if isinstance(error, OSError) and (error.errno in TROUBLE or not _writable(record.path)):
                raise
            traceback.print_exc(file=log)
            record.write_failure(_failure(error, record))
            return False
    return True


def _engine_of(record: CellFolder) -> str:
    """The engine that began the cell. Raises RecordError where the configuration does not say it."""
    try:
        return record.config()["code"]["engine"]
    except (KeyError, TypeError):
        raise RecordError(
            f"{record.path / 'config.json'} does not name the engine that began it. Delete that cell's folder "
            "and run again."
        ) from None


def _failure(error: Exception, record: CellFolder) -> dict[str, str]:
    return {
        "kind": _kind(error),
        "message": f"{type(error).__name__}: {str(error).strip() or '(no message)'}",
        "where": where(error),
        "log": str(record.log),
    }


def _writable(folder: Path) -> bool:
    probe = folder / ".probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # More than the metadata of a file: a full disk may still have room for that.
        probe.write_bytes(bytes(1 << 16))
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return True


@contextlib.contextmanager
def redirected(log: IO[str]) -> Iterator[None]:
    """Prints and warnings of the cell go to its log; the terminal belongs to the driver."""
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log), warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


def _kind(error: Exception) -> str:
    if isinstance(error, training.NotFinite):
        return "not finite"
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "out of memory"
    return "data or configuration" if isinstance(error, UserError) else "code"


def where(error: Exception) -> str:
    """File and line of the innermost frame outside installed packages: where a reader looks first.

    An error that comes from another process says it itself, in an attribute of this name.
    """
    if told := getattr(error, "where", ""):
        return str(told)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _gpu_names() -> list[str]:
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
