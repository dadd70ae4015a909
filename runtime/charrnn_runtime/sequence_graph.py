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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from charrnn_runtime._protobuf import encode_field, encode_string, iter_fields
from charrnn_runtime.errors import ModelFileError
from charrnn_runtime.model_file import ModelInfo

# Field numbers of onnx.proto
_MODEL_IR_VERSION, _MODEL_GRAPH, _MODEL_OPSET_IMPORT = 1, 7, 8
_GRAPH_NODE, _GRAPH_NAME, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 2, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP_TYPE, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TYPE = 1, 3, 6, 20
_TENSOR_NAME = 8
_FLOAT, _INT64 = 1, 7  # TensorProto.DataType
_INT, _GRAPH = 2, 5  # AttributeProto.AttributeType

# In the body of a Scan values have the file's names. Names must not stand for something else outside of it.
_ROWS = "rows/"  # a value for all n tokens of the block, [n, …]
_ROW = "row/"  # the same as [n, 1, …], from which a Scan takes one row [1, …] after the other
_EMITTED = "emitted/"  # in a body: what becomes a row
_BEFORE, _AFTER = "before/", "after/"  # states, [1, size]
_AXIS = "axis"

Name = str


@dataclass(frozen=True)
class _Node:
    """A node of the file."""

    data: bytes
    inputs: tuple[Name, ...]
    outputs: tuple[Name, ...]

    def renamed(self, names: Mapping[Name, Name]) -> bytes:
        """The node with other names of its inputs and outputs."""
        parts = []
        for part in iter_fields(self.data):
            if part.number in (_NODE_INPUT, _NODE_OUTPUT):
                name = self.data[part.start : part.end].decode()
                parts.append(encode_string(part.number, names.get(name, name)))
            else:
                parts.append(self.data[part.offset : part.end])
        return b"".join(parts)


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
    header, nodes, initializers = _read(data)
    maker = {name: i for i, node in enumerate(nodes) for name in node.outputs}
    carried = {state.output: state.input for state in info.states}
    if not {"logits", *carried} <= maker.keys():
        raise ModelFileError("the graph has outputs that none of its nodes computes")
    users: dict[Name, list[int]] = {}
    for i, node in enumerate(nodes):
        for name in node.inputs:
            users.setdefault(name, []).append(i)
    # What depends on neither the token nor a state is the same for every token.
    varying = _reachable(["token", *carried.values()], nodes, users)
    values = {name for i in varying for name in nodes[i].outputs} | {"token"}

    graph = [(_GRAPH_NODE, node.data) for i, node in enumerate(nodes) if i not in varying]
    made: set[Name] = set()  # those in _ROW form

    def add(operator: str, inputs: Sequence[Name], outputs: Sequence[Name], **attributes: int | bytes) -> None:
        graph.append((_GRAPH_NODE, _node(operator, inputs, outputs, **attributes)))

    for part in _parts(nodes, varying, users, maker, carried):
        inside = {name for i in part for name in nodes[i].outputs}
        states = [(source, target) for target, source in carried.items() if target in inside]
        if not states:
            for i in part:
                rows = {name: _ROWS + name for name in (*nodes[i].inputs, *nodes[i].outputs) if name in values}
                graph.append((_GRAPH_NODE, nodes[i].renamed(rows)))
            continue
        given = sorted({name for i in part for name in nodes[i].inputs if name in values} - inside)
        for name in given:
            if name not in made:
                add("Unsqueeze", [_ROWS + name, _AXIS], [_ROW + name])
        emitted = sorted(name for name in inside if name == "logits" or not set(users.get(name, ())) <= set(part))
        made.update(given, emitted)
        body = [(_GRAPH_NODE, nodes[i].data) for i in part]
        body += [(_GRAPH_NODE, _node("Identity", [name], [_EMITTED + name])) for name in emitted]
        body += [(_GRAPH_INPUT, encode_string(1, name)) for name in (*(source for source, _ in states), *given)]
        results = (*(target for _, target in states), *(_EMITTED + name for name in emitted))
        body += [(_GRAPH_OUTPUT, encode_string(1, name)) for name in results]
        add(
            "Scan",
            [*(_BEFORE + source for source, _ in states), *(_ROW + name for name in given)],
            [*(_AFTER + source for source, _ in states), *(_ROW + name for name in emitted)],
            body=_message([*body, (_GRAPH_NAME, b"body")]),
            num_scan_inputs=len(given),
        )
        for name in emitted:
            add("Squeeze", [_ROW + name, _AXIS], [_ROWS + name])

    graph += [(_GRAPH_INITIALIZER, tensor) for tensor in (*initializers, _axis())]
    sizes = [(1, state.size) for state in info.states]
    for number, names, kind, shape in (
        (_GRAPH_INPUT, input_names(info), _INT64, ("n",)),
        (_GRAPH_OUTPUT, output_names(info), _FLOAT, ("n", len(info.vocabulary))),
    ):
        graph += [(number, _value(names[0], kind, shape))]
        graph += [(number, _value(name, _FLOAT, size)) for name, size in zip(names[1:], sizes, strict=True)]
    return header + encode_field(_MODEL_GRAPH, _message([*graph, (_GRAPH_NAME, b"charrnn_sequence")]))


