"""Reading many tokens in one call: a graph over a sequence, made from the weights in the model file.

A step reads every weight for every character. Over a sequence, the products of
the inputs (of layers above the first) and of the output layer are made for a
block of characters at once, and the recurrent products run inside one operator
for each layer. The graph is ONNX's LSTM operator, and its weights are those of
the step, laid out as that operator wants them; ``charrnn.sequence`` in the
metadata says where they are.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime._protobuf import message, text
from charrnn_runtime.errors import ModelFileError
from charrnn_runtime.model_file import ModelInfo, read_tensors
from charrnn_runtime.session import Logits, State, Tokens, open_session

_MAX_VOCAB = 1024  # beyond it the one-hot product costs more than the steps save
_FLOAT, _INT64 = 1, 7  # TensorProto.DataType
_OPSET, _IR_VERSION = 18, 10


class SequenceReader:
    """A reader over the graph of a ``SequenceGraph``, from states ``[1, size]``."""

    def __init__(self, session: Any, state: State) -> None:
        self._session = session
        self._names = [f"state_{i}" for i in range(len(state))]
        self._state: State = tuple(s[None] for s in state)

    def read(self, tokens: Tokens) -> Logits:
        """Feeds tokens ``[n]``; the logits ``[n, vocab]`` after each of them."""
        feeds = {"token": tokens.astype(np.int64)[:, None], **dict(zip(self._names, self._state, strict=True))}
        logits, *state = self._session.run(None, feeds)
        self._state = tuple(state)
        result: Logits = logits
        return result

    def state(self) -> State:
        """The states, each ``[1, size]``."""
        return tuple(s[0] for s in self._state)


class SequenceGraph:
    """The sequence graph of one model file, made when it is first asked for. Safe to use from many threads."""

    def __init__(self, data: bytes, info: ModelInfo, threads: int) -> None:
        self._data = data
        self._info = info
        self._threads = threads
        self._lock = threading.Lock()
        self._session: Any = None

    @staticmethod
    def possible(info: ModelInfo) -> bool:
        """Whether the file says where the weights for it are, in a way that this runtime knows."""
        return info.sequence.get("operator") == "LSTM" and len(info.vocabulary) <= _MAX_VOCAB

    def reader(self, state: State | None = None) -> SequenceReader:
        """A reader from the given state, each ``[1, size]``, or from zero.

        Raises:
            ModelFileError: the weights are not what the metadata says.
        """
        with self._lock:
            if self._session is None:
                data = lstm_graph(self._data, self._info)
                self._session = open_session(data, device="cpu", threads=self._threads)
        zero = tuple(np.zeros((1, spec.size), np.float32) for spec in self._info.states)
        return SequenceReader(self._session, state or zero)


def lstm_graph(data: bytes, info: ModelInfo) -> bytes:
    """A serialized ONNX model: token int64 ``[n, 1]``, states ``[1, 1, H]`` → logits ``[n, vocab]``, new states.

    Raises:
        ModelFileError: the weights are not what the metadata says.
    """
    H, V, layers = info.hidden_size, len(info.vocabulary), info.num_layers
    if [state.size for state in info.states] != [H] * (2 * layers):
        raise _wrong("the states are not h and c of every layer")
    names, shapes = _places(info.sequence, layers, H, V)
    found = read_tensors(data, set(names.values()))
    w = {}
    for key, name in names.items():
        if name not in found or found[name].shape != shapes[key]:
            raise _wrong(f"the file holds no float32 tensor {name!r} of the shape {list(shapes[key])}")
        w[key] = found[name]

    initializers = [
        _tensor("depth", np.array(V)),
        _tensor("off_on", np.array([0, 1], np.float32)),
        _tensor("axis", np.array([1])),
        _tensor("axes", np.array([1, 2])),
        _tensor("head.weight", w["head.weight"]),
        _tensor("head.bias", w["head.bias"]),
    ]
    nodes = [_node("OneHot", ["token", "depth", "off_on"], ["x_0"])]
    for i in range(layers):
        if i == 0:
            # A row of the table stands for input product and biases, so the operator gets none of its own.
            inputs, recurrent, bias = w["0.input"], w["0.recurrent"], np.zeros(4 * H, np.float32)
        else:
            inputs, recurrent, bias = w[f"{i}.weight"][:H], w[f"{i}.weight"][H:], w[f"{i}.bias"]
        initializers += [
            _tensor(f"W_{i}", _gates(inputs.T)[None]),
            _tensor(f"R_{i}", _gates(recurrent.T)[None]),
            _tensor(f"B_{i}", np.concatenate([_gates(bias), np.zeros(4 * H, np.float32)])[None]),
        ]
        h, c = f"state_{2 * i}", f"state_{2 * i + 1}"
        nodes.append(
            _node(
                "LSTM",
                [f"x_{i}", f"W_{i}", f"R_{i}", f"B_{i}", "", h, c],
                [f"y_{i}", f"next_{h}", f"next_{c}"],
                hidden_size=H,
            )
        )
        last = i == layers - 1
        nodes.append(_node("Squeeze", [f"y_{i}", "axes" if last else "axis"], [f"x_{i + 1}"]))
    nodes.append(_node("Gemm", [f"x_{layers}", "head.weight", "head.bias"], ["logits"]))
    states = [f"state_{i}" for i in range(2 * layers)]
    graph = (
        b"".join(message(1, node) for node in nodes)
        + text(2, "charrnn_sequence")
        + b"".join(message(5, tensor) for tensor in initializers)
        + message(11, _value("token", _INT64, ["n", 1]))
        + b"".join(message(11, _value(name, _FLOAT, [1, 1, H])) for name in states)
        + message(12, _value("logits", _FLOAT, ["n", V]))
        + b"".join(message(12, _value(f"next_{name}", _FLOAT, [1, 1, H])) for name in states)
    )
    return message(1, _IR_VERSION) + message(8, message(2, _OPSET)) + message(7, graph)


def _places(sequence: Mapping[str, Any], layers: int, H: int, V: int) -> tuple[dict[str, str], dict[str, Any]]:
    """Names of the weights in the file, and the shapes they must have, by our own short names."""
    shapes: dict[str, Any] = {"0.input": (V, 4 * H), "0.recurrent": (H, 4 * H)}
    for i in range(1, layers):
        shapes |= {f"{i}.weight": (2 * H, 4 * H), f"{i}.bias": (4 * H,)}
    shapes |= {"head.weight": (H, V), "head.bias": (V,)}
    weights = sequence.get("weights")
    names = {key: weights.get(key) if isinstance(weights, dict) else None for key in shapes}
    if not all(isinstance(name, str) for name in names.values()):
        raise _wrong("it does not name every weight")
    return names, shapes  # type: ignore[return-value]  # all are str, just checked


def _gates(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """From the step's order of the gates (input, forget, cell, output) to ONNX's (input, output, forget, cell)."""
    i, f, g, o = np.split(weight, 4)
    return np.concatenate([i, o, f, g])


def _tensor(name: str, value: NDArray[Any]) -> bytes:
    kind = _FLOAT if value.dtype == np.float32 else _INT64
    raw = np.ascontiguousarray(value, "<f4" if kind == _FLOAT else "<i8").tobytes()
    return b"".join(message(1, size) for size in value.shape) + message(2, kind) + text(8, name) + message(9, raw)


def _node(operator: str, inputs: list[str], outputs: list[str], **attributes: int) -> bytes:
    return (
        b"".join(text(1, name) for name in inputs)
        + b"".join(text(2, name) for name in outputs)
        + text(4, operator)
        + b"".join(message(5, text(1, k) + message(3, v) + message(20, 2)) for k, v in attributes.items())
    )


def _value(name: str, kind: int, shape: list[int | str]) -> bytes:
    dims = b"".join(message(1, message(1, size) if isinstance(size, int) else text(2, size)) for size in shape)
    return text(1, name) + message(2, message(1, message(1, kind) + message(2, dims)))


def _wrong(what: str) -> ModelFileError:
    return ModelFileError(f"metadata 'charrnn.sequence': {what}")
