"""``run_cell``: what surrounds the training of a cell. Who may write its record, and what becomes of a fault.

What goes wrong in code or data is recorded and never tried again by itself. A run folder that cannot be written
is waited for. Anything else ends the process, and whoever started it starts the cell again elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
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
from suite.files import damaged
from suite.lease import SILENCE, Holder, Lease, LeaseLost
from suite.patience import TROUBLE
from suite.plan import Job, Workplace, probe
from suite.pulse import Leave, Progress, Pulse, drain_markers
from suite.records import CellFolder, RecordError, StudyFolder
from suite.terminal import say

MESSAGE = 4000
"""Characters of an error that a failure keeps: the log has the whole."""

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
            record.check_links()
            patient = waited < workplace.patience
            return _ended(job, record) or _run_leased(job, workplace, record, report, leaving, train, patient)
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
            what = f"its run folder, {record.path}" if _is_of(error, record) else str(error.filename)
            say(f"{record.id} waits for {what}: {error.strerror}.")
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
    while not writable(folder) and time.monotonic() - began < most:
        time.sleep(1)
    return time.monotonic() - began


def _run_leased(
    job: Job,
    workplace: Workplace,
    record: CellFolder,
    report: Callable[[Progress], None],
    leaving: threading.Event | None,
    train: Train,
    patient: bool,
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
    said: set[Holder | None] = set()

    def waiting(holder: Holder | None) -> None:
        if leaves():
            raise Leave
        if holder not in said:
            whom = "a process whose lease does not read"
            if holder is not None:
                whom = f"process {holder.pid} on {holder.host}, which runs it"
            say(f"{record.id} waits for {whom}; if that is silent, for {SILENCE:.0f} s.")
            said.add(holder)

    lease.take(waiting)
    try:
        if _ended(job, record):
            return True
        record.guard = lease
        return _run_recorded(job, workplace, record, report, leaves, train, patient)
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
    patient: bool,
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
    with record.open_log() as log, redirected(log):
        pulse = Pulse(record, report, leaves, workplace.save_every, workplace.hung_after, log)
        try:
            if restarted:
                print("The engine has changed since this cell began: it begins again.")
            with pulse:
                train(job, workplace, record, pulse)
        except (Leave, LeaseLost, WorkerDied, UnfitNode, KeyboardInterrupt):
            raise
        except BaseException as error:  # sys.exit too: it is the cell that ends, not the launch.
            if isinstance(error, OSError):
                record.check()  # Its files may have gone because the cell is another's.
                passing = error.errno in TROUBLE and (patient or _is_of(error, record))
                if passing or not writable(record.path):
                    raise
            _print_traceback(error, log)
            record.write_failure(_failure(error, record))
            return False
    return True


def _is_of(error: OSError, record: CellFolder) -> bool:
    """Whether it is the record that cannot be written, and not something else that cannot be read."""
    named = error.filename
    writing = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    return writing or named is None or Path(os.fsdecode(named)).is_relative_to(record.path)


def _print_traceback(error: BaseException, log: IO[str]) -> None:
    try:
        traceback.print_exception(error, file=log)
    except Exception as other:  # One that cannot be written.
        print(f"{type(error).__name__}, which cannot be written: {type(other).__name__}", file=log)


def _engine_of(record: CellFolder) -> str:
    """The engine that began the cell. Raises RecordError where the configuration does not say it."""
    try:
        return record.config()["code"]["engine"]
    except (KeyError, TypeError):
        raise damaged(record.path / "config.json", "it does not name the engine that began the cell") from None


def _failure(error: BaseException, record: CellFolder) -> dict[str, str]:
    return {
        "kind": _kind(error),
        "message": f"{type(error).__name__}: {message_of(error)}",
        "where": where(error),
        "log": str(record.log),
    }


def message_of(error: BaseException) -> str:
    """What an error says, as far as it can be written and a reader can use it."""
    try:
        text = str(error).strip() or "(no message)"
    except Exception as other:
        text = f"(its message cannot be read: {type(other).__name__})"
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= MESSAGE else f"{text[:MESSAGE]} ... and {len(text) - MESSAGE:,} characters more"


def writable(folder: Path) -> bool:
    try:
        probe(folder)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def redirected(log: IO[str]) -> Iterator[None]:
    """Prints and warnings of the cell go to its log; the terminal belongs to the driver."""
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log), warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


def _kind(error: BaseException) -> str:
    if isinstance(error, training.NotFinite):
        return "not finite"
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "out of memory"
    return "data or configuration" if isinstance(error, UserError) else "code"


def where(error: BaseException) -> str:
    """File and line of the innermost frame outside installed packages: where a reader looks first.

    An error that comes from another process says it itself, in an attribute of this name.
    """
    if told := getattr(error, "where", ""):
        return str(told)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _gpu_names() -> list[str]:
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
