"""ONNX operators for the random numbers of Philox, the bit generator that a seed names.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import numpy as np

from charrnn_runtime.onnx_graph import Graph, Kind, Name

# Philox4x64-10: the multipliers of words 0 and 2, and what the two words of the key grow by in each round.
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS = 10


def philox_uniforms(graph: Graph, count: Name) -> Name:
    """Adds Philox4x64-10: the numbers ``[count, batch]`` of the streams (seed, index) from ``position`` on.

    These three are names of values of the graph, int64.
    """
    add, constant = graph.add, graph.constant
    position = add("Max", "position", constant(0))
    four, one, first_axis = constant(4), constant(1), constant([0])
    blocks = add("Add", add("Div", count, four), constant(2))
    ahead = add("Unsqueeze", add("Range", one, add("Add", blocks, one), one), constant([1]))  # the counter begins at 1
    counter = add("Unsqueeze", add("Add", add("Div", position, four), ahead), first_axis)  # [1, blocks, batch]
    zero = add("Mul", counter, constant(0))
    # Words 0 and 2 of the counter, and words 1 and 3, are computed together: [2, blocks, batch].
    even, odd = add("Concat", counter, zero, axis=0), add("Concat", zero, zero, axis=0)
    index = add("Unsqueeze", "index", constant([0, 1]))
    key = add("Concat", add("Expand", "seed", add("Shape", index)), index, axis=0)  # [2, 1, batch]
    growth = np.array([[(n * w) % 2**64 for w in _WEYL] for n in range(_ROUNDS)], np.uint64).view(np.int64)

    body = Graph(graph.name + "/philox")
    even_in, odd_in, grown = (body.input(f"{body.name}/{name}") for name in ("even", "odd", "growth"))
    multiplier = body.constant(np.array(_MULTIPLIERS, np.uint64).view(np.int64).reshape(2, 1, 1))
    flip = body.constant([1, 0])
    high = body.add("Gather", _high_half(body, even_in), flip, axis=0)
    low = body.add("Gather", body.add("Mul", even_in, multiplier), flip, axis=0)
    mixed = body.add("BitwiseXor", body.add("BitwiseXor", high, odd_in), body.add("Add", key, grown))
    body.output(mixed)
    body.output(low)
    names = [f"{body.name}/after/even", f"{body.name}/after/odd"]
    grown = constant(growth.reshape(_ROUNDS, 2, 1, 1))
    graph.add("Scan", even, odd, grown, outputs=names, body=body, num_scan_inputs=1)

    words = add("Concat", *(add("Unsqueeze", name, constant([1])) for name in names), axis=1)  # [2, 2, blocks, batch]
    rows = add("Reshape", words, add("Concat", constant([-1]), add("Shape", "index"), axis=0))
    numbers = add("Unsqueeze", add("Range", constant(0), count, one), constant([1]))
    numbers = add("Add", add("Mod", position, four), numbers)
    source = add("Add", add("Mul", add("Mod", numbers, four), blocks), add("Div", numbers, four))
    word = add("GatherElements", rows, source, axis=0)
    return add("Mul", add("Cast", _shift_right(graph, word, 11), to=Kind.DOUBLE), constant(2.0**-53))


def _high_half(graph: Graph, values: Name) -> Name:
    """Adds the upper 64 bits of the products of ``values`` and Philox's multipliers, from products of 32-bit halves."""
    add, constant = graph.add, graph.constant
    bits = constant(2**32 - 1)
    low, high = add("BitwiseAnd", values, bits), _shift_right(graph, values, 32)
    below = constant([[[m % 2**32]] for m in _MULTIPLIERS])
    above = constant([[[m // 2**32]] for m in _MULTIPLIERS])
    crossed = [add("Mul", low, above), add("Mul", high, below)]
    carry = _shift_right(graph, add("Mul", low, below), 32)
    for product in crossed:
        carry = add("Add", carry, add("BitwiseAnd", product, bits))
    result = add("Add", add("Mul", high, above), _shift_right(graph, carry, 32))
    for product in crossed:
        result = add("Add", result, _shift_right(graph, product, 32))
    return result


def _shift_right(graph: Graph, values: Name, places: int) -> Name:
    """Adds a shift of int64 values as if they had no sign."""
    number = graph.constant(places, np.uint64)
    return graph.add(
        "Cast",
        graph.add("BitShift", graph.add("Cast", values, to=Kind.UINT64), number, direction="RIGHT"),
        to=Kind.INT64,
    )
