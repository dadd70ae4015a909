"""Graphs over a sequence, made from the weights of a model file that holds a step.

float32: ONNX's LSTM, GRU or RNN operator for each layer. int8: a Scan for each
layer whose body is the step of that layer; the products of its inputs are made
outside for all tokens at once and added as whole numbers, so the states are the
step's to the last bit. Either way the weights are the file's own, where
``charrnn.sequence`` in its metadata says they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime._protobuf import encode_field as field
from charrnn_runtime._protobuf import encode_string as string
from charrnn_runtime.errors import ModelFileError
from charrnn_runtime.model_file import ModelInfo
from charrnn_runtime.onnx_structure import read_tensors

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1, "LSTM int8": 4}  # operators and how many gates stand side by side

_MAX_VOCAB = 1024  # beyond it the one-hot product of ONNX's operators costs more than the steps save
_FLOAT, _UINT8, _INT8, _INT32, _INT64 = 1, 2, 3, 6, 7  # TensorProto.DataType
_DTYPES = {"<f4": _FLOAT, "|u1": _UINT8, "|i1": _INT8, "<i8": _INT64}
_GRAPH, _INT = 5, 2  # AttributeProto.AttributeType
_OPSET, _IR_VERSION = 18, 10

Weights = dict[str, NDArray[Any]]
Shape = tuple[int, ...]


def sequence_possible(info: ModelInfo) -> bool:
    """Whether the file says where the weights are, for an operator that is known here and pays."""
    operator = info.sequence.get("operator")
    if not isinstance(operator, str) or operator not in _GATES:
        return False
    return operator == "LSTM int8" or len(info.vocabulary) <= _MAX_VOCAB


def sequence_graph(data: bytes, info: ModelInfo) -> bytes:
    """A serialized ONNX model for a file for which it is possible.

    token int64 ``[n, 1]``, state_0, state_1 … → logits ``[n, vocab]``, next_state_0 …

    Raises:
        ModelFileError: the weights are not what the metadata says.
    """
    operator, layers, H = str(info.sequence["operator"]), info.num_layers, info.hidden_size
    if len(info.states) != _states_of(operator) * layers or any(state.size != H for state in info.states):
        raise _wrong(f"the states are not those of {operator} in every layer")
    graph = _Graph(operator, info, _weights(data, info, _shapes(operator, layers, H, len(info.vocabulary))))
    (graph.scans if operator == "LSTM int8" else graph.operators)()
    return graph.serialized()


class _Graph:
    """Nodes and initializers in the making."""

    def __init__(self, operator: str, info: ModelInfo, weights: Weights) -> None:
        self.operator = operator
        self.H, self.V, self.layers = info.hidden_size, len(info.vocabulary), info.num_layers
        self.w = weights
        self.states = [f"state_{i}" for i in range(len(info.states))]
        self.state_shape: list[int | str] = []
        self.nodes: list[bytes] = []
        self.initializers: list[bytes] = []

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.initializers.append(_tensor(name, value))
        return name

    def node(self, operator: str, inputs: list[str], outputs: list[str], **attributes: int | bytes) -> None:
        self.nodes.append(_node(operator, inputs, outputs, **attributes))

    def operators(self) -> None:
        """One of ONNX's recurrent operators for each layer."""
        H, w, operator = self.H, self.w, self.operator
        self.state_shape = [1, 1, H]
        per_layer = _states_of(operator)
        depth, off_on = self.constant("depth", np.array(self.V)), self.constant("off_on", np.array([0, 1], np.float32))
        direction = self.constant("direction", np.array([1]))
        self.node("OneHot", ["token", depth, off_on], ["x_0"])
        for i in range(self.layers):
            states = self.states[i * per_layer : (i + 1) * per_layer]
            inputs, recurrent, biases = _layer(operator, w, i, H)
            weights = [
                self.constant(f"W_{i}", _reordered(operator, inputs.T)[None]),
                self.constant(f"R_{i}", _reordered(operator, recurrent.T)[None]),
                self.constant(f"B_{i}", np.concatenate([_reordered(operator, bias) for bias in biases])[None]),
            ]
            after_reset = {"linear_before_reset": 1} if operator == "GRU" else {}
            self.node(
                operator,
                [f"x_{i}", *weights, "", *states],  # "": all sequences are whole
                [f"y_{i}", *(f"next_{state}" for state in states)],
                hidden_size=H,
                **after_reset,
            )
            self.node("Squeeze", [f"y_{i}", direction], [f"x_{i + 1}"])
        self._head()

    def scans(self) -> None:
        """A Scan for each layer of int8 weights, with the step's own arithmetic inside."""
        H, w = self.H, self.w
        self.state_shape = [1, H]
        self.constant("scale", np.array(1 / 127, np.float32))
        self.constant("zero_point", np.array(128, np.uint8))
        self.node("Gather", [self.constant("rows", w["0.input"]), "token"], ["in_0"])  # [n, 1, 4H]
        for i in range(self.layers):
            key = f"{i}.weight" if i else "0.recurrent"
            recurrent = self.constant(f"R_{i}", w[key][-H:])
            scale = self.constant(f"scale_{i}", w[f"{key}.scale"])
            bias = self.constant(f"B_{i}", w[f"{i}.bias"]) if i else None
            if i:
                inputs = self.constant(f"W_{i}", w[key][:H])
                self.node("QuantizeLinear", [f"x_{i}", "scale", "zero_point"], [f"q_{i}"])
                self.node("MatMulInteger", [f"q_{i}", inputs, "zero_point"], [f"in_{i}"])
            body = _lstm_body(i, recurrent, scale, bias, H)
            states = self.states[2 * i : 2 * i + 2]
            outputs = [*(f"next_{state}" for state in states), f"x_{i + 1}"]
            self.node("Scan", [*states, f"in_{i}"], outputs, body=body, num_scan_inputs=1)
        self._head()

    def _head(self) -> None:
        """From the last layer's ``[n, 1, H]`` to the logits."""
        batch = self.constant("batch", np.array([1]))
        self.node("Squeeze", [f"x_{self.layers}", batch], ["top"])
        head = [self.constant(f"head.{name}", self.w[f"head.{name}"]) for name in ("weight", "bias")]
        self.node("Gemm", ["top", *head], ["logits"])

    def serialized(self) -> bytes:
        inputs = [_value("token", _INT64, ["n", 1]), *(_value(s, _FLOAT, self.state_shape) for s in self.states)]
        outputs = [_value("logits", _FLOAT, ["n", self.V])]
        outputs += [_value(f"next_{s}", _FLOAT, self.state_shape) for s in self.states]
        graph = _graph("charrnn_sequence", self.nodes, inputs, outputs, self.initializers)
        return field(1, _IR_VERSION) + field(8, field(2, _OPSET)) + field(7, graph)


