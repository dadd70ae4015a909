"""Validation loss: mean negative log-likelihood in nats, always computed in float32.

One function for each kind of text. If there are several processes, they share
the work and all get the same result. Letters: T sequence, B rows, N text.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from charrnn.data.item_streams import NO_TARGET, VALIDATION_TOKENS, Items, packed
from charrnn.data.streams import Streams
from charrnn.model.char_rnn import CharRNN
from charrnn.training.distributed import SINGLE, Processes

_STREAMS = 8  # pieces of a text that are read side by side
_WARMUP = 512  # characters that are read before a piece, to build up the state; they are not scored
_CHUNK = 512  # characters in one forward pass
_ITEM_STREAMS = 64  # streams of items that are read side by side
_BLOCK = 64  # characters that count as one observation
_PIECES = 64  # pieces that stand for a text that is longer than max_tokens


class MeanLoss(NamedTuple):
    """A mean of losses, and how sure it is.

    Attributes:
        mean: nats per character.
        error: standard error of the mean: what another text of the same kind and length would change. Neighbouring
            characters are not independent, so blocks of 64 characters are counted as one observation each
            (the usual estimate of a ratio from clusters: Cochran 1977, section 6).
    """

    mean: float
    error: float


class _Tally:
    """Sums from which a MeanLoss is computed; those of several processes can be added."""

    def __init__(self) -> None:
        self._sums = torch.zeros(5, dtype=torch.float64)

    def add(self, losses_TB: Tensor, scored_TB: Tensor) -> None:
        """Counts the losses that are scored."""
        scored_TB = scored_TB.double()
        pairs = torch.stack([losses_TB.double() * scored_TB, scored_TB])
        short = -pairs.shape[1] % _BLOCK
        losses, counts = F.pad(pairs, (0, 0, 0, short)).view(2, -1, _BLOCK, pairs.shape[2]).sum(2)
        products = (losses, counts, losses**2, losses * counts, counts**2)
        self._sums += torch.stack([product.sum() for product in products]).cpu()

    def mean_loss(self, processes: Processes) -> MeanLoss:
        """The mean of all that has been counted, by all processes together."""
        loss, count, squares, products, counts = processes.all_reduce_sum(*self._sums.tolist())
        mean = loss / count
        variance = squares - 2 * mean * products + mean**2 * counts
        return MeanLoss(mean, math.sqrt(max(variance, 0.0)) / count)


def validation_loss(
    model: CharRNN,
    ids: NDArray[np.unsignedinteger],
    start_token: int,
    processes: Processes = SINGLE,
    *,
    max_tokens: int | None = None,
) -> MeanLoss:
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
    tally = _Tally()
    for at in range(0, len(pieces), _STREAMS):
        own = pieces[at : at + _STREAMS][processes.rank :: processes.size]
        if own:
            _count_pieces(tally, model, ids, start_token, np.array(own))
    return tally.mean_loss(processes)


def _count_pieces(
    tally: _Tally, model: CharRNN, ids: NDArray[np.unsignedinteger], start_token: int, pieces_B2: NDArray[np.int64]
) -> None:
    """Counts the negative log-likelihoods of pieces ``[begin, end)`` of a text, read side by side."""
    # Each row reads [begin - warm-up, end). A row at its end repeats its last position, which is not scored.
    bounds, ends = pieces_B2[:, 0], pieces_B2[:, 1]
    begins = np.maximum(bounds - _WARMUP, 0)
    length = int((ends - begins).max())
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
            tally.add(_losses(logits, y), scored)


def _losses(logits_TBV: Tensor, y_TB: Tensor) -> Tensor:
    """Cross-entropy of each target, ``[T, B]``; 0 for ``NO_TARGET``."""
    losses = F.cross_entropy(logits_TBV.flatten(0, 1).float(), y_TB.flatten(), reduction="none", ignore_index=NO_TARGET)
    return losses.view_as(y_TB)


def items_loss(
    model: CharRNN, items: Items, processes: Processes = SINGLE, *, max_tokens: int | None = VALIDATION_TOKENS
) -> MeanLoss:
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
    tally = _Tally()
    state = model.initial_state(batch)
    with model.evaluating():
        for x, y in packed(items, indices, batch, _CHUNK // 4) if batch else ():
            x, y = x.to(model.device), y.to(model.device)
            logits, state = model(x, state, x == items.end)
            tally.add(_losses(logits, y), y != NO_TARGET)
    return tally.mean_loss(processes)


def streams_loss(
    model: CharRNN, streams: Streams, seq_len: int, processes: Processes = SINGLE, *, max_tokens: int | None = None
) -> MeanLoss:
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
    tally = _Tally()
    state = model.initial_state(len(fresh.starts_B))
    with model.evaluating():
        while fresh.position < fresh.length:
            x, y = (torch.from_numpy(ids).to(model.device) for ids in fresh.next(seq_len))
            logits, state = model(x, state)
            tally.add(_losses(logits, y), torch.ones_like(y))
    return tally.mean_loss(processes)
