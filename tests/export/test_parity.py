"""The parity check: it refuses every fault that is planted here, and no correct export."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from charrnn_export import ModelWeights, ParityError, StepModule, export_model, verify
from charrnn_export.export import describe
from charrnn_export.trace import trace
from charrnn_runtime import ModelInfo, Sampler, Vocabulary, read_model_file
from charrnn_runtime.sequence import OnnxSequenceRunner as GraphRunner
from charrnn_runtime.session import OnnxCell, open_session
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional as F

from charrnn.config import ModelConfig
from charrnn.model.char_rnn import CharRNN
from charrnn.runs.checkpoint import load_checkpoint

CELLS = ("lstm", "gru", "rnn")
LAYERS, HIDDEN = 2, 20
Trajectory = verify._Trajectory
VOCABULARY = Vocabulary.from_text("\n abcdefghijklmnop.,")


@pytest.fixture(autouse=True, scope="module")
def _trajectories() -> Iterator[None]:
    """The trained model's trajectory is computed once for all faults of what is exported."""
    with pytest.MonkeyPatch.context() as patch:
        made: dict[Any, Any] = {}

        def once(trained: Any, info: ModelInfo, texts: Any, blocks: int, rng: np.random.Generator) -> Any:
            key = (
                trained,
                info.sha256,
                info.start_token,
                blocks,
                rng.bit_generator.state["state"]["state"],
                len(texts),
            )
            if texts or key not in made:
                made[key] = Trajectory(trained, info, texts, blocks, rng)
            return made[key]

        patch.setattr(verify, "_Trajectory", once)
        yield


@dataclass
class Case:
    """What goes into the check: correct as made, and then changed by a fault."""

    model: CharRNN
    step: StepModule
    proto: onnx.ModelProto
    info: ModelInfo
    trained: verify.SequenceForward

    def check(self, **settings: Any) -> dict[str, Any]:
        settings = {"steps": verify.BLOCK} | settings  # the fewest that the check takes
        return verify.check_parity(self.proto, self.info, self.step, self.trained, **settings)

    def change_weights(self, change: Callable[[ModelWeights], ModelWeights]) -> None:
        """Exports other weights than those that were trained."""
        self.step = StepModule(change(detached(self.model.export_weights())))
        self.store()

    def store(self) -> None:
        """Puts the step's constants into the traced graph, as tracing it again would."""
        constants = dict(self.step.named_parameters())
        for tensor in self.proto.graph.initializer:
            if tensor.name in constants:
                tensor.CopyFrom(numpy_helper.from_array(constants[tensor.name].numpy(), tensor.name))

    def trace(self) -> None:
        """Traces the step again, after its code was changed."""
        self.proto = trace(self.step, opset=18)


@functools.cache
def correct(cell: str) -> Case:
    torch.manual_seed(3)
    config = ModelConfig(cell=cell, num_layers=LAYERS, hidden_size=HIDDEN, embedding_size=10, dropout=0.3)
    model = CharRNN(config, len(VOCABULARY))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(1.5)
            if "bias" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model.eval()
    step = StepModule(model.export_weights())
    return Case(model, step, trace(step, opset=18), describe(step, VOCABULARY), model.sequence_forward())


@pytest.fixture(params=CELLS)
def case(request: pytest.FixtureRequest) -> Case:
    made = correct(request.param)
    proto = onnx.ModelProto()
    proto.CopyFrom(made.proto)
    return dataclasses.replace(made, proto=proto, step=copy.deepcopy(made.step))


def detached(weights: ModelWeights) -> ModelWeights:
    layers = tuple({name: tensor.detach() for name, tensor in layer.items()} for layer in weights.layers)
    names = ("embedding", "head_weight", "head_bias")
    return dataclasses.replace(weights, layers=layers, **{name: getattr(weights, name).detach() for name in names})


# Faults of the weights: a function of one tensor, and which it is. "0.weight_hh" is that of the first layer.

