"""How the workers of a cell make one step together: alone, by torch's DistributedDataParallel, or by DeepSpeed.

The only importer of torch.distributed and deepspeed. Each worker takes its share of every part of a batch; the
gradient that the optimiser sees is that of the whole batch on every worker. What is written and how a cell ends
is the same for all of them, because they agree on it here.

The rule for a tensor that took no part in a step, because its layer was dropped or nothing reads it: no engine
touches it. It gets no decay, its moments stay, and its step is not counted, as torch's optimisers do where the
gradient is None. DistributedDataParallel keeps such gradients None; DeepSpeed fills them with zeros, which is
undone.

A checkpoint has one form, that of one worker, whatever engine wrote it, and any engine goes on from it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import random
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from suite import registry
from suite.attention import Depth
from suite.config import Cell, Placement
from suite.errors import UserError
from suite.optimisers import MEANS, Piece, ShardedAdamW

Value = TypeVar("Value")

BUCKET = 2**25
"""Numbers that DeepSpeed sends at a time, 128 MB of float32; its own default reserves 2 GB."""

SHARED_BY = ("batch_equals_its_rows", "evaluation_is_deterministic")
"""Checks of the contract (suite.contract) that a method must pass for workers to share its batches."""


class NotFinite(RuntimeError):
    """The loss, or its gradient, is infinite or not a number."""


def restore_defaults() -> None:
    """Sets what is global in torch and numpy as a new process has it: a method's code may have left it otherwise.

    A cell would give other numbers after another cell than by itself.
    """
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_flush_denormal(False)
    torch.set_grad_enabled(True)
    torch.set_anomaly_enabled(False)
    if torch.are_deterministic_algorithms_enabled():  # To say so again takes a second: it imports torch's compiler.
        torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision("highest")
    torch.backends.mkldnn.enabled = True
    torch.backends.cudnn.enabled = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = False
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = True
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
    for device in ("cpu", "cuda"):
        torch.set_autocast_enabled(device, False)
    np.seterr(divide="warn", over="warn", under="ignore", invalid="warn")
    # No number of ours depends on them; those of a method of somebody else's may.
    random.seed(0)
    np.random.seed(0)


def check_placement(placement: Placement, cells: Iterable[Cell]) -> None:
    """Raises UserError where ``cells`` cannot train as ``placement`` says. Imports no DeepSpeed."""
    if placement.engine == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        raise UserError("The engine deepspeed needs the package deepspeed, which is not installed: pip install it.")
    if placement.zero_stage == 3:
        raise UserError(
            "ZeRO stage 3 shares out the weights themselves, but a method's projection, penalty and statistics "
            "read whole tensors, and LXMERT's weights take less than 1 GB. Expected --zero-stage 0, 1 or 2; "
            "received 3."
        )
    if placement.gpus not in (None, 0, 1) and (placement.gpus > 1 or placement.workers > 1):
        raise UserError(
            f"A worker trains on one GPU of its own or on none, and a single one may take a part; received "
            f"{placement.gpus:g} for each of {placement.workers}. Take --gpus-per-cell 1, and more --workers."
        )
    for cell in cells:
        if cell.keep is None:  # Such a cell trains nothing and runs on one worker.
            _check_cell(placement, cell)


def _check_cell(placement: Placement, cell: Cell) -> None:
    protocol, workers = cell.protocol, placement.workers
    if placement.zero_stage and protocol.optimizer != "adamw":
        raise UserError(
            f"{protocol.optimizer} scales each tensor's update to the tensor's length, and ZeRO stage "
            f"{placement.zero_stage} cuts tensors up among the workers: it would be another algorithm. Take "
            "--zero-stage 0, or cells with optimizer=adamw."
        )
    smallest = protocol.batch_size // protocol.accumulate
    if smallest < workers:
        raise UserError(
            f"A batch of {protocol.batch_size} in {protocol.accumulate} parts has parts of {smallest} questions: "
            f"too few for {workers} workers to have one each. Take fewer workers, or fewer parts."
        )
    if workers > 1 and "batch_size" in cell.arguments:
        raise UserError(
            f"{cell.variant} is made for batches of {cell.arguments['batch_size']} questions, of which each of "
            f"{workers} workers would see a share only. Train it on one worker."
        )
    broken = registry.find("variant", cell.variant).breaks
    if workers > 1 and (reasons := [broken[promise] for promise in SHARED_BY if promise in broken]):
        raise UserError(
            f"{cell.variant} does not answer each question by itself: {reasons[0]} {workers} workers, which share "
            "out batches, would have other results than one. Train it on one worker."
        )


class Engine:
    """One worker, by itself."""

    rank = 0
    workers = 1

    objective: nn.Module
    optimiser: torch.optim.Optimizer

    @property
    def is_first(self) -> bool:
        """Whether this worker writes the record."""
        return self.rank == 0

    def prepare(self, objective: nn.Module, optimiser: torch.optim.Optimizer, clip: float) -> None:
        """Before the first step, once model and optimiser are as they start or resume, the same on every worker.

        ``objective`` returns what to take the gradient of, and a loss to report. ``clip`` is the largest norm of
        the gradient over all parameters.
        """
        self.objective, self.optimiser, self.clip = objective, optimiser, clip
        for module in objective.modules():
            if isinstance(module, Depth):
                module.summed = self.summed

    def set_rate(self, rate: float) -> None:
        """The learning rate of the next step."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def share(self, rows: np.ndarray) -> np.ndarray:
        """This worker's part of ``rows`` (N,): those beside each other, as many as others have or one more."""
        return np.array_split(rows, self.workers)[self.rank] if self.workers > 1 else rows

    def zero_grad(self) -> None:
        self.optimiser.zero_grad(set_to_none=True)

    def backward(self, is_last: bool, *inputs: Any) -> Tensor:
        """Adds the gradient of the objective of ``inputs``; returns the loss to report. ``is_last`` of the step."""
        minimised, loss = self.objective(*inputs)
        minimised.backward()
        return loss

    def step(self) -> None:
        """One step of the optimiser with the clipped gradient. Tensors that took no part are left alone."""
        torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self.clip)
        self.optimiser.step()

    def projected(self) -> None:
        """Called when weights were changed outside the optimiser, the same way on every worker."""

    def optimiser_state(self) -> dict[str, Any]:
        """The state that a single worker's optimiser would have, whole on the first worker. All must call it."""
        return self.optimiser.state_dict()

    def summed(self, value: Tensor) -> Tensor:
        """The sum of all workers' ``value``."""
        return value

    def greatest(self, number: int) -> int:
        """The greatest of all workers' ``number``."""
        return number

    def agreed(self, make: Callable[[], Value]) -> Value:
        """What the first worker's ``make`` returns, on every worker."""
        return make()

    def in_order(self, results: Sequence[Value]) -> list[Value]:
        """All workers' results in one list, where worker r of n has those of places r, r + n, r + 2n and so on."""
        return list(results)


