"""The graph over a sequence that the runtime makes from a file's weights, against the file's own step."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from charrnn_export import Exported, export_model
from charrnn_runtime import ModelFileError, Sampler, Vocabulary
from charrnn_runtime.model_file import PREFIX, seal
from charrnn_runtime.sequence import OnnxSequenceRunner, SequenceGraph
from charrnn_runtime.sequence_graph import sequence_possible
from charrnn_runtime.session import MIN_SEQUENCE_TOKENS, Logits, StepSequenceRunner, Tokens
from onnx import ModelProto

from charrnn.config import ModelConfig
from charrnn.model.char_rnn import CharRNN

if TYPE_CHECKING:
    from tests.export.conftest import Trained

Export = Callable[[str, int], Exported]


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_the_sequence_graph_computes_what_the_steps_compute(exported: Export, cell: str, layers: int) -> None:
    file = exported(cell, layers)
    sampler = Sampler(file.data)
    tokens = np.random.default_rng(layers).integers(0, len(file.info.vocabulary), 400)
    graph = SequenceGraph(file.data, file.info, threads=1)
    whole = graph.sequence_runner().forward(tokens)
    steps = StepSequenceRunner(sampler.cell.runner(1), len(file.info.vocabulary)).forward(tokens)
    np.testing.assert_allclose(whole, steps, atol=1e-5)
    assert np.abs(steps).max() > 0.1
    blockwise = graph.sequence_runner()  # from zero again, and the state carried from block to block
    parts = [blockwise.forward(tokens[a:b]) for a, b in ((0, 1), (1, 130), (130, 400))]
    np.testing.assert_allclose(np.concatenate(parts), steps, atol=1e-5)


@pytest.fixture(scope="session")
def int8(trained: Callable[[str, int], Trained]) -> Callable[[str, int], Exported]:
    """An int8 file, its cost not measured."""

    @functools.cache
    def get(cell: str, layers: int) -> Exported:
        return trained(cell, layers).export(steps=5, dtype="int8", max_loss_increase=math.inf)

    return get


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_int8_sequences_keep_the_states_of_the_steps_to_the_last_bit(int8: Export, layers: int) -> None:
    """A difference of rounding could move an activation by one of its 255 levels."""
    file = int8("lstm", layers)
    sampler = Sampler(file.data)
    tokens = np.random.default_rng(layers).integers(0, len(file.info.vocabulary), 700)
    runner = sampler.cell.runner(1)
    steps = StepSequenceRunner(runner, len(file.info.vocabulary)).forward(tokens)
    blockwise = SequenceGraph(file.data, file.info, threads=1).sequence_runner()
    parts = [blockwise.forward(tokens[a:b]) for a, b in ((0, 1), (1, 257), (257, 700))]
    np.testing.assert_allclose(np.concatenate(parts), steps, atol=1e-5)
    assert np.abs(steps).max() > 0.1
    for whole, stepped in zip(blockwise.state(), runner.state(), strict=True):
        np.testing.assert_array_equal(whole, stepped)


def test_int8_reads_long_prompts_at_once(int8: Export) -> None:
    sampler = Sampler(int8("lstm", 2).data)
    assert sampler.cell.sequence_runner(MIN_SEQUENCE_TOKENS) is not None
    prompt = "".join(np.random.default_rng(1).choice(list("abcdef ghi"), MIN_SEQUENCE_TOKENS + 90))
    assert sampler.sample(prompt, length=300, seed=4) == sampler.sample_batch([prompt] * 2, length=300, seed=4)[0]


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_int8_files_of_other_cells_are_read_step_by_step(int8: Export, cell: str) -> None:
    file = int8(cell, 2)
    assert not file.info.sequence
    assert Sampler(file.data).cell.sequence_runner(MIN_SEQUENCE_TOKENS) is None


def test_a_file_without_one_of_the_weights_says_nothing_of_sequences() -> None:
    """A bias of zeros is folded away when the step is traced."""
    torch.manual_seed(0)
    model = CharRNN(ModelConfig(cell="rnn", num_layers=2, hidden_size=8), 5).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name:
                parameter.zero_()
    vocabulary = Vocabulary.from_text("abcde")
    out = export_model(model.export_weights(), vocabulary, model.sequence_forward(), training={}, producer={})
    names = {tensor.name for tensor in ModelProto.FromString(out.data).graph.initializer}
    assert "layer_1.bias" not in names
    assert names.issuperset(out.info.sequence.get("weights", {}).values())
    assert len(Sampler(out.data).score("abcde" * MIN_SEQUENCE_TOKENS).log_probs) == 5 * MIN_SEQUENCE_TOKENS


def test_long_texts_are_scored_alike_at_once_in_pieces_and_in_a_batch(exported: Export) -> None:
    sampler = Sampler(exported("lstm", 2).data)
    letters = np.random.default_rng(0).choice(list("abcdef ghi"), MIN_SEQUENCE_TOKENS + 90)
    text = "".join(letters)
    score = sampler.score(text).log_probs
    np.testing.assert_allclose(sampler.score_batch([text])[0].log_probs, score, atol=1e-5)
    pieces = sampler.score_stream([text[:7], "", text[7:400], text[400:]])
    np.testing.assert_allclose(np.concatenate(list(pieces)), score, atol=1e-5)


def test_long_prompts_are_read_at_once_and_continued_alike(exported: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = Sampler(exported("lstm", 2).data)
    blocks: list[int] = []
    forward = OnnxSequenceRunner.forward

    def counted(self: OnnxSequenceRunner, tokens: Tokens) -> Logits:
        blocks.append(len(tokens))
        return forward(self, tokens)

    monkeypatch.setattr(OnnxSequenceRunner, "forward", counted)
    prompt = "".join(np.random.default_rng(1).choice(list("abcdef ghi"), MIN_SEQUENCE_TOKENS + 90))
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


@pytest.mark.parametrize(
    "change",
    [
        {"0.input": "nowhere"},
        {"1.weight": "layer_0.weight"},  # another shape
        {"head.bias": 7},
        {"head.bias": "constant_0"},  # another type, where there is one
    ],
)
def test_metadata_that_lies_about_the_weights_is_refused(exported: Export, change: dict[str, Any]) -> None:
    file = exported("lstm", 2)
    weights = {**file.info.sequence["weights"], **change}
    model = ModelProto.FromString(file.data)
    del model.metadata_props[:]
    info = replace(file.info, sequence={"operator": "LSTM", "weights": weights})
    for key, value in info.to_metadata().items():
        model.metadata_props.add(key=key, value=value)
    assert PREFIX + "sequence" in info.to_metadata()
    sampler = Sampler(seal(model.SerializeToString()))
    assert sampler.sample(length=5, seed=1)  # the step is whole
    with pytest.raises(ModelFileError, match=r"charrnn\.sequence"):
        sampler.sample("a" * (MIN_SEQUENCE_TOKENS + 1), length=1)
    with pytest.raises(ModelFileError, match=r"charrnn\.sequence"):
        sampler.score("a" * MIN_SEQUENCE_TOKENS)


@pytest.mark.parametrize("operator", ["LSTM float4", ["LSTM"], {}, 7, None])
def test_operators_that_are_unknown_are_ignored(exported: Export, operator: Any) -> None:
    info = replace(exported("lstm", 2).info, sequence={"operator": operator, "weights": {}})
    assert not sequence_possible(info)


@pytest.mark.parametrize(
    "change", [{"num_layers": 10**12}, {"num_layers": 1}, {"sequence": {"operator": "RNN", "weights": {}}}]
)
def test_metadata_that_lies_about_the_layers_is_refused_at_once(exported: Export, change: dict[str, Any]) -> None:
    file = exported("lstm", 2)
    with pytest.raises(ModelFileError, match=r"charrnn\.sequence"):
        SequenceGraph(file.data, replace(file.info, **change), threads=1).sequence_runner()
