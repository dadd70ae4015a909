"""Validation loss: the text read once, the state carried."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from charrnn.data.item_streams import NO_TARGET, VALIDATION_TOKENS, Items, packed
from charrnn.data.streams import Streams
from charrnn.model.char_rnn import CharRNN
from charrnn.training.distributed import SINGLE, Processes

_STREAMS = 8  # side by side, for speed
_WARMUP = 512  # characters each stream but the first reads before it is scored
_CHUNK = 512  # characters a forward
_ITEM_STREAMS = 64  # streams of items side by side


_PIECES = 64  # of a validation text that is too long to be read whole


def validation_loss(
    model: CharRNN,
    ids: NDArray[np.unsignedinteger],
    start_token: int,
    processes: Processes = SINGLE,
    *,
    most: int | None = None,
) -> float:
    """Mean negative log-likelihood in nats of every character of a text ``[N]``.

    The first one follows the start token and the zero state, as in
    ``Sampler.score``. The text is read as eight streams at once, each led in
    by the 512 characters before it, which is as good as one state carried
    through: on tinyshakespeare the two differ by less than 1e-8 nats.
    Computed in float32, whatever the training computes in. Several processes
    share the streams; all get the same figure.

    Of a text of more than ``most`` characters, 64 pieces that together have as
    many are scored, spread evenly from its beginning to its end, always the same.
    """
    if most and len(ids) > most:
        begins = np.arange(_PIECES) * (len(ids) - most // _PIECES) // (_PIECES - 1)
        pieces = [(int(begin), int(begin) + most // _PIECES) for begin in begins] if most >= _PIECES else [(0, most)]
    else:
        streams = _STREAMS if len(ids) >= 4 * _STREAMS * _WARMUP else 1
        bounds = np.arange(streams + 1) * len(ids) // streams
        pieces = [(int(begin), int(end)) for begin, end in itertools.pairwise(bounds)]
    total = 0.0
    for at in range(0, len(pieces), _STREAMS):
        own = pieces[at : at + _STREAMS][processes.rank :: processes.size]
        if own:
            total += _pieces_loss(model, ids, start_token, np.array(own))
    return processes.all_reduce_sum(total)[0] / sum(end - begin for begin, end in pieces)


def _pieces_loss(
    model: CharRNN, ids: NDArray[np.unsignedinteger], start_token: int, pieces_B2: NDArray[np.int64]
) -> float:
    """Summed negative log-likelihood of pieces ``[begin, end)`` of a text, read side by side."""
    # Each stream is [begin - warm-up, end); shorter ones repeat their last place, unscored.
    bounds, ends = pieces_B2[:, 0], pieces_B2[:, 1]
    begins = np.maximum(bounds - _WARMUP, 0)
    length = int((ends - begins).max())
    total = 0.0
    state = model.initial_state(len(pieces_B2))
    with model.evaluating():
        for at in range(0, length, _CHUNK):
            reading_TB = begins + np.arange(at, min(at + _CHUNK, length))[:, None]
            scored_TB = (reading_TB >= bounds) & (reading_TB < ends)
            places = np.minimum(reading_TB, ends - 1)
            before = np.where(places == 0, start_token, ids[np.maximum(places - 1, 0)])
            x = torch.from_numpy(before.astype(np.int64)).to(model.device)
            y = torch.from_numpy(ids[places].astype(np.int64)).to(model.device)
            scored = torch.from_numpy(scored_TB).to(model.device)
            logits, state = model(x, state)
            losses = F.cross_entropy(logits.flatten(0, 1).float(), y.flatten(), reduction="none")
            total += float(losses[scored.flatten()].sum(dtype=torch.float64))
    return total


def items_loss(
    model: CharRNN, items: Items, processes: Processes = SINGLE, *, most: int | None = VALIDATION_TOKENS
) -> float:
    """Mean negative log-likelihood in nats of every token of the validation items, their ends included.

    Where they have more than ``most`` tokens, those with the lowest hashes stand for all: always the same ones.
    Several processes share the items; all get the same figure.
    """
    numbers = items.validation_items(most or items.val_tokens)[processes.rank :: processes.size]
    batch = min(_ITEM_STREAMS, len(numbers))
    total, count = 0.0, 0.0
    state = model.initial_state(batch)
    with model.evaluating():
        for x, y in packed(items, numbers, batch, _CHUNK // 4) if batch else ():
            x, y = x.to(model.device), y.to(model.device)
            logits, state = model(x, state, x == items.end)
            total += float(
                F.cross_entropy(logits.flatten(0, 1).float(), y.flatten(), reduction="sum", ignore_index=NO_TARGET)
            )
            count += int((y != NO_TARGET).sum())
    total, count = processes.all_reduce_sum(total, count)
    return total / count


def streams_loss(
    model: CharRNN, streams: Streams, seq_len: int, processes: Processes = SINGLE, *, most: int | None = None
) -> float:
    """Mean negative log-likelihood in nats over streams read once from the zero state, as char-rnn validated.

    Of streams that have more than ``most`` characters in all, the first whole sequences of each are read.
    """
    length = streams.length
    if most:
        length = min(length, max(1, most // (len(streams.starts_B) * seq_len)) * seq_len)
    own = processes.rows(len(streams.starts_B))
    fresh = Streams(streams.ids, streams.starts_B[own], length)
    total, count = 0.0, 0.0
    state = model.initial_state(len(fresh.starts_B))
    with model.evaluating():
        while fresh.position < fresh.length:
            x, y = (torch.from_numpy(ids).to(model.device) for ids in fresh.next(seq_len))
            logits, state = model(x, state)
            total += float(F.cross_entropy(logits.flatten(0, 1).float(), y.flatten(), reduction="sum"))
            count += y.numel()
    total, count = processes.all_reduce_sum(total, count)
    return total / count
