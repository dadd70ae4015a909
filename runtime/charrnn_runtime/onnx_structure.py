"""The part of the ONNX file format that a model file uses: metadata and tensors, and what it must not contain.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from charrnn_runtime._protobuf import BYTES, VARINT, Field, encode_field, encode_string, iter_fields, packed_varints
from charrnn_runtime.errors import ModelFileError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DOMAINS = ("", "ai.onnx", "com.microsoft")

_MODEL_GRAPH, _MODEL_OPSET_IMPORT, _MODEL_METADATA, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 8, 14, 20, 25
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE_INITIALIZER = 1, 5, 15
_NODE_ATTRIBUTE, _NODE_DOMAIN = 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_ATTRIBUTE_SPARSE_TENSOR, _ATTRIBUTE_SPARSE_TENSORS = 22, 23
_TENSOR_DIMS, _TENSOR_DATA_TYPE, _TENSOR_NAME, _TENSOR_RAW_DATA = 1, 2, 8, 9
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_GRAPH_INPUT, _GRAPH_OUTPUT = 11, 12
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _TENSOR_TYPE_ELEMENT, _TENSOR_TYPE_SHAPE = 1, 2, 1, 1, 2
_DIMENSION_VALUE = 1
_TYPES = {1: "float", 7: "int64", 10: "float16", 11: "double"}  # ONNX Runtime's names of TensorProto.DataType
_NUMPY_DTYPES = {1: "<f4", 3: "|i1"}  # TensorProto.DataType: those that read_tensors reads


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    """A TensorProto, without a copy of its values."""

    name: str
    data_type: int
    shape: tuple[int, ...]
    raw_data: memoryview
    external: bool  # whether the values are in another file

    @classmethod
    def decode(cls, data: bytes, tensor: Field) -> _Tensor:
        name, data_type, raw_data, external = "", 0, memoryview(b""), False
        shape: list[int] = []
        for part in _message(data, tensor):
            if part.number == _TENSOR_NAME:
                name = _string(data, part)
            elif part.number == _TENSOR_DATA_TYPE:
                data_type = part.value
            elif part.number == _TENSOR_DIMS:
                shape += [part.value] if part.wire_type == VARINT else packed_varints(data, part)
            elif part.number == _TENSOR_RAW_DATA and part.wire_type == BYTES:
                raw_data = memoryview(data)[part.start : part.end]
            elif part.number == _TENSOR_EXTERNAL_DATA or (part.number == _TENSOR_DATA_LOCATION and part.value):
                external = True
        return cls(name=name, data_type=data_type, shape=tuple(shape), raw_data=raw_data, external=external)


def check_structure(data: bytes) -> tuple[dict[str, str], int]:
    """Checks that a file has nothing that the format forbids.

    Returns:
        Its metadata_props, and its opset of the default domain.

    Raises:
        ModelFileError: not an ONNX file, or one with something forbidden in it.
    """
    metadata: dict[str, str] = {}
    opset = 0
    graphs = 0
    for part in iter_fields(data):
        if part.number == _MODEL_METADATA:
            key, value = _entry(data, part)
            if key in metadata:
                raise ModelFileError(f"metadata {key!r} stands twice in the file")
            metadata[key] = value
        elif part.number == _MODEL_OPSET_IMPORT:
            domain, version = _opset_import(data, part)
            _check_domain(domain)
            if domain in ("", "ai.onnx"):
                opset = version
        elif part.number == _MODEL_GRAPH:
            graphs += 1
            _check_graph(data, part)
        elif part.number in (_MODEL_FUNCTIONS, _MODEL_TRAINING):
            raise ModelFileError("a model file must not hold functions or training graphs")
    if graphs != 1:
        raise ModelFileError("not an ONNX model: it holds no graph")
    return metadata, opset


def read_tensors(data: bytes, names: Set[str]) -> dict[str, NDArray[np.float32] | NDArray[np.int8]]:
    """The float32 and int8 initializers of these names, as views of the file's bytes; others are left out.

    Raises:
        ModelFileError: the number of bytes of one does not fit its shape.
    """
    import numpy as np

    found: dict[str, NDArray[np.float32] | NDArray[np.int8]] = {}
    for tensor in _initializers(data):
        if tensor.name in names and tensor.data_type in _NUMPY_DTYPES:
            dtype = np.dtype(_NUMPY_DTYPES[tensor.data_type])
            if len(tensor.raw_data) != dtype.itemsize * math.prod(tensor.shape):
                raise ModelFileError(
                    f"tensor {tensor.name!r} has {len(tensor.raw_data)} bytes, "
                    f"which do not fit its shape {list(tensor.shape)}"
                )
            found[tensor.name] = np.frombuffer(tensor.raw_data, dtype).reshape(tensor.shape)
    return found


class Value(NamedTuple):
    """A declared input or output of a graph, as ONNX Runtime describes it too.

    Attributes:
        name: of the value.
        type: such as "tensor(float)".
        shape: sizes, or the names of dynamic ones; None for one without a name.
    """

    name: str
    type: str
    shape: list[int | str | None]


def read_values(data: bytes) -> tuple[list[Value], list[Value]]:
    """The inputs and the outputs that the graph of a checked model file declares."""
    constants = {tensor.name for tensor in _initializers(data)}
    values: dict[int, list[Value]] = {_GRAPH_INPUT: [], _GRAPH_OUTPUT: []}
    for part in iter_fields(data):
        if part.number == _MODEL_GRAPH:
            for item in _message(data, part):
                if item.number in values:
                    values[item.number].append(_value(data, item))
    return [v for v in values[_GRAPH_INPUT] if v.name not in constants], values[_GRAPH_OUTPUT]


def _value(data: bytes, value: Field) -> Value:
    name, kind, shape = "", "", list[int | str | None]()
    for part in _message(data, value):
        if part.number == _VALUE_NAME:
            name = _string(data, part)
        elif part.number == _VALUE_TYPE:
            for tensor in (item for item in _message(data, part) if item.number == _TYPE_TENSOR):
                for item in _message(data, tensor):
                    if item.number == _TENSOR_TYPE_ELEMENT:
                        kind = _TYPES.get(item.value, f"type {item.value}")
                    elif item.number == _TENSOR_TYPE_SHAPE:
                        shape = [_dimension(data, dim) for dim in _message(data, item)]
    return Value(name, f"tensor({kind})", shape)


def _dimension(data: bytes, dimension: Field) -> int | str | None:
    for part in _message(data, dimension):
        return part.value if part.number == _DIMENSION_VALUE else _string(data, part)
    return None


def without_entry(data: bytes, key: str) -> Iterator[memoryview]:
    """The top-level fields of a file, tag, length and payload, without its metadata entry of this key."""
    view = memoryview(data)
    for part in iter_fields(data):
        if part.number != _MODEL_METADATA or _entry(data, part)[0] != key:
            yield view[part.offset : part.end]


def metadata_entry(key: str, value: str) -> bytes:
    """A metadata entry to append to a serialized ModelProto."""
    return encode_field(_MODEL_METADATA, encode_string(_ENTRY_KEY, key) + encode_string(_ENTRY_VALUE, value))


def _initializers(data: bytes) -> Iterator[_Tensor]:
    for part in iter_fields(data):
        if part.number == _MODEL_GRAPH:
            for item in _message(data, part):
                if item.number == _GRAPH_INITIALIZER:
                    yield _Tensor.decode(data, item)


def _opset_import(data: bytes, part: Field) -> tuple[str, int]:
    domain, version = "", 0
    for item in _message(data, part):
        if item.number == _OPSET_DOMAIN:
            domain = _string(data, item)
        elif item.number == _OPSET_VERSION and item.wire_type == VARINT:
            version = item.value
    return domain, version


def _check_graph(data: bytes, graph: Field) -> None:
    for part in _message(data, graph):
        if part.number == _GRAPH_INITIALIZER:
            _check_tensor(data, part)
        elif part.number == _GRAPH_SPARSE_INITIALIZER:
            raise ModelFileError("a model file must not hold sparse tensors")
        elif part.number == _GRAPH_NODE:
            for item in _message(data, part):
                if item.number == _NODE_DOMAIN:
                    _check_domain(_string(data, item))
                elif item.number == _NODE_ATTRIBUTE:
                    _check_attribute(data, item)


def _check_attribute(data: bytes, attribute: Field) -> None:
    for part in _message(data, attribute):
        if part.number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
            raise ModelFileError("a model file must not hold control flow (an attribute is a graph)")
        if part.number in (_ATTRIBUTE_SPARSE_TENSOR, _ATTRIBUTE_SPARSE_TENSORS):
            raise ModelFileError("a model file must not hold sparse tensors")
        if part.number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
            _check_tensor(data, part)


def _check_tensor(data: bytes, part: Field) -> None:
    tensor = _Tensor.decode(data, part)
    if tensor.external:
        raise ModelFileError(f"tensor {tensor.name!r} is in another file; a model file must hold all its data itself")


def _check_domain(domain: str) -> None:
    if domain not in DOMAINS:
        raise ModelFileError(f"operators of {domain!r}: only standard ONNX and com.microsoft operators are allowed")


def _message(data: bytes, part: Field) -> list[Field]:
    if part.wire_type != BYTES:
        raise ModelFileError(f"not an ONNX file: field {part.number} at byte {part.offset} is not a message")
    return list(iter_fields(data, part.start, part.end))


def _string(data: bytes, part: Field) -> str:
    if part.wire_type != BYTES:
        raise ModelFileError(f"not an ONNX file: field {part.number} at byte {part.offset} is not a string")
    try:
        return data[part.start : part.end].decode()
    except UnicodeDecodeError as error:
        raise ModelFileError(f"not an ONNX file: the string at byte {part.start} is not UTF-8") from error


def _entry(data: bytes, part: Field) -> tuple[str, str]:
    strings = {item.number: _string(data, item) for item in _message(data, part)}
    return strings.get(_ENTRY_KEY, ""), strings.get(_ENTRY_VALUE, "")
