"""Where to compute, and in what precision."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from charrnn.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """The device of this name; "auto" takes CUDA, else MPS, else the CPU.

    Raises:
        ConfigError: the name is unknown, or that device is not available here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:[0-9]{1,3})?", name):
        raise ConfigError(f"unknown device {name!r}; known: auto, cpu, cuda, cuda:N, mps")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            why = "this torch is built without CUDA" if torch.version.cuda is None else "no CUDA device is available"
            raise ConfigError(f"--device {name}: {why}; use --device cpu or auto")
        # Without a number it is the current one: with several processes each has its own.
        index = device.index if device.index is not None or not count else torch.cuda.current_device()
        if (index or 0) >= count:
            raise ConfigError(f"--device {name}: there are only {count} CUDA devices, cuda:0 to cuda:{count - 1}")
        return torch.device("cuda", index or 0)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"--device {name}: MPS is not available here; use --device cpu or auto")
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """ "bf16" or "fp32"; "auto" takes bf16 where the processor has instructions for it.

    Raises:
        ConfigError: bf16 was asked for on a CPU for which torch has no bf16 kernels.
    """
    if name == "bf16" and device.type == "cpu" and not cpu_can_bf16():
        raise ConfigError(
            "--precision bf16: torch has no bf16 kernels for this processor; use --precision fp32 or auto"
        )
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu":
        # torch has no public function for this. If the private one is missing, fp32 is always right.
        has = (getattr(torch.cpu, f"_is_{kind}_supported", None) for kind in ("avx512_bf16", "amx_tile"))
        return "bf16" if any(ask is not None and ask() for ask in has) else "fp32"
    return "fp32"


def cpu_can_bf16() -> bool:
    """Whether torch computes in bf16 on this CPU at all, quickly or not: oneDNN's LSTM needs AVX-512."""
    # torch has no public function for this either. If the private one is missing, bf16 is tried.
    ask = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return ask is None or bool(ask())


def to_device(ids: NDArray[Any], device: torch.device) -> Tensor:
    """A batch on the device; to CUDA through pinned memory, so that the copy is asynchronous."""
    tensor = torch.from_numpy(ids)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory for the next step; returns whether this process uses glibc.

    The setting lasts for the whole life of the process.

    By default glibc returns freed blocks of several MB to the system, and every step has to map the same pages
    again. In a virtual machine that was a third of the time of a step of the GRU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    return bool(mallopt(trim_threshold, 1 << 30) and mallopt(mmap_threshold, 1 << 30))


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Within the block, numbers below about 1e-38 become 0, since CPUs compute with them many times slower.

    The setting is one of the process, so it is undone at the end.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
