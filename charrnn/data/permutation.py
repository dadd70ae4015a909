"""A random order of many items that takes no memory: any place of it can be computed alone.

A Feistel network over pairs of numbers below a, with a² just above the number
of items; what falls outside goes through again (Black and Rogaway, "Ciphers
with arbitrary finite domains", CT-RSA 2002). The round function is the
finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6


def shuffled(places: NDArray[np.int64], count: int, seed: int, epochs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which of ``count`` items stands at each place ``[n]`` of the order of its epoch ``[n]``.

    For one seed and one epoch, the places 0 to count - 1 give every item once.
    """
    side = np.uint64(max(1, math.isqrt(count - 1) + 1))
    with np.errstate(over="ignore"):
        # Keys are mixed twice, so that neighbouring seeds and epochs have nothing in common.
        key = _mixed(_mixed(np.uint64(seed % 2**64) + np.zeros(len(places), np.uint64)) ^ epochs.astype(np.uint64))
        out = places.astype(np.uint64)
        outside = np.arange(len(places))
        while len(outside):
            left, right = out[outside] // side, out[outside] % side
            for turn in range(_ROUNDS):
                mask = _mixed(right ^ (key[outside] + np.uint64(turn)))
                left, right = right, (left + mask % side) % side
            out[outside] = left * side + right
            outside = outside[out[outside] >= count]
    return out.astype(np.int64)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
