"""Graphs that draw many tokens in one call, made from the step that a model file holds.

The file's nodes are the body of a Scan, as they are. Behind them stands the drawing
of ``runtime/README.md`` in float64: the tokens are those of ``sampling.py``.
``block_graph`` is what the sampler runs; it gets the uniform numbers. ``generator_graph``
is for programs without this runtime: it makes the numbers from a seed, reads prompts of
different lengths, and stops at the end of the texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from charrnn_runtime.errors import ModelFileError
from charrnn_runtime.model_file import GENERATOR_KEY, PREFIX, ModelFile, ModelInfo, seal
from charrnn_runtime.onnx_graph import Graph, Kind, Name, Node, StepGraph
from charrnn_runtime.onnx_structure import metadata_entry
from charrnn_runtime.philox_graph import philox_uniforms

GENERATOR = 1  # version of the generator file
MIN_OPSET = 18  # of the file: the operators here are in the form that they have since then
OPTIONS = ("temperature", "top_k", "top_p", "min_p")
_OPTION_KINDS = (Kind.DOUBLE, Kind.INT64, Kind.DOUBLE, Kind.DOUBLE)
SMALLEST_TEMPERATURE = 1e-300  # in place of 0: the weight of every token but the likeliest is 0
_BEFORE, _AFTER = "before/", "after/"  # states, [batch, size]


def block_inputs(info: ModelInfo, *, filters: bool, patterns: bool = False) -> list[Name]:
    """Names of ``block_graph``'s inputs.

    ``known`` int64 ``[n, batch]``: the tokens to feed, -1 for the one that was drawn in the step before;
    ``uniforms`` float64 ``[n, batch]``; ``temperature`` float64 ``[batch]``, above 0; with ``filters``
    ``top_k`` int64, ``top_p`` and ``min_p`` float64 ``[batch]``, and ``filters`` bool ``[]``, whether any
    of these is in force; then the states, float32 ``[batch, size]`` each.

    A filter that is not in force: top_k is the size of the vocabulary, top_p infinity, min_p 0.

    With ``patterns``, in place of ``known``: ``first`` int64 ``[batch]``, the token to feed in the first step;
    ``row`` int64 ``[batch]``, where each text stands in the tables of ``pattern_tables.py``; ``needed`` and
    ``following``, these tables; ``left`` int32 ``[n, batch]``, how many tokens a text may still have before each step.
    """
    options = [*OPTIONS, "filters"] if filters else OPTIONS[:1]
    begin = ["first", "row", "needed", "following", "left"] if patterns else ["known"]
    return [*begin, "uniforms", *options, *(_BEFORE + state.input for state in info.states)]


def block_outputs(info: ModelInfo, *, patterns: bool = False) -> list[Name]:
    """Names of ``block_graph``'s outputs.

    ``drawn`` int64 ``[n, batch]``: the token that was drawn in each step; ``totals`` float64
    ``[n, batch]``: the sum of its weights, NaN if the logits cannot be drawn from; then the states.

    With ``patterns``, ``drawn`` is the text's row before the step, times the size of the vocabulary, plus the token;
    and before the states comes ``row_after`` int64 ``[batch]``: where the text stands after the last step.
    """
    rows = ["row_after"] if patterns else []
    return ["drawn", "totals", *rows, *(_AFTER + state.input for state in info.states)]


def block_graph(data: bytes, info: ModelInfo, *, filters: bool, patterns: bool = False) -> bytes:
    """A serialized ONNX model that draws a block of tokens, for the bytes of a checked model file.

    Args:
        data: the file.
        info: its metadata.
        filters: whether it takes top_k, top_p and min_p. Without them it is a little faster.
        patterns: whether it keeps texts to patterns, and feeds a single token before it draws.

    Raises:
        ModelFileError: no node of the file computes a state or the logits, or its opset is too old.
    """
    source, graph = _begin(data, info)
    if patterns:
        graph.input("first", Kind.INT64, ["batch"])
        graph.input("row", Kind.INT64, ["batch"])
        graph.input("needed", Kind.INT32, ["rows", len(info.vocabulary)])
        graph.input("following", Kind.INT64, ["rows", len(info.vocabulary)])
        graph.input("left", Kind.INT32, ["n", "batch"])
    else:
        graph.input("known", Kind.INT64, ["n", "batch"])
    graph.input("uniforms", Kind.DOUBLE, ["n", "batch"])
    names = OPTIONS if filters else OPTIONS[:1]
    for name, kind in zip(names, _OPTION_KINDS, strict=False):
        graph.input(name, kind, ["batch"])
    options = [graph.add("Unsqueeze", name, graph.constant([1])) for name in names]
    if filters:
        options.append(graph.input("filters", Kind.BOOL))
    before = [_BEFORE + state.input for state in info.states]
    draw = _draw_matching if patterns else _draw
    outputs = block_outputs(info, patterns=patterns)
    for result, name in zip(draw(graph, source, options, before), outputs, strict=True):
        graph.add("Identity", result, outputs=[name])
    for name, kind in zip(outputs, (Kind.INT64, Kind.DOUBLE), strict=False):
        graph.output(name, kind, ["n", "batch"])
    if patterns:
        graph.output("row_after", Kind.INT64, ["batch"])
    for state in info.states:
        graph.input(_BEFORE + state.input, Kind.FLOAT, ["batch", state.size])
        graph.output(_AFTER + state.input, Kind.FLOAT, ["batch", state.size])
    return source.step.model(graph)


def generator_file(model: ModelFile, *, log_probs: bool = False) -> bytes:
    """A generator file, as ``runtime/README.md`` specifies it: it draws texts in programs without this runtime.

    Args:
        model: the model file.
        log_probs: whether the generator has the output ``log_probs``.

    Returns:
        The file's bytes. The same model gives the same bytes.

    Raises:
        ModelFileError: no node of the file computes a state or the logits, or its opset is too old.
    """
    metadata = model.info.to_metadata()
    del metadata[PREFIX + "format"]
    metadata |= {GENERATOR_KEY: str(GENERATOR), PREFIX + "model_sha256": model.info.sha256}
    graph = generator_graph(model.data, model.info, log_probs=log_probs)
    return seal(graph + b"".join(metadata_entry(key, value) for key, value in metadata.items()))


def generator_graph(data: bytes, info: ModelInfo, *, log_probs: bool = False) -> bytes:
    """The graph of ``generator_file``, without metadata, for the bytes of a checked model file.

    Args:
        data: the file.
        info: its metadata.
        log_probs: whether it has the output ``log_probs``.

    Raises:
        ModelFileError: no node of the file computes a state or the logits, or its opset is too old.
    """
    source, graph = _begin(data, info)
    add, constant = graph.add, graph.constant
    graph.input("prompt", Kind.INT64, ["prompt_length", "batch"])
    for name in ("prompt_lengths", "index", "position"):
        graph.input(name, Kind.INT64, ["batch"])
    for name in ("seed", "length", "end"):
        graph.input(name, Kind.INT64)
    for name, kind in zip(OPTIONS, _OPTION_KINDS, strict=True):
        graph.input(name, kind, ["batch"])

    valid, columns, filters = _checked_options(graph, info)
    one, first_axis = constant(1), constant([0])
    rows = add("Gather", add("Shape", "prompt"), constant([0]), axis=0)  # [1]
    lengths = add("Clip", "prompt_lengths", one, add("Squeeze", rows))
    prompt = add("Clip", "prompt", constant(0), constant(len(info.vocabulary) - 1))
    # Prompts are moved to the end of the columns, so that all of them end in the same step.
    steps = add("Range", constant(0), add("Squeeze", rows), one)
    moved = add("Sub", add("Add", add("Unsqueeze", steps, one), lengths), add("Squeeze", rows))  # [n, batch]
    inside = add("GreaterOrEqual", moved, constant(0))
    from_row = add("Max", moved, constant(0))
    aligned = add("GatherElements", prompt, from_row, axis=0)
    fits = add("And", add("Equal", lengths, "prompt_lengths"), _all_known(graph, prompt, inside, from_row))
    valid = add("And", add("And", valid, fits), add("Greater", "length", constant(0)))
    last = add("Sub", rows, constant([1]))
    # The last token of a prompt is fed where its successor is drawn. A Scan must have at least one step.
    before_last = add("Unsqueeze", add("Less", steps, add("Squeeze", last)), one)
    states = _read_prompts(graph, source, aligned, add("And", inside, before_last))
    last_token = add("Squeeze", add("Slice", aligned, last, rows, first_axis), first_axis)

    count = add("Max", "length", one)
    numbers = philox_uniforms(graph, count)
    greedy = add("Equal", "temperature", constant(0.0))
    numbers = add("Where", greedy, constant(0.0), numbers)
    tokens, totals, *rest = _draw_until_end(
        graph, source, count, numbers, [*columns, filters], last_token, states, log_probs
    )
    states = rest[: len(states)]

    # What comes after a row's end, and from the first token on that could not be drawn, is -1.
    finite = add("Less", totals, constant(np.inf))  # NaN compares false
    ended = add("Cast", add("Equal", tokens, "end"), to=Kind.INT32)
    before_end = add("Equal", add("CumSum", ended, constant(0), exclusive=1), constant(0, np.int32))
    broken = add("CumSum", add("Cast", add("Not", finite), to=Kind.INT32), constant(0))
    good = add("And", before_end, add("Equal", broken, constant(0, np.int32)))
    good = add("And", good, valid)
    add("Where", good, tokens, constant(-1), outputs=["tokens"])
    add("ReduceSum", add("Cast", good, to=Kind.INT64), first_axis, keepdims=0, outputs=["counts"])
    graph.output("tokens", Kind.INT64, ["drawn", "batch"])
    graph.output("counts", Kind.INT64, ["batch"])
    if log_probs:
        chosen = add("Max", tokens, constant(0))
        likely = add("LogSoftmax", add("Cast", rest[-1], to=Kind.DOUBLE))
        taken = add("GatherElements", likely, add("Unsqueeze", chosen, constant([2])), axis=2)
        add("Squeeze", taken, constant([2]), outputs=["log_probs"])
        graph.output("log_probs", Kind.DOUBLE, ["drawn", "batch"])
    for state, result in zip(info.states, states, strict=True):
        graph.input(state.input, Kind.FLOAT, ["batch", state.size])
        add("Identity", result, outputs=[state.output])
        graph.output(state.output, Kind.FLOAT, ["batch", state.size])
    return source.step.model(graph)


@dataclass(frozen=True)
class _Source:
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
    def read(cls, data: bytes, info: ModelInfo) -> _Source:
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


def _begin(data: bytes, info: ModelInfo) -> tuple[_Source, Graph]:
    """A model file, and a graph with the part of it that computes the same in each step."""
    source, graph = _Source.read(data, info), Graph("generator")
    for node in source.constant_part():
        graph.copy(node)
    return source, graph


def _draw(graph: Graph, source: _Source, options: Sequence[Name], states: Sequence[Name]) -> list[Name]:
    """Adds the Scan that feeds and draws tokens.

    Args:
        graph: to which it is added; its inputs ``known`` and ``uniforms`` are as for ``block_inputs``.
        source: the file.
        options: temperature or, with filters, all options and whether any of these is in force; as for
            ``block_inputs``, but ``[batch, 1]``.
        states: before the first step.

    Returns:
        Drawn tokens and totals ``[n, batch]``, the states after the last step.
    """
    body = Graph(graph.name + "/draw")
    last, row_known, row_is_known, row_uniforms = (body.name + "/" + name for name in ("last", "known", "is", "u"))
    body.input(last, Kind.INT64, ["batch"])
    _add_states(body, source.info)
    body.input(row_known, Kind.INT64, ["batch"])
    body.input(row_is_known, Kind.BOOL, ["batch"])
    body.input(row_uniforms, Kind.DOUBLE, ["batch", 1])
    body.add("Where", row_is_known, row_known, last, outputs=["token"])
    results = _feed_and_draw(body, source, row_uniforms, options, logits=False)
    body.output(results[0], Kind.INT64, ["batch"])
    first = graph.add("Gather", "known", graph.constant(0), axis=0)
    is_known = graph.add("GreaterOrEqual", "known", graph.constant(0))
    numbers = graph.add("Unsqueeze", "uniforms", graph.constant([-1]))
    inputs = [first, *states, "known", is_known, numbers]
    # Their products are some 5 % faster with weights in the body than with weights around it.
    body.initializers = source.own_weights()
    return _run(graph, "Scan", body, source.info, inputs, results, carried=1, num_scan_inputs=3)


def _draw_matching(graph: Graph, source: _Source, options: Sequence[Name], states: Sequence[Name]) -> list[Name]:
    """``_draw`` for texts with patterns: what ``block_outputs`` lists.

    Its speed is that of its small operators: so it has none that a single token to feed makes superfluous.
    """
    body, vocab = Graph(graph.name + "/draw"), len(source.info.vocabulary)
    row, left, uniforms = (f"{body.name}/{name}" for name in ("row", "left", "u"))
    body.input("token", Kind.INT64, ["batch"])
    body.input(row, Kind.INT64, ["batch"])
    _add_states(body, source.info)
    body.input(left, Kind.INT32, ["batch", 1])
    body.input(uniforms, Kind.DOUBLE, ["batch", 1])
    allowed = body.add("LessOrEqual", body.add("Gather", "needed", row, axis=0), left)
    # 1 - 1 / 1 is 0, and 1 - 1 / 0 minus infinity: that takes less time than Where.
    one = body.constant(1.0)
    mask = body.add("Sub", one, body.add("Div", one, body.add("Cast", allowed, to=Kind.DOUBLE)))
    token, total = _feed_and_draw(body, source, uniforms, options, logits=False, mask=mask)
    at = body.add("Add", body.add("Mul", row, body.constant(vocab)), token)
    following = graph.add("Reshape", "following", graph.constant([-1]))
    body.output(token, Kind.INT64, ["batch"])
    body.output(body.add("Gather", following, at, axis=0), Kind.INT64, ["batch"])
    last = graph.constant([-1])
    inputs = ["first", "row", *states, *(graph.add("Unsqueeze", name, last) for name in ("left", "uniforms"))]
    body.initializers = source.own_weights()
    return _run(graph, "Scan", body, source.info, inputs, [at, total], carried=2, num_scan_inputs=2, row_after=True)


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


def _checked_options(graph: Graph, info: ModelInfo) -> tuple[Name, list[Name], Name]:
    """Adds the check of the generator's options.

    Returns:
        Which rows have valid ones ``[batch]``; the options as ``_draw`` takes them; whether a filter is in force.
    """
    add, constant = graph.add, graph.constant
    temperature, top_k, top_p, min_p = OPTIONS
    vocab, infinity = len(info.vocabulary), constant(np.inf)
    checks = [  # NaN compares false
        add("GreaterOrEqual", temperature, constant(0.0)),
        add("Less", temperature, infinity),
        add("GreaterOrEqual", top_k, constant(0)),
        add("Greater", top_p, constant(0.0)),
        add("LessOrEqual", top_p, constant(1.0)),
        add("GreaterOrEqual", min_p, constant(0.0)),
        add("LessOrEqual", min_p, constant(1.0)),
    ]
    valid = checks[0]
    for check in checks[1:]:
        valid = add("And", valid, check)
    some_k = add("And", add("Greater", top_k, constant(0)), add("Less", top_k, constant(vocab)))
    some_p, some_m = add("Less", top_p, constant(1.0)), add("Greater", min_p, constant(0.0))
    greedy = add("Where", add("Equal", temperature, constant(0.0)), constant(SMALLEST_TEMPERATURE), temperature)
    options = [
        add("Where", valid, greedy, constant(1.0)),
        add("Where", some_k, top_k, constant(vocab)),
        add("Where", some_p, top_p, infinity),
        add("Where", some_m, min_p, constant(0.0)),
    ]
    any_filter = add("Cast", add("Or", add("Or", some_k, some_p), some_m), to=Kind.INT32)
    filters = add("Cast", add("ReduceMax", any_filter, keepdims=0), to=Kind.BOOL)
    column = constant([1])
    return valid, [add("Unsqueeze", option, column) for option in options], filters


def _all_known(graph: Graph, prompt: Name, inside: Name, from_row: Name) -> Name:
    """Adds the check of the prompts: whether all tokens of a row are in the vocabulary ``[batch]``."""
    add, constant = graph.add, graph.constant
    same = add("GatherElements", add("Cast", add("Equal", prompt, "prompt"), to=Kind.INT32), from_row, axis=0)
    same = add("Where", inside, same, constant(1, np.int32))
    return add("Cast", add("ReduceMin", same, constant([0]), keepdims=0), to=Kind.BOOL)


def _read_prompts(graph: Graph, source: _Source, tokens: Name, inside: Name) -> list[Name]:
    """Adds the Scan that feeds ``tokens`` ``[n, batch]`` where ``inside``; the states after them."""
    body = Graph(graph.name + "/read")
    mask = body.name + "/inside"
    _add_states(body, source.info)
    body.input("token", Kind.INT64, ["batch"])
    body.input(mask, Kind.BOOL, ["batch", 1])
    states = source.info.states
    needed = source.step.dependencies([state.output for state in states])
    for i in source.varying:
        if i in needed:
            body.copy(source.step.nodes[i])
    for state in states:
        kept = body.add("Where", mask, state.output, state.input)
        body.output(kept, Kind.FLOAT, ["batch", state.size])
    after = [f"{body.name}/after/{state.input}" for state in states]
    graph.add(
        "Scan",
        *(state.input for state in states),
        tokens,
        graph.add("Unsqueeze", inside, graph.constant([-1])),
        outputs=after,
        body=body,
        num_scan_inputs=2,
    )
    return after


def _draw_until_end(
    graph: Graph,
    source: _Source,
    count: Name,
    uniforms: Name,
    options: Sequence[Name],
    tokens: Name,
    states: Sequence[Name],
    logits: bool,
) -> list[Name]:
    """Adds the loop that draws ``count`` tokens, or until each row has drawn ``end``.

    A Scan in a Loop would be faster, but ONNX Runtime does not prepare weights for a body in a body:
    it would multiply in another way than in a session of the file, with other last bits.

    Returns:
        As ``_draw``, for the steps that were made.
    """
    body = Graph(graph.name + "/draw")
    number = body.input(f"{body.name}/number", Kind.INT64)
    body.input(f"{body.name}/going", Kind.BOOL)
    last, ended = f"{body.name}/last", f"{body.name}/ended"
    body.input(last, Kind.INT64, ["batch"])
    body.input(ended, Kind.BOOL, ["batch"])
    _add_states(body, source.info)
    body.add("Identity", last, outputs=["token"])
    row = body.add("Gather", graph.add("Unsqueeze", uniforms, graph.constant([-1])), number, axis=0)
    results = _feed_and_draw(body, source, row, options, logits=logits)
    all_ended = body.add("Or", ended, body.add("Equal", results[0], "end"))
    every = body.add("ReduceMin", body.add("Cast", all_ended, to=Kind.INT32), keepdims=0)
    body.output(body.add("Not", body.add("Cast", every, to=Kind.BOOL)))
    body.output(results[0], Kind.INT64, ["batch"])
    body.output(all_ended, Kind.BOOL, ["batch"])
    none = graph.add("Less", tokens, graph.constant(0))
    return _run(
        graph, "Loop", body, source.info, [count, graph.constant(True), tokens, none, *states], results, carried=2
    )


def _run(
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
    """Adds the loop, whose body carries ``carried`` values and the states; what ``_draw`` returns.

    Args:
        graph: to which it is added.
        operator: Scan or Loop.
        body: its body, which has the outputs of the carried values.
        info: the file's metadata.
        inputs: of the operator.
        results: of ``_feed_and_draw``.
        carried: how many.
        row_after: whether the second carried value is returned too, before the states.
        attributes: of the operator.
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


def _add_states(body: Graph, info: ModelInfo) -> None:
    # With the shapes given, ONNX Runtime makes the same operators of the file's nodes as in a session of the file.
    for state in info.states:
        body.input(state.input, Kind.FLOAT, ["batch", state.size])


def _feed_and_draw(
    body: Graph, source: _Source, uniforms: Name, options: Sequence[Name], *, logits: bool, mask: Name | None = None
) -> list[Name]:
    """Adds the step, from ``token`` and the states, and the drawing: tokens, totals and, if asked for, logits.

    The mask is what is added to the logits.
    """
    for i in source.varying:
        body.copy(source.step.nodes[i])
    return [*_draw_row(body, len(source.info.vocabulary), uniforms, options, mask), *(["logits"] if logits else [])]
