"""The generator file: a graph that draws whole texts, for programs without this runtime.

It makes the numbers from a seed, reads prompts of different lengths, and stops at the end of the texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from charrnn_runtime.draw_graph import (
    OPTION_KINDS,
    OPTIONS,
    SMALLEST_TEMPERATURE,
    Source,
    add_loop,
    add_states,
    begin,
    feed_and_draw,
)
from charrnn_runtime.model_file import GENERATOR_KEY, PREFIX, ModelFile, ModelInfo, seal
from charrnn_runtime.onnx_graph import Graph, Kind, Name
from charrnn_runtime.onnx_structure import metadata_entry
from charrnn_runtime.philox_graph import philox_uniforms

GENERATOR = 1  # version of the generator file


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
    source, graph = begin(data, info)
    add, constant = graph.add, graph.constant
    graph.input("prompt", Kind.INT64, ["prompt_length", "batch"])
    for name in ("prompt_lengths", "index", "position"):
        graph.input(name, Kind.INT64, ["batch"])
    for name in ("seed", "length", "end"):
        graph.input(name, Kind.INT64)
    for name, kind in zip(OPTIONS, OPTION_KINDS, strict=True):
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


def _checked_options(graph: Graph, info: ModelInfo) -> tuple[Name, list[Name], Name]:
    """Adds the check of the generator's options.

    Returns:
        Which rows have valid ones ``[batch]``; the options as ``feed_and_draw`` takes them; whether a filter is in
        force.
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


def _read_prompts(graph: Graph, source: Source, tokens: Name, inside: Name) -> list[Name]:
    """Adds the Scan that feeds ``tokens`` ``[n, batch]`` where ``inside``; the states after them."""
    body = Graph(graph.name + "/read")
    mask = body.name + "/inside"
    add_states(body, source.info)
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
    source: Source,
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
        Drawn tokens and totals ``[n, batch]`` for the steps that were made, the states after them and, if asked for,
        logits.
    """
    body = Graph(graph.name + "/draw")
    number = body.input(f"{body.name}/number", Kind.INT64)
    body.input(f"{body.name}/going", Kind.BOOL)
    last, ended = f"{body.name}/last", f"{body.name}/ended"
    body.input(last, Kind.INT64, ["batch"])
    body.input(ended, Kind.BOOL, ["batch"])
    add_states(body, source.info)
    body.add("Identity", last, outputs=["token"])
    row = body.add("Gather", graph.add("Unsqueeze", uniforms, graph.constant([-1])), number, axis=0)
    results = feed_and_draw(body, source, row, options, logits=logits)
    all_ended = body.add("Or", ended, body.add("Equal", results[0], "end"))
    every = body.add("ReduceMin", body.add("Cast", all_ended, to=Kind.INT32), keepdims=0)
    body.output(body.add("Not", body.add("Cast", every, to=Kind.BOOL)))
    body.output(results[0], Kind.INT64, ["batch"])
    body.output(all_ended, Kind.BOOL, ["batch"])
    none = graph.add("Less", tokens, graph.constant(0))
    return add_loop(
        graph, "Loop", body, source.info, [count, graph.constant(True), tokens, none, *states], results, carried=2
    )
