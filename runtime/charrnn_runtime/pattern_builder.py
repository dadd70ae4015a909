"""The nondeterministic automaton of a pattern, over the tokens of a model.

Sources: Thompson 1968, "Regular expression search algorithm"; the division of characters into UTF-8 bytes is that of
RE2 (Cox 2010, "Regular expression matching in the wild").
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import PatternError
from charrnn_runtime.pattern_syntax import Alternation, CharacterSet, Concatenation, Node, Ranges
from charrnn_runtime.vocab import TokenKind

MAX_STATES = 10_000
MAX_EDGES = 100_000
_MAX_VISITS = 300_000  # while edges without a token are removed

Utf8 = tuple[tuple[int, int], ...]  # a range for each byte


class Builder:
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
