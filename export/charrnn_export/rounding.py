"""How far a float32 evaluation of an ONNX graph may be from exact arithmetic.

Running error analysis: the graph is evaluated in float64 by ONNX's reference evaluator, and with
every value goes a bound of how much its float32 counterpart may differ. u = 2⁻²⁴ is the unit
roundoff of float32.

- A constant that was rounded to float32 is off by at most u of its size.
- A product of matrices adds (√n + 4) · u · (Σ |xᵢ wᵢ| + |addend|), where n is the length of the
  sum. The rounding errors of a long sum do not all point the same way; the sure bound has n in
  place of √n and is many times larger than what is ever seen.
- A sum, difference, product or quotient of two numbers adds u of the result.
- Operators that only move or choose numbers add nothing.
- Every other operator, such as Sigmoid or Tanh, adds 16 · u, relative to 1 or to a larger result.
  ONNX Runtime approximates those two, and is off by up to 7 · u.
- What an input may be off goes through a product of matrices with the absolute values of the other
  factor; for every other operator the reference evaluator tells what moving the input by its bound
  changes.

The rules know operators, not cells.

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

if TYPE_CHECKING:
    import onnx

UNIT = 2.0**-24
_APPROXIMATED = 16.0
_PRODUCTS = {"Gemm", "MatMul"}
_ARITHMETIC = {"Add", "Sub", "Mul", "Div"}
_MOVING = {
    "Abs", "Cast", "Clip", "Concat", "Expand", "Flatten", "Gather", "Identity", "Max", "Min", "Neg", "Relu",
    "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip

Array = NDArray[Any]
_Run = Callable[[Sequence[Array]], Sequence[Array]]


@dataclass(frozen=True)
class Bounded:
    """A value, and how far float32 may be from it; arrays of one shape.

    Attributes:
        value: what exact arithmetic gives for the graph with its constants.
        stored: bound of what the rounding of the constants to float32 has changed.
        total: bound of that and of what computing in float32 changes.
    """

    value: Array
    stored: Array
    total: Array

    @classmethod
    def exact(cls, value: Array) -> Bounded:
        """A value that is not off."""
        return cls(value, np.zeros_like(value), np.zeros_like(value))


def evaluate(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Bounded]:
    """The graph's outputs for inputs that float32 holds exactly, or whole numbers, with their bounds."""
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    opsets = {item.domain: item.version for item in model.opset_import}
    values = {name: Bounded.exact(_float64(array)) for name, array in feeds.items()}
    for tensor in model.graph.initializer:
        array = _float64(numpy_helper.to_array(tensor))
        error = UNIT * np.abs(array) if array.dtype == np.float64 else np.zeros_like(array)
        values[tensor.name] = Bounded(array, error, error)
    for node in model.graph.node:
        names = [name for name in node.input if name]
        evaluator = ReferenceEvaluator(node, opsets=opsets)

        def run(
            arrays: Sequence[Array], evaluator: ReferenceEvaluator = evaluator, names: list[str] = names
        ) -> Sequence[Array]:
            return list(evaluator.run(None, dict(zip(names, arrays, strict=True))))

        rule = _product if node.op_type in _PRODUCTS else _other
        values.update(zip(node.output, rule(node.op_type, run, [values[name] for name in names]), strict=True))
    return [values[output.name] for output in model.graph.output]


def _float64(array: Array) -> Array:
    return array.astype(np.float64) if np.issubdtype(array.dtype, np.floating) else array


def _product(_: str, run: _Run, inputs: Sequence[Bounded]) -> list[Bounded]:
    """a @ b + c, where c may be missing."""
    a, b, *addend = inputs
    size = [np.abs(x.value) for x in inputs]
    nothing = [np.zeros_like(x.value) for x in addend]

    def through(errors: Sequence[Array]) -> Array:
        of_a = run([errors[0], size[1], *errors[2:]])[0]
        of_a += run([size[0], errors[1], *nothing])[0] if errors[1].any() else 0.0
        return of_a

    (value,) = run([x.value for x in inputs])
    terms = math.sqrt(a.value.size * b.value.size / value.size)  # of each sum: [m, n] @ [n, k]
    computed = (math.sqrt(terms) + 4) * UNIT * run(size)[0]
    return [Bounded(value, through([x.stored for x in inputs]), through([x.total for x in inputs]) + computed)]


def _other(operator: str, run: _Run, inputs: Sequence[Bounded]) -> list[Bounded]:
    plain = [x.value for x in inputs]
    values = run(plain)

    def moved(errors: Sequence[Array]) -> list[Array]:
        """How much each output changes if the inputs are off so far, one after the other."""
        sums = [np.zeros(np.shape(value)) for value in values]
        for i, error in enumerate(errors):
            if error.dtype != np.float64 or not error.any():
                continue
            change = [np.zeros(np.shape(value)) for value in values]
            for sign in (1.0, -1.0):
                outputs = run([*plain[:i], plain[i] + sign * error, *plain[i + 1 :]])
                for k, (output, value) in enumerate(zip(outputs, values, strict=True)):
                    if np.issubdtype(output.dtype, np.floating):
                        np.maximum(change[k], np.abs(output - value), out=change[k])
            sums = [a + b for a, b in zip(sums, change, strict=True)]
        return sums

    stored, total = moved([x.stored for x in inputs]), moved([x.total for x in inputs])
    results = []
    for value, error, whole in zip(values, stored, total, strict=True):
        computed: Array | float = 0.0
        if operator in _ARITHMETIC:
            computed = UNIT * np.abs(value)
        elif operator not in _MOVING and np.issubdtype(value.dtype, np.floating):
            computed = _APPROXIMATED * UNIT * np.maximum(1.0, np.abs(value))
        results.append(Bounded(value, error, whole + computed))
    return results
