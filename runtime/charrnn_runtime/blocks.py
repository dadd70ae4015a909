"""Blocks of tokens: what one call of a ``BlockDrawer`` feeds and draws, and how long it should be."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from charrnn_runtime.pattern import PatternState
from charrnn_runtime.pattern_tables import FREE, UNKNOWN
from charrnn_runtime.sampling import DrawOptions, UniformStream
from charrnn_runtime.session import BlockDrawer, Places, State, Tokens

MIN_STEPS = 4  # of the first block, so that the first piece of a stream comes at once; shorter ones do not pay
MAX_STEPS = 64
_SECONDS = 0.03  # that a block may take: a reader does not notice it
_WASTE = 8  # a block may have one step for so many tokens that texts have before they end: the rest of it is lost
_FAMILIAR = 64  # tokens of each text that must have led to known states before a block with a pattern pays


class Row(NamedTuple):
    """A text in a block.

    Attributes:
        feed: tokens to feed before the first one is drawn, at least one.
        uniforms: the text's random numbers.
        options: of drawing.
        pattern: where it stands in its pattern, if it has one.
    """

    feed: Sequence[int]
    uniforms: UniformStream
    options: DrawOptions
    pattern: PatternState | None = None


_EMPTY = Row([0], UniformStream(0), DrawOptions())


def draw_block(
    drawer: BlockDrawer, rows: Sequence[Row | None], steps: int, state: State
) -> tuple[list[list[int]], State] | None:
    """Feeds and draws in ``steps`` steps. No random numbers are taken: skip as many as tokens are used.

    With a pattern, each row must have a single token to feed, and the block may end earlier: where a text comes to
    a state that has not been made yet. The patterns are not advanced.

    Returns:
        The drawn tokens of each row, none if it has more tokens to feed than there are steps; -1 for
        one that could not be drawn. And the new states, in which all but the last token is fed.
        None if single steps have to go on: see ``_draw_matching``.
    """
    texts = [row or _EMPTY for row in rows]
    if any(text.pattern for text in texts):
        return _draw_matching(drawer, texts, steps, state)
    known = np.full((steps, len(rows)), -1, np.int64)
    uniforms = np.zeros((steps, len(rows)))
    for column, row in enumerate(texts):
        begin = len(row.feed) - 1
        known[: begin + 1, column] = row.feed[:steps]
        if begin < steps:
            uniforms[begin:, column] = row.uniforms.peek(steps - begin)
    drawn, state = drawer.draw(known, uniforms, [row.options for row in texts], state)
    return [drawn[len(row.feed) - 1 :, column].tolist() for column, row in enumerate(texts)], state


def _draw_matching(
    drawer: BlockDrawer, texts: Sequence[Row], steps: int, state: State
) -> tuple[list[list[int]], State] | None:
    """``draw_block`` with patterns.

    Where a text comes to an unknown state, the block ends for all of them: the tokens up to there are drawn again.
    None if nothing can be drawn from the first logits of a text: a step says why.
    """
    first = np.array([text.feed[0] for text in texts], np.int64)
    row = np.array([text.pattern.row if text.pattern else FREE for text in texts], np.int64)
    arrays = next(text.pattern.arrays for text in texts if text.pattern)  # they have the rows of all texts
    left = np.array([text.pattern.remaining if text.pattern else steps for text in texts], np.int32)
    left = left - np.arange(steps, dtype=np.int32)[:, None]
    uniforms = np.array([text.uniforms.peek(steps) for text in texts]).T.copy()
    options = [text.options for text in texts]
    places = Places(first, row, *arrays, left)
    drawn, after, new = drawer.draw_matching(places, uniforms, options, state)
    if (after[-1] == UNKNOWN).any() or (drawn < 0).any():
        useless = (drawn < 0) | (after == UNKNOWN)
        steps = min(_useful(text, *columns) for text, *columns in zip(texts, drawn.T, useless.T, strict=True))
        if not steps:
            return None
        if steps < len(drawn):
            places = places._replace(left=left[:steps])
            drawn, _, new = drawer.draw_matching(places, uniforms[:steps], options, state)
    return drawn[:steps].T.tolist(), new


def _useful(text: Row, drawn: Tokens, useless: Tokens) -> int:
    """How many steps of a block are of use to a text: all, if it ends before the first that is not."""
    if text.pattern is None or not useless.any():
        return len(drawn)
    first = int(useless.argmax())
    if first >= text.pattern.remaining:
        return len(drawn)
    number = first + int(drawn[first] >= 0)  # the token that leads to an unknown state is one of the text
    ended = text.pattern.copy().follow(drawn[:number].tolist()) < number
    return len(drawn) if ended else number


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


def matching_steps(pattern: PatternState, drawn: int, rows: int) -> int:
    """The largest number of steps that a block should have for a text with a pattern; below ``MIN_STEPS`` none pays.

    In a pattern with many states, a block would end at the next one that has not been made yet.

    Args:
        pattern: where the text stands.
        drawn: how many tokens it has.
        rows: how many texts are drawn in the block.
    """
    automaton = pattern.automaton
    familiar = automaton.familiar // rows
    if familiar < _FAMILIAR:
        return 0
    return min(MAX_STEPS, familiar // 4, int(max(automaton.mean_length, drawn) / _WASTE))


def note_length(drawer: BlockDrawer, tokens: int) -> None:
    """Tells that a text has ended before its greatest length, after so many tokens."""
    drawer.mean_length += (tokens - drawer.mean_length) / 16
