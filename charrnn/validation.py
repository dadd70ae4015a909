"""Validation loss: the text read once, the state carried."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from charrnn.distributed import SINGLE, Processes
from charrnn.model import CharRNN
from charrnn.streams import Streams

_STREAMS = 8  # side by side, for speed
_WARMUP = 512  # characters each stream but the first reads before it is scored
_CHUNK = 512  # characters a forward


def validation_loss(
    model: CharRNN, ids: NDArray[np.unsignedinteger], start_token: int, processes: Processes = SINGLE
) -> float:
    """Mean negative log-likelihood in nats of every character of a text ``[N]``.

    The first one follows the start token and the zero state, as in
    ``Sampler.score``. The text is read as eight streams at once, each led in
    by the 512 characters before it, which is as good as one state carried
    through: on tinyshakespeare the two differ by less than 1e-8 nats.
    Computed in float32, whatever the training computes in. Several processes
    share the streams; all get the same figure.
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
    own = slice(processes.rank, None, processes.size)
    scored_TB, places_TB = scored_TB[:, own], places_TB[:, own]
    total = 0.0
    state = model.initial_state(places_TB.shape[1])
    with model.evaluating():
        for at in range(0, length if places_TB.size else 0, _CHUNK):
            places = places_TB[at : at + _CHUNK]
            x = torch.from_numpy(inputs[places].astype(np.int64)).to(model.device)
            y = torch.from_numpy(ids[places].astype(np.int64)).to(model.device)
            scored = torch.from_numpy(scored_TB[at : at + _CHUNK]).to(model.device)
            logits, state = model(x, state)
            losses = F.cross_entropy(logits.flatten(0, 1).float(), y.flatten(), reduction="none")
            total += float(losses[scored.flatten()].sum(dtype=torch.float64))
    return processes.sum(total)[0] / len(ids)


def streams_loss(model: CharRNN, streams: Streams, seq_len: int, processes: Processes = SINGLE) -> float:
    """Mean negative log-likelihood in nats over streams read once from the zero state, as char-rnn validated."""
    own = processes.rows(len(streams.starts_B))
    fresh = Streams(streams.ids, streams.starts_B[own], streams.length)
    total, count = 0.0, 0.0
    state = model.initial_state(len(fresh.starts_B))
    with model.evaluating():
        while fresh.position < fresh.length:
            x, y = (torch.from_numpy(ids).to(model.device) for ids in fresh.next(seq_len))
            logits, state = model(x, state)
            total += float(F.cross_entropy(logits.flatten(0, 1).float(), y.flatten(), reduction="sum"))
            count += y.numel()
    total, count = processes.sum(total, count)
    return total / count
