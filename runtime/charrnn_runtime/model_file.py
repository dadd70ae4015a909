"""Model-file format 1: reading, checking and describing it.

``runtime/README.md`` specifies the format; this is its one implementation. The
exporter writes files through ``ModelInfo.to_metadata`` and ``seal``, so that
reader and writer cannot drift apart.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charrnn_runtime._protobuf import BYTES, VARINT, Field, iter_fields, packed_varints
from charrnn_runtime.errors import ModelFileError, UsageError
from charrnn_runtime.vocab import Vocabulary

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = 1
PREFIX = "charrnn."
DIGEST_KEY = "charrnn.sha256"
MAX_BYTES = 2**31 - 1  # protobuf's own limit for one message
DOMAINS = ("", "ai.onnx", "com.microsoft")

# Field numbers of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto)
_MODEL_GRAPH, _MODEL_OPSET_IMPORT, _MODEL_METADATA, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 8, 14, 20, 25
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE_INITIALIZER = 1, 5, 15
_NODE_OP_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_ATTRIBUTE_SPARSE_TENSOR, _ATTRIBUTE_SPARSE_TENSORS = 22, 23
_TENSOR_DIMS, _TENSOR_DATA_TYPE, _TENSOR_RAW_DATA = 1, 2, 9
_TENSOR_DTYPES = {1: "<f4", 3: "|i1"}  # TensorProto.DataType: those that are read
_TENSOR_NAME, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 8, 13, 14


@dataclass(frozen=True, kw_only=True)
class StateSpec:
    """One state tensor of the cell: float32 ``[batch, size]``, zero at the beginning of a text."""

    input: str
    output: str
    size: int
    dtype: str = "float32"


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """All that a model file says of itself."""

    cell: str
    num_layers: int
    hidden_size: int
    vocabulary: Vocabulary
    states: tuple[StateSpec, ...]
    start_token: int
    format: int = FORMAT
    opset: int = 0
    dtype: str = "float32"
    weights_sha256: str = ""
    sha256: str = field(default="", compare=False)  # of the file, as it says itself
    training: Mapping[str, Any] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    quality: Mapping[str, Any] = field(default_factory=dict)
    sequence: Mapping[str, Any] = field(default_factory=dict)
    producer: Mapping[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over what decides the logits: equal for a checkpoint and its export, of the same dtype."""
        vocabulary, states = (self.to_metadata()[PREFIX + key] for key in ("vocab", "states"))
        parts = (self.weights_sha256 or self.sha256, self.dtype, self.cell, vocabulary, states)
        return hashlib.sha256(_dumps(parts).encode()).hexdigest()

    def to_metadata(self) -> dict[str, str]:
        """metadata_props of the file, without the digest that ``seal`` adds."""
        values = {
            "format": str(self.format),
            "cell": self.cell,
            "num_layers": str(self.num_layers),
            "hidden_size": str(self.hidden_size),
            "vocab": _dumps(self.vocabulary.to_json()),
            "states": _dumps(
                [
                    {"input": s.input, "output": s.output, "shape": ["batch", s.size], "dtype": s.dtype}
                    for s in self.states
                ]
            ),
            "start_token": str(self.start_token),
            "dtype": self.dtype,
            "weights_sha256": self.weights_sha256,
            "training": _dumps(self.training),
            "parity": _dumps(self.parity),
            "producer": _dumps(self.producer),
        }
        for key, optional in (("quality", self.quality), ("sequence", self.sequence)):
            if optional:
                values[key] = _dumps(optional)
        return {PREFIX + key: value for key, value in values.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], *, opset: int = 0) -> ModelInfo:
        """Inverse of ``to_metadata``.

        Raises:
            ModelFileError: names the entry that is missing or wrong.
        """
        if PREFIX + "format" not in metadata:
            raise ModelFileError(
                "no charrnn model: the ONNX file has no metadata 'charrnn.format'; "
                "write one with: charrnn export CHECKPOINT model.onnx"
            )
        file_format = _integer(metadata, "format", 1)
        if file_format > FORMAT:
            raise ModelFileError(
                f"model-file format {file_format} is newer than this runtime (format {FORMAT}); "
                "upgrade it: pip install -U charrnn-runtime"
            )
        try:
            vocabulary = Vocabulary.from_json(_json(metadata, "vocab"))
        except UsageError as error:
            raise ModelFileError(f"metadata 'charrnn.vocab': {error}") from error
        start_token = _integer(metadata, "start_token", 0)
        if start_token >= len(vocabulary):
            raise ModelFileError(f"metadata 'charrnn.start_token' {start_token} is not in the vocabulary")
        return cls(
            format=file_format,
            cell=_text(metadata, "cell"),
            num_layers=_integer(metadata, "num_layers", 1),
            hidden_size=_integer(metadata, "hidden_size", 1),
            vocabulary=vocabulary,
            states=_states(_json(metadata, "states")),
            start_token=start_token,
            opset=opset,
            dtype=metadata.get(PREFIX + "dtype", "float32"),
            weights_sha256=metadata.get(PREFIX + "weights_sha256", ""),
            sha256=metadata.get(DIGEST_KEY, ""),
            training=_object(metadata, "training"),
            parity=_object(metadata, "parity"),
            quality=_object(metadata, "quality"),
            sequence=_object(metadata, "sequence"),
            producer=_object(metadata, "producer"),
        )


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A checked model file: its bytes, for ONNX Runtime, and what it says of itself."""

    data: bytes
    info: ModelInfo
    name: str


def read_model_file(source: str | os.PathLike[str] | bytes) -> ModelFile:
    """Reads and checks a model file; nothing in it is executed.

    Raises:
        ModelFileError: not there, not ONNX, not ours, damaged, or a kind of
            file that the format forbids (external data, foreign operators,
            control flow, functions).
    """
    if isinstance(source, bytes):
        data, name = source, "<bytes>"
    else:
        name = os.fspath(source)
        data = _read(Path(name))
    try:
        metadata, opset = _check_structure(data)
        info = ModelInfo.from_metadata(metadata, opset=opset)
        stored = metadata.get(DIGEST_KEY)
        if stored is None:
            raise ModelFileError(f"metadata '{DIGEST_KEY}' is missing")
        if stored != digest(data):
            raise ModelFileError(
                "the file was damaged or changed after export (its SHA-256 does not match); copy or export it again"
            )
    except ModelFileError as error:
        raise ModelFileError(f"{name}: {error}") from error
    return ModelFile(data=data, info=info, name=name)


def read_tensors(data: bytes, names: Set[str]) -> dict[str, NDArray[np.float32] | NDArray[np.int8]]:
    """The float32 and int8 initializers of these names, as views of the file's bytes; others are left out.

    Raises:
        ModelFileError: the bytes of one are not as many as its shape says.
    """
    import numpy as np

    found: dict[str, NDArray[np.float32] | NDArray[np.int8]] = {}
    for graph in (part for part in iter_fields(data) if part.number == _MODEL_GRAPH):
        for tensor in (part for part in _message(data, graph) if part.number == _GRAPH_INITIALIZER):
            name, kind, view = "", 0, memoryview(b"")
            shape: list[int] = []
            for part in _message(data, tensor):
                if part.number == _TENSOR_NAME:
                    name = _string(data, part)
                elif part.number == _TENSOR_DATA_TYPE:
                    kind = part.value
                elif part.number == _TENSOR_DIMS and part.wire_type == VARINT:
                    shape.append(part.value)
                elif part.number == _TENSOR_DIMS:  # packed
                    shape += packed_varints(data, part)
                elif part.number == _TENSOR_RAW_DATA and part.wire_type == BYTES:
                    view = memoryview(data)[part.start : part.end]
            if name in names and kind in _TENSOR_DTYPES:
                dtype = np.dtype(_TENSOR_DTYPES[kind])
                if len(view) != dtype.itemsize * math.prod(shape):
                    raise ModelFileError(f"tensor {name!r} has {len(view)} bytes, which do not fit its shape {shape}")
                found[name] = np.frombuffer(view, dtype).reshape(shape)
    return found


def digest(data: bytes) -> str:
    """SHA-256 (hex) of an ONNX file's bytes without the metadata entry that holds the digest itself."""
    sha = hashlib.sha256()
    view = memoryview(data)
    for part in iter_fields(data):
        if part.number == _MODEL_METADATA and _entry(data, part)[0] == DIGEST_KEY:
            continue
        sha.update(view[part.offset : part.end])
    return sha.hexdigest()