class Distributed(Engine):
    """Several workers by torch's DistributedDataParallel: gloo on CPUs, NCCL on GPUs.

    The process group must be there. Gradients are averaged over the workers while the backward pass goes on.
    """

    def __init__(self) -> None:
        self.rank, self.workers = dist.get_rank(), dist.get_world_size()
        self.statistics: list[Tensor] = []
        """What modules count while they run, in buffers: the same on all workers, as layers may depend on it."""

    def prepare(self, objective: nn.Module, optimiser: torch.optim.Optimizer, clip: float) -> None:
        super().prepare(objective, optimiser, clip)
        self._find_statistics()
        device = next(objective.parameters()).device
        # Buffers it would send before a pass alone, and not between the parts of a batch.
        self.parallel = DistributedDataParallel(
            objective,
            device_ids=None if device.type == "cpu" else [device],
            find_unused_parameters=True,
            forward_sync_buffers=False,
        )

    def backward(self, is_last: bool, *inputs: Any) -> Tensor:
        with contextlib.nullcontext() if is_last else self.parallel.no_sync():
            minimised, loss = self.parallel(*inputs)
            minimised.backward()
        self._share_statistics()
        return loss

    def _find_statistics(self) -> None:
        self.statistics = [buffer for buffer in self.objective.buffers() if buffer.is_floating_point()]

    @torch.no_grad()
    def _share_statistics(self) -> None:
        """Each becomes the mean over the workers."""
        if self.statistics:
            flat = torch.cat([buffer.flatten() for buffer in self.statistics])
            dist.all_reduce(flat)
            flat /= self.workers
            parts = flat.split([buffer.numel() for buffer in self.statistics])
            for buffer, part in zip(self.statistics, parts, strict=True):
                buffer.copy_(part.view_as(buffer))

    def summed(self, value: Tensor) -> Tensor:
        dist.all_reduce(value)
        return value

    def greatest(self, number: int) -> int:
        held = torch.tensor(number)
        dist.all_reduce(held, dist.ReduceOp.MAX)
        return int(held)

    def agreed(self, make: Callable[[], Value]) -> Value:
        held = [make() if self.is_first else None]
        dist.broadcast_object_list(held, src=0)
        return held[0]  # type: ignore[return-value]

    def in_order(self, results: Sequence[Value]) -> list[Value]:
        everybody: list[list[Value]] = [[]] * self.workers
        dist.all_gather_object(everybody, list(results))
        return interleaved(everybody)


