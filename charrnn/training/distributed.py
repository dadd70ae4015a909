"""Several processes, one run: each trains on its rows of the batch, and all come to the same decisions.

``torchrun`` starts the processes and tells each its rank. Gradients are
averaged by DistributedDataParallel (gloo on a CPU, nccl on GPUs). Everything
else goes through ``Processes``. A single process makes the same calls, which
then return their arguments. Control values (clocks, signals, states for a
checkpoint) are exchanged in a group of their own on the CPU, so that they never
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

# Seconds after which a process that does not answer is considered dead. One that has ended is noticed at once.
TIMEOUT = 600.0
TIMEOUT_VARIABLE = "CHARRNN_PROCESS_TIMEOUT"


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as seen by one of them.

    Attributes:
        rank: number of this process. The process with rank 0 writes files and prints.
        size: number of processes.
        control: process group for values on the CPU; None in a single process.
    """

    rank: int = 0
    size: int = 1
    control: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def rows(self, batch_size: int) -> slice:
        """The rows of a batch that this process reads; the numbers of rows differ by one at most.

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
        """The model, with a backward pass that averages the gradients. Its weights become those of rank 0."""
        if self.size == 1:
            return model
        return DistributedDataParallel(model)

    def mean(self, loss: Tensor, count: int | Tensor) -> tuple[Tensor, Tensor | float]:
        """Mean loss over the targets of all processes, and the factor by which to multiply this process's loss.

        DistributedDataParallel averages the gradients of the processes with
        equal weights, but the processes may have different numbers of targets.
        The factor corrects for that.

        Args:
            loss: mean over this process's targets, a scalar; 0 if it has no targets.
            count: number of its targets.

        Returns:
            The mean loss, detached, and the factor.
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
        """The maximum over all processes of each value; for clocks and signals."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def _reduced(self, values: tuple[float, ...], how: Any) -> tuple[float, ...]:
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, how, group=self.control)
        return tuple(tensor.tolist())

    def all_gather(self, value: _T) -> list[_T]:
        """The values of all processes, in the order of ranks. Tensors must be on the CPU."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def broadcast(self, value: _T) -> _T:
        """The value of the process with rank 0."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.control)
        return values[0]


SINGLE = Processes()


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """The processes that torchrun started, or a single one without torchrun.

    Args:
        device: the value of ``--device``. If there are several processes, each
            uses the GPU of its local rank.

    Raises:
        ConfigError: several processes cannot share this device, or there are fewer GPUs than processes.
        DistributedError: another process has ended, or has not answered for too long.
    """
    try:
        rank, size, local = (int(os.environ.get(name, one)) for name, one in _VARIABLES)
    except ValueError as error:
        raise ConfigError(f"torchrun's variables RANK, WORLD_SIZE and LOCAL_RANK must be numbers: {error}") from error
    if size <= 1:
        yield SINGLE
        return
    backend = _backend(device, local)
    limit = timedelta(seconds=float(os.environ.get(TIMEOUT_VARIABLE, TIMEOUT)))
    try:
        with _lost_process_errors(rank):
            dist.init_process_group(backend, timeout=limit)
            control = dist.group.WORLD if backend == "gloo" else dist.new_group(backend="gloo", timeout=limit)
            yield Processes(rank, size, control)
            dist.barrier(group=control)  # without it, the others would take the first process to leave for a failed one
    finally:
        if dist.is_initialized():
            with suppress(Exception):
                dist.destroy_process_group()


_VARIABLES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


def _backend(device: str, local: int) -> str:
    """The backend for this device. Makes the GPU of the local rank the current one."""
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
def _lost_process_errors(rank: int) -> Iterator[None]:
    """Turns errors of torch that mean that another process has ended into a DistributedError."""
    try:
        yield
    except RuntimeError as error:
        # gloo raises plain RuntimeErrors; they are recognised by the source file that they name.
        if isinstance(error, dist.DistError) or re.search(r"gloo|by peer|timed? ?out", str(error), re.IGNORECASE):
            reason = str(error).strip().partition("\n")[0]
            raise DistributedError(
                f"process {rank}: another process of the run ended or does not answer ({reason}); "
                "resume from the last checkpoint with: charrnn train --resume --out FOLDER"
            ) from error
        raise