def seal(data: bytes) -> bytes:
    """The same ONNX file with its digest appended; the last thing an exporter does.

    Raises:
        ModelFileError: not an ONNX file, or already sealed.
    """
    if any(p.number == _MODEL_METADATA and _entry(data, p)[0] == DIGEST_KEY for p in iter_fields(data)):
        raise ModelFileError(f"the file already has a '{DIGEST_KEY}'")
    key, value = DIGEST_KEY.encode(), digest(data).encode()
    # StringStringEntryProto {key = 1, value = 2}; all lengths here are below 128: one byte each.
    entry = bytes([1 << 3 | BYTES, len(key)]) + key + bytes([2 << 3 | BYTES, len(value)]) + value
    return data + bytes([_MODEL_METADATA << 3 | BYTES, len(entry)]) + entry


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise ModelFileError(f"{path}: is a folder; name the .onnx file in it")
        if size > MAX_BYTES:
            raise ModelFileError(f"{path}: {size:,} bytes are more than an ONNX file can have")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ModelFileError(f"{path}: no such file") from error
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from error


def _check_structure(data: bytes) -> tuple[dict[str, str], int]:
    """metadata_props and opset of the default domain, once the file holds nothing that the format forbids."""
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
            domain, version = "", 0
            for item in _message(data, part):
                if item.number == _OPSET_DOMAIN:
                    domain = _string(data, item)
                elif item.number == _OPSET_VERSION and item.wire_type == VARINT:
                    version = item.value
            _check_domain(domain)
            if domain in ("", "ai.onnx"):
                opset = version
        elif part.number == _MODEL_GRAPH:
            graphs += 1
            _check_graph(data, part)
        elif part.number in (_MODEL_FUNCTIONS, _MODEL_TRAINING):
            raise ModelFileError("model files hold no functions and no training graphs")
    if graphs != 1:
        raise ModelFileError("not an ONNX model: it holds no graph")
    return metadata, opset


