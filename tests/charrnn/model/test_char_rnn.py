"""The model: its start, its state, its dropout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from charrnn.config import ModelConfig, TrainConfig
from charrnn.model.char_rnn import CharRNN
from charrnn.training.optim import Optimizers

CELLS = ("lstm", "gru", "rnn")


def make(vocab_size: int = 11, seed: int = 1, **config: Any) -> CharRNN:
    torch.manual_seed(seed)
    return CharRNN(ModelConfig(**({"hidden_size": 12, "embedding_size": 6} | config)), vocab_size)


def tokens(t: int, b: int) -> torch.Tensor:
    return torch.randint(0, 11, (t, b), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_shapes(cell: str, num_layers: int) -> None:
    model = make(cell=cell, num_layers=num_layers)
    state = model.initial_state(5)
    assert len(state) == num_layers * (2 if cell == "lstm" else 1)
    logits, new = model(tokens(7, 5), state)
    assert logits.shape == (7, 5, 11)
    assert [s.shape for s in new] == [s.shape for s in state] == [(5, 12)] * len(state)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_a_carried_state_is_the_same_as_one_long_sequence(cell: str, num_layers: int) -> None:
    model = make(cell=cell, num_layers=num_layers).eval()
    x = tokens(20, 3)
    with torch.no_grad():
        whole, end = model(x, model.initial_state(3))
        first, state = model(x[:8], model.initial_state(3))
        second, carried = model(x[8:], state)
        reset, _ = model(x[8:], model.initial_state(3))
    torch.testing.assert_close(torch.cat([first, second]), whole, atol=1e-6, rtol=0)
    for ours, theirs in zip(carried, end, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    assert (reset[0] - whole[8]).abs().max() > 1e-3


@pytest.mark.parametrize("cell", CELLS)
def test_streams_of_a_batch_do_not_touch_each_other(cell: str) -> None:
    model = make(cell=cell, num_layers=2).eval()
    x = tokens(9, 4)
    with torch.no_grad():
        together, _ = model(x, model.initial_state(4))
        alone, _ = model(x[:, 2:3], model.initial_state(1))
    torch.testing.assert_close(together[:, 2:3], alone, atol=1e-6, rtol=0)


def test_dropout_acts_in_training_only() -> None:
    model = make(num_layers=2, dropout=0.5)
    x, state = tokens(6, 2), model.initial_state(2)
    model.train()
    assert not torch.equal(model(x, state)[0], model(x, state)[0])
    model.eval()
    assert torch.equal(model(x, state)[0], model(x, state)[0])
    plain = make(num_layers=2).eval()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain(x, state)[0], model(x, state)[0])


def test_dropout_never_touches_the_carried_state_of_a_single_layer() -> None:
    model = make(num_layers=1, dropout=0.9).train()
    states = [model(tokens(6, 2), model.initial_state(2))[1] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_sequence_logits_put_the_mode_back() -> None:
    model = make(dropout=0.5).train()
    x = tokens(6, 1)
    first, second = (model.sequence_logits(x, model.initial_state(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert model.training


def test_num_parameters() -> None:
    model = make(cell="gru", num_layers=2)
    expected = 11 * 6 + 3 * 12 * (6 + 12 + 2) + 3 * 12 * (12 + 12 + 2) + 12 * 11 + 11
    assert model.num_parameters() == expected


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_tiny_model_learns_a_tiny_text_by_heart(cell: str, optimizer: str) -> None:
    # "abcabd…": what follows "ab" hangs on what came three characters before, so the state must be used.
    text = torch.tensor([0, 1, 2, 0, 1, 3] * 6)[:, None]
    model = make(vocab_size=4, cell=cell, hidden_size=16)
    lr = 0.02 if cell == "rnn" else 0.03
    optimizers = Optimizers(model, TrainConfig(optimizer=optimizer, lr=lr))  # type: ignore[arg-type]
    for step in range(150):
        logits, _ = model(text[:-1], model.initial_state(1))
        loss = F.cross_entropy(logits.flatten(0, 1), text[1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizers.step(1 - step / 150)
    with torch.no_grad():
        logits, _ = model(text[:-1], model.initial_state(1))
        late = F.cross_entropy(logits[10:].flatten(0, 1), text[11:].flatten())
    assert float(late) < 0.02, "a coin toss at every third character would cost 0.23"
