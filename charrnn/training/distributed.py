"""Several processes, one run: each trains on its rows of the batch, and what they decide they decide together.

``torchrun`` starts the processes and tells each its rank. Gradients are
averaged by DistributedDataParallel (gloo on a CPU, nccl on GPUs). Everything
else goes through ``Processes``: a single process passes through the same calls,
which then give back what they got. Control values (clocks, signals, states for
a checkpoint) travel through a group of their own on the CPU, so that they never
wait for a GPU.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from charrnn.errors import ConfigError, DistributedError

_T = TypeVar("_T")

# A process that says nothing for so long is taken for dead; one that ended is noticed at once.
TIMEOUT = 600.0
TIMEOUT_VARIABLE = "CHARRNN_PROCESS_TIMEOUT"


@dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    Attributes:
        rank: 0 writes files and speaks.
        size: how many there are.
        control: the group for values on the CPU; None in a single process.
    """

    rank: int = 0
    size: int = 1
    control: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def rows(self, batch_size: int) -> slice:
        """The rows of a batch that are this process's, as even as can be.

        Raises:
            ConfigError: there are fewer rows than processes.
        """
        if batch_size < self.size:
            raise ConfigError(
                f"a batch of {batch_size} cannot be divided among {self.size} processes; "
                "start fewer (--nproc-per-node), or give a larger --batch-size or a longer text"
            )
        return slice(self.rank * batch_size // self.size, (self.rank + 1) * batch_size // self.size)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model whose backward pass averages the gradients; its weights become those of rank 0."""
        if self.size == 1:
            return model
        return DistributedDataParallel(model)

    def mean(self, loss: Tensor, count: int | Tensor) -> tuple[Tensor, Tensor | float]:
        """Mean loss over the targets of all processes, and what to multiply the own one with for the gradient.

        Processes may have different numbers of targets, and the average that
        DistributedDataParallel takes knows nothing of them.

        Args:
            loss: mean over this process's targets, a scalar; without any targets it must be 0 and not NaN.
            count: how many they are.
        """
        own = loss.detach()
        if self.size == 1:
            return own, 1.0
        number = torch.as_tensor(count, dtype=own.dtype, device=own.device)
        both = torch.stack([own * number, number])
        dist.all_reduce(both)
        total, numbers = both.unbind()
        return total / numbers, number * self.size / numbers

    def all_reduce_sum(self, *values: float) -> tuple[float, ...]:
        """The sum over all processes of each value."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def all_reduce_max(self, *values: float) -> tuple[float, ...]:
        """The largest of each value, the same in all processes; for clocks and signals."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def _reduced(self, values: tuple[float, ...], how: Any) -> tuple[float, ...]:
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, how, group=self.control)
        return tuple(tensor.tolist())

    def all_gather(self, value: _T) -> list[_T]:
        """Everyone's value, in the order of ranks, in all processes; tensors must be on the CPU."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def broadcast(self, value: _T) -> _T:
        """The value that rank 0 has, in all processes."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.control)
        return values[0]


SINGLE = Processes()


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """The processes that torchrun started, or the single one where it did not.

    Args:
        device: the name that ``--device`` was given. With several processes
            each takes the GPU of its local rank.

    Raises:
        ConfigError: the device is none that several processes can share, or there are not enough of them.
        DistributedError: another process ended, or was silent for too long.
    """
    try:
        rank, size, local = (int(os.environ.get(name, one)) for name, one in _VARIABLES)
    except ValueError as error:
        raise ConfigError(f"torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK) is no number: {error}") from error
    if size <= 1:
        yield SINGLE
        return
    backend = _backend(device, local)
    limit = timedelta(seconds=float(os.environ.get(TIMEOUT_VARIABLE, TIMEOUT)))
    try:
        with _lost_ones_named(rank):
            dist.init_process_group(backend, timeout=limit)
            control = dist.group.WORLD if backend == "gloo" else dist.new_group(backend="gloo", timeout=limit)
            yield Processes(rank, size, control)
            dist.barrier(group=control)  # whoever leaves first would look like one that died
    finally:
        if dist.is_initialized():
            with suppress(Exception):
                dist.destroy_process_group()


_VARIABLES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


def _backend(device: str, local: int) -> str:
    """The library for this device; the GPU of the local rank becomes the current one."""
    if re.fullmatch(r"mps|cuda:[0-9]+", device):
        raise ConfigError(f"--device {device}: several processes take --device cpu, cuda or auto")
    if device == "cpu" or not torch.cuda.is_available():
        return "gloo"
    if local >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ConfigError(
            f"process {local} has no GPU: there are {count}; start torchrun with --nproc-per-node {count}"
        )
    torch.cuda.set_device(local)
    return "nccl"


@contextmanager
def _lost_ones_named(rank: int) -> Iterator[None]:
    """Turns what the libraries raise when another process is gone into our error."""
    try:
        yield
    except RuntimeError as error:
        # gloo raises plain RuntimeErrors, known by the source file that they name.
        if isinstance(error, dist.DistError) or re.search(r"gloo|by peer|timed? ?out", str(error), re.IGNORECASE):
            reason = str(error).strip().partition("\n")[0]
            raise DistributedError(
                f"process {rank}: another process of the run ended or does not answer ({reason}); "
                "resume from the last checkpoint with: charrnn train --resume --out FOLDER"
            ) from error
        raise
