"""``Job``: the handle of one text in an ``Engine``, for the caller who submitted it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import CharrnnError
from charrnn_runtime.generation import FinishReason, SequenceState
from charrnn_runtime.sampling import log_softmax

_Item = TypeVar("_Item")


class TokenScore(NamedTuple):
    """A token and its log-probability.

    Attributes:
        token: its id.
        log_prob: natural log-probability before penalties, temperature and filters;
            None for the first token of a text that follows nothing.
        top: the most likely tokens at this place with their log-probabilities, most likely first.
    """

    token: int
    log_prob: float | None
    top: tuple[tuple[int, float], ...] = ()


def token_score(logits: NDArray[np.float32], token: int, top: int) -> TokenScore:
    """Score of a token under the logits ``[vocab]``, with the ``top`` most likely tokens."""
    log_probs = log_softmax(logits)
    if top <= 0:
        return TokenScore(token, float(log_probs[token]))
    best = np.argsort(-log_probs, kind="stable")[:top]
    return TokenScore(token, float(log_probs[token]), tuple((int(i), float(log_probs[i])) for i in best))


class Job:
    """One text in an engine, made by ``Engine.submit`` and ``Engine.score``. Its methods are safe in any thread.

    Attributes:
        finish_reason: "length", "stop" or "end", set with the last piece; None before, and if ``error`` is set.
        error: why the text cannot be finished, or None.
        cancelled: whether it was cancelled; such a job has neither a finish reason nor an error.
        prompt_tokens: how many tokens the prompt has.
        prompt_scores: the scores of the prompt's tokens if they were asked for; complete with the first piece.
    """

    def __init__(self, sequence: SequenceState, *, on_take: Callable[[], None], on_cancel: Callable[[], None]) -> None:
        self._sequence = sequence
        self._on_take = on_take
        self._on_cancel = on_cancel
        self._pieces: deque[str] = deque()
        # Each is changed on one thread only: characters that the engine has put here, and that were taken.
        self._num_put = self._num_taken = 0
        self._scores: deque[TokenScore] = deque()
        self.prompt_tokens = sequence.prompt_tokens
        self.prompt_scores: list[TokenScore] = []
        self.finish_reason: FinishReason | None = None
        self.error: CharrnnError | None = None
        self.cancelled = False

    @property
    def seed(self) -> int:
        """The seed that was given or chosen: with it and ``index`` the same text is generated again."""
        return self._sequence.uniforms.seed

    @property
    def index(self) -> int:
        """Which of the texts of the seed."""
        return self._sequence.uniforms.index

    @property
    def completion_tokens(self) -> int:
        """How many tokens have been sampled."""
        return self._sequence.num_generated

    @property
    def num_buffered(self) -> int:
        """How many characters of text wait to be taken."""
        return self._num_put - self._num_taken

    @property
    def ended(self) -> bool:
        """Whether nothing more will come. Read it before ``take``, or the last piece may be missed."""
        return self.finish_reason is not None or self.error is not None or self.cancelled

    def take(self) -> tuple[str, list[TokenScore]]:
        """The text generated since the last call, and the scores of its tokens if they were asked for.

        Scores may come before the text of their tokens: a possible beginning of a stop string is held back.

        Raises:
            UsageError: this is a forked child of the process that runs the engine.
        """
        text = "".join(_drain(self._pieces))
        self._num_taken += len(text)
        scores = _drain(self._scores)
        self._on_take()
        return text, scores

    def cancel(self) -> None:
        """Cancels the text and frees its place. Does nothing if it has ended."""
        self._on_cancel()

    def put(self, piece: str) -> None:
        """For the engine: a piece to be taken."""
        self._num_put += len(piece)
        self._pieces.append(piece)

    def put_score(self, score: TokenScore) -> None:
        """For the engine: a score to be taken."""
        self._scores.append(score)


def _drain(queue: deque[_Item]) -> list[_Item]:
    taken = []
    while queue:
        taken.append(queue.popleft())
    return taken
