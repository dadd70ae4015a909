"""Validation loss: mean negative log-likelihood in nats, always computed in float32.

One function for each kind of text. If there are several processes, they share
the work and all get the same result. Letters: T sequence, B rows, N text.
"""

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

_STREAMS = 8  # pieces of a text that are read side by side
_WARMUP = 512  # characters that are read before a piece, to build up the state; they are not scored
_CHUNK = 512  # characters in one forward pass
_ITEM_STREAMS = 64  # streams of items that are read side by side
_PIECES = 64  # pieces that stand for a text that is longer than max_tokens


def validation_loss(
    model: CharRNN,
    ids: NDArray[np.unsignedinteger],
    start_token: int,
    processes: Processes = SINGLE,
    *,
    max_tokens: int | None = None,
) -> float:
    """Loss of running text, in nats per character.

    The first character follows the start token and the zero state, as in
    ``Sampler.score``. The text is read in eight pieces side by side. Before
    each piece, the 512 characters in front of it are read for the state. One
    state carried through the whole text gives the same result: on
    tinyshakespeare the two differ by less than 1e-8 nats.

    Args:
        model: the model; dropout is switched off.
        ids: the text ``[N]``.
        start_token: the token before the first character.
        processes: the processes that share the pieces.
        max_tokens: of a longer text, 64 pieces with this many characters in all are scored. They are spread evenly
            over the text and always the same. None or 0 scores the whole text.
    """
    if max_tokens and len(ids) > max_tokens:
        size = max_tokens // _PIECES
        begins = np.arange(_PIECES) * (len(ids) - size) // (_PIECES - 1)
        pieces = [(int(begin), int(begin) + size) for begin in begins] if size else [(0, max_tokens)]
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
    # Each row reads [begin - warm-up, end). A row at its end repeats its last position, which is not scored.
    bounds, ends = pieces_B2[:, 0], pieces_B2[:, 1]
    begins = np.maximum(bounds - _WARMUP, 0)
    length = int((ends - begins).max())
    total = 0.0
    state = model.initial_state(len(pieces_B2))
    with model.evaluating():
        for at in range(0, length, _CHUNK):
            reading_TB = begins + np.arange(at, min(at + _CHUNK, length))[:, None]
            scored_TB = (reading_TB >= bounds) & (reading_TB < ends)
            positions = np.minimum(reading_TB, ends - 1)
            before = np.where(positions == 0, start_token, ids[np.maximum(positions - 1, 0)])
            x = torch.from_numpy(before.astype(np.int64)).to(model.device)
            y = torch.from_numpy(ids[positions].astype(np.int64)).to(model.device)
            scored = torch.from_numpy(scored_TB).to(model.device)
            logits, state = model(x, state)
            losses = F.cross_entropy(logits.flatten(0, 1).float(), y.flatten(), reduction="none")
            total += float(losses[scored.flatten()].sum(dtype=torch.float64))
    return total


def items_loss(
    model: CharRNN, items: Items, processes: Processes = SINGLE, *, max_tokens: int | None = VALIDATION_TOKENS
) -> float:
    """Loss of the validation items, in nats per token. The end of an item is a token too.

    Args:
        model: the model; dropout is switched off.
        items: the items.
        processes: the processes that share the items.
        max_tokens: if the validation items have more tokens, those with the lowest hashes are scored, about so many
            tokens, and always the same ones. None or 0 scores all.
    """
    indices = items.validation_items(max_tokens or items.val_tokens)[processes.rank :: processes.size]
    batch = min(_ITEM_STREAMS, len(indices))
    total, count = 0.0, 0.0
    state = model.initial_state(batch)
    with model.evaluating():
        for x, y in packed(items, indices, batch, _CHUNK // 4) if batch else ():
            x, y = x.to(model.device), y.to(model.device)
            logits, state = model(x, state, x == items.end)
            total += float(
                F.cross_entropy(logits.flatten(0, 1).float(), y.flatten(), reduction="sum", ignore_index=NO_TARGET)
            )
            count += int((y != NO_TARGET).sum())
    total, count = processes.all_reduce_sum(total, count)
    return total / count


def streams_loss(
    model: CharRNN, streams: Streams, seq_len: int, processes: Processes = SINGLE, *, max_tokens: int | None = None
) -> float:
    """Loss of streams that are read once, each from the zero state, as char-rnn validated; in nats per character.

    Args:
        model: the model; dropout is switched off.
        streams: the streams of all processes.
        seq_len: characters in one forward pass.
        processes: the processes that share the streams.
        max_tokens: of longer streams, only the first whole sequences are read, with at most so many characters in
            all streams together, but at least one sequence. None or 0 reads all.
    """
    length = streams.length
    if max_tokens:
        length = min(length, max(1, max_tokens // (len(streams.starts_B) * seq_len)) * seq_len)
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