def _read(data: bytes) -> tuple[bytes, list[_Node], list[bytes]]:
    """What stands before the graph, its nodes, and its initializers."""
    header, nodes, initializers = b"", [], []
    for part in iter_fields(data):
        if part.number in (_MODEL_IR_VERSION, _MODEL_OPSET_IMPORT):
            header += data[part.offset : part.end]
        elif part.number == _MODEL_GRAPH:
            for item in iter_fields(data, part.start, part.end):
                if item.number == _GRAPH_INITIALIZER:
                    initializers.append(data[item.start : item.end])
                elif item.number == _GRAPH_NODE:
                    node = data[item.start : item.end]
                    names: dict[int, list[Name]] = {_NODE_INPUT: [], _NODE_OUTPUT: []}
                    for field in iter_fields(node):
                        if field.number in names:
                            names[field.number].append(node[field.start : field.end].decode())
                    inputs, outputs = (tuple(filter(None, names[number])) for number in (_NODE_INPUT, _NODE_OUTPUT))
                    nodes.append(_Node(node, inputs, outputs))
    return header, nodes, initializers


def _reachable(names: Iterable[Name], nodes: Sequence[_Node], users: Mapping[Name, list[int]]) -> set[int]:
    """The nodes that depend on any of the values."""
    found: set[int] = set()
    waiting = list(names)
    while waiting:
        for i in users.get(waiting.pop(), ()):
            if i not in found:
                found.add(i)
                waiting += nodes[i].outputs
    return found


def _parts(
    nodes: Sequence[_Node],
    varying: set[int],
    users: Mapping[Name, list[int]],
    maker: Mapping[Name, int],
    carried: Mapping[Name, Name],
) -> list[list[int]]:
    """The varying nodes in parts, each after those that it depends on: the loops, and single nodes.

    These are the strongly connected components of the graph in which each state's output leads to
    the nodes that take the state (S. R. Kosaraju's algorithm). The edge back keeps a state's nodes
    together even where its new value does not depend on its old one.
    """
    after: dict[int, set[int]] = {i: set() for i in varying}
    before: dict[int, set[int]] = {i: set() for i in varying}
    edges = [(i, j) for i in varying for name in nodes[i].outputs for j in users.get(name, ())]
    for target, source in carried.items():
        for j in users.get(source, ()):
            edges += [(maker[target], j), (j, maker[target])]
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


def _message(fields: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(encode_field(number, value) for number, value in fields)


def _node(operator: str, inputs: Sequence[Name], outputs: Sequence[Name], **attributes: int | bytes) -> bytes:
    """A NodeProto; an attribute is a number or a graph."""
    return (
        b"".join(encode_string(_NODE_INPUT, name) for name in inputs)
        + b"".join(encode_string(_NODE_OUTPUT, name) for name in outputs)
        + encode_string(_NODE_OP_TYPE, operator)
        + b"".join(
            encode_field(
                _NODE_ATTRIBUTE,
                encode_string(_ATTRIBUTE_NAME, key)
                + encode_field(_ATTRIBUTE_INT if isinstance(value, int) else _ATTRIBUTE_GRAPH, value)
                + encode_field(_ATTRIBUTE_TYPE, _INT if isinstance(value, int) else _GRAPH),
            )
            for key, value in attributes.items()
        )
    )


def _axis() -> bytes:
    """The TensorProto [1], int64."""
    one = np.array([1], "<i8").tobytes()
    return encode_field(1, 1) + encode_field(2, _INT64) + encode_string(_TENSOR_NAME, _AXIS) + encode_field(9, one)


def _value(name: Name, kind: int, shape: Iterable[int | str]) -> bytes:
    """A ValueInfoProto."""
    dims = b"".join(
        encode_field(1, encode_field(1, size) if isinstance(size, int) else encode_string(2, size)) for size in shape
    )
    tensor = encode_field(1, kind) + encode_field(2, dims)
    return encode_string(1, name) + encode_field(2, encode_field(1, tensor))
