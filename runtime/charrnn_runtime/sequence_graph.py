"""A graph over a block of tokens, made from the step that a model file holds.

Part of a step are loops: what a state needs to get from one step to the next.
Each loop becomes a Scan, whose body holds the nodes of the file as they are. No
other node waits for an earlier token: the table of the first layer, products of
inputs, the output layer. They are computed once for all tokens of the block, as
for a batch.

All nodes are the file's, and the rows of a batch do not depend on each other.
So logits and states are those of the step to the last bit, however a text is
cut into blocks.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from charrnn_runtime.model_file import ModelInfo
from charrnn_runtime.onnx_graph import Graph, Kind, Name, StepGraph

# In the body of a Scan values have the file's names. Names must not stand for something else outside of it.
_ROWS = "rows/"  # a value for all n tokens of the block, [n, …]
_ROW = "row/"  # the same as [n, 1, …], from which a Scan takes one row [1, …] after the other
_EMITTED = "emitted/"  # in a body: what becomes a row
_BEFORE, _AFTER = "before/", "after/"  # states, [1, size]


def input_names(info: ModelInfo) -> list[Name]:
    """Names of the graph's inputs: token int64 ``[n]``, then the states, float32 ``[1, size]`` each."""
    return [_ROWS + "token", *(_BEFORE + state.input for state in info.states)]


def output_names(info: ModelInfo) -> list[Name]:
    """Names of the graph's outputs: logits float32 ``[n, vocab]``, then the states after the last token."""
    return [_ROWS + "logits", *(_AFTER + state.input for state in info.states)]


def sequence_graph(data: bytes, info: ModelInfo) -> bytes:
    """A serialized ONNX model for the bytes of a checked model file.

    Raises:
        ModelFileError: no node of the file computes a state or the logits.
    """
    step = StepGraph.read(data)
    nodes, users = step.nodes, step.users()
    carried = {state.output: state.input for state in info.states}
    step.check_makes(["logits", *carried])
    # What depends on neither the token nor a state is the same for every token.
    varying = step.dependents(["token", *carried.values()])
    values = {name for i in varying for name in nodes[i].outputs} | {"token"}

    graph = Graph("charrnn_sequence")
    axis = graph.constant([1], np.int64)
    for i, node in enumerate(nodes):
        if i not in varying:
            graph.copy(node)
    made: set[Name] = set()  # those in _ROW form

    for part in _parts(step, varying, carried):
        inside = {name for i in part for name in nodes[i].outputs}
        states = [(source, target) for target, source in carried.items() if target in inside]
        if not states:
            for i in part:
                rows = {name: _ROWS + name for name in (*nodes[i].inputs, *nodes[i].outputs) if name in values}
                graph.copy(nodes[i], rows)
            continue
        given = sorted({name for i in part for name in nodes[i].inputs if name in values} - inside)
        for name in given:
            if name not in made:
                graph.add("Unsqueeze", _ROWS + name, axis, outputs=[_ROW + name])
        emitted = sorted(name for name in inside if name == "logits" or not set(users.get(name, ())) <= set(part))
        made.update(given, emitted)
        body = Graph("body")
        for i in part:
            body.copy(nodes[i])
        for name in (*(source for source, _ in states), *given):
            body.input(name)
        for name in emitted:
            body.add("Identity", name, outputs=[_EMITTED + name])
        for name in (*(target for _, target in states), *(_EMITTED + name for name in emitted)):
            body.output(name)
        graph.add(
            "Scan",
            *(_BEFORE + source for source, _ in states),
            *(_ROW + name for name in given),
            outputs=[*(_AFTER + source for source, _ in states), *(_ROW + name for name in emitted)],
            body=body,
            num_scan_inputs=len(given),
        )
        for name in emitted:
            graph.add("Squeeze", _ROW + name, axis, outputs=[_ROWS + name])

    token, *before = input_names(info)
    graph.input(token, Kind.INT64, ["n"])
    logits, *after = output_names(info)
    graph.output(logits, Kind.FLOAT, ["n", len(info.vocabulary)])
    for state, source, target in zip(info.states, before, after, strict=True):
        graph.input(source, Kind.FLOAT, [1, state.size])
        graph.output(target, Kind.FLOAT, [1, state.size])
    return step.model(graph)


def _parts(step: StepGraph, varying: set[int], carried: Mapping[Name, Name]) -> list[list[int]]:
    """The varying nodes in parts, each after those that it depends on: the loops, and single nodes.

    These are the strongly connected components of the graph in which each state's output leads to
    the nodes that take the state (S. R. Kosaraju's algorithm). The edge back keeps a state's nodes
    together even where its new value does not depend on its old one.
    """
    users, makers = step.users(), step.makers()
    after: dict[int, set[int]] = {i: set() for i in varying}
    before: dict[int, set[int]] = {i: set() for i in varying}
    edges = [(i, j) for i in varying for name in step.nodes[i].outputs for j in users.get(name, ())]
    for target, source in carried.items():
        for j in users.get(source, ()):
            edges += [(makers[target], j), (j, makers[target])]
    for i, j in edges:
        if i in after:
            after[i].add(j)
            before[j].add(i)

    def walk(begin: int, following: Mapping[int, set[int]], seen: set[int]) -> list[int]:
        """The nodes that can be reached from one and were not seen, each after all that follow it."""
        seen.add(begin)
        order: list[int] = []
        stack = [(begin, iter(sorted(following[begin])))]
        while stack:
            i, rest = stack[-1]
            j = next((j for j in rest if j not in seen), None)
            if j is None:
                order.append(i)
                stack.pop()
            else:
                seen.add(j)
                stack.append((j, iter(sorted(following[j]))))
        return order

    seen: set[int] = set()
    finished = [i for begin in sorted(varying) if begin not in seen for i in walk(begin, after, seen)]
    seen = set()
    return [sorted(walk(begin, before, seen)) for begin in reversed(finished) if begin not in seen]
