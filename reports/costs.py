"""What a method costs as it was measured, from the ``cost.json`` of cells; one device per column, never two."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """One cell measured alone on one device by ``ablate bench cost``."""

    cell: str
    """Id."""
    device: str
    """Name of the processor or GPU, with its threads: numbers of different devices are never compared."""
    batch_size: int
    step_seconds: float
    """Median of one training step."""
    questions_per_second: float
    """In prediction, in the batches that evaluation has."""
    latency_p50: float
    """Of one question alone, milliseconds."""
    latency_p99: float
    train_memory: float
    """Peak while training, MiB."""
    predict_memory: float
    """Peak while predicting, MiB."""
    step_energy: float | None
    """Of one training step, joules; None where it could not be had."""
    question_energy: float | None
    """Of one question in prediction, joules."""
    energy_source: str
    """How the energy was obtained: a power counter, or an estimate."""
    to_target: float | None = None
    """Seconds of training to the study's target accuracy on validation: steps of the record times step_seconds."""
