"""The graph over a sequence that the runtime makes from a file's weights, against the file's own step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from charrnn_export import Exported
from charrnn_runtime import ModelFileError, Sampler
from charrnn_runtime.model_file import PREFIX, seal
from charrnn_runtime.sequence import SequenceGraph, SequenceReader
from charrnn_runtime.session import MIN_TOKENS, Logits, StepReader, Tokens
from onnx import ModelProto

Export = Callable[[str, int], Exported]


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_sequence_graph_computes_what_the_steps_compute(exported: Export, layers: int) -> None:
    file = exported("lstm", layers)
    sampler = Sampler(file.data)
    tokens = np.random.default_rng(layers).integers(0, len(file.info.vocabulary), 400)
    graph = SequenceGraph(file.data, file.info, threads=1)
    whole = graph.reader().read(tokens)
    steps = StepReader(sampler._cell.runner(1), len(file.info.vocabulary)).read(tokens)
    np.testing.assert_allclose(whole, steps, atol=1e-5)
    assert np.abs(steps).max() > 0.1
    reader = graph.reader()  # from zero again, and the state carried from block to block
    parts = [reader.read(tokens[a:b]) for a, b in ((0, 1), (1, 130), (130, 400))]
    np.testing.assert_allclose(np.concatenate(parts), steps, atol=1e-5)


def test_long_texts_are_scored_alike_at_once_in_pieces_and_in_a_batch(exported: Export) -> None:
    sampler = Sampler(exported("lstm", 2).data)
    letters = np.random.default_rng(0).choice(list("abcdef ghi"), MIN_TOKENS + 90)
    text = "".join(letters)
    score = sampler.score(text).log_probs
    np.testing.assert_allclose(sampler.score_batch([text])[0].log_probs, score, atol=1e-5)
    pieces = sampler.score_stream([text[:7], "", text[7:400], text[400:]])
    np.testing.assert_allclose(np.concatenate(list(pieces)), score, atol=1e-5)


def test_long_prompts_are_read_at_once_and_continued_alike(exported: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = Sampler(exported("lstm", 2).data)
    blocks: list[int] = []
    read = SequenceReader.read

    def counted(self: SequenceReader, tokens: Tokens) -> Logits:
        blocks.append(len(tokens))
        return read(self, tokens)

    monkeypatch.setattr(SequenceReader, "read", counted)
    prompt = "".join(np.random.default_rng(1).choice(list("abcdef ghi"), MIN_TOKENS + 90))
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
    assert conversation.draw(300) == batch[0]


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_other_cells_are_read_step_by_step(exported: Export, cell: str) -> None:
    info = exported(cell, 1).info
    assert not info.sequence
    assert not SequenceGraph.possible(info)


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
        sampler.sample("a" * (MIN_TOKENS + 1), length=1)
    with pytest.raises(ModelFileError, match=r"charrnn\.sequence"):
        sampler.score("a" * MIN_TOKENS)
