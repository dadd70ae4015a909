"""The graph over a block of tokens, made from a step: its results are those of the steps, bit by bit."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from charrnn_export import Exported
from charrnn_runtime import ModelFileError, Sampler
from charrnn_runtime.sequence import OnnxSequenceRunner, SequenceGraph
from charrnn_runtime.sequence_graph import sequence_graph
from charrnn_runtime.session import MIN_SEQUENCE_TOKENS, Logits, StepSequenceRunner, Tokens
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, checker

from tests.export.conftest import make

if TYPE_CHECKING:
    from tests.export.conftest import Trained

Export = Callable[[str, int, str], Exported]
CASES = [(cell, layers, "float32") for cell in ("lstm", "gru", "rnn") for layers in (1, 2, 3)]
CASES += [(cell, 2, "int8") for cell in ("lstm", "gru", "rnn")]
LETTERS = "abcdef ghi"


@pytest.fixture(scope="session")
def export(trained: Callable[[str, int], Trained]) -> Export:
    """A file, its loss not measured."""

    @functools.cache
    def get(cell: str, layers: int, dtype: str) -> Exported:
        return trained(cell, layers).export(steps=5, dtype=dtype, max_loss_increase=math.inf)

    return get


def letters(count: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list(LETTERS), count))


@pytest.mark.parametrize(("cell", "layers", "dtype"), CASES)
def test_results_are_those_of_the_steps_bit_by_bit(export: Export, cell: str, layers: int, dtype: str) -> None:
    file = export(cell, layers, dtype)
    vocab = len(file.info.vocabulary)
    tokens = np.random.default_rng(layers).integers(0, vocab, 400)
    runner = Sampler(file.data).cell.runner(1)
    steps = StepSequenceRunner(runner, vocab).forward(tokens)
    assert np.abs(steps).max() > 0.1
    graph = SequenceGraph(file.data, file.info, threads=1)
    for cuts in ([], [1, 130], [7, 8, 9, 399]):
        blocks = graph.sequence_runner()
        logits = np.concatenate([blocks.forward(piece) for piece in np.split(tokens, cuts)])
        np.testing.assert_array_equal(logits, steps)
        for state, stepped in zip(blocks.state(), runner.state(), strict=True):
            np.testing.assert_array_equal(state, stepped)


@pytest.mark.parametrize("size", [1, 7, 64, 200])
def test_sizes_and_large_alphabets(size: int) -> None:
    """Other sizes take other ways through a library's matrix products."""
    file = make("lstm", 2, size).export(steps=5)
    tokens = np.random.default_rng(size).integers(0, len(file.info.vocabulary), 300)
    runner = Sampler(file.data).cell.runner(1)
    steps = StepSequenceRunner(runner, len(file.info.vocabulary)).forward(tokens)
    for threads in (1, 2):
        logits = SequenceGraph(file.data, file.info, threads=threads).sequence_runner().forward(tokens)
        np.testing.assert_array_equal(logits, steps)


def test_the_graph_is_valid_onnx_without_nodes_of_ours(export: Export) -> None:
    file = export("gru", 2, "int8")
    model = ModelProto.FromString(sequence_graph(file.data, file.info))
    checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert [node.op_type for node in model.graph.node].count("Scan") == 2, "one for each layer"


def test_a_model_whose_biases_are_zero() -> None:
    """The exporter of torch leaves out what adds zero."""
    model = make("rnn", 2, 8)
    with torch.no_grad():
        for name, parameter in model.model.named_parameters():
            if "bias" in name:
                parameter.zero_()
    for dtype in ("float32", "int8"):
        out = model.export(steps=5, dtype=dtype, max_loss_increase=math.inf)
        names = {tensor.name for tensor in ModelProto.FromString(out.data).graph.initializer}
        assert "layer_1.bias" not in names
        sampler = Sampler(out.data)
        text = letters(MIN_SEQUENCE_TOKENS + 20)
        np.testing.assert_array_equal(sampler.score(text).log_probs, sampler.score_batch([text, "a"])[0].log_probs)


@pytest.mark.parametrize(("cell", "dtype"), [("lstm", "float32"), ("gru", "float32"), ("lstm", "int8")])
def test_scores_do_not_depend_on_how_a_text_is_given(export: Export, cell: str, dtype: str) -> None:
    sampler = Sampler(export(cell, 2, dtype).data)
    text = letters(MIN_SEQUENCE_TOKENS + 90)
    expected = sampler.score(text).log_probs
    np.testing.assert_array_equal(sampler.score_batch([text])[0].log_probs, expected)
    np.testing.assert_array_equal(sampler.score_batch(["abc", text, text[:50]])[1].log_probs, expected)

    @settings(max_examples=15)
    @given(st.lists(st.integers(0, len(text)), max_size=6).map(sorted))
    def in_pieces(cuts: list[int]) -> None:
        bounds = [0, *cuts, len(text)]
        pieces = [text[a:b] for a, b in itertools.pairwise(bounds)]
        np.testing.assert_array_equal(np.concatenate(list(sampler.score_stream(pieces))), expected)

    in_pieces()


@pytest.mark.parametrize(("cell", "dtype"), [("lstm", "float32"), ("gru", "float32"), ("lstm", "int8")])
def test_long_prompts_are_read_at_once_and_continued_alike(
    export: Export, monkeypatch: pytest.MonkeyPatch, cell: str, dtype: str
) -> None:
    sampler = Sampler(export(cell, 2, dtype).data)
    blocks: list[int] = []
    forward = OnnxSequenceRunner.forward

    def counted(self: OnnxSequenceRunner, tokens: Tokens) -> Logits:
        blocks.append(len(tokens))
        return forward(self, tokens)

    monkeypatch.setattr(OnnxSequenceRunner, "forward", counted)
    prompt = letters(MIN_SEQUENCE_TOKENS + 90, 1)
    batch = sampler.sample_batch([prompt] * 2, length=300, seed=4)
    assert not blocks, "a batch reads prompts side by side"
    assert sampler.sample(prompt, length=300, seed=4) == batch[0]
    assert sum(blocks) == len(prompt) - 1, "the last one is fed for its logits"
    assert "".join(sampler.stream(prompt, length=300, seed=4, index=1)) == batch[1]
    # From a state that is not zero, and back into it: a conversation.
    del blocks[:]
    conversation = sampler.start(prompt[:20], seed=4)
    conversation.feed(prompt[20:])
    assert sum(blocks) == len(prompt) - 21
    assert conversation.sample(300) == batch[0]


def test_a_graph_without_its_outputs_is_refused(export: Export) -> None:
    file = export("rnn", 1, "float32")
    model = ModelProto.FromString(file.data)
    del model.graph.node[-1]
    with pytest.raises(ModelFileError, match="outputs that none of its nodes computes"):
        sequence_graph(model.SerializeToString(), file.info)
