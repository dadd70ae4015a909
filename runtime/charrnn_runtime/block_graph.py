"""The graph that the sampler runs: it draws a block of tokens in one call, from uniform numbers that it is given."""

from __future__ import annotations

from collections.abc import Sequence

from charrnn_runtime.draw_graph import (
    OPTION_KINDS,
    OPTIONS,
    Source,
    add_loop,
    add_states,
    begin,
    feed_and_draw,
)
from charrnn_runtime.model_file import ModelInfo
from charrnn_runtime.onnx_graph import Graph, Kind, Name

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
    source, graph = begin(data, info)
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
    for name, kind in zip(names, OPTION_KINDS, strict=False):
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


def _draw(graph: Graph, source: Source, options: Sequence[Name], states: Sequence[Name]) -> list[Name]:
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
    add_states(body, source.info)
    body.input(row_known, Kind.INT64, ["batch"])
    body.input(row_is_known, Kind.BOOL, ["batch"])
    body.input(row_uniforms, Kind.DOUBLE, ["batch", 1])
    body.add("Where", row_is_known, row_known, last, outputs=["token"])
    results = feed_and_draw(body, source, row_uniforms, options, logits=False)
    body.output(results[0], Kind.INT64, ["batch"])
    first = graph.add("Gather", "known", graph.constant(0), axis=0)
    is_known = graph.add("GreaterOrEqual", "known", graph.constant(0))
    numbers = graph.add("Unsqueeze", "uniforms", graph.constant([-1]))
    inputs = [first, *states, "known", is_known, numbers]
    # Their products are some 5 % faster with weights in the body than with weights around it.
    body.initializers = source.own_weights()
    return add_loop(graph, "Scan", body, source.info, inputs, results, carried=1, num_scan_inputs=3)


def _draw_matching(graph: Graph, source: Source, options: Sequence[Name], states: Sequence[Name]) -> list[Name]:
    """``_draw`` for texts with patterns: what ``block_outputs`` lists.

    Its speed is that of its small operators: so it has none that a single token to feed makes superfluous.
    """
    body, vocab = Graph(graph.name + "/draw"), len(source.info.vocabulary)
    row, left, uniforms = (f"{body.name}/{name}" for name in ("row", "left", "u"))
    body.input("token", Kind.INT64, ["batch"])
    body.input(row, Kind.INT64, ["batch"])
    add_states(body, source.info)
    body.input(left, Kind.INT32, ["batch", 1])
    body.input(uniforms, Kind.DOUBLE, ["batch", 1])
    allowed = body.add("LessOrEqual", body.add("Gather", "needed", row, axis=0), left)
    # 1 - 1 / 1 is 0, and 1 - 1 / 0 minus infinity: that takes less time than Where.
    one = body.constant(1.0)
    mask = body.add("Sub", one, body.add("Div", one, body.add("Cast", allowed, to=Kind.DOUBLE)))
    token, total = feed_and_draw(body, source, uniforms, options, logits=False, mask=mask)
    at = body.add("Add", body.add("Mul", row, body.constant(vocab)), token)
    following = graph.add("Reshape", "following", graph.constant([-1]))
    body.output(token, Kind.INT64, ["batch"])
    body.output(body.add("Gather", following, at, axis=0), Kind.INT64, ["batch"])
    last = graph.constant([-1])
    inputs = ["first", "row", *states, *(graph.add("Unsqueeze", name, last) for name in ("left", "uniforms"))]
    body.initializers = source.own_weights()
    return add_loop(graph, "Scan", body, source.info, inputs, [at, total], carried=2, num_scan_inputs=2, row_after=True)