Change = Callable[[Tensor], Tensor]


def gates_of(tensor: Tensor) -> list[Tensor]:
    """A layer's matrix or bias by gates; for a cell of one gate, by halves of its units."""
    gates = len(tensor) // HIDDEN
    return list(tensor.chunk(gates if gates > 1 else 2))


def swapped(tensor: Tensor) -> Tensor:
    first, second, *rest = gates_of(tensor)
    return torch.cat([second, first, *rest])


def rotated(tensor: Tensor) -> Tensor:
    first, *rest = gates_of(tensor)
    return torch.cat([*rest, first])


def transposed(tensor: Tensor) -> Tensor:
    return torch.cat([gate.T for gate in tensor.chunk(len(tensor) // HIDDEN)])


def rows_exchanged(tensor: Tensor) -> Tensor:
    order = torch.arange(len(tensor))
    order[[2, 5]] = order[[5, 2]]
    return tensor[order]


def one_off(tensor: Tensor) -> Tensor:
    """The weight of median size, a thousandth larger."""
    changed = tensor.clone()
    flat = changed.view(-1)
    flat[flat.abs().argsort()[len(flat) // 2]] *= 1.001
    return changed


def one_negated(tensor: Tensor) -> Tensor:
    changed = tensor.clone()
    changed.view(-1)[7] *= -1
    return changed


def bfloat16(tensor: Tensor) -> Tensor:
    return tensor.bfloat16().float()


def float16(tensor: Tensor) -> Tensor:
    return tensor.half().float()


WEIGHT_FAULTS: dict[str, tuple[str, Change]] = {
    "gates swapped": ("0.weight_hh", swapped),
    "gates swapped in the upper layer": ("1.weight_hh", swapped),
    "gates of the input swapped": ("1.weight_ih", swapped),
    "gates in another order": ("0.weight_hh", rotated),
    "gates of a bias in another order": ("1.bias_ih", rotated),
    "a bias lost": ("0.bias_ih", torch.zeros_like),
    "a recurrent bias lost": ("1.bias_hh", torch.zeros_like),
    "the bias of the head lost": ("head_bias", torch.zeros_like),
    "a recurrent weight transposed": ("0.weight_hh", transposed),
    "an input weight transposed": ("1.weight_ih", transposed),
    "rows of the embedding exchanged": ("embedding", rows_exchanged),
    "rows of the head exchanged": ("head_weight", rows_exchanged),
    "a recurrent weight off by a thousandth": ("0.weight_hh", one_off),
    "a recurrent weight of the upper layer off by a thousandth": ("1.weight_hh", one_off),
    "an input weight off by a thousandth": ("0.weight_ih", one_off),
    "an input weight of the upper layer off by a thousandth": ("1.weight_ih", one_off),
    "a bias off by a thousandth": ("0.bias_ih", one_off),
    "a recurrent bias of the upper layer off by a thousandth": ("1.bias_hh", one_off),
    "a weight of the head off by a thousandth": ("head_weight", one_off),
    "a bias of the head off by a thousandth": ("head_bias", one_off),
    "a number of the embedding off by a thousandth": ("embedding", one_off),
    "one weight with the other sign": ("1.weight_hh", one_negated),
    "one weight NaN": ("0.weight_hh", lambda tensor: tensor.index_fill(0, torch.tensor([3]), math.nan)),
    "one weight infinite": ("head_weight", lambda tensor: tensor.index_fill(0, torch.tensor([3]), math.inf)),
    "a matrix in bfloat16": ("0.weight_hh", bfloat16),
    "a matrix in float16": ("1.weight_ih", float16),
    "the head in float16": ("head_weight", float16),
}


# A thousandth is tried with one cell for each tensor: test_every_weight_counts takes all tensors of all cells.
WEIGHT_CASES = [
    (cell, fault)
    for number, (fault, (_, change)) in enumerate(WEIGHT_FAULTS.items())
    for cell in (CELLS if change is not one_off else CELLS[number % len(CELLS) :][:1])
]


@pytest.mark.parametrize(("case", "fault"), WEIGHT_CASES, indirect=["case"])
def test_wrong_weights_are_refused(case: Case, fault: str) -> None:
    name, change = WEIGHT_FAULTS[fault]

    def changed(weights: ModelWeights) -> ModelWeights:
        if name[0].isdigit():
            number, _, field = name.partition(".")
            layers = list(weights.layers)
            layer = layers[int(number)]
            layers[int(number)] = {**layer, field: change(layer[field])}
            return dataclasses.replace(weights, layers=tuple(layers))
        return dataclasses.replace(weights, **{name: change(getattr(weights, name))})  # type: ignore[arg-type]

    case.change_weights(changed)
    with pytest.raises(ParityError) as caught:
        case.check()
    assert caught.value.parity["verified"] is False


def test_layers_in_the_wrong_order_are_refused(case: Case) -> None:
    def exchanged(weights: ModelWeights) -> ModelWeights:
        first, second = weights.layers
        return dataclasses.replace(
            weights,
            layers=(
                {**first, "weight_hh": second["weight_hh"]},
                {**second, "weight_hh": first["weight_hh"]},
            ),
        )

    case.change_weights(exchanged)
    with pytest.raises(ParityError):
        case.check()


def test_a_stale_weight_file_is_refused(case: Case) -> None:
    """The weights of one small optimizer step ago."""

    def stale(weights: ModelWeights) -> ModelWeights:
        generator = torch.Generator().manual_seed(0)

        def before(tensor: Tensor) -> Tensor:
            return tensor + 1e-4 * torch.randn(tensor.shape, generator=generator)

        layers = tuple({name: before(tensor) for name, tensor in layer.items()} for layer in weights.layers)
        return dataclasses.replace(weights, layers=layers)

    case.change_weights(stale)
    with pytest.raises(ParityError):
        case.check()


# Faults of the step's code. Each is planted in torch's step alone, and in step and graph together.


class FaultyStep(StepModule):
    """A step whose ``forward`` can be replaced."""

    fault: str

    def forward(self, token: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        return STEP_FAULTS[self.fault](self, token, states)


Outputs = tuple[Tensor, ...]


def kinds_of(step: StepModule) -> int:
    """How many states a layer has."""
    return len(step.cell.states)


def layers_run(step: StepModule, token: Tensor, states: Outputs, change: Callable[..., Any] | None = None) -> Outputs:
    """The step written out, with a cell's formula changed by ``change(sums or parts, states)`` in the upper layer."""
    kinds, x, new = kinds_of(step), token, []
    for i in range(LAYERS):
        own = states[i * kinds : (i + 1) * kinds]
        layer = step.get_submodule(f"layer_{i}")
        out = change(layer, x, own) if change and i == 1 else layer(x, *own)
        new += out
        x = out[0]
    return (step.head(x), *new)


def swapped_states(step: StepModule, token: Tensor, states: Outputs) -> Outputs:
    logits, *new = StepModule.forward(step, token, *states)
    return (logits, *new[len(new) // 2 :], *new[: len(new) // 2])


def states_exchanged_on_entry(step: StepModule, token: Tensor, states: Outputs) -> Outputs:
    return StepModule.forward(step, token, *states[::-1])


def old_state(step: StepModule, token: Tensor, states: Outputs) -> Outputs:
    """LSTM: h for c. Otherwise the state that came in."""
    logits, *new = StepModule.forward(step, token, *states)
    last = new[-2] if step.cell.name == "lstm" else states[-1]
    return (logits, *new[:-1], last)


def layer_skipped(step: StepModule, token: Tensor, states: Outputs) -> Outputs:
    _, *new = StepModule.forward(step, token, *states)
    return (step.head(new[0]), *new)


def head_of_old_state(step: StepModule, token: Tensor, states: Outputs) -> Outputs:
    _, *new = StepModule.forward(step, token, *states)
    return (step.head(states[-kinds_of(step)]), *new)


def wrong_nonlinearity(step: StepModule, token: Tensor, states: Outputs) -> Outputs:
    """LSTM: tanh for the output gate's sigmoid; GRU: for those of both gates; RNN: sigmoid for tanh."""

    def change(layer: Any, x: Tensor, own: Outputs) -> Outputs:
        if step.cell.name == "rnn":
            return (layer.gate_sums(x, own[0]).sigmoid(),)
        if step.cell.name == "lstm":
            i, f, g, o = layer.gate_sums(x, own[0]).chunk(4, dim=1)
            c = f.sigmoid() * own[1] + i.sigmoid() * g.tanh()
            return o.tanh() * c.tanh(), c
        return gru_with(layer, x, own[0], torch.tanh)

    return layers_run(step, token, states, change)


def gru_with(
    layer: Any, x: Tensor, h: Tensor, gate: Callable[[Tensor], Tensor] = torch.sigmoid, *, inverted: bool = False
) -> Outputs:
    input_rz, input_n = layer.input(x).split(layer.sizes, dim=1)
    recurrent_rz, recurrent_n = layer.recurrent(h).split(layer.sizes, dim=1)
    r, z = gate(input_rz + recurrent_rz).chunk(2, dim=1)
    n = torch.tanh(input_n + r * recurrent_n)
    return (h + z * (n - h) if inverted else n + z * (h - n),)


def wrong_gate(step: StepModule, token: Tensor, states: Outputs) -> Outputs:
    """LSTM: input gate coupled to the forget gate; GRU: update gate inverted; RNN: the state is added."""

    def change(layer: Any, x: Tensor, own: Outputs) -> Outputs:
        if step.cell.name == "rnn":
            return (layer.gate_sums(x, own[0]).tanh() + own[0],)
        if step.cell.name == "lstm":
            _, f, g, o = layer.gate_sums(x, own[0]).chunk(4, dim=1)
            c = f.sigmoid() * own[1] + (1 - f.sigmoid()) * g.tanh()
            return o.sigmoid() * c.tanh(), c
        return gru_with(layer, x, own[0], inverted=True)

    return layers_run(step, token, states, change)


def wrong_reset(step: StepModule, token: Tensor, states: Outputs) -> Outputs:
    """GRU: the reset gate acts before the product, as in char-rnn; LSTM: c is not squashed; RNN: relu."""

    def change(layer: Any, x: Tensor, own: Outputs) -> Outputs:
        if step.cell.name == "rnn":
            return (layer.gate_sums(x, own[0]).relu(),)
        if step.cell.name == "lstm":
            i, f, g, o = layer.gate_sums(x, own[0]).chunk(4, dim=1)
            c = f.sigmoid() * own[1] + i.sigmoid() * g.tanh()
            return o.sigmoid() * c, c
        h = own[0]
        input_rz, input_n = layer.input(x).split(layer.sizes, dim=1)
        r, z = torch.sigmoid(input_rz + layer.recurrent(h).split(layer.sizes, dim=1)[0]).chunk(2, dim=1)
        n = torch.tanh(input_n + layer.recurrent(r * h).split(layer.sizes, dim=1)[1])
        return (n + z * (h - n),)

    return layers_run(step, token, states, change)


def residual(step: StepModule, token: Tensor, states: Outputs) -> Outputs:
    """The upper layer's output is added to the lower one's."""
    _, *new = StepModule.forward(step, token, *states)
    return (step.head(new[0] + new[kinds_of(step)]), *new)


def clipped(step: StepModule, token: Tensor, states: Outputs) -> Outputs:
    logits, *new = StepModule.forward(step, token, *states)
    return (logits.clamp(-0.5, 0.5), *new)


def dropout_left_on(step: StepModule, token: Tensor, states: Outputs) -> Outputs:
    _, *new = StepModule.forward(step, token, *states)
    return (step.head(F.dropout(new[-kinds_of(step)], 0.3, training=True)), *new)


STEP_FAULTS: dict[str, Callable[[StepModule, Tensor, Outputs], Outputs]] = {
    "states of the layers in the wrong order": swapped_states,
    "states read in the wrong order": states_exchanged_on_entry,
    "h for c, or the old state for the new": old_state,
    "a layer skipped": layer_skipped,
    "the head reads the old state": head_of_old_state,
    "tanh for sigmoid, or sigmoid for tanh": wrong_nonlinearity,
    "a gate coupled or inverted": wrong_gate,
    "a wrong reset gate or squashing": wrong_reset,
    "a residual connection": residual,
    "logits clipped": clipped,
    "dropout left on in the step": dropout_left_on,
}
# Tracing takes a second, so not all of them.
TRACED = [
    ("lstm", "a gate coupled or inverted"),
    ("gru", "a gate coupled or inverted"),
    ("rnn", "a layer skipped"),
]


def plant(case: Case, fault: str) -> None:
    step = FaultyStep(case.model.export_weights())
    step.fault = fault
    case.step = step


@pytest.mark.parametrize("fault", STEP_FAULTS)
def test_a_wrong_step_is_refused(case: Case, fault: str) -> None:
    plant(case, fault)
    with pytest.raises(ParityError, match="torch's step does not compute"):
        case.check()


@pytest.mark.parametrize(("case", "fault"), TRACED, indirect=["case"])
def test_a_wrong_graph_is_refused(case: Case, fault: str) -> None:
    plant(case, fault)
    case.trace()
    with pytest.raises(ParityError, match="exported graph"):
        case.check()


# Faults that are only in the graph, as a faulty exporter would write them.


def exchange_names(graph: onnx.GraphProto, first: str, second: str) -> None:
    names = {first: second, second: first}
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]


def table_rolled(graph: onnx.GraphProto) -> None:
    table = next(tensor for tensor in graph.initializer if tensor.name == "layer_0.input.rows")
    table.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(table), 1, axis=0), table.name))


def split_exchanged(graph: onnx.GraphProto) -> None:
    """Two outputs of a Split, or, where there is none, the parts of the upper layer's input."""
    node = next(node for node in reversed(graph.node) if node.op_type in ("Split", "Concat"))
    values = node.output if node.op_type == "Split" else node.input
    values[:] = list(values)[::-1]


def activation_exchanged(graph: onnx.GraphProto) -> None:
    node = next(node for node in graph.node if node.op_type in ("Sigmoid", "Tanh"))
    node.op_type = "Tanh" if node.op_type == "Sigmoid" else "Sigmoid"


EDITS: dict[str, Callable[[onnx.GraphProto], None]] = {
    "the table of tokens is off by one": table_rolled,
    "the states leave in the wrong order": lambda graph: exchange_names(graph, "next_h_0", "next_h_1"),
    "the states enter in the wrong order": lambda graph: exchange_names(graph, "h_0", "h_1"),
    "parts exchanged": split_exchanged,
    "an activation exchanged": activation_exchanged,
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_wrong_file_is_refused(case: Case, edit: str) -> None:
    EDITS[edit](case.proto.graph)
    with pytest.raises(ParityError, match="exported graph"):
        case.check()


# Faults of the trained model's float32 forward, and of the graph over a block.


@pytest.mark.parametrize("fault", ["dropout", "states ignored", "late", "one logit", "nan", "states not returned"])
def test_a_float32_forward_that_differs_is_refused(case: Case, fault: str) -> None:
    good = case.trained

    def faulty(tokens_TB: Tensor, states: Outputs) -> tuple[Tensor, Outputs]:
        if states[0].dtype == torch.float64:
            return good(tokens_TB, states)
        if fault == "dropout":
            model = copy.deepcopy(case.model).train()
            with torch.inference_mode():
                out: tuple[Tensor, Outputs] = model(tokens_TB, states)
            return out
        if fault == "states ignored":
            states = tuple(torch.zeros_like(s) for s in states)
        logits, new = good(tokens_TB, states)
        logits = logits.clone()
        if fault == "late" and len(logits) > 20:
            logits[20:] += 1e-2
        elif fault == "one logit":
            logits[0, -1, 2] += 1e-3
        elif fault == "nan":
            logits[-1, -1, -1] = math.nan
        elif fault == "states not returned":
            new = states
        return logits, new

    case.trained = faulty
    with pytest.raises(ParityError, match="own forward in float32"):
        case.check()


def test_a_block_graph_that_forgets_its_states_is_refused(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = GraphRunner.forward

    def forgetful(self: GraphRunner, tokens: Any) -> Any:
        before = self._state
        logits = forward(self, tokens)
        self._state = before
        return logits

    monkeypatch.setattr(GraphRunner, "forward", forgetful)
    with pytest.raises(ParityError, match="graph over a block"):
        case.check()


# What is correct is not refused.


def test_a_correct_export_passes_with_any_seed(case: Case) -> None:
    for seed in range(8):
        parity = case.check(seed=seed, steps=2 * verify.BLOCK)
        assert parity["verified"] is True
        assert parity["seed"] == seed
        assert 0 < parity["of_allowed"]["onnx"] < 1


CHAOTIC = sorted((Path(__file__).parents[1] / "fixtures" / "chaotic").glob("*.pt"))


@pytest.mark.parametrize("path", CHAOTIC, ids=lambda path: path.stem)
def test_a_trained_model_that_is_chaotic_on_random_tokens_passes(path: Path) -> None:
    """Along random tokens correct implementations part, until nothing is left: that must refuse nothing."""
    checkpoint = load_checkpoint(path)
    model = checkpoint.build_model()
    step, trained = StepModule(model.export_weights()), model.sequence_forward()
    case = Case(model, step, trace(step, opset=18), describe(step, checkpoint.vocabulary), trained)
    tokens_TB = torch.randint(len(checkpoint.vocabulary), (1000, 1), generator=torch.Generator().manual_seed(0))
    logits_TBV, _ = trained(tokens_TB, tuple(torch.zeros(1, spec.size) for spec in case.info.states))
    runner = OnnxCell(open_session(case.proto.SerializeToString(), device="cpu"), case.info).runner(1)
    steps = np.stack([runner.step(token).copy() for token in tokens_TB.numpy()])
    apart = np.abs(steps - logits_TBV.numpy()).max((1, 2)) / np.abs(steps).max()
    assert apart[:5].max() < 1e-5 < 0.01 < apart.max()
    for seed in range(3):
        assert case.check(seed=seed)["verified"] is True
    case.change_weights(lambda w: dataclasses.replace(w, head_weight=w.head_weight * 1.001))
    with pytest.raises(ParityError, match="exported graph"):
        case.check()


def test_every_weight_counts(case: Case) -> None:
    """Any weight of at least a tenth of the mean size, a thousandth off, whichever it is."""
    rng = np.random.default_rng(0)
    weights = [t for t in case.proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    for tensor in weights:
        good = numpy_helper.to_array(tensor)
        large = np.flatnonzero(np.abs(good) > 0.1 * np.abs(good).mean())
        for at in rng.choice(large, 2, replace=False):
            wrong = good.copy()
            wrong.flat[at] *= 1.001
            tensor.CopyFrom(numpy_helper.from_array(wrong, tensor.name))
            with pytest.raises(ParityError, match="exported graph"):
                case.check()
        tensor.CopyFrom(numpy_helper.from_array(good, tensor.name))


def test_the_figures(case: Case) -> None:
    text = np.array([3, 4, 5, 6] * 30)
    parity = case.check(texts=[text, text[:5]], seed=1, steps=2 * verify.BLOCK)
    assert json.loads(json.dumps(parity)) == parity
    assert set(parity) == {
        "verified", "steps", "seed", "largest_logit", "one_step", "chain", "of_allowed", "growth"
    }  # fmt: skip
    assert parity["steps"] == 2 * verify.BLOCK
    assert set(parity["of_allowed"]) == {"graph", "sequence", "step", "onnx", "blocks"}
    assert 0 < parity["one_step"] <= parity["chain"] * 10 < 1e-3
    assert 0 < parity["growth"]["own"] < 1e6


def test_growth_tells_a_chaotic_model_from_a_calm_one() -> None:
    """A vanilla RNN with weights of ±4 / √H is chaotic, with weights of a tenth of that it forgets."""
    growth = {}
    for scale in (0.4, 4.0):
        torch.manual_seed(0)
        model = CharRNN(ModelConfig(cell="rnn", num_layers=1, hidden_size=32), len(VOCABULARY)).eval()
        with torch.no_grad():
            weight = model.export_weights().layers[0]["weight_hh"]
            weight.normal_(std=scale / math.sqrt(32))
        step = StepModule(model.export_weights())
        proto, info = trace(step, opset=18), describe(step, VOCABULARY)
        parity = verify.check_parity(proto, info, step, model.sequence_forward())
        growth[scale] = parity["growth"]
    assert growth[0.4]["own"] < 1e-3
    assert growth[4.0]["own"] > 1e3
    assert growth[4.0]["random"] > 1e3


def faulty_export(unverified: bool, **settings: Any) -> Any:
    made = correct("rnn")
    weights = detached(made.model.export_weights())
    bias = weights.head_bias.clone()
    bias[5] += 1e-3
    weights = dataclasses.replace(weights, head_bias=bias)
    return export_model(
        weights,
        VOCABULARY,
        made.trained,
        training={},
        producer={},
        parity_steps=verify.BLOCK,
        unverified=unverified,
        **settings,
    )


def test_a_refusal_says_what_where_how_far_and_what_to_do() -> None:
    with pytest.raises(ParityError) as caught:
        faulty_export(unverified=False)
    message = str(caught.value)
    for part in ("exported graph", "logits[5]", "state ", "allowed", "nothing was written", "--unverified"):
        assert part in message


def test_unverified_is_written_and_marked(caplog: pytest.LogCaptureFixture) -> None:
    out = faulty_export(unverified=True)
    assert out.info.parity["verified"] is False
    assert "logits[5]" in out.info.parity["refusal"]
    assert read_model_file(out.data).info.parity == out.info.parity
    assert Sampler(out.data).sample("a", length=5, seed=1)
    assert "not verified" in caplog.text


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_smaller_copies_keep_the_mark(dtype: str) -> None:
    out = faulty_export(unverified=True, dtype=dtype, max_loss_increase=math.inf)
    assert out.info.parity["verified"] is False
    assert out.info.dtype == dtype


def test_a_diverged_model_is_refused_and_can_still_be_written() -> None:
    made = correct("gru")
    model = copy.deepcopy(made.model)
    with torch.no_grad():
        model.head.weight[0, 0] = math.nan
    settings: dict[str, Any] = {"training": {}, "producer": {}, "parity_steps": verify.BLOCK}
    with pytest.raises(ParityError, match="nan"):
        export_model(model.export_weights(), VOCABULARY, model.sequence_forward(), **settings)
    out = export_model(model.export_weights(), VOCABULARY, model.sequence_forward(), unverified=True, **settings)
    assert out.info.parity["one_step"] is None


def test_an_operator_of_another_cell_is_compared_too(case: Case) -> None:
    node = next(node for node in case.proto.graph.node if node.op_type == "Tanh")
    node.op_type = "Softsign"
    with pytest.raises(ParityError, match="exported graph"):
        case.check()
