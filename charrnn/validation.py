"""Validation loss: the text read once, the state carried."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from charrnn.model import CharRNN
from charrnn.packed import NO_TARGET, VALIDATION_TOKENS, Items, packed
from charrnn.streams import Streams

_STREAMS = 8  # side by side, for speed
_WARMUP = 512  # characters each stream but the first reads before it is scored
_CHUNK = 512  # characters a forward
_ITEM_STREAMS = 64  # streams of items side by side


def validation_loss(model: CharRNN, ids: NDArray[np.unsignedinteger], start_token: int) -> float:
    """Mean negative log-likelihood in nats of every character of a text ``[N]``.

    The first one follows the start token and the zero state, as in
    ``Sampler.score``. The text is read as eight streams at once, each led in
    by the 512 characters before it, which is as good as one state carried
    through: on tinyshakespeare the two differ by less than 1e-8 nats.
    Computed in float32, whatever the training computes in.
    """
    inputs = np.concatenate([np.array([start_token], dtype=ids.dtype), ids[:-1]])
    streams = _STREAMS if len(ids) >= 4 * _STREAMS * _WARMUP else 1
    bounds = np.arange(streams + 1) * len(ids) // streams
    length = int(np.diff(bounds).max()) + (_WARMUP if streams > 1 else 0)
    # Each stream is [begin - warm-up, end); shorter ones repeat their last place, unscored.
    begins = np.maximum(bounds[:-1] - (_WARMUP if streams > 1 else 0), 0)
    reading_TB = begins + np.arange(length)[:, None]
    scored_TB = (reading_TB >= bounds[:-1]) & (reading_TB < bounds[1:])
    places_TB = np.minimum(reading_TB, bounds[1:] - 1)
    total = 0.0
    state = model.initial_state(streams)
    with model.evaluating():
        for at in range(0, length, _CHUNK):
            places = places_TB[at : at + _CHUNK]
            x = torch.from_numpy(inputs[places].astype(np.int64)).to(model.device)
            y = torch.from_numpy(ids[places].astype(np.int64)).to(model.device)
            scored = torch.from_numpy(scored_TB[at : at + _CHUNK]).to(model.device)
            logits, state = model(x, state)
            losses = F.cross_entropy(logits.flatten(0, 1).float(), y.flatten(), reduction="none")
            total += float(losses[scored.flatten()].sum(dtype=torch.float64))
    return total / len(ids)


def items_loss(model: CharRNN, items: Items, *, most: int = VALIDATION_TOKENS) -> float:
    """Mean negative log-likelihood in nats of every token of the validation items, their ends included.

    Where they have more than ``most`` tokens, those with the lowest hashes stand for all: always the same ones.
    """
    numbers = items.validation_items(most)
    batch = min(_ITEM_STREAMS, len(numbers))
    total, count = 0.0, 0
    state = model.initial_state(batch)
    with model.evaluating():
        for x, y in packed(items, numbers, batch, _CHUNK // 4):
            x, y = x.to(model.device), y.to(model.device)
            logits, state = model(x, state, x == items.end)
            total += float(
                F.cross_entropy(logits.flatten(0, 1).float(), y.flatten(), reduction="sum", ignore_index=NO_TARGET)
            )
            count += int((y != NO_TARGET).sum())
    return total / count


def streams_loss(model: CharRNN, streams: Streams, seq_len: int) -> float:
    """Mean negative log-likelihood in nats over streams read once from the zero state, as char-rnn validated."""
    fresh = Streams(streams.ids, streams.starts_B, streams.length)
    total, count = 0.0, 0
    state = model.initial_state(len(fresh.starts_B))
    with model.evaluating():
        while fresh.position < fresh.length:
            x, y = (torch.from_numpy(ids).to(model.device) for ids in fresh.next(seq_len))
            logits, state = model(x, state)
            total += float(F.cross_entropy(logits.flatten(0, 1).float(), y.flatten(), reduction="sum"))
            count += y.numel()
    return total / count
