"""Patterns: a text that matches a regular expression as a whole, see "Patterns" in ``runtime/README.md``.

A pattern becomes a finite automaton over the tokens of a model. It stays nondeterministic; its
deterministic states are made one by one, as texts come to them. So no pattern takes exponential time or memory,
as ``.*a.{20}`` would as a complete deterministic automaton, and none needs to be minimised. The distance of each
state to acceptance, which keeps texts from ending cut off, is found in the nondeterministic automaton.

Source: the states made on demand are those of RE2 (Cox 2010, "Regular expression matching in the wild").
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import PatternError
from charrnn_runtime.pattern_builder import Builder
from charrnn_runtime.pattern_syntax import parse_pattern
from charrnn_runtime.pattern_tables import PatternTables, TableArrays
from charrnn_runtime.vocab import TokenKind, Vocabulary

_MAX_DISTANCES = 4_000_000  # states times min_length
_NODE_BYTES = 14 << 20  # of an automaton's deterministic states; when they take more, they are made anew
_LONG = 2048.0  # tokens; the mean length of texts that hardly ever end much before their greatest length
_NODE_WORK = 4  # making a state; the unit is finding a known one that follows another
_MAX_WORK = 4000  # on exploring, behind one text
_NEVER = 1 << 30  # the distance to a place that cannot be reached


class PatternState:
    """Where one text stands in its pattern.

    Attributes:
        automaton: the pattern.
        remaining: how many tokens the text may still have.
    """

    __slots__ = ("_node", "automaton", "remaining")

    def __init__(self, automaton: Automaton, node: _Node, remaining: int) -> None:
        self.automaton = automaton
        self._node = node
        self.remaining = remaining

    def mask(self) -> NDArray[np.float64] | None:
        """What is added to the logits ``[vocab]``: minus infinity for tokens that lead to no match; None for nothing.

        Where the text matches and the model has no end token, every token may be drawn: one that
        does not continue the match ends the text.
        """
        node = self._node
        if node.open:
            return None
        if self.remaining >= node.farthest:
            return node.mask
        return np.where(node.needed <= self.remaining, 0.0, -np.inf)

    def advance(self, token: int) -> bool:
        """Adds a token; False if it does not continue the match, so that the text has ended before it."""
        node = self._node
        if node.needed.item(token) > self.remaining:
            return False
        self._node = node.following(self.automaton, token)
        self.remaining -= 1
        self.automaton.familiar += 1
        return True

    def follow(self, tokens: Sequence[int]) -> int:
        """Adds tokens, but not the last one of the text or of ``tokens``; how many there are, with this one.

        The last one of the text is one that does not continue the match, or completes it, or an end token.
        """
        automaton, node, remaining = self.automaton, self._node, self.remaining
        classes, number = automaton.class_list, 0
        for token in tokens[:-1]:
            klass = classes[token]
            if node.ways.get(klass, _NEVER) > remaining:
                break
            after = node.known.get(klass) or node.following(automaton, token)
            if after.open and after.nearest >= remaining:
                break
            node = after
            remaining -= 1
            number += 1
        self._node, self.remaining = node, remaining
        automaton.familiar += number
        return number + 1

    @property
    def row(self) -> int:
        """The row of ``arrays`` that describes the state."""
        return self._node.row

    @property
    def arrays(self) -> TableArrays:
        """The tables of all patterns over this vocabulary, for a graph."""
        return self._node.tables.arrays

    @property
    def open(self) -> bool:
        """Whether the text matches and the model has no end token: the next token may end the text."""
        return self._node.open

    @property
    def complete(self) -> bool:
        """Whether the text matches, no token can continue the match, and the model has no end token to say so."""
        return self._node.open and self._node.nearest > self.remaining

    def copy(self) -> PatternState:
        """A state that advances on its own."""
        return PatternState(self.automaton, self._node, self.remaining)


class _Node:
    """A deterministic state: a set of states of the automaton.

    Attributes:
        open: whether the text matches here and every token may be drawn.
        needed: for each token ``[vocab]``, how many tokens it takes to a match, itself included; 0 for an end token
            that may be drawn, ``_NEVER`` for a token that leads to none.
        nearest, farthest: the smallest and the largest of these numbers, the end token and ``_NEVER`` left aside.
        mask: 0, or minus infinity where a token leads to no match of any length ``[vocab]``.
        ways: the same numbers for the classes of tokens that lead to a match.
        known: the states after these classes that have been made.
        tables, row: the tables that hold the state, and its row there.
    """

    __slots__ = (
        *("_count", "_states", "farthest", "known", "mask"),
        *("nearest", "needed", "open", "row", "tables", "ways"),
    )

    def __init__(self, automaton: Automaton, states: NDArray[np.int64], count: int) -> None:
        self._states = states
        self._count = count
        accepting = count >= automaton.min_length and bool(automaton.accepting[states].any())
        sets, targets = automaton.edges_of(states)
        distances = automaton.distances[min(count + 1, automaton.min_length)]
        of_classes = np.full(automaton.members.shape[1], _NEVER)
        if len(sets):
            ways = np.where(automaton.members[sets], distances[targets][:, None], _NEVER)
            of_classes = ways.min(axis=0)
        of_classes = np.where(of_classes < _NEVER, of_classes + 1, _NEVER)
        self.needed = of_classes[automaton.classes]
        self.ways = {klass: number for klass, number in enumerate(of_classes.tolist()) if number < _NEVER}
        self.nearest = min(self.ways.values(), default=_NEVER)
        self.farthest = max(self.ways.values(), default=0)
        self.open = accepting and automaton.end is None
        if accepting and automaton.end is not None:
            self.needed[automaton.end] = 0
        leading = self.needed < _NEVER
        self.mask = np.where(leading, 0.0, -np.inf)
        self.known: dict[int, _Node] = {}
        if automaton.end is not None:
            leading[automaton.end] = False  # the text has ended
        self.tables = automaton.tables
        self.row = self.tables.add(0 if self.open else self.needed, leading)

    def following(self, automaton: Automaton, token: int) -> _Node:
        """The state after a token that leads to a match."""
        klass = automaton.class_list[token]
        node = self.known.get(klass)
        if node is None:
            if token == automaton.end:
                return self
            node = self._make(automaton, klass)
            automaton.familiar //= 4  # after a few of these in a row no block is tried
        return node

    def explore(self, automaton: Automaton) -> int:
        """Makes all states that follow, and links them; how many classes of tokens lead to one."""
        for klass in self.ways.keys() - self.known.keys():
            self._make(automaton, klass)
        return len(self.ways)

    def _make(self, automaton: Automaton, klass: int) -> _Node:
        """The state after a token of a class that leads to a match, which is linked from now on."""
        sets, targets = automaton.edges_of(self._states)
        reached = targets[automaton.members[sets, klass]]
        if len(reached) > 1:
            reached = np.unique(reached)
        node = self.known[klass] = automaton.node(reached, min(self._count + 1, automaton.min_length))
        if node.tables is self.tables:
            self.tables.link(self.row, automaton.tokens[klass], node.row)
        return node

    def forget(self) -> None:
        """Drops the references to other nodes."""
        self.known = {}


class Automaton:
    """A pattern over the tokens of a model. Safe to use from many threads; for ``compile_pattern`` to make.

    Attributes:
        tables: its deterministic states for a graph.
        familiar: how many tokens of all texts have lately led from a known state to a known one.
        mean_length: how many tokens the texts have, on the average, for each that ends well before its greatest length.
    """

    def __init__(
        self,
        pattern: str,
        kind: TokenKind,
        symbols: NDArray[np.int64],
        usable: NDArray[np.bool_],
        end: int | None,
        min_length: int,
    ) -> None:
        self.end = end
        self.min_length = min_length
        builder = Builder(kind, symbols, usable)
        final = builder.build(parse_pattern(pattern))
        self._first, self._sets, self._targets, self.accepting = builder.without_empty_edges(final)
        # Tokens that are in the same sets are one class.
        members = np.array(builder.members or [np.zeros(len(symbols), bool)])
        self.members, self.classes = np.unique(members, axis=1, return_inverse=True)
        self.classes = self.classes.reshape(-1)
        self.class_list: list[int] = self.classes.tolist()
        self.tokens = [np.flatnonzero(self.classes == klass) for klass in range(self.members.shape[1])]
        self.distances = self._find_distances()
        self._nodes: dict[tuple[bytes, int], _Node] = {}
        self._bytes = 0
        self._unexplored: deque[_Node] = deque()
        self._due = 0  # work on exploring: as much as on making states
        self.tables = PatternTables(len(symbols))
        self.familiar = 0
        self.mean_length = 64.0
        self.start_node = self.node(np.zeros(1, np.int64), 0)
        if self.start_node.nearest == _NEVER:
            raise PatternError(f"pattern {pattern!r:.80}: {self._why_empty(builder)}")

    def start(self, length: int) -> PatternState:
        """The state of a text that may have ``length`` tokens.

        Raises:
            PatternError: every match is longer.
        """
        if self.start_node.nearest > length:
            least = f", with min_length={self.min_length}" if self.min_length else ""
            raise PatternError(
                f"length {length} is shorter than the shortest text that matches the pattern{least}: "
                f"{self.start_node.nearest} tokens"
            )
        return PatternState(self, self.start_node, min(length, _NEVER - 1))

    def edges_of(self, states: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The sets and targets of all edges that leave these states."""
        if len(states) == 1:
            here = slice(self._first[states[0]], self._first[states[0] + 1])
            return self._sets[here], self._targets[here]
        counts = self._first[states + 1] - self._first[states]
        begin = np.repeat(self._first[states] - (counts.cumsum() - counts), counts)
        edges = begin + np.arange(len(begin))
        return self._sets[edges], self._targets[edges]

    def node(self, states: NDArray[np.int64], count: int) -> _Node:
        """The deterministic state of these states after ``count`` tokens, or ``min_length`` or more."""
        key = states.tobytes(), count
        node = self._nodes.get(key)
        if node is None:
            if self._bytes > _NODE_BYTES:
                self._bytes = 0
                self.tables = PatternTables(len(self.classes))
                self._unexplored.clear()
                old, self._nodes = self._nodes, {}
                for forgotten in old.values():
                    forgotten.forget()
            node = self._nodes[key] = _Node(self, states, count)
            self._unexplored.append(node)
            self._due += _NODE_WORK
            # 12 bytes a token are those of the tables.
            self._bytes += 500 + node.needed.nbytes + node.mask.nbytes + states.nbytes + 12 * len(node.needed)
        return node

    def note_text(self, tokens: int, length: int) -> None:
        """Tells that a text has ended after so many tokens, of ``length`` that it might have had.

        What follows the states that were made for it is found out now, so that the blocks of the next texts do not
        end there. It takes about as much time as making these states took, or a small part of that of the text, and
        never more than some 50 ms.
        """
        if length - tokens <= tokens / 8:  # a block can go no further than ``length``, so hardly anything is lost
            self.mean_length = min(self.mean_length + tokens, _LONG)
        else:
            self.mean_length += (tokens - self.mean_length) / 4
        work = min(self._due + tokens // 16, _MAX_WORK)
        while work > 0 and self._bytes < _NODE_BYTES * 3 // 4:
            try:
                node = self._unexplored.popleft()
            except IndexError:  # all are explored; another thread may have taken the last one
                self._due = 0
                return
            before = self._due
            done = node.explore(self) + self._due - before
            self._due = max(0, before - done)
            work -= done

    def _find_distances(self) -> list[NDArray[np.int64]]:
        """For each number of tokens so far, up to ``min_length``: how many each state takes to a match."""
        count = len(self.accepting)
        sources = np.repeat(np.arange(count), np.diff(self._first))
        before: list[list[int]] = [[] for _ in range(count)]
        for source, target in zip(sources.tolist(), self._targets.tolist(), strict=True):
            before[target].append(source)
        distance = np.where(self.accepting, 0, _NEVER).tolist()
        queue = deque(np.flatnonzero(self.accepting).tolist())
        while queue:
            state = queue.popleft()
            for source in before[state]:
                if distance[source] == _NEVER:
                    distance[source] = distance[state] + 1
                    queue.append(source)
        distances = [np.array(distance, np.int64)]
        if self.min_length * count > _MAX_DISTANCES:
            raise PatternError(f"the pattern is too large for min_length={self.min_length} ({count:,} states)")
        for _ in range(self.min_length):
            longer = np.full(count, _NEVER)
            np.minimum.at(longer, sources, distances[-1][self._targets] + 1)
            distances.append(np.minimum(longer, _NEVER))
        return distances[::-1]

    def _why_empty(self, builder: Builder) -> str:
        unseen = builder.unseen[:5]
        if self.distances[0][0] < _NEVER:
            return "only the empty text matches"
        if not unseen:
            return "no text matches"
        return f"no text of the model's characters matches; it has never seen {', '.join(map(repr, unseen))}"


def compile_pattern(
    pattern: str, vocabulary: Vocabulary, usable: NDArray[np.bool_] | None, min_length: int
) -> Automaton:
    """The automaton of a pattern; the last ones are kept.

    Args:
        pattern: see ``pattern_syntax``.
        vocabulary: the model's tokens.
        usable: which tokens may be drawn ``[vocab]``; None for all.
        min_length: how many tokens a text has at least.

    Raises:
        PatternError: the pattern is malformed, too large, or matches no text of these tokens.
    """
    end = vocabulary.special.get("end")
    used = None if usable is None else usable.tobytes()
    return _compile(pattern, vocabulary.kind, vocabulary.symbols, used, end, min_length)


@lru_cache(maxsize=16)
def _compile(
    pattern: str, kind: TokenKind, symbols: tuple[int, ...], usable: bytes | None, end: int | None, min_length: int
) -> Automaton:
    plain = np.array(symbols, np.int64)
    tokens = plain >= 0  # special tokens are in no pattern
    if usable is not None:
        tokens &= np.frombuffer(usable, bool)
    return Automaton(pattern, kind, plain, tokens, end, min_length)
