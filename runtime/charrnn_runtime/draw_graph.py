"""What graphs that draw have in common: the file's step as a loop's body, and the drawing of ``runtime/README.md``.

The file's nodes are the body of a Scan or a Loop, as they are. Behind them stands the drawing in float64: the tokens
are those of ``sampling.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from charrnn_runtime.errors import ModelFileError
from charrnn_runtime.model_file import ModelInfo
from charrnn_runtime.onnx_graph import Graph, Kind, Name, Node, StepGraph

MIN_OPSET = 18  # of the file: the operators here are in the form that they have since then
OPTIONS = ("temperature", "top_k", "top_p", "min_p")
OPTION_KINDS = (Kind.DOUBLE, Kind.INT64, Kind.DOUBLE, Kind.DOUBLE)
SMALLEST_TEMPERATURE = 1e-300  # in place of 0: the weight of every token but the likeliest is 0


@dataclass(frozen=True)
class Source:
    """A model file to make a graph of.

    Attributes:
        step: its graph.
        info: its metadata.
        varying: the nodes that depend on the token or a state.
    """

    step: StepGraph
    info: ModelInfo
    varying: list[int]

    @classmethod
    def read(cls, data: bytes, info: ModelInfo) -> Source:
        """The source, for the bytes of a checked model file.

        Raises:
            ModelFileError: no node of the file computes a state or the logits, or its opset is too old.
        """
        if info.opset < MIN_OPSET:
            raise ModelFileError(
                f"a generator needs opset {MIN_OPSET} or later, the file has {info.opset}; export it again"
            )
        step = StepGraph.read(data)
        step.check_makes(["logits", *(state.output for state in info.states)])
        return cls(step, info, sorted(step.dependents(["token", *(state.input for state in info.states)])))

    def constant_part(self) -> list[Node]:
        """The nodes that compute the same in each step."""
        varying = set(self.varying)
        return [node for i, node in enumerate(self.step.nodes) if i not in varying]

    def own_weights(self) -> dict[Name, memoryview]:
        """The initializers that only nodes in the body of a loop take."""
        outside = {name for node in self.constant_part() for name in node.inputs}
        inside = {name for i in self.varying for name in self.step.nodes[i].inputs} - outside
        return {name: self.step.initializers[name] for name in sorted(inside & self.step.initializers.keys())}


def begin(data: bytes, info: ModelInfo) -> tuple[Source, Graph]:
    """A model file, and a graph with the part of it that computes the same in each step."""
    source, graph = Source.read(data, info), Graph("generator")
    for node in source.constant_part():
        graph.copy(node)
    return source, graph


def add_loop(
    graph: Graph,
    operator: str,
    body: Graph,
    info: ModelInfo,
    inputs: Sequence[Name],
    results: Sequence[Name],
    *,
    carried: int,
    row_after: bool = False,
    **attributes: int,
) -> list[Name]:
    """Adds the loop, whose body carries ``carried`` values and the states.

    Args:
        graph: to which it is added.
        operator: Scan or Loop.
        body: its body, which has the outputs of the carried values.
        info: the file's metadata.
        inputs: of the operator.
        results: of ``feed_and_draw``.
        carried: how many.
        row_after: whether the second carried value is returned too, before the states.
        attributes: of the operator.

    Returns:
        Drawn tokens and totals ``[n, batch]``, the states after the last step, and logits if ``results`` has them.
    """
    vocab = len(info.vocabulary)
    for state in info.states:
        body.output(state.output, Kind.FLOAT, ["batch", state.size])
    names = [f"{body.name}/after/{name}" for name in (*map(str, range(carried)), *(s.input for s in info.states))]
    collected = (("drawn", Kind.INT64, ()), ("totals", Kind.DOUBLE, (1,)), ("logits", Kind.FLOAT, (vocab,)))
    for value, (name, kind, more) in zip(results, collected, strict=False):
        # The token is carried too, and a value can be an output only once.
        both = name == "drawn" and not row_after
        body.output(body.add("Identity", value) if both else value, kind, ("batch", *more))
        names.append(f"{body.name}/all/{name}")
    graph.add(operator, *inputs, outputs=names, body=body, **attributes)
    first = carried - row_after
    states, (drawn, totals, *logits) = names[first : carried + len(info.states)], names[carried + len(info.states) :]
    return [drawn, graph.add("Squeeze", totals, graph.constant([-1])), *states, *logits]


def add_states(body: Graph, info: ModelInfo) -> None:
    """Makes the states inputs of a loop's body."""
    # With the shapes given, ONNX Runtime makes the same operators of the file's nodes as in a session of the file.
    for state in info.states:
        body.input(state.input, Kind.FLOAT, ["batch", state.size])


