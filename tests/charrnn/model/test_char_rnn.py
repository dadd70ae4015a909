"""The model: its state, its dropout, resets between items."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from charrnn.cells.layer import Layer
from charrnn.config import ModelConfig, TrainConfig
from charrnn.data.item_streams import NO_TARGET
from charrnn.model.char_rnn import CharRNN, dropped
from charrnn.training.optim import Optimizers
from tests.conftest import NEEDS_BF16

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


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_weight_dropout_drops_recurrent_weights_in_training(cell: str, bf16: bool) -> None:
    x = tokens(6, 2)
    model = make(cell=cell, num_layers=2, weight_dropout=0.5).train()
    state = model.initial_state(2)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        torch.manual_seed(4)
        got, _ = model(x, state)
        # The same model with these weights, in the order in which they are drawn.
        plain = make(cell=cell, num_layers=2).train()
        plain.load_state_dict(model.state_dict())
        torch.manual_seed(4)
        with torch.no_grad():
            for name, parameter in plain.named_parameters():
                if "weight_hh" in name:
                    parameter.copy_(dropped(parameter, 0.5))
                    assert 0.3 < (parameter == 0).float().mean() < 0.7
        expected, _ = plain(x, state)
    assert torch.equal(got, expected)
    for m, logits in ((model, got), (plain, expected)):
        logits.square().sum().backward()
        assert all(p.grad is not None for p in m.parameters())
    for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        kept = 2 * (b != 0) if "weight_hh" in name else 1
        torch.testing.assert_close(a.grad, b.grad * kept)
    model.eval()
    assert torch.equal(model(x, state)[0], model(x, state)[0])


@pytest.mark.parametrize(("rate", "exact"), [(0.0, 0.0), (0.2, 51 / 256), (0.5, 0.5), (0.9999, 255 / 256)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropped_values_are_0_at_the_rate_and_keep_their_mean(rate: float, exact: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = torch.randn(301, 333).to(dtype).requires_grad_()
    result = dropped(values, rate)
    kept = result != 0
    assert (~kept).float().mean().item() == pytest.approx(exact, abs=0.005)
    torch.testing.assert_close(result[kept], values[kept] / (1 - exact))
    (gradient,) = torch.autograd.grad(result.sum(), values)
    torch.testing.assert_close(gradient, kept / torch.tensor(1 - exact, dtype=dtype))
    assert rate == 0 or not torch.equal(dropped(values, rate) != 0, kept)


def test_dropout_acts_on_what_the_output_layer_reads_and_only_in_training() -> None:
    model = make(num_layers=1, dropout=0.5)
    seen: list[torch.Tensor] = []
    model.head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    for training in (True, False):
        model.train(training)(tokens(6, 2), model.initial_state(2))
    dropped_out, whole = seen
    kept = dropped_out != 0
    assert 0.3 < kept.float().mean() < 0.7
    torch.testing.assert_close(dropped_out[kept], 2 * whole[kept])


def test_dropout_never_touches_the_carried_state_of_a_single_layer() -> None:
    model = make(num_layers=1, dropout=0.9).train()
    states = [model(tokens(6, 2), model.initial_state(2))[1] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


@pytest.mark.parametrize("cell", CELLS)
def test_sequence_forward_evaluates_in_the_type_of_the_states_and_puts_the_mode_back(cell: str) -> None:
    model = make(cell=cell, num_layers=2, dropout=0.5).train()
    x = tokens(6, 1)
    forward = model.sequence_forward()
    (first, states), (second, _) = (forward(x, model.initial_state(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert model.training
    exact, exact_states = forward(x, tuple(s.double() for s in model.initial_state(1)))
    assert exact.dtype == exact_states[0].dtype == torch.float64
    assert 0 < (first - exact).abs().max() < 1e-5
    assert all(0 < (a - b).abs().max() < 1e-5 for a, b in zip(states, exact_states, strict=True))


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


IN_BOTH = [
    # PyTorch's LSTM has no bf16 kernels for every processor; ours of GRU and RNN are made of plain operators.
    pytest.param(cell, layers, precision, marks=NEEDS_BF16 if (cell, precision) == ("lstm", "bf16") else ())
    for cell, layers in (("lstm", 1), ("lstm", 2), ("gru", 2), ("rnn", 2))
    for precision in ("fp32", "bf16")
]


@pytest.mark.parametrize(("cell", "num_layers", "precision"), IN_BOTH)
def test_nothing_leaks_from_one_item_into_the_next(cell: str, num_layers: int, precision: str) -> None:
    torch.manual_seed(1)
    model = CharRNN(ModelConfig(cell=cell, num_layers=num_layers, hidden_size=24, embedding_size=12), 9)
    for p in model.parameters():
        p.data.mul_(3)  # gates that are wide open and states that are far from zero
    begin, end = 7, 8
    one = [begin, 1, 2, 3, 4, 5, end]
    two = [begin, 3, 3, 1, 0, end]
    x = torch.tensor([[*one, *two], [*two, *one]]).T
    seen: list[torch.Tensor] = []
    model.embedding.register_forward_hook(lambda _m, _i, out: seen.append(out))

    def logits(tokens: torch.Tensor, state: tuple[torch.Tensor, ...]) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            out: torch.Tensor = model(tokens, state, tokens == end)[0].float()
        return out

    wild = tuple(torch.randn(2, 24) * 5 for _ in model.initial_state(2))
    together = logits(x, wild)
    zero = model.initial_state(1)
    exact: dict[str, Any] = {"rtol": 0, "atol": 1e-5 if precision == "fp32" else 2e-2}  # sums differ with the batch
    torch.testing.assert_close(together[len(one) : -1, 0], logits(torch.tensor([two]).T, zero)[:-1, 0], **exact)
    torch.testing.assert_close(together[len(two) : -1, 1], logits(torch.tensor([one]).T, zero)[:-1, 0], **exact)
    # Not nearly: another beginning changes not one bit, in another batch of the same shape.
    other = x.clone()
    other[0 : len(one) - 1, 0] = torch.tensor([begin, 5, 5, 6, 6, 0])
    changed = logits(other, tuple(5 * s for s in wild))
    assert torch.equal(changed[len(one) :, 0], together[len(one) :, 0])
    assert not torch.equal(changed[: len(one) - 1, 0], together[: len(one) - 1, 0])


@pytest.mark.parametrize(("cell", "num_layers", "precision"), IN_BOTH)
def test_no_gradient_gets_from_an_item_into_the_one_before(cell: str, num_layers: int, precision: str) -> None:
    torch.manual_seed(1)
    model = CharRNN(ModelConfig(cell=cell, num_layers=num_layers, hidden_size=24, embedding_size=0), 30)
    end = 29
    # Tokens 0 to 9 occur in the first item alone, 10 to 19 in the second: the gradient of their rows tells them apart.
    x = torch.tensor([[*range(10), end, *range(10, 20)]]).T
    wild = tuple(torch.randn(1, 24).requires_grad_() for _ in model.initial_state(1))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        logits = model(x, wild, x == end)[0].float()
    layer = model.layers[0]
    assert isinstance(layer, Layer)
    weight = layer.weights["weight_ih"]
    for part, own, others in ((slice(11, 21), slice(10, 20), slice(0, 10)), (slice(0, 10), slice(0, 9), slice(10, 20))):
        loss = F.cross_entropy(logits[part, 0], torch.arange(len(x))[part] % 20)
        gradient, *states = torch.autograd.grad(loss, (weight, *wild), retain_graph=True)
        assert not gradient[:, others].any()
        assert not gradient[:, end].any()
        assert gradient[:, own].any(dim=0).all()
        assert all(bool(s.any()) == (part.start == 0) for s in states)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_gradients_with_resets_are_those_of_items_alone(cell: str) -> None:
    torch.manual_seed(2)
    model = CharRNN(ModelConfig(cell=cell, num_layers=2, hidden_size=16, embedding_size=8), 9).double()
    model.initial_state = lambda batch: tuple(s.double() for s in CharRNN.initial_state(model, batch))  # type: ignore[method-assign]
    if cell == "lstm":  # its layers give float32 states, as training wants them
        model = model.float()
        model.initial_state = lambda batch: CharRNN.initial_state(model, batch)  # type: ignore[method-assign]
    items = [[7, 1, 2, 3, 8], [7, 4, 8], [7, 5, 6, 0, 1, 8]]
    parameters = [p for p in model.parameters() if p.requires_grad]
    x = torch.tensor([t for item in items for t in item]).unsqueeze(1)
    y = torch.cat([x[1:, 0], torch.tensor([0])])
    y[x[:, 0] == 8] = NO_TARGET
    together = F.cross_entropy(model(x, model.initial_state(1), x == 8)[0].flatten(0, 1), y, reduction="sum")
    losses = [
        F.cross_entropy(model(t[:-1], model.initial_state(1))[0].flatten(0, 1), t[1:, 0], reduction="sum")
        for t in (torch.tensor([item]).T for item in items)
    ]
    alone = torch.stack(losses).sum()
    torch.testing.assert_close(together, alone)
    for ours, theirs in zip(
        torch.autograd.grad(together, parameters), torch.autograd.grad(alone, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
