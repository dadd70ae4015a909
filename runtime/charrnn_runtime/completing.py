"""The most probable continuations of a text, with their exact probabilities.

A beam search with a bound. The beginnings of one length are extended together, in one batch. A beginning that is
no more probable than the n-th best continuation found so far is given up: whatever it grows into is less probable
still. If more beginnings are left than the beam is wide, the most probable ones are kept; the result is exact
unless one that was dropped was more probable than the n-th best continuation in the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import UsageError
from charrnn_runtime.generation import Prompt, encode_prompt, prefill, with_start_token
from charrnn_runtime.model_file import ModelInfo
from charrnn_runtime.options import check_count
from charrnn_runtime.sampling import log_softmax
from charrnn_runtime.session import Cell, Logits, Runner
from charrnn_runtime.vocab import Ids, Unknown, Vocabulary

MAX_COMPLETIONS = 1000
MAX_LENGTH = 1000
MAX_WIDTH = 4096


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A continuation and how probable it is.

    Attributes:
        text: the continuation, without the prompt and the character at which it ends.
        probability: that the text goes on with ``text`` and then ends: with a character of ``until``, or with the
            model's end token. If ``ended`` is False, that it goes on with ``text``.
        ended: False if the continuation was cut at ``max_length``.
        tokens: its token ids.
    """

    text: str
    probability: float
    ended: bool
    tokens: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Completions(Sequence[Completion]):
    """Continuations, the most probable one first.

    Attributes:
        items: the continuations.
        exact: whether it is certain that no other continuation is more probable than the last one here.
        width: how many beginnings were followed at a time at most.
    """

    items: tuple[Completion, ...]
    exact: bool
    width: int

    @overload
    def __getitem__(self, index: int) -> Completion: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Completion, ...]: ...
    def __getitem__(self, index: int | slice) -> Completion | tuple[Completion, ...]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Completion]:
        return iter(self.items)


def next_tokens(
    cell: Cell, info: ModelInfo, prompt: Prompt, unknown: Unknown, label: str | None
) -> dict[str | bytes, float]:
    """The probability of each next character, or byte; see ``Sampler.next``."""
    _, logits = _after(cell, info, encode_prompt(prompt, info, unknown), label)
    probabilities = np.exp(log_softmax(logits[0]))
    vocabulary = info.vocabulary
    of_bytes = vocabulary.kind == "bytes"
    end = vocabulary.special.get("end")
    names: dict[int, str | bytes] = {
        token: bytes([symbol]) if of_bytes else chr(symbol)
        for token, symbol in enumerate(vocabulary.symbols)
        if symbol >= 0
    }
    if end is not None:
        names[end] = b"" if of_bytes else ""
    order = np.argsort(-probabilities, kind="stable").tolist()
    return {names[token]: float(probabilities[token]) for token in order if token in names}


def complete(
    cell: Cell,
    info: ModelInfo,
    prompt: Prompt,
    *,
    n: int,
    until: str,
    max_length: int,
    width: int,
    unknown: Unknown,
    label: str | None,
) -> Completions:
    """The most probable continuations; see ``Sampler.complete``."""
    check_count("n", n, least=1, most=MAX_COMPLETIONS)
    check_count("max_length", max_length, least=1, most=MAX_LENGTH)
    check_count("width", width, least=1, most=MAX_WIDTH)
    vocabulary = info.vocabulary
    ends = _ends(vocabulary, until)
    grows = np.array([symbol >= 0 for symbol in vocabulary.symbols])
    grows[ends] = False
    runner, logits = _after(cell, info, encode_prompt(prompt, info, unknown), label)
    found = _Best(n)
    tokens = np.empty((1, 0), np.int64)
    so_far = np.zeros(1)  # log-probability of each beginning
    dropped = -np.inf
    for length in range(max_length):
        if length:
            logits = runner.step(tokens[:, -1])
        log_probs = so_far[:, None] + log_softmax(logits)
        if length and ends:
            found.add(np.logaddexp.reduce(log_probs[:, ends], axis=1), tokens, ended=True)
        log_probs[:, ~grows] = -np.inf
        rows, columns = np.nonzero((log_probs >= found.least) & (log_probs > -np.inf))
        candidates = log_probs[rows, columns]
        if length + 1 == max_length:
            found.add(candidates, np.column_stack([tokens[rows], columns]), ended=False)
            break
        if not len(rows):
            break
        if len(rows) > width:
            order = np.argsort(-candidates, kind="stable")
            dropped = max(dropped, float(candidates[order[width]]))
            kept = np.sort(order[:width])
            rows, columns, candidates = rows[kept], columns[kept], candidates[kept]
        tokens = np.column_stack([tokens[rows], columns])
        so_far = candidates
        runner = cell.runner(len(rows), tuple(state[rows] for state in runner.state()))
    items = tuple(
        Completion(text=vocabulary.decode(ids), probability=float(np.exp(log_prob)), ended=ended, tokens=ids)
        for log_prob, ids, ended in found.items
    )
    return Completions(items=items, exact=dropped <= found.least, width=width)


class _Best:
    """The n best continuations so far: (log-probability, tokens, whether it ended).

    Attributes:
        least: a continuation with a smaller log-probability is not among the n best; minus infinity while there
            are fewer than n.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self.items: list[tuple[float, tuple[int, ...], bool]] = []
        self.least = -np.inf

    def add(self, log_probs: NDArray[np.float64], tokens: Ids, *, ended: bool) -> None:
        """Adds continuations with their log-probabilities ``[m]`` and tokens ``[m, length]``."""
        order = np.argsort(-log_probs, kind="stable")[: self._n]
        for row in order.tolist():
            log_prob = float(log_probs[row])
            if log_prob > -np.inf and log_prob >= self.least:
                self.items.append((log_prob, tuple(tokens[row].tolist()), ended))
        self.items.sort(key=lambda item: (-item[0], item[1]))
        del self.items[self._n :]
        if len(self.items) == self._n:
            self.least = self.items[-1][0]


def _ends(vocabulary: Vocabulary, until: str) -> list[int]:
    """The tokens that end a continuation.

    Raises:
        UsageError: ``until`` is not a string, or has a character that is several bytes for a model of bytes.
    """
    if not isinstance(until, str):
        raise UsageError(f"until must be a string of characters, got {until!r:.80}")
    if vocabulary.kind == "bytes" and not until.isascii():
        raise UsageError("until: for a model of bytes only ASCII characters, which are a single byte each")
    tokens = {vocabulary.token(character) for character in until} | {vocabulary.special.get("end")}
    return sorted(token for token in tokens if token is not None)


def _after(cell: Cell, info: ModelInfo, ids: Ids, label: str | None) -> tuple[Runner, Logits]:
    """A runner that has been fed a prompt, and the logits ``[1, vocab]`` after it."""
    fed = with_start_token(ids, info, label)
    runner = prefill(cell, cell.runner(1), fed[:-1])
    return runner, runner.step(int(fed[-1]))