def feed_and_draw(
    body: Graph, source: Source, uniforms: Name, options: Sequence[Name], *, logits: bool, mask: Name | None = None
) -> list[Name]:
    """Adds the step, from ``token`` and the states, and the drawing: tokens, totals and, if asked for, logits.

    The mask is what is added to the logits.
    """
    for i in source.varying:
        body.copy(source.step.nodes[i])
    return [*_draw_row(body, len(source.info.vocabulary), uniforms, options, mask), *(["logits"] if logits else [])]


def _draw_row(body: Graph, vocab: int, uniforms: Name, options: Sequence[Name], mask: Name | None) -> tuple[Name, Name]:
    """Adds the drawing from ``logits`` ``[batch, vocab]``: the tokens ``[batch]``, the totals ``[batch, 1]``."""
    add, constant = body.add, body.constant
    temperature, *limits = options
    logits = add("Cast", "logits", to=Kind.DOUBLE)
    if mask:
        logits = add("Add", logits, mask)  # not Where: NaN must stay NaN
    weights = add("Exp", add("Div", add("Sub", logits, add("ReduceMax", logits, constant([1]))), temperature))
    if limits:
        plain, filtered = Graph(body.name + "/all"), Graph(body.name + "/filter")
        plain.output(plain.add("Identity", weights))
        filtered.output(_filter(filtered, vocab, weights, limits[:-1]))
        weights = add("If", limits[-1], then_branch=filtered, else_branch=plain)
    sums = add("CumSum", weights, constant(1))
    total = add("Gather", sums, constant([vocab - 1]), axis=1)
    # A uniform number is at most 1 - 2**-53, so its product with the total is always less than the total.
    larger = add("Greater", sums, add("Mul", uniforms, total))
    return add("ArgMax", add("Cast", larger, to=Kind.UINT8), axis=1, keepdims=0), total


def _filter(graph: Graph, vocab: int, weights: Name, limits: Sequence[Name]) -> Name:
    """Adds the filters: the weights ``[batch, vocab]``, 0 for the tokens that are left out."""
    add, constant = graph.add, graph.constant
    top_k, top_p, min_p = limits
    ranked, order = graph.name + "/ranked", graph.name + "/order"
    add("TopK", weights, constant([vocab]), outputs=[ranked, order], axis=1)  # equal weights in id order
    zero = constant(0.0)
    among_k = add("Less", constant(np.arange(vocab)[None]), top_k)
    left = add("Where", among_k, ranked, zero)
    sums = add("CumSum", left, constant(1))
    share = add("Mul", top_p, add("Gather", sums, constant([vocab - 1]), axis=1))
    among_p = add("Less", add("CumSum", left, constant(1), exclusive=1), share)
    least = add("Mul", min_p, add("Gather", ranked, constant([0]), axis=1))
    kept = add("And", add("And", among_k, among_p), add("GreaterOrEqual", ranked, least))
    in_order = add("ScatterElements", weights, order, add("Where", kept, ranked, zero), axis=1)
    # Where a weight is NaN, all are.
    nothing = add("Mul", add("ReduceSum", weights, constant([1])), zero)
    return add("Add", in_order, nothing)
