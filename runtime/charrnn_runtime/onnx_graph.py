"""Reading the nodes of a model file, and building graphs from them, without the onnx package.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime._protobuf import Field, encode_field, encode_length, encode_string, iter_fields
from charrnn_runtime.errors import ModelFileError

_MODEL_IR_VERSION, _MODEL_GRAPH, _MODEL_OPSET_IMPORT = 1, 7, 8
_GRAPH_NODE, _GRAPH_NAME, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 2, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP_TYPE, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_STRING, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TYPE = 1, 3, 4, 6, 20
_INT, _STRING, _GRAPH = 2, 3, 5  # AttributeProto.AttributeType
_TENSOR_DIMS, _TENSOR_DATA_TYPE, _TENSOR_NAME, _TENSOR_RAW_DATA = 1, 2, 8, 9

Name = str
Parts = list[bytes | memoryview]  # of a message: weights are copied once, when all is put together


class Kind(IntEnum):
    """Types of elements, by their numbers in TensorProto.DataType."""

    FLOAT = 1
    UINT8 = 2
    INT32 = 6
    INT64 = 7
    BOOL = 9
    DOUBLE = 11
    UINT64 = 13


_KINDS = {np.dtype(name): kind for name, kind in zip(("f4", "u1", "i4", "i8", "?", "f8", "u8"), Kind, strict=True)}


@dataclass(frozen=True)
class Node:
    """A node of a model file."""

    data: bytes
    inputs: tuple[Name, ...]
    outputs: tuple[Name, ...]

    def renamed(self, names: Mapping[Name, Name]) -> bytes:
        """The node with other names of its inputs and outputs."""
        parts = []
        for part in iter_fields(self.data):
            if part.number in (_NODE_INPUT, _NODE_OUTPUT):
                name = _text(self.data, part)
                parts.append(encode_string(part.number, names.get(name, name)))
            else:
                parts.append(self.data[part.offset : part.end])
        return b"".join(parts)


@dataclass(frozen=True)
class StepGraph:
    """The graph of a model file.

    Attributes:
        header: the fields of the model that stand before the graph: versions.
        nodes: in the order of the file, which is one in which they can be computed.
        initializers: serialized TensorProtos by their names.
    """

    header: bytes
    nodes: list[Node]
    initializers: dict[Name, memoryview]

    @classmethod
    def read(cls, data: bytes) -> StepGraph:
        """The graph of a checked model file.

        Raises:
            ModelFileError: the name of a value is not UTF-8.
        """
        header, nodes, initializers = b"", list[Node](), dict[Name, memoryview]()
        for part in iter_fields(data):
            if part.number in (_MODEL_IR_VERSION, _MODEL_OPSET_IMPORT):
                header += data[part.offset : part.end]
            elif part.number == _MODEL_GRAPH:
                for item in iter_fields(data, part.start, part.end):
                    if item.number == _GRAPH_INITIALIZER:
                        fields = iter_fields(data, item.start, item.end)
                        name = next((_text(data, field) for field in fields if field.number == _TENSOR_NAME), "")
                        initializers[name] = memoryview(data)[item.start : item.end]
                    elif item.number == _GRAPH_NODE:
                        nodes.append(_read_node(data[item.start : item.end]))
        return cls(header, nodes, initializers)

    def check_makes(self, names: Iterable[Name]) -> None:
        """Does nothing if a node computes each of the values.

        Raises:
            ModelFileError: no node computes one of them.
        """
        if not set(names) <= self.makers().keys():
            raise ModelFileError("the graph has outputs that none of its nodes computes")

    def makers(self) -> dict[Name, int]:
        """Which node computes each value."""
        return {name: i for i, node in enumerate(self.nodes) for name in node.outputs}

    def users(self) -> dict[Name, list[int]]:
        """Which nodes take each value."""
        users: dict[Name, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for name in node.inputs:
                users.setdefault(name, []).append(i)
        return users

    def dependents(self, names: Iterable[Name]) -> set[int]:
        """The nodes that depend on any of the values."""
        users, found, waiting = self.users(), set[int](), list(names)
        while waiting:
            for i in users.get(waiting.pop(), ()):
                if i not in found:
                    found.add(i)
                    waiting += self.nodes[i].outputs
        return found

    def dependencies(self, names: Iterable[Name]) -> set[int]:
        """The nodes on which any of the values depends."""
        makers, found, waiting = self.makers(), set[int](), list(names)
        while waiting:
            i = makers.get(waiting.pop())
            if i is not None and i not in found:
                found.add(i)
                waiting += self.nodes[i].inputs
        return found

    def model(self, graph: Graph) -> bytes:
        """A serialized model with another graph, which gets those initializers of this one that no body has."""
        for name, tensor in self.initializers.items():
            if name not in graph.in_bodies:
                graph.initializers[name] = tensor
        return b"".join([self.header, *_message(_MODEL_GRAPH, graph.serialize())])


def _text(data: bytes, field: Field) -> str:
    try:
        return data[field.start : field.end].decode()
    except UnicodeDecodeError as error:
        raise ModelFileError("not an ONNX file: the name of a value is not UTF-8") from error


def _read_node(node: bytes) -> Node:
    names: dict[int, list[Name]] = {_NODE_INPUT: [], _NODE_OUTPUT: []}
    for field in iter_fields(node):
        if field.number in names:
            names[field.number].append(_text(node, field))
    inputs, outputs = (tuple(filter(None, names[number])) for number in (_NODE_INPUT, _NODE_OUTPUT))
    return Node(node, inputs, outputs)


class Graph:
    """A graph under construction: of a model, or the body of a node.

    Args:
        name: of the graph. New values are named ``name/Operator/number``; the names in a model file are other ones.

    Attributes:
        initializers: serialized TensorProtos besides the constants, by their names.
        in_bodies: names of the initializers of the bodies of its nodes.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.initializers: dict[Name, memoryview] = {}
        self.in_bodies: set[Name] = set()
        self._nodes: list[Parts] = []
        self._constants: dict[bytes, Name] = {}  # TensorProto without a name → its name
        self._values: list[tuple[int, bytes]] = []
        self._count = 0

    def copy(self, node: Node, names: Mapping[Name, Name] | None = None) -> None:
        """Adds a node of the file, with other names of its inputs and outputs if they are in ``names``."""
        self._nodes.append([node.renamed(names) if names else node.data])

    def add(self, operator: str, *inputs: Name, outputs: Sequence[Name] = (), **attributes: int | str | Graph) -> Name:
        """Adds a node.

        Returns:
            The name of its first output, a new one unless ``outputs`` are given.
        """
        outputs = outputs or [self._new(operator)]
        parts: Parts = [encode_string(_NODE_INPUT, name) for name in inputs]
        parts += [encode_string(_NODE_OUTPUT, name) for name in outputs]
        parts.append(encode_string(_NODE_OP_TYPE, operator))
        for name, value in attributes.items():
            parts += _message(_NODE_ATTRIBUTE, _attribute(name, value))
            if isinstance(value, Graph):
                self.in_bodies |= value.initializers.keys() | value.in_bodies
        self._nodes.append(parts)
        return outputs[0]

    def constant(self, values: object, dtype: type[np.generic] | np.dtype[np.generic] | None = None) -> Name:
        """Adds an initializer, unless there is one with these values; its name."""
        array: NDArray[np.generic] = np.asarray(values, dtype)
        tensor = (
            b"".join(encode_field(_TENSOR_DIMS, size) for size in array.shape)
            + encode_field(_TENSOR_DATA_TYPE, _KINDS[array.dtype])
            + encode_field(_TENSOR_RAW_DATA, array.astype(array.dtype.newbyteorder("<")).tobytes())
        )
        if tensor not in self._constants:
            self._constants[tensor] = self._new("constant")
        return self._constants[tensor]

    def input(self, name: Name, kind: Kind | None = None, shape: Iterable[int | str] = ()) -> Name:
        """Adds an input; without a kind (in a body) its type is that of the value that the node passes."""
        self._values.append((_GRAPH_INPUT, _value(name, kind, shape)))
        return name

    def output(self, name: Name, kind: Kind | None = None, shape: Iterable[int | str] = ()) -> None:
        """Makes a value an output."""
        self._values.append((_GRAPH_OUTPUT, _value(name, kind, shape)))

    def serialize(self) -> Parts:
        """The GraphProto, in parts."""
        parts = [part for node in self._nodes for part in _message(_GRAPH_NODE, node)]
        for tensor in self.initializers.values():
            parts += _message(_GRAPH_INITIALIZER, [tensor])
        for constant, name in self._constants.items():
            parts += _message(_GRAPH_INITIALIZER, [constant, encode_string(_TENSOR_NAME, name)])
        parts += [encode_field(number, value) for number, value in self._values]
        return [*parts, encode_string(_GRAPH_NAME, self.name)]

    def _new(self, what: str) -> Name:
        self._count += 1
        return f"{self.name}/{what}/{self._count}"


def _message(number: int, parts: Parts) -> Parts:
    """A field that holds a message."""
    return [encode_length(number, sum(map(len, parts))), *parts]


def _attribute(name: str, value: int | str | Graph) -> Parts:
    content: Parts
    if isinstance(value, int):
        content, kind = [encode_field(_ATTRIBUTE_INT, value)], _INT
    elif isinstance(value, str):
        content, kind = [encode_string(_ATTRIBUTE_STRING, value)], _STRING
    else:
        content, kind = _message(_ATTRIBUTE_GRAPH, value.serialize()), _GRAPH
    return [encode_string(_ATTRIBUTE_NAME, name), *content, encode_field(_ATTRIBUTE_TYPE, kind)]


def _value(name: Name, kind: Kind | None, shape: Iterable[int | str]) -> bytes:
    """A ValueInfoProto."""
    if kind is None:
        return encode_string(1, name)
    dims = b"".join(
        encode_field(1, encode_field(1, size) if isinstance(size, int) else encode_string(2, size)) for size in shape
    )
    tensor = encode_field(1, kind) + encode_field(2, dims)
    return encode_string(1, name) + encode_field(2, encode_field(1, tensor))
