"""How far a float32 evaluation of an ONNX graph may be from exact arithmetic.

Running error analysis: the graph is evaluated in float64, and with every value goes a bound of
what its float32 counterpart may differ by. A constant that was rounded to float32 is off by at
most u = 2⁻²⁴ of its size. A sum or product of two numbers adds u of the result. A dot product of
n terms and an addend adds

    (√n + 4) · u · (Σ |xᵢ wᵢ| + |addend|)

since the rounding errors of a long sum do not all point the same way; the sure bound has n in the
place of √n, and is hundreds of times what is ever seen. A sigmoid or hyperbolic tangent adds
16 u; ONNX Runtime approximates them, and is off by up to 7 u.
An error that comes in with an input goes on as the derivative has it. Nothing here knows the
cell: the rules are those of the operators.

Sources: Wilkinson, "Error analysis revisited" (1986); Higham, "Accuracy and Stability of
Numerical Algorithms" (2nd ed. 2002), section 3.3; Higham and Mary, "A new approach to
probabilistic rounding error analysis" (SIAM J. Sci. Comput. 41, 2019) for √n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from charrnn_export.errors import ExportError

if TYPE_CHECKING:
    import onnx

UNIT = 2.0**-24  # unit roundoff of float32
ACTIVATION = 16.0  # units by which a float32 sigmoid or tanh may be off

Array = NDArray[Any]


@dataclass(frozen=True)
class Bounded:
    """A float64 value and how far float32 may be from it, of the value's shape or broadcast to it.

    Attributes:
        value: what exact arithmetic gives with the graph's float32 constants.
        stored: bound of the error that comes from rounding the constants to float32.
        computed: bound of the error that comes from computing in float32.
    """

    value: Array
    stored: Array | float = 0.0
    computed: Array | float = 0.0

    @property
    def total(self) -> Array:
        """Bound of both errors together, of the value's shape."""
        return np.broadcast_to(np.asarray(self.stored + self.computed), self.value.shape)


def evaluate(graph: onnx.GraphProto, feeds: Mapping[str, Array]) -> dict[str, Bounded]:
    """The graph's outputs for inputs that float32 holds exactly (or whole numbers), with their bounds.

    Raises:
        ExportError: the graph has an operator for which there is no rule here.
    """
    from onnx import helper, numpy_helper

    values: dict[str, Bounded] = {name: Bounded(_exact(array)) for name, array in feeds.items()}
    for tensor in graph.initializer:
        array = _exact(numpy_helper.to_array(tensor))
        values[tensor.name] = Bounded(array, UNIT * np.abs(array) if array.dtype == np.float64 else 0.0)
    for node in graph.node:
        rule = _RULES.get(node.op_type)
        if rule is None:
            raise ExportError(f"{node.name}: no rounding rule for the operator {node.op_type}; add one to rounding.py")
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        inputs = [values[name] for name in node.input if name]
        values.update(zip(node.output, rule(inputs, attributes, len(node.output)), strict=True))
    return {output.name: values[output.name] for output in graph.output}


Rule = Callable[[Sequence[Bounded], Mapping[str, Any], int], Sequence[Bounded]]


def _exact(array: Array) -> Array:
    return array.astype(np.float64) if np.issubdtype(array.dtype, np.floating) else array


def _gather(inputs: Sequence[Bounded], attributes: Mapping[str, Any], _: int) -> list[Bounded]:
    table, index = inputs
    axis = attributes.get("axis", 0)

    def take(array: Array | float) -> Array | float:
        return np.take(array, index.value, axis) if isinstance(array, np.ndarray) else array

    return [Bounded(np.take(table.value, index.value, axis), take(table.stored), take(table.computed))]


def _gemm(inputs: Sequence[Bounded], attributes: Mapping[str, Any], _: int) -> list[Bounded]:
    if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0 or attributes.get("transA", 0):
        raise ExportError("a matrix product of another form than the exporter writes")
    a, b, *addend = inputs
    if attributes.get("transB", 0):
        b = Bounded(b.value.T, np.transpose(b.stored), np.transpose(b.computed))
    return [_product(a, b, addend[0] if addend else Bounded(np.zeros(1)))]


def _matmul(inputs: Sequence[Bounded], _: Mapping[str, Any], __: int) -> list[Bounded]:
    a, b = inputs
    return [_product(a, b, Bounded(np.zeros(1)))]


