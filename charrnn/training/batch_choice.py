"""Batch size, sequence length and learning rate on a GPU, from what the card computes at little cost.

The recipe's batch of 32 × 48 characters is that of a CPU, where twice the batch takes twice the time. A GPU computes
much larger batches in about the same time: there a step waits for the card to start thousands of small operations, and
not for the operations. So the batch is doubled while a step takes little longer for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace

import torch

from charrnn.config import TrainConfig

LONGER = 1.25  # factor on the time of a step that twice the batch, or twice the sequence, may cost
LARGEST_BATCH, LONGEST_SEQUENCE = 1024, 96
# A run needs so many steps, however large they are: with half of 1,800 steps and twice the batch the recipe was 0.03
# nats worse (benchmarks/README.md).
LEAST_STEPS = 2000
SHORTEST_SECONDS = 20.0  # of a budget; in a shorter one, measuring takes too much of it
# The rate grows with the square root of the batch, the rule for Adam (Malladi et al. 2022, "On the SDEs and Scaling
# Rules for Adaptive Gradient Algorithms"), and the same for Muon, whose updates have a size of their own like Adam's.
# It does not hold without end: beyond some batch the best rate falls again (Li et al. 2024, "Surge Phenomenon in
# Optimal Learning Rate and Batch Size Scaling"). So it grows to twice its value at most.
MOST_RATE = 2.0


def choose_batch(
    train: TrainConfig, *, given: Collection[str], readable: float, speed: Callable[[TrainConfig], float]
) -> tuple[TrainConfig, str]:
    """Settings with a batch, a sequence and a rate that fit the device, and a sentence on them; empty for no change.

    Args:
        train: the settings; with a budget.
        given: names of the settings that the user has fixed; they are kept.
        readable: characters that the run reads at most: all useful passes over its text.
        speed: characters a second with these settings; 0 if they do not fit in the memory.
    """
    if train.steps is not None or (train.time is not None and train.time < SHORTEST_SECONDS):
        return train, ""
    chosen, measured = train, 0.0
    for name, most in (("batch_size", LARGEST_BATCH), ("seq_len", LONGEST_SEQUENCE)):
        while name not in given and 2 * getattr(chosen, name) <= most:
            measured = measured or speed(chosen)
            larger = replace(chosen, **{name: 2 * getattr(chosen, name)})
            faster = speed(larger)
            characters = readable if train.time is None else min(readable, train.time * faster)
            if faster * LONGER < 2 * measured or characters < LEAST_STEPS * larger.batch_size * larger.seq_len:
                break
            chosen, measured = larger, faster
    if chosen == train:
        return train, ""
    if "lr" not in given:
        factor = min(MOST_RATE, math.sqrt(chosen.batch_size / train.batch_size))
        chosen = replace(chosen, lr=float(f"{train.lr * factor:.3g}"))
    return chosen, (
        f"batch {chosen.batch_size} × {chosen.seq_len} and learning rate {chosen.lr:g}, since a step with twice the "
        f"characters takes this device at most {LONGER:g} times as long, up to there"
    )


def on_device(speed: Callable[[TrainConfig], float]) -> Callable[[TrainConfig], float]:
    """A speed that is 0 where the memory of the device is too small."""

    def measured(train: TrainConfig) -> float:
        try:
            return speed(train)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return 0.0

    return measured
