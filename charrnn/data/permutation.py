"""A random permutation of many items that needs no memory: each of its entries is computed on its own.

It is a Feistel network over pairs of numbers from 0 to a - 1, where a² is the
smallest square that is at least the number of items. A result that is not the
number of an item goes through the network again (Black and Rogaway, "Ciphers with arbitrary finite
domains", CT-RSA 2002). The round function is the finaliser of SplitMix64
(Steele, Lea and Flood, OOPSLA 2014).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6


def shuffled(places: NDArray[np.int64], count: int, seed: int, epochs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of the items at given places in the order of an epoch.

    For one seed and one epoch, the places 0 to count - 1 give every item exactly once.

    Args:
        places: places in the order, int64 ``[n]``, from 0 to ``count - 1``.
        count: number of items.
        seed: seed of all orders.
        epochs: the epoch to whose order each place belongs, int64 ``[n]``.

    Returns:
        Indices of items, int64 ``[n]``.
    """
    side = np.uint64(max(1, math.isqrt(count - 1) + 1))
    with np.errstate(over="ignore"):
        # Keys are mixed twice, so that the orders of neighbouring seeds and epochs are unrelated.
        key = _mixed(_mixed(np.uint64(seed % 2**64) + np.zeros(len(places), np.uint64)) ^ epochs.astype(np.uint64))
        out = places.astype(np.uint64)
        outside = np.arange(len(places))
        while len(outside):
            left, right = out[outside] // side, out[outside] % side
            for number in range(_ROUNDS):
                mask = _mixed(right ^ (key[outside] + np.uint64(number)))
                left, right = right, (left + mask % side) % side
            out[outside] = left * side + right
            outside = outside[out[outside] >= count]
    return out.astype(np.int64)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser, after one step of its counter."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
