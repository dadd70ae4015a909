"""Patterns: a text that matches a regular expression as a whole, see "Patterns" in ``runtime/README.md``.

A pattern becomes a finite automaton over the tokens of a model. It stays nondeterministic; its
deterministic states are made one by one, as texts come to them. So no pattern takes exponential time or memory,
as ``.*a.{20}`` would as a complete deterministic automaton, and none needs to be minimised. The distance of each
state to acceptance, which keeps texts from ending cut off, is found in the nondeterministic automaton.

Sources: Thompson 1968, "Regular expression search algorithm"; the states made on demand are those of RE2
(Cox 2010, "Regular expression matching in the wild"), as is the division of characters into UTF-8 bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import PatternError
from charrnn_runtime.pattern_syntax import (
    Alternation,
    CharacterSet,
    Concatenation,
    Node,
    Ranges,
    parse_pattern,
)
from charrnn_runtime.pattern_tables import PatternTables, TableArrays
from charrnn_runtime.vocab import TokenKind, Vocabulary

MAX_STATES = 10_000
MAX_EDGES = 100_000
_MAX_VISITS = 300_000  # while edges without a token are removed
_MAX_DISTANCES = 4_000_000  # states times min_length
_NODE_BYTES = 14 << 20  # of an automaton's deterministic states; when they take more, they are made anew
_LONG = 2048.0  # tokens; the mean length of texts that hardly ever end much before their greatest length
_NODE_WORK = 4  # making a state; the unit is finding a known one that follows another
_MAX_WORK = 4000  # on exploring, behind one text
_NEVER = 1 << 30  # the distance to a place that cannot be reached

Utf8 = tuple[tuple[int, int], ...]  # a range for each byte


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
        builder = _Builder(kind, symbols, usable)
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

    def _why_empty(self, builder: _Builder) -> str:
        unseen = builder.unseen[:5]
        if self.distances[0][0] < _NEVER:
            return "only the empty text matches"
        if not unseen:
            return "no text matches"
        return f"no text of the model's characters matches; it has never seen {', '.join(map(repr, unseen))}"


class _Builder:
    """Thompson's construction: states with edges for sets of tokens, and empty edges."""

    def __init__(self, kind: TokenKind, symbols: NDArray[np.int64], usable: NDArray[np.bool_]) -> None:
        self._kind = kind
        self._symbols = symbols
        self._usable = usable
        self._edges: list[list[tuple[int, int]]] = [[]]
        self._empty: list[list[int]] = [[]]
        self._set_ids: dict[object, int] = {}
        self._utf8: dict[Ranges, _Utf8Tree] = {}
        self.members: list[NDArray[np.bool_]] = []
        self.unseen: list[str] = []

    def build(self, node: Node) -> int:
        """Adds the pattern from state 0 on; returns the final state."""
        if (size := self._size(node)) > MAX_STATES:
            raise PatternError(
                f"the pattern is too large: {size:,} states with its repetitions written out; at most {MAX_STATES:,}"
            )
        return self._add(node, 0)

    def _new(self) -> int:
        self._edges.append([])
        self._empty.append([])
        return len(self._edges) - 1

    def _size(self, node: Node) -> int:
        """How many states the part takes, at most."""
        if isinstance(node, CharacterSet):
            return 1 if self._kind == "characters" else self._tree(node.ranges).size + 1
        if isinstance(node, (Concatenation, Alternation)):
            return 1 + sum(self._size(part) + 1 for part in node.parts)
        return 2 + self._size(node.part) * max(1, node.most or node.least + 1)

    def _add(self, node: Node, start: int) -> int:
        """Adds the part from a state on; returns the state after it. No edge leads back to ``start``."""
        if isinstance(node, CharacterSet):
            return self._add_set(node.ranges, start)
        if isinstance(node, Concatenation):
            for part in node.parts:
                start = self._add(part, start)
            return start
        if isinstance(node, Alternation):
            end = self._new()
            for part in node.parts:
                begin = self._new()
                self._empty[start].append(begin)
                self._empty[self._add(part, begin)].append(end)
            return end
        for _ in range(node.least):
            start = self._add(node.part, start)
        end = self._new()
        if node.most is None:
            self._empty[start].append(end)
            self._empty[self._add(node.part, end)].append(end)
            return end
        # x{0,3} is (x(x(x)?)?)?: one empty edge from each place to the end.
        self._empty[start].append(end)
        for _ in range(node.most - node.least):
            start = self._add(node.part, start)
            self._empty[start].append(end)
        return end

    def _add_set(self, ranges: Ranges, start: int) -> int:
        end = self._new()
        if self._kind == "characters":
            number = self._set_id(ranges)
            if number is not None:
                self._edges[start].append((number, end))
            elif len(ranges) == 1 and ranges[0][0] == ranges[0][1] and chr(ranges[0][0]) not in self.unseen:
                self.unseen.append(chr(ranges[0][0]))
            return end
        tree = self._tree(ranges)
        states: dict[int, int] = {0: start, -1: end}
        for source, edges in tree.edges.items():
            for target, byte_ranges in edges.items():
                for place in (source, target):
                    if place not in states:
                        states[place] = self._new()
                number = self._set_id(tuple(byte_ranges))
                if number is not None:
                    self._edges[states[source]].append((number, states[target]))
        return end

    def _tree(self, ranges: Ranges) -> _Utf8Tree:
        if ranges not in self._utf8:
            self._utf8[ranges] = _Utf8Tree(ranges)
        return self._utf8[ranges]

    def _set_id(self, ranges: Ranges) -> int | None:
        """The number of a set of tokens, or None if it is empty."""
        if ranges not in self._set_ids:
            flat = np.array(ranges, np.int64).reshape(-1, 2)
            at = np.searchsorted(flat[:, 0], self._symbols, side="right") - 1
            member = (at >= 0) & (self._symbols <= flat[:, 1][at]) if len(flat) else np.zeros(len(self._symbols), bool)
            member &= self._usable
            self._set_ids[ranges] = -1
            if member.any():
                self._set_ids[ranges] = len(self.members)
                self.members.append(member)
        number = self._set_ids[ranges]
        return None if number < 0 else number

    def without_empty_edges(
        self, final: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """The same automaton without its empty edges, starting in state 0.

        Returns:
            The first edge of each state ``[states + 1]``, the set and the target of each edge ``[edges]``, and which
            states are accepting ``[states]``.
        """
        numbers = {0: 0}  # the states that tokens lead to
        order = [0]
        first = [0]
        sets: list[int] = []
        targets: list[int] = []
        accepting: list[bool] = []
        visits = 0
        for state in order:
            reached, stack = {state}, [state]
            found: set[tuple[int, int]] = set()
            while stack:
                here = stack.pop()
                found.update(self._edges[here])
                for there in self._empty[here]:
                    if there not in reached:
                        reached.add(there)
                        stack.append(there)
            visits += len(reached)
            if visits > _MAX_VISITS or len(sets) + len(found) > MAX_EDGES:
                raise PatternError(
                    f"the pattern is too complex: more than {MAX_EDGES:,} ways from character to character; "
                    "it has large repetitions inside repetitions"
                )
            for number, target in sorted(found):
                if target not in numbers:
                    numbers[target] = len(order)
                    order.append(target)
                sets.append(number)
                targets.append(numbers[target])
            first.append(len(sets))
            accepting.append(final in reached)
        as_ids = [np.array(values, np.int64) for values in (first, sets, targets)]
        return as_ids[0], as_ids[1], as_ids[2], np.array(accepting)


class _Utf8Tree:
    """The UTF-8 forms of the characters of a set as a small automaton, from state 0 to state -1.

    Attributes:
        edges: for each state, the target states and the ranges of bytes that lead to them.
        size: how many states there are.
    """

    def __init__(self, ranges: Ranges) -> None:
        self.edges: dict[int, dict[int, list[tuple[int, int]]]] = {}
        self._known: dict[tuple[tuple[tuple[int, int], int], ...], int] = {}
        self._add([sequence for first, last in ranges for sequence in _utf8_ranges(first, last)], root=True)
        self.size = len(self.edges)

    def _add(self, sequences: list[Utf8], *, root: bool = False) -> int:
        """The state from which exactly these sequences lead to the end; equal states are one."""
        children: dict[tuple[int, int], list[Utf8]] = {}
        for sequence in sequences:
            children.setdefault(sequence[0], []).append(sequence[1:])
        edges = [(byte, self._add(rest) if rest[0] else -1) for byte, rest in children.items()]
        key = tuple(edges)
        state = 0 if root else self._known.setdefault(key, len(self._known) + 1)
        self.edges[state] = {}
        for byte_range, target in edges:
            self.edges[state].setdefault(target, []).append(byte_range)
        return state


def _utf8_ranges(first: int, last: int) -> list[Utf8]:
    """The UTF-8 forms of a range of characters, without surrogates, as sequences of ranges of bytes, in order."""
    begin, end = 0xD800, 0xDFFF
    if first <= end and last >= begin:
        before = _utf8_ranges(first, begin - 1) if first < begin else []
        return before + (_utf8_ranges(end + 1, last) if last > end else [])
    for limit in (0x7F, 0x7FF, 0xFFFF):
        if first <= limit < last:
            return _utf8_ranges(first, limit) + _utf8_ranges(limit + 1, last)
    if last > 0x7F:
        for bits in (6, 12, 18):
            low = (1 << bits) - 1
            if first & ~low != last & ~low:
                if first & low:
                    return _utf8_ranges(first, first | low) + _utf8_ranges((first | low) + 1, last)
                if last & low != low:
                    return _utf8_ranges(first, (last & ~low) - 1) + _utf8_ranges(last & ~low, last)
    return [tuple(zip(chr(first).encode(), chr(last).encode(), strict=True))]


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
