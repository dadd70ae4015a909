"""Jobs of an ``Engine``: a text that is drawn for somebody, and the rows of a batch in which jobs lie."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import CharrnnError
from charrnn_runtime.generation import FinishReason, SequenceState
from charrnn_runtime.sampling import log_softmax
from charrnn_runtime.session import Cell, Logits, Runner, State
from charrnn_runtime.vocab import Ids

_Item = TypeVar("_Item")


class TokenScore(NamedTuple):
    """A token and how likely the model found it.

    Attributes:
        token: its id.
        log_prob: natural log-probability before penalties, temperature and filters;
            None for a first token that follows nothing.
        top: the likeliest tokens there with theirs, likeliest first.
    """

    token: int
    log_prob: float | None
    top: tuple[tuple[int, float], ...] = ()


class JobOwner(Protocol):
    """Where a job is in work."""

    def resume(self, job: Job) -> None:
        """Takes up a paused job of which something was taken."""

    def cancel(self, job: Job) -> None:
        """Gives a job up."""


class Job:
    """One text in an engine. Its methods may be called from any thread.

    Attributes:
        finish_reason: set with the last piece; None before, and where ``error`` is set.
        error: why the text cannot be finished, or None. A cancelled job has neither.
        seed, index: what draws the same text again.
        prompt_tokens, drawn: how many tokens the prompt has, and how many were drawn.
        prompt_scores: the prompt's tokens, if they were asked for; whole once the first piece is there.

    What begins with an underscore is the engine's.
    """

    def __init__(
        self, keeper: JobOwner, sequence: SequenceState, prompt_tokens: int, top: int, scores_prompt: bool
    ) -> None:
        self._keeper = keeper
        self._sequence = sequence
        self._ids: list[int] = sequence.prompt.tolist()
        self._top = top
        self._scores_prompt = scores_prompt
        self._pieces: deque[str] = deque()
        self._scores: deque[TokenScore] = deque()
        self._fed = 0  # tokens of the prompt that were read
        self._last = 0  # the token to feed next
        self._state: State | None = None  # while paused
        self._paused = False
        self._gone = False  # cancelled: the engine drops it at its next turn
        self._announced = False  # whether a first piece was announced
        self.prompt_tokens = prompt_tokens
        self.prompt_scores: list[TokenScore] = []
        self.finish_reason: FinishReason | None = None
        self.error: CharrnnError | None = None
        if scores_prompt and len(self._ids) == prompt_tokens and self._ids:
            self.prompt_scores.append(TokenScore(self._ids[0], None))  # nothing comes before it

    @property
    def seed(self) -> int:
        """The seed, drawn or given."""
        return self._sequence.uniforms.seed

    @property
    def index(self) -> int:
        """Which of the texts of the seed."""
        return self._sequence.uniforms.index

    @property
    def completion_tokens(self) -> int:
        """How many tokens were drawn."""
        return self._sequence.num_generated

    @property
    def ended(self) -> bool:
        """Whether nothing more will come; look before ``take``, so as to miss nothing."""
        return self.finish_reason is not None or self.error is not None or self._gone

    def take(self) -> tuple[str, list[TokenScore]]:
        """The text drawn since the last call, and the scores of its tokens if asked for.

        Scores may run ahead of the text: a piece that might begin a stop string is held back.
        """
        text = "".join(_drain(self._pieces))
        scores = _drain(self._scores)
        if self._paused:
            self._keeper.resume(self)
        return text, scores

    def cancel(self) -> None:
        """Gives the text up and its place free; nothing happens where it has ended."""
        self._keeper.cancel(self)


def _drain(queue: deque[_Item]) -> list[_Item]:
    taken = []
    while queue:
        taken.append(queue.popleft())
    return taken


class BatchSlots:
    """Jobs in the rows of a batch, and the runner that holds their states. A row whose job has left is None."""

    def __init__(self, cell: Cell, sizes: Sequence[int]) -> None:
        self._cell = cell
        self._sizes = sizes
        self._runner: Runner | None = None
        self.jobs: list[Job | None] = []
        self.tokens: Ids = np.zeros(0, np.int64)

    @property
    def count(self) -> int:
        """BatchSlots with a job."""
        return len(self.jobs) - self.jobs.count(None)

    def step(self) -> Logits:
        """Feeds ``tokens``; the logits are valid until the next call."""
        assert self._runner is not None
        return self._runner.step(self.tokens)

    def states(self, rows: list[int]) -> list[tuple[int, State]]:
        """(row, a copy of its states, each ``[1, size]``)."""
        assert self._runner is not None
        whole = self._runner.state() if rows else ()
        return [(row, tuple(s[row : row + 1].copy() for s in whole)) for row in rows]

    def drop(self, rows: list[int]) -> None:
        """Empties rows; the batch shrinks where that pays, when half of it is empty."""
        for row in rows:
            self.jobs[row] = None
        if 2 * self.count <= len(self.jobs):
            self._change([])

    def join(self, new: Sequence[tuple[Job, State | None]]) -> None:
        """Adds jobs, from their states or from the zero state."""
        if new:
            self._change(new)

    def _change(self, new: Sequence[tuple[Job, State | None]]) -> None:
        kept = [i for i, job in enumerate(self.jobs) if job is not None]
        self.jobs = [*(self.jobs[i] for i in kept), *(job for job, _ in new)]
        self.tokens = np.zeros(len(self.jobs), np.int64)
        if not self.jobs:
            self._runner = None
            return
        old = self._runner.state() if self._runner else tuple(np.zeros((0, n), np.float32) for n in self._sizes)
        state: list[NDArray[np.float32]] = []
        for number, part in enumerate(old):
            zero = np.zeros((1, part.shape[1]), np.float32)
            state.append(np.concatenate([part[kept], *(zero if s is None else s[number] for _, s in new)]))
        self._runner = self._cell.runner(len(self.jobs), tuple(state))


def token_score(logits: NDArray[np.float32], token: int, top: int) -> TokenScore:
    """Score of a token under the logits ``[vocab]``, with the ``top`` likeliest tokens."""
    log_probs = log_softmax(logits)
    if top <= 0:
        return TokenScore(token, float(log_probs[token]))
    likeliest = np.argsort(-log_probs, kind="stable")[:top]
    return TokenScore(token, float(log_probs[token]), tuple((int(i), float(log_probs[i])) for i in likeliest))