class DeepSpeed(Distributed):
    """Several workers, or one, by DeepSpeed, with ZeRO stage 0, 1 or 2."""

    def __init__(self, zero_stage: int) -> None:
        super().__init__()
        self.zero_stage = zero_stage
        self.touched: set[int] = set()
        """Places of the parameters that have got a gradient in this step, on this worker."""

    def prepare(self, objective: nn.Module, optimiser: torch.optim.Optimizer, clip: float) -> None:
        Engine.prepare(self, objective, optimiser, clip)
        self._find_statistics()
        self.parameters = [weight for group in optimiser.param_groups for weight in group["params"]]
        for place, weight in enumerate(self.parameters):
            weight.register_post_accumulate_grad_hook(lambda _, place=place: self.touched.add(place))
        if self.zero_stage:
            assert isinstance(optimiser, torch.optim.AdamW)
            self.plain, self.optimiser = optimiser, ShardedAdamW(optimiser)
        self.deepspeed = _initialise(objective, self.optimiser, clip, self.zero_stage)
        if self.zero_stage:
            self._attach()

    def zero_grad(self) -> None:
        self.touched.clear()  # DeepSpeed itself has left no gradient behind.

    def backward(self, is_last: bool, *inputs: Any) -> Tensor:
        self.deepspeed.set_gradient_accumulation_boundary(is_last)
        minimised, loss = self.deepspeed(*inputs)
        self.deepspeed.backward(minimised, scale_wrt_gas=False)
        self._share_statistics()
        return loss

    def step(self) -> None:
        took_part = self._took_part()
        if isinstance(self.optimiser, ShardedAdamW):
            self.optimiser.begin(took_part)
        else:
            for weight, part in zip(self.parameters, took_part, strict=True):
                if not part:
                    weight.grad = None
        self.deepspeed.step()
        if self.zero_stage and self.deepspeed.optimizer.overflow:
            # It leaves out such a step, and says nothing.
            raise NotFinite("The gradient is not finite. Lower the learning rate.")

    def _took_part(self) -> list[bool]:
        """Of each parameter: whether it has a gradient on any worker."""
        mine = torch.zeros(len(self.parameters), dtype=torch.uint8)
        mine[list(self.touched)] = 1
        some = mine.clone()
        dist.all_reduce(some, dist.ReduceOp.MAX)
        if self.zero_stage:
            # ZeRO sends the gradients that a worker has, without their names.
            every = mine
            dist.all_reduce(every, dist.ReduceOp.MIN)
            if not torch.equal(some, every):
                raise UserError(
                    f"{int((some != every).sum())} tensors took part in a step on some workers and not on others, "
                    f"which ZeRO stage {self.zero_stage} cannot do. Take --zero-stage 0."
                )
        return some.bool().tolist()

    def projected(self) -> None:
        if self.zero_stage:
            # It has a copy of the weights, from which the next step would go on.
            self.deepspeed.optimizer.refresh_fp32_params()

    def optimiser_state(self) -> dict[str, Any]:
        if not isinstance(self.optimiser, ShardedAdamW):
            return super().optimiser_state()
        state: dict[int, dict[str, Tensor]] = {}
        for group, flat, size in self._groups():
            for name in MEANS:
                whole = flat.new_empty(size * self.workers)
                dist.all_gather(list(whole.split(size)), self.optimiser.state[flat][name])
                parts = whole.split([*map(torch.numel, group), len(whole) - sum(map(torch.numel, group))])
                for weight, part in zip(group, parts, strict=False):  # The last part fills up.
                    held = state.setdefault(self.places[weight], {})
                    if self.is_first:
                        held[name] = part.view_as(weight).to("cpu", copy=True)
        for place, steps in enumerate(self.optimiser.steps):
            state[place]["step"] = torch.tensor(float(steps))
        rate = self.optimiser.param_groups[0]["lr"]
        return {
            "state": {place: held for place, held in sorted(state.items()) if self.optimiser.steps[place]},
            "param_groups": [group | {"lr": rate} for group in self.plain.state_dict()["param_groups"]],
        }

    def _attach(self) -> None:
        """Gives the sharded optimiser this worker's pieces, and the state that the plain one has."""
        assert isinstance(self.optimiser, ShardedAdamW)
        self.places = {weight: place for place, weight in enumerate(self.parameters)}
        pieces = []
        for group, _, size in self._groups():
            begin, ends = self.rank * size, np.cumsum([weight.numel() for weight in group])
            places = [(end - weight.numel() - begin, end - begin) for weight, end in zip(group, ends, strict=True)]
            pieces.append(
                [
                    Piece(self.places[weight], max(int(first), 0), min(int(last), size))
                    for weight, (first, last) in zip(group, places, strict=True)
                    if first < size and last > 0
                ]
            )
        self.optimiser.attach(pieces)
        for group, flat, size in self._groups():
            for name in MEANS:
                whole = torch.cat([self._plain_mean(weight, name) for weight in group])
                mine = whole[self.rank * size : (self.rank + 1) * size]
                self.optimiser.state[flat][name][: len(mine)] = mine
        steps = [self.plain.state[weight].get("step", 0) for weight in self.parameters]
        self.optimiser.steps = [int(each) for each in steps]
        self.plain.state.clear()

    def _plain_mean(self, weight: Tensor, name: str) -> Tensor:
        held = self.plain.state[weight].get(name)
        return torch.zeros_like(weight).flatten() if held is None else held.flatten()

    def _groups(self) -> list[tuple[list[Tensor], Tensor, int]]:
        """Of each group of parameters: these, this worker's flat part of them, and its size.

        The parameters lie in a row, filled up to a multiple of the workers; worker r has the r-th part.
        """
        zero = self.deepspeed.optimizer
        return list(
            zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, map(int, zero.partition_size), strict=True)
        )