def _lstm_body(i: int, recurrent: str, scale: str, bias: str | None, H: int) -> bytes:
    """One token through layer i, as int8 files compute it: h, c, input product ``[1, 4H]`` → h, c, h once more.

    The input product of layer 0 is a row of its table, float32, that holds the bias. That of a layer
    with a bias of its own is the sum of whole numbers to which the recurrent part is yet to be added.
    """
    nodes: list[bytes] = []

    def node(operator: str, inputs: list[str], output: str, **attributes: int) -> str:
        nodes.append(_node(operator, inputs, [f"{output}_{i}"], **attributes))
        return f"{output}_{i}"

    h, c, given = f"h_{i}", f"c_{i}", f"given_{i}"
    quantized = node("QuantizeLinear", [h, "scale", "zero_point"], "quantized")
    product = node("MatMulInteger", [quantized, recurrent, "zero_point"], "product")
    if bias is not None:
        product = node("Add", [product, given], "whole")
    scaled = node("Mul", [node("Cast", [product], "float", to=_FLOAT), scale], "scaled")
    sums = node("Add", [scaled, given if bias is None else bias], "sums")
    gates = [f"{name}_{i}" for name in ("sum_i", "sum_f", "sum_g", "sum_o")]
    nodes.append(_node("Split", [sums], gates, axis=1, num_outputs=4))
    input_gate, forget_gate, output_gate = (
        node("Sigmoid", [gates[k]], name) for k, name in ((0, "input_gate"), (1, "forget_gate"), (3, "output_gate"))
    )
    kept = node("Mul", [forget_gate, c], "kept")
    added = node("Mul", [input_gate, node("Tanh", [gates[2]], "candidate")], "added")
    next_c = node("Add", [kept, added], "next_c")
    next_h = node("Mul", [output_gate, node("Tanh", [next_c], "squashed_c")], "next_h")
    out = node("Identity", [next_h], "out")
    kind = _FLOAT if bias is None else _INT32
    inputs = [_value(h, _FLOAT, [1, H]), _value(c, _FLOAT, [1, H]), _value(given, kind, [1, 4 * H])]
    return _graph(f"layer_{i}", nodes, inputs, [_value(name, _FLOAT, [1, H]) for name in (next_h, next_c, out)], [])