def _product(a: Bounded, b: Bounded, addend: Bounded) -> Bounded:
    """a @ b + addend, b being constant."""
    size = np.abs(b.value)
    sizes = np.abs(a.value) @ size + np.abs(addend.value)

    def through(error: Array | float) -> Array | float:
        return error @ size if isinstance(error, np.ndarray) else 0.0

    return Bounded(
        a.value @ b.value + addend.value,
        through(a.stored) + np.abs(a.value) @ b.stored + addend.stored,
        through(a.computed) + addend.computed + (math.sqrt(len(size)) + 4) * UNIT * sizes,
    )


def _add(inputs: Sequence[Bounded], _: Mapping[str, Any], __: int) -> list[Bounded]:
    a, b = inputs
    return [_rounded(a.value + b.value, a.stored + b.stored, a.computed + b.computed)]


def _sub(inputs: Sequence[Bounded], _: Mapping[str, Any], __: int) -> list[Bounded]:
    a, b = inputs
    return [_rounded(a.value - b.value, a.stored + b.stored, a.computed + b.computed)]


def _mul(inputs: Sequence[Bounded], _: Mapping[str, Any], __: int) -> list[Bounded]:
    a, b = inputs
    # The product of the two errors belongs to both; it is small, and counted once.
    size_a, size_b = np.abs(a.value) + a.total, np.abs(b.value)
    stored = size_a * b.stored + size_b * a.stored
    return [_rounded(a.value * b.value, stored, size_a * b.computed + size_b * a.computed)]


def _rounded(value: Array, stored: Array | float, computed: Array | float) -> Bounded:
    return Bounded(value, stored, computed + UNIT * np.abs(value))


def _sigmoid(inputs: Sequence[Bounded], _: Mapping[str, Any], __: int) -> list[Bounded]:
    def value(x: Array) -> Array:
        small = np.exp(-np.abs(x))
        return np.where(x >= 0, 1.0, small) / (1.0 + small)

    def slope(x: Array) -> Array:
        return value(x) * value(-x)

    return [_activated(inputs[0], value, slope)]


def _tanh(inputs: Sequence[Bounded], _: Mapping[str, Any], __: int) -> list[Bounded]:
    return [_activated(inputs[0], np.tanh, lambda x: 1.0 - np.tanh(x) ** 2)]


def _activated(x: Bounded, function: Callable[[Array], Array], slope: Callable[[Array], Array]) -> Bounded:
    """A function whose slope is largest at 0 and falls to both sides."""
    steepest = slope(np.maximum(np.abs(x.value) - x.total, 0.0))
    return Bounded(function(x.value), steepest * x.stored, steepest * x.computed + ACTIVATION * UNIT)


def _split(inputs: Sequence[Bounded], attributes: Mapping[str, Any], outputs: int) -> list[Bounded]:
    x, *sizes = inputs
    axis = attributes.get("axis", 0)
    where: Any = np.cumsum(sizes[0].value)[:-1].tolist() if sizes else outputs

    def parts(array: Array | float) -> list[Any]:
        return np.split(array, where, axis) if isinstance(array, np.ndarray) else [array] * outputs

    whole = (x.value, x.stored, x.computed)
    return [Bounded(*three) for three in zip(*map(parts, whole), strict=True)]


def _concat(inputs: Sequence[Bounded], attributes: Mapping[str, Any], _: int) -> list[Bounded]:
    def joined(arrays: list[Array | float]) -> Array:
        shaped = [np.broadcast_to(array, x.value.shape) for array, x in zip(arrays, inputs, strict=True)]
        return np.concatenate(shaped, attributes["axis"])

    return [
        Bounded(
            joined([x.value for x in inputs]), joined([x.stored for x in inputs]), joined([x.computed for x in inputs])
        )
    ]


def _identity(inputs: Sequence[Bounded], _: Mapping[str, Any], __: int) -> list[Bounded]:
    return [inputs[0]]


_RULES: dict[str, Rule] = {
    "Add": _add,
    "Concat": _concat,
    "Gather": _gather,
    "Gemm": _gemm,
    "Identity": _identity,
    "MatMul": _matmul,
    "Mul": _mul,
    "Sigmoid": _sigmoid,
    "Split": _split,
    "Sub": _sub,
    "Tanh": _tanh,
}