def interleaved(lists: Sequence[Sequence[Value]]) -> list[Value]:
    """The n lists as one, of which the r-th has what stands at places r, r + n, r + 2n and so on."""
    count = sum(map(len, lists))
    return [lists[place % len(lists)][place // len(lists)] for place in range(count)]


def _initialise(objective: nn.Module, optimiser: torch.optim.Optimizer, clip: float, zero_stage: int) -> Any:
    """DeepSpeed's engine, quiet."""
    if next(objective.parameters()).device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"  # It is read at the import.
    import deepspeed
    from deepspeed.utils.logging import logger

    logger.setLevel(logging.ERROR)  # Else it warns of every optimiser that is not its own.
    warnings.filterwarnings("ignore", "`torch.distributed.all_gather_into_tensor` is deprecated", FutureWarning)
    # A kernel for inference, which it would compile for a minute before the first step.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    configuration = {
        "train_micro_batch_size_per_gpu": 1,  # Not used: shares of a batch may differ in size.
        "gradient_clipping": clip,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": zero_stage,
            "overlap_comm": False,
            "round_robin_gradients": False,
            "parameter_alignment": False,
            "reduce_bucket_size": BUCKET,
            "allgather_bucket_size": BUCKET,
        },
    }
    engine, *_ = deepspeed.initialize(model=objective, optimizer=optimiser, config=configuration)
    return engine


def is_lost_worker(error: Exception) -> bool:
    """Whether ``error`` says that another worker cannot be reached: the cell itself has done nothing wrong."""
    # Gloo's are plain RuntimeErrors, and begin with the place in its source.
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))


def join_on_loopback(meeting: Path, rank: int, workers: int, backends: str) -> None:
    """Makes the process group of workers on one machine, who meet in the file ``meeting`` of its user alone.

    torch's own place to meet is a server that listens to every network and asks nobody who he is; and gloo and
    NCCL listen where the machine's name leads.
    """
    loopback = next(
        name for name, has in psutil.net_if_addrs().items() if any(one.address == "127.0.0.1" for one in has)
    )
    # NCCL takes all whose names begin so, but for what follows a =.
    os.environ.update(GLOO_SOCKET_IFNAME=loopback, NCCL_SOCKET_IFNAME=f"={loopback}")
    dist.init_process_group(backends, store=dist.FileStore(str(meeting), workers), rank=rank, world_size=workers)


def leave_group() -> None:
    """Ends what ``join_on_loopback`` has made, where it came to that."""
    if dist.is_initialized():
        dist.destroy_process_group()


def build_engine(placement: Placement) -> Engine:
    """The engine of a worker, which is in its process group already where it has one."""
    if placement.alone:
        return Engine()
    return DeepSpeed(placement.zero_stage) if placement.engine == "deepspeed" else Distributed()


BACKENDS = "cpu:gloo,cuda:nccl"
"""Of a process group: what the workers agree on does not have to wait for a GPU."""