def _layer(operator: str, w: Weights, i: int, H: int) -> tuple[NDArray[Any], NDArray[Any], list[NDArray[Any]]]:
    """Layer i's weights ``[I, G*H]`` and ``[H, G*H]`` and its two biases ``[G*H]``, gates in the file's order.

    A row of layer 0's table holds the input product and the biases that go with it, so those are zero here.
    """
    if i == 0:
        zero = np.zeros(w["0.input"].shape[1], np.float32)
        return w["0.input"], w["0.recurrent"], [zero, w.get("0.recurrent_bias", zero)]
    if operator == "GRU":
        return w[f"{i}.input"], w[f"{i}.recurrent"], [w[f"{i}.input_bias"], w[f"{i}.recurrent_bias"]]
    both, bias = w[f"{i}.weight"], w[f"{i}.bias"]
    return both[:H], both[H:], [bias, np.zeros_like(bias)]


# The step's order of the gates is PyTorch's: LSTM i, f, g, o; GRU r, z, n. ONNX's: i, o, f, g; z, r, n.
_ONNX_ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}


def _reordered(operator: str, weight: NDArray[Any]) -> NDArray[Any]:
    """``[G*H, …]`` with the gates in ONNX's order."""
    gates = np.split(weight, _GATES[operator])
    return np.concatenate([gates[k] for k in _ONNX_ORDER[operator]])


def _states_of(operator: str) -> int:
    return 2 if operator.startswith("LSTM") else 1


def _shapes(operator: str, layers: int, H: int, V: int) -> dict[str, Shape]:
    """Shapes that the weights must have, by the keys of ``charrnn.sequence``."""
    wide = _GATES[operator] * H
    shapes: dict[str, Shape] = {"0.input": (V, wide)}
    for i in range(layers):
        if operator == "GRU":
            shapes |= {f"{i}.recurrent": (H, wide), f"{i}.recurrent_bias": (wide,)}
            shapes |= {f"{i}.input": (H, wide), f"{i}.input_bias": (wide,)} if i else {}
        else:
            key = f"{i}.weight" if i else "0.recurrent"
            shapes |= {f"{i}.weight": (2 * H, wide), f"{i}.bias": (wide,)} if i else {key: (H, wide)}
            shapes |= {f"{key}.scale": (wide,)} if operator == "LSTM int8" else {}
    return shapes | {"head.weight": (H, V), "head.bias": (V,)}


def _weights(data: bytes, info: ModelInfo, shapes: Mapping[str, Shape]) -> Weights:
    """The file's tensors by the keys of ``charrnn.sequence``."""
    weights = info.sequence.get("weights")
    given = weights if isinstance(weights, dict) else {}
    names = {key: name for key in shapes if isinstance(name := given.get(key), str)}
    if len(names) < len(shapes):
        raise _wrong("it does not name every weight")
    found = read_tensors(data, set(names.values()))
    result = {}
    for key, name in names.items():
        whole = f"{key}.scale" in shapes
        dtype = np.dtype(np.int8 if whole else np.float32)
        if name not in found or found[name].shape != shapes[key] or found[name].dtype != dtype:
            raise _wrong(f"the file holds no {dtype} tensor {name!r} of the shape {list(shapes[key])}")
        result[key] = found[name]
    return result


def _tensor(name: str, value: NDArray[Any]) -> bytes:
    little = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
    dims = b"".join(field(1, size) for size in value.shape)
    return dims + field(2, _DTYPES[little.dtype.str]) + string(8, name) + field(9, little.tobytes())


def _node(operator: str, inputs: list[str], outputs: list[str], **attributes: int | bytes) -> bytes:
    """A NodeProto; an attribute is a number or a graph."""
    return (
        b"".join(string(1, name) for name in inputs)
        + b"".join(string(2, name) for name in outputs)
        + string(4, operator)
        + b"".join(
            field(5, string(1, key) + field(3, value) + field(20, _INT))
            if isinstance(value, int)
            else field(5, string(1, key) + field(6, value) + field(20, _GRAPH))
            for key, value in attributes.items()
        )
    )


def _graph(name: str, nodes: list[bytes], inputs: list[bytes], outputs: list[bytes], tensors: list[bytes]) -> bytes:
    parts = [(1, node) for node in nodes] + [(5, tensor) for tensor in tensors]
    parts += [(11, value) for value in inputs] + [(12, value) for value in outputs]
    return b"".join(field(number, part) for number, part in parts) + string(2, name)


def _value(name: str, kind: int, shape: list[int | str]) -> bytes:
    dims = b"".join(field(1, field(1, size) if isinstance(size, int) else string(2, size)) for size in shape)
    return string(1, name) + field(2, field(1, field(1, kind) + field(2, dims)))


def _wrong(what: str) -> ModelFileError:
    return ModelFileError(f"metadata 'charrnn.sequence': {what}")