def _check_graph(data: bytes, graph: Field) -> None:
    for part in _message(data, graph):
        if part.number == _GRAPH_INITIALIZER:
            _check_tensor(data, part)
        elif part.number == _GRAPH_SPARSE_INITIALIZER:
            raise ModelFileError("model files hold no sparse tensors")
        elif part.number == _GRAPH_NODE:
            for item in _message(data, part):
                if item.number == _NODE_DOMAIN:
                    _check_domain(_string(data, item))
                elif item.number == _NODE_ATTRIBUTE:
                    _check_attribute(data, item)


def _check_attribute(data: bytes, attribute: Field) -> None:
    for part in _message(data, attribute):
        if part.number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
            raise ModelFileError("model files hold no control flow (an attribute is a graph)")
        if part.number in (_ATTRIBUTE_SPARSE_TENSOR, _ATTRIBUTE_SPARSE_TENSORS):
            raise ModelFileError("model files hold no sparse tensors")
        if part.number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
            _check_tensor(data, part)


def _check_tensor(data: bytes, tensor: Field) -> None:
    name, external = "", False
    for part in _message(data, tensor):
        if part.number == _TENSOR_NAME:
            name = _string(data, part)
        elif part.number == _TENSOR_EXTERNAL_DATA or (part.number == _TENSOR_DATA_LOCATION and part.value):
            external = True
    if external:
        raise ModelFileError(f"tensor {name!r} lies in another file; a model file holds all its data itself")


def _check_domain(domain: str) -> None:
    if domain not in DOMAINS:
        raise ModelFileError(f"operators of {domain!r}: only standard ONNX and com.microsoft operators are allowed")


def _message(data: bytes, part: Field) -> list[Field]:
    if part.wire_type != BYTES:
        raise ModelFileError(f"not an ONNX file: field {part.number} at byte {part.offset} is no message")
    return list(iter_fields(data, part.start, part.end))


def _string(data: bytes, part: Field) -> str:
    if part.wire_type != BYTES:
        raise ModelFileError(f"not an ONNX file: field {part.number} at byte {part.offset} is no text")
    try:
        return data[part.start : part.end].decode()
    except UnicodeDecodeError as error:
        raise ModelFileError(f"not an ONNX file: broken text at byte {part.start}") from error


def _entry(data: bytes, part: Field) -> tuple[str, str]:
    texts = {item.number: _string(data, item) for item in _message(data, part)}
    return texts.get(1, ""), texts.get(2, "")


def _dumps(value: object) -> str:
    # ASCII escapes keep lone surrogates and make the file's bytes independent of any locale.
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def _text(metadata: Mapping[str, str], key: str) -> str:
    try:
        return metadata[PREFIX + key]
    except KeyError:
        raise ModelFileError(f"metadata 'charrnn.{key}' is missing") from None


def _integer(metadata: Mapping[str, str], key: str, least: int) -> int:
    text = _text(metadata, key)
    # isascii: int() would also take other scripts' digits
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
        raise ModelFileError(f"metadata 'charrnn.{key}' is {text[:40]!r}, not a whole number of at least {least}")
    return int(text)


def _json(metadata: Mapping[str, str], key: str) -> Any:
    try:
        return json.loads(_text(metadata, key))
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"metadata 'charrnn.{key}' is no JSON: {error}") from error


def _object(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    if PREFIX + key not in metadata:
        return {}
    value = _json(metadata, key)
    if not isinstance(value, dict):
        raise ModelFileError(f"metadata 'charrnn.{key}' is no JSON object")
    return value


def _states(value: Any) -> tuple[StateSpec, ...]:
    states = []
    for item in value if isinstance(value, list) else ():
        match item:
            case {"input": str(source), "output": str(target), "shape": ["batch", int(size)], "dtype": str(dtype)} if (
                size > 0 and source != target
            ):
                states.append(StateSpec(input=source, output=target, size=size, dtype=dtype))
            case _:
                raise ModelFileError(f"metadata 'charrnn.states' holds something that is no state: {item!r:.80}")
    names = [name for s in states for name in (s.input, s.output)]
    if not states or len(set(names)) != len(names):
        raise ModelFileError("metadata 'charrnn.states' names no states, or one name twice")
    return tuple(states)
