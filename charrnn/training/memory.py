"""How much memory a run needs, so that a run that cannot fit is refused before it begins."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from charrnn.config import ModelConfig, TrainConfig
from charrnn.errors import ConfigError

# Bytes for each parameter beside the weight and its gradient, 4 bytes each: the optimizer's state, and for Muon what
# its update works on.
OPTIMIZER_BYTES = {"muon": 12, "adamw": 8, "adam": 8, "rmsprop": 4}
LOGIT_BYTES = 12  # for each logit: itself, its log-probability and its gradient
UNIT_BYTES = 8  # for each hidden unit and input of a character; the vanilla RNN keeps so few, other cells up to 30
CONTROL_GROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # version 2, version 1


@functools.lru_cache(maxsize=256)
def parameters(model: ModelConfig, vocab_size: int) -> int:
    """Number of trained parameters of a model, computed without allocating its weights."""
    from charrnn.model.char_rnn import CharRNN

    with torch.device("meta"):
        return CharRNN(model, vocab_size).num_parameters()


def needed_bytes(model: ModelConfig, train: TrainConfig, vocab_size: int) -> float:
    """Memory of a training run in bytes, without that of the program itself.

    The estimate is low, down to a fifth of what is taken: a run that fits must never be refused.
    """
    try:
        # Layers beyond the first are equal, so that a model of very many need not be made to count their parameters.
        one, two = (parameters(replace(model, num_layers=n), vocab_size) for n in (1, 2))
        weights = one + (model.num_layers - 1) * (two - one)
        inputs = model.embedding_size or vocab_size
        activations = vocab_size * LOGIT_BYTES + (inputs + model.num_layers * model.hidden_size) * UNIT_BYTES
        one_hot = 0 if model.embedding_size else 4 * vocab_size**2
        trained = weights * (8 + OPTIMIZER_BYTES[train.optimizer])
        return float(trained + one_hot + train.batch_size * train.seq_len * activations)
    except (RuntimeError, OverflowError, TypeError, ValueError):  # sizes that torch, or a float, cannot represent
        return math.inf


def available_bytes(device: torch.device) -> float:
    """Memory of the device; on the CPU that of the machine, or what the container or the process may use of it."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    limits = [_machine(), *_control_groups()]
    try:
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            limits.append(float(soft))
    except ImportError:  # Windows
        pass
    return min(limits)


def _machine() -> float:
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return math.inf


def _control_groups() -> list[float]:
    """The limits of Linux's control groups, by which containers bound memory."""
    limits = []
    for path in CONTROL_GROUPS:
        try:
            limits.append(float(Path(path).read_text("ascii")))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return limits


def check_memory(model: ModelConfig, train: TrainConfig, vocab_size: int, device: torch.device) -> None:
    """Checks that a run fits in the memory.

    Raises:
        ConfigError: it does not; says which smaller settings would fit.
    """
    available = available_bytes(device)
    needed = needed_bytes(model, train, vocab_size)
    if needed <= available:
        return

    def fits(name: str, value: int) -> bool:
        change: dict[str, Any] = {name: value}
        of_model = name in ModelConfig.__dataclass_fields__
        smaller = replace(model, **change) if of_model else model
        return needed_bytes(smaller, train if of_model else replace(train, **change), vocab_size) <= available

    sizes = {name: getattr(model, name) for name in ("hidden_size", "num_layers", "embedding_size")}
    sizes |= {name: getattr(train, name) for name in ("batch_size", "seq_len")}
    largest = {name: _largest(functools.partial(fits, name), value) for name, value in sizes.items()}
    options = [f"--{name.replace('_', '-')} {value}" for name, value in largest.items() if value]
    advice = f"what fits is {' or '.join(options)}" if options else "several of them must be smaller"
    asked = ", ".join(f"{name} {value}" for name, value in sizes.items())
    where = "this machine has" if device.type == "cpu" else f"{device} has"
    raise ConfigError(f"{asked} need about {_size(needed)} of memory, and {where} {_size(available)}: {advice}")


def _largest(fits: Callable[[int], bool], value: int) -> int:
    """The largest number below ``value`` that fits, rounded down to two digits; 0 if none does."""
    low, high = 0, min(value, 1 << 40)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    rounding: int = 10 ** max(0, len(str(low)) - 2)
    return low // rounding * rounding


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return "more than 1,000 PB"
