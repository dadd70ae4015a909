"""Validation loss against plain arithmetic, and against the exported model."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from charrnn_runtime import Sampler

from charrnn.config import DataConfig, ModelConfig
from charrnn.data.corpus import read_corpus
from charrnn.data.streams import Streams
from charrnn.inference.evaluation import evaluate_text
from charrnn.model.char_rnn import CharRNN
from charrnn.runs.checkpoint import load_checkpoint
from charrnn.training.distributed import SINGLE
from charrnn.training.validation import _Tally, streams_loss, validation_loss

if TYPE_CHECKING:
    from tests.conftest import Charrnn, MakeTrainer, Run


def plain_loss(model: CharRNN, ids: list[int], start: int) -> float:
    """One stream, one character at a time, in the order of the text."""
    state, total, before = model.initial_state(1), 0.0, start
    with torch.no_grad():
        for target in ids:
            logits, state = model(torch.tensor([[before]]), state)
            total -= float(logits[0, 0].double().log_softmax(0)[target])
            before = target
    return total / len(ids)


@pytest.mark.parametrize("n", [1, 2, 513, 700])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_short_texts_are_read_as_one_stream(cell: str, n: int) -> None:
    torch.manual_seed(3)
    config = ModelConfig(cell=cell, hidden_size=6, num_layers=2, embedding_size=4)
    model = CharRNN(config, 7).eval()
    ids = np.random.default_rng(1).integers(0, 7, n).astype(np.uint8)
    assert validation_loss(model, ids, 2).mean == pytest.approx(plain_loss(model, ids.tolist(), 2), abs=1e-5)


@pytest.mark.parametrize("n", [4 * 8 * 512, 4 * 8 * 512 + 1, 17_777])
def test_long_texts_are_read_as_eight_streams_with_the_same_result(n: int) -> None:
    torch.manual_seed(3)
    model = CharRNN(ModelConfig(hidden_size=8, embedding_size=4), 5).eval()
    ids = np.random.default_rng(n).integers(0, 5, n).astype(np.uint8)
    inputs = torch.from_numpy(np.concatenate([[1], ids[:-1]]).astype(np.int64))[:, None]
    with torch.no_grad():
        logits, _ = model(inputs, model.initial_state(1))
        expected = torch.nn.functional.cross_entropy(logits[:, 0].double(), torch.from_numpy(ids.astype(np.int64)))
    assert validation_loss(model, ids, 1).mean == pytest.approx(float(expected), abs=1e-6)


def test_dropout_is_off_and_the_mode_is_put_back() -> None:
    torch.manual_seed(3)
    model = CharRNN(ModelConfig(hidden_size=8, embedding_size=4, dropout=0.9), 5)
    ids = np.array([0, 1, 2, 3, 4] * 20, np.uint8)
    model.train()
    assert validation_loss(model, ids, 0) == validation_loss(model, ids, 0)
    assert model.training


def test_equals_eval_of_the_exported_model(run: Run, charrnn: Charrnn) -> None:
    checkpoint = load_checkpoint(run.best)
    val_loss = checkpoint.progress["val_loss"]
    outcome = charrnn("eval", run.model, run.text, "--split", "val", "--json")
    values = json.loads(outcome.out)
    assert values["nats_per_char"] == pytest.approx(val_loss, abs=1e-4)
    assert values["bits_per_char"] == pytest.approx(val_loss / math.log(2), abs=1e-4)
    assert values["perplexity"] == pytest.approx(math.exp(val_loss), abs=1e-2)
    assert values["characters"] == int(len(run.text.read_text()) * 0.1)


def test_the_parts_of_a_text_add_up(run: Run) -> None:
    sampler = Sampler(run.model)
    scores = {split: evaluate_text(sampler, [str(run.text)], split=split) for split in ("all", "train", "val")}
    assert scores["train"][1] + scores["val"][1] == scores["all"][1]
    mean = sum(nats * n for nats, n, _ in (scores["train"], scores["val"])) / scores["all"][1]
    assert mean == pytest.approx(scores["all"][0], abs=1e-2)  # only the state at the cut differs


@pytest.mark.parametrize("window", [1, 7, 100, 100_000])
def test_windows_are_scored_each_from_the_zero_state(run: Run, window: int) -> None:
    model = load_checkpoint(run.best).build_model().eval()
    corpus = read_corpus([str(run.text)], DataConfig())
    val = corpus.ids[-(len(corpus.ids) // 10) :]
    total = 0.0
    for at in range(0, len(val) - 1, window):
        part = torch.from_numpy(val[at : at + window + 1].astype(np.int64))
        with torch.no_grad():
            logits, _ = model(part[:-1, None], model.initial_state(1))
        total += float(torch.nn.functional.cross_entropy(logits[:, 0], part[1:], reduction="sum"))
    nats, count, _ = evaluate_text(Sampler(run.model), [str(run.text)], split="val", window=window)
    assert count == len(val) - 1
    assert nats == pytest.approx(total / count, abs=1e-4)


def test_of_a_long_text_pieces_spread_evenly_are_read() -> None:
    torch.manual_seed(3)
    model = CharRNN(ModelConfig(hidden_size=8, embedding_size=4), 5).eval()
    ids = np.random.default_rng(1).integers(0, 5, 40_000).astype(np.uint8)
    with torch.no_grad():
        inputs = torch.from_numpy(np.concatenate([[1], ids[:-1]]).astype(np.int64))[:, None]
        logits, _ = model(inputs, model.initial_state(1))
        losses = torch.nn.functional.cross_entropy(
            logits[:, 0].double(), torch.from_numpy(ids.astype(np.int64)), reduction="none"
        )
    size = 6400 // 64
    begins = [i * (40_000 - size) // 63 for i in range(64)]
    expected = np.mean([float(losses[b : b + size].mean()) for b in begins])
    assert validation_loss(model, ids, 1, max_tokens=6400).mean == pytest.approx(expected, abs=1e-6)
    assert begins[-1] + size == len(ids)
    assert validation_loss(model, ids, 1, max_tokens=40_000) == validation_loss(model, ids, 1)
    assert validation_loss(model, ids, 1, max_tokens=0) == validation_loss(model, ids, 1)
    assert validation_loss(model, ids, 1, max_tokens=10).mean == pytest.approx(float(losses[:10].mean()), abs=1e-6)


def test_of_long_streams_the_first_sequences_are_read() -> None:
    torch.manual_seed(3)
    model = CharRNN(ModelConfig(hidden_size=8, embedding_size=4), 5).eval()
    ids = np.random.default_rng(1).integers(0, 5, 4001).astype(np.uint8)
    starts = np.arange(4) * 1000
    whole, short = Streams(ids, starts, 1000), Streams(ids, starts, 100)
    assert streams_loss(model, whole, 50, max_tokens=400) == streams_loss(model, short, 50)
    assert streams_loss(model, whole, 50, max_tokens=1) == streams_loss(model, Streams(ids, starts, 50), 50)
    assert streams_loss(model, whole, 50, max_tokens=4000) == streams_loss(model, whole, 50)


@pytest.mark.parametrize("settings", [{}, {"split": "streams"}, {"lines": True}], ids=["text", "streams", "items"])
def test_training_validates_no_more_than_it_was_told(make_trainer: MakeTrainer, settings: dict[str, Any]) -> None:
    whole, bounded = (
        make_trainer(f"{val_max}", val_frac=0.5, val_max=val_max, **settings).run for val_max in (0, 1280)
    )
    bounded.model.load_state_dict(whole.model.state_dict())
    read: list[int] = []
    end = bounded.corpus.vocabulary.special.get("end", -1)  # what is left of a row is filled with ends
    bounded.model.register_forward_hook(lambda _, inputs, __: read.append(int((inputs[0] != end).sum())))
    loss = bounded.text.validation_loss(bounded.model)
    assert loss.mean == pytest.approx(whole.text.validation_loss(whole.model).mean, abs=0.05)
    assert loss != whole.text.validation_loss(whole.model)
    warm_up = 64 * 512  # characters before each of 64 pieces of running text
    assert sum(read) <= 2 * 1280 + (warm_up if not settings else 0)


def test_the_standard_error_is_that_of_means_over_blocks_of_64_characters() -> None:
    """Against the textbook's estimate, in plain numpy."""
    rng = np.random.default_rng(1)
    losses_TB, scored_TB = rng.gamma(2.0, 1.0, (150, 7)), rng.random((150, 7)) < 0.8
    tally = _Tally()
    tally.add(torch.from_numpy(losses_TB[:64]), torch.from_numpy(scored_TB[:64]))
    tally.add(torch.from_numpy(losses_TB[64:]), torch.from_numpy(scored_TB[64:]))
    kept = np.where(scored_TB, losses_TB, 0.0)
    blocks = [slice(0, 64), slice(64, 128), slice(128, 150)]
    sums = np.array([kept[b].sum(0) for b in blocks]).ravel()
    counts = np.array([scored_TB[b].sum(0) for b in blocks]).ravel()
    mean = sums.sum() / counts.sum()
    error = np.sqrt(((sums - mean * counts) ** 2).sum()) / counts.sum()
    assert tally.mean_loss(SINGLE) == pytest.approx((mean, error), rel=1e-9)


def test_the_standard_error_covers_what_another_text_would_have_given() -> None:
    """Texts drawn from one source: their losses scatter as each of them says."""
    torch.manual_seed(1)
    model = CharRNN(ModelConfig(hidden_size=8, embedding_size=4), 20)
    rng = np.random.default_rng(2)
    found = [validation_loss(model, rng.integers(0, 20, 3000).astype(np.uint8), 0) for _ in range(60)]
    assert np.std([loss.mean for loss in found]) == pytest.approx(np.mean([loss.error for loss in found]), rel=0.35)
