"""Blocks of tokens: what one call of a ``BlockDrawer`` feeds and draws, and how long it should be."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from charrnn_runtime.sampling import DrawOptions, UniformStream
from charrnn_runtime.session import BlockDrawer, State

MIN_STEPS = 4  # of the first block, so that the first piece of a stream comes at once; shorter ones do not pay
MAX_STEPS = 64
_SECONDS = 0.03  # that a block may take: a reader does not notice it
_WASTE = 8  # a block may have one step for so many tokens that texts have before they end: the rest of it is lost


class Row(NamedTuple):
    """A text in a block.

    Attributes:
        feed: tokens to feed before the first one is drawn, at least one.
        uniforms: the text's random numbers.
        options: of drawing.
    """

    feed: Sequence[int]
    uniforms: UniformStream
    options: DrawOptions


_EMPTY = Row([0], UniformStream(0), DrawOptions())


def draw_block(
    drawer: BlockDrawer, rows: Sequence[Row | None], steps: int, state: State
) -> tuple[list[list[int]], State]:
    """Feeds and draws in ``steps`` steps. No random numbers are taken: skip as many as tokens are used.

    Returns:
        The drawn tokens of each row, none if it has more tokens to feed than there are steps; -1 for
        one that could not be drawn. And the new states, in which all but the last token is fed.
    """
    known = np.full((steps, len(rows)), -1, np.int64)
    uniforms = np.zeros((steps, len(rows)))
    texts = [row or _EMPTY for row in rows]
    for column, row in enumerate(texts):
        begin = len(row.feed) - 1
        known[: begin + 1, column] = row.feed[:steps]
        if begin < steps:
            uniforms[begin:, column] = row.uniforms.peek(steps - begin)
    drawn, state = drawer.draw(known, uniforms, [row.options for row in texts], state)
    return [drawn[len(row.feed) - 1 :, column].tolist() for column, row in enumerate(texts)], state


def feed_block(drawer: BlockDrawer, tokens: Sequence[int], state: State) -> State:
    """Feeds tokens to a single stream; the new states."""
    known = np.array(tokens, np.int64)[:, None]
    return drawer.draw(known, np.zeros(known.shape), [DrawOptions()], state)[1]


class BlockSteps:
    """How many steps the next block should have: few at first, then more, within a time that readers do not notice.

    Args:
        drawer: draws the blocks.
        can_end: whether a text may end before its greatest length. What a block has drawn behind the end is
            lost, so it should be short against the texts.

    Attributes:
        most: the largest number of steps.
    """

    def __init__(self, drawer: BlockDrawer, can_end: bool) -> None:
        self.most = min(MAX_STEPS, int(drawer.mean_length / _WASTE)) if can_end else MAX_STEPS
        self._next = MIN_STEPS
        self._begin = 0.0

    @property
    def pay(self) -> bool:
        """Whether blocks are faster than single steps."""
        return self.most >= MIN_STEPS

    def begin(self) -> int:
        """The steps of the next block, which begins now."""
        self._begin = time.perf_counter()
        return self._next

    def end(self, steps: int) -> None:
        """Tells that the block is finished."""
        within = int(steps * _SECONDS / max(time.perf_counter() - self._begin, 1e-6))
        self._next = max(1, min(2 * self._next, within, self.most))


def note_length(drawer: BlockDrawer, tokens: int) -> None:
    """Tells that a text has ended before its greatest length, after so many tokens."""
    drawer.mean_length += (tokens - drawer.mean_length) / 16
