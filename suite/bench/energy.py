"""Energy of what runs, by codecarbon: the processor's and the GPU's own counters, or an estimate. In no network.

The only importer of codecarbon, which is optional: without it there is no energy, and the reason is said. Of it the
hardware classes alone are used: they start no thread, write no file and ask no server.
"""

from __future__ import annotations

import importlib.metadata
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

JOULES = 3.6e6
"""Of a kWh."""


@dataclass(frozen=True)
class Meter:
    """What tells energy; ``parts`` is empty where nothing does."""

    parts: Sequence[Any]
    """codecarbon's hardware: the processor, and on a GPU that too."""
    source: str
    """How the energy is obtained, or why it is not, in words."""

    def joules(self, run: Callable[[], object]) -> float | None:
        """Energy of the machine's processors and the GPU while ``run`` runs, others' work included; None without
        parts."""
        for part in self.parts:
            part.start()
        began = perf_counter()
        run()
        if not self.parts:
            return None
        seconds = perf_counter() - began
        return JOULES * sum(part.measure_power_and_energy(seconds)[1].kWh for part in self.parts)


def open_meter(device: str) -> Meter:
    """The meter of ``device``, ``cpu`` or ``cuda``."""
    try:
        from codecarbon import OfflineEmissionsTracker
    except ImportError:
        return Meter((), "not measured: codecarbon, the extra 'energy', is not installed")
    version = f"codecarbon {importlib.metadata.version('codecarbon')}"
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    try:
        # All that it could write, or send, is said to be nothing: a file of settings in the home would decide else.
        tracker = OfflineEmissionsTracker(
            country_iso_code="USA",  # It wants one, for the emissions; of energy it says nothing.
            output_methods=[],
            output_handlers=[],
            emissions_endpoint=None,
            allow_multiple_runs=True,
            log_level="critical",
            output_dir=tempfile.gettempdir(),
            tracking_mode="machine",
            gpu_ids=[f"GPU-{torch.cuda.get_device_properties(0).uuid}"] if device == "cuda" else None,
        )
        tracker.get_detected_hardware()
        found = {type(part).__name__: part for part in tracker._hardware}
    except Exception as error:  # It looks into files and at tools that differ from machine to machine.
        return Meter((), f"not measured: {version} fails on this machine ({type(error).__name__}: {error})")
    wanted = ("CPU", "GPU") if device == "cuda" else ("CPU",)
    missing = [name for name in wanted if name not in found]
    if missing:
        return Meter((), f"not measured: {version} finds no {' and no '.join(missing)} that it can measure here")
    words = [_processor(found["CPU"]), *(["GPU: NVML"] if device == "cuda" else [])]
    return Meter([found[name] for name in wanted], f"{'; '.join(words)} ({version}; the whole machine, no memory)")


def _processor(part: Any) -> str:
    """How codecarbon knows the processor's energy."""
    if part._mode == "intel_rapl":
        return "processor: RAPL counter"
    if part._mode == "cpu_load":
        return f"processor: an estimate, from its load and {part._tdp:g} W that codecarbon takes for full load"
    return f"processor: {part.description()}"
