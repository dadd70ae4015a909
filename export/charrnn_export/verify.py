"""Parity: what is exported computes what was trained, as exactly as float32 can.

All comparisons are made against the trained model's own forward in float64.

1. The graph in exact arithmetic. Evaluated in float64, the file's graph differs from the trained
   model only by the rounding of its constants to float32. This proves its weights and structure;
   a single weight that is off by a thousandth of its size is seen.
2. One step. From many states, one float32 step of each implementation stays within the rounding
   error that the graph allows (``rounding.py``). The states are taken from the trajectory of the
   trained model, or are random, and every token is fed at least once.
3. Chains. From states of the trajectory, each implementation goes ``BLOCK`` steps by itself and
   stays within ``CHAIN`` times of what rounding does to the trained model: the same chain in
   float64, with noise as large as the rounding error of a step added to the states at every step.
   If a model is chaotic, both differences grow alike: a correct export is not refused for it.

The implementations are the trained model's sequence forward in float32, torch's step, ONNX
Runtime's step, and the runtime's graph over a block of tokens.

How fast a small difference grows along a text is measured too. That is a property of the model,
not of the export: it is stored and refuses nothing.

Letters: T time, B batch, N points, V vocabulary, H hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from charrnn_runtime import ModelInfo
from charrnn_runtime.sequence import SequenceGraph
from charrnn_runtime.session import OnnxCell, open_session
from charrnn_runtime.vocab import Ids
from numpy.typing import NDArray
from torch import Tensor

from charrnn_export.errors import ParityError
from charrnn_export.rounding import evaluate
from charrnn_export.step import StepModule

if TYPE_CHECKING:
    import onnx

STEPS = 256  # of the trajectory
SHORT_STEPS = 64  # the same where a checkpoint is sampled and no file is written
BLOCK = 32  # steps of a chain
POINTS = 256  # states from which one step is compared; as many as there are tokens, if those are more
SINGLES = 16  # of them are computed in a batch of one as well, which may take another way through a library
CHAIN = 4.0
SEQUENCE = 16.0  # the trained model's float32 forward sums other numbers in another order than the graph
REMARKABLE_GROWTH = 10.0  # in 100 steps along the model's own text
_OWN, _RANDOM, _GIVEN = 4, 2, 2  # rows of the trajectory: the model's own texts, random tokens, given texts
_TINY = 1e-7  # size of the difference whose growth is measured in float64
_SLACK = 1e-11  # for the rounding of float64, relative to a value's size or to 1
_POINT, _CHAIN_STEP, _CHAIN_END = "in one step from state", "in a chain at step", "at the end of chain"

Array = NDArray[Any]
Arrays = tuple[Array, ...]

# (tokens [T, B], states [B, H] …) → (logits [T, B, V], states after them). It computes in the type of the states:
# float32 as in training, float64 for the reference.
SequenceForward = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, tuple[Tensor, ...]]]

# The same for arrays, in float32.
_Chain = Callable[[Array, Arrays], tuple[Array, Arrays]]

_NAMES = {
    "graph": "the exported graph, evaluated in float64,",
    "sequence": "the trained model's own forward in float32",
    "step": "torch's step",
    "onnx": "ONNX Runtime's step",
    "blocks": "the graph over a block of tokens",
}


def check_parity(
    model: onnx.ModelProto,
    info: ModelInfo,
    step: StepModule,
    trained: SequenceForward,
    *,
    texts: Sequence[Ids] = (),
    steps: int = STEPS,
    seed: int = 0,
) -> dict[str, Any]:
    """Compares what is exported with the trained model.

    Args:
        model: the traced step.
        info: what the file will say of itself.
        step: the module that was traced.
        trained: the trained model's forward, in evaluation mode.
        texts: token ids ``[n]`` of texts like those that the model was trained on, if there are any.
        steps: how many steps of the trained model to go along; rounded up to whole blocks.
        seed: of the texts, states and noise.

    Returns:
        The figures of ``charrnn.parity``, see runtime/README.md.

    Raises:
        ParityError: an implementation is farther from the trained model than allowed; its ``parity``
            holds the figures.
    """
    report = _Report(info)
    with _one_thread(), np.errstate(all="ignore"):  # NaN and infinity end in the report
        trajectory = _Trajectory(trained, info, texts, math.ceil(steps / BLOCK), np.random.default_rng([seed, 0]))
        implementations = _implementations(model, info, step, trained)
        rng = np.random.default_rng([seed, 1])
        noise = _compare_points(model, info, implementations, trained, trajectory, report, rng)
        _compare_chains(implementations, trained, trajectory, noise, report, rng)
    parity = {
        "verified": report.refusal is None,
        "steps": trajectory.steps,
        "seed": seed,
        "largest_logit": _rounded(trajectory.largest_logit),
        "one_step": _rounded(report.one_step),
        "chain": _rounded(report.chain),
        "of_allowed": {name: _rounded(value) for name, value in report.of_allowed.items()},
        "growth": {name: _rounded(value) for name, value in trajectory.growth.items()},
    }
    if report.refusal is not None:
        raise ParityError(report.refusal, parity=parity)
    return parity


class _Report:
    """The largest differences, and the reason to refuse, if there is one.

    Attributes:
        of_allowed: for each implementation, its largest difference as a fraction of what is allowed.
        one_step, chain: largest difference of a logit of ONNX Runtime's step, after one step and in a chain.
        refusal: the message.
    """

    def __init__(self, info: ModelInfo) -> None:
        self._outputs = ["logits", *(state.output for state in info.states)]
        self.of_allowed: dict[str, float] = {}
        self.one_step = 0.0
        self.chain = 0.0
        self.refusal: str | None = None

    def compare(self, name: str, output: int, got: Array, expected: Array, allowed: Array | float, place: str) -> None:
        """Takes note of one output, 0 for the logits; the first axis of the arrays is what ``place`` counts from 1."""
        difference = np.abs(got - expected)
        fraction = np.nan_to_num(difference / allowed, nan=np.inf, posinf=np.inf)
        at = np.unravel_index(int(fraction.argmax()), fraction.shape)
        self.of_allowed[name] = max(self.of_allowed.get(name, 0.0), float(fraction[at]))
        if name == "onnx" and output == 0:
            largest = float(np.nan_to_num(difference, nan=np.inf).max())
            if place == _POINT:
                self.one_step = max(self.one_step, largest)
            else:
                self.chain = max(self.chain, largest)
        if fraction[at] > 1.0 and self.refusal is None:
            bound = float(np.broadcast_to(allowed, fraction.shape)[at])
            self.refusal = (
                f"{_NAMES[name]} does not compute what the trained model computes: {place} {at[0] + 1}, "
                f"{self._outputs[output]}[{at[-1]}] is {got[at]:.7g} and should be {expected[at]:.7g}: "
                f"{difference[at]:.1e} off, where {bound:.1e} is allowed"
            )


def _compare_points(
    model: onnx.ModelProto,
    info: ModelInfo,
    implementations: Mapping[str, _Chain],
    trained: SequenceForward,
    trajectory: _Trajectory,
    report: _Report,
    rng: np.random.Generator,
) -> tuple[Array, ...]:
    """One step from many states.

    Returns:
        For the logits and each state, ``[size]``, how far one step in float32 may be off, at most.
    """
    tokens_N, states = trajectory.points(max(POINTS, len(info.vocabulary)), rng)
    names = [spec.input for spec in info.states]
    largest: list[Array | float] = [0.0] * (1 + len(names))
    for begin in range(0, len(tokens_N), POINTS):
        tokens_1N = tokens_N[None, begin : begin + POINTS]
        here = tuple(s[begin : begin + POINTS] for s in states)
        expected = _flat(*_run(trained, tokens_1N, here, np.float64))
        bounds = evaluate(model, {"token": tokens_1N[0], **dict(zip(names, here, strict=True))})
        for i, (bound, value) in enumerate(zip(bounds, expected, strict=True)):
            slack = _SLACK * np.maximum(1.0, np.abs(value))
            report.compare("graph", i, bound.value, value, bound.stored + slack, _POINT)
            largest[i] = np.maximum(largest[i], bound.total.max(0))
        for name, run in implementations.items():
            # All at once, and the first few one by one. The graph over a block has one text alone.
            groups = [slice(n, n + 1) for n in range(SINGLES if begin == 0 else 0)]
            for group in groups if name == "blocks" else [slice(None), *groups]:
                got = _flat(*run(tokens_1N[:, group], tuple(s[group] for s in here)))
                for i, (bound, value) in enumerate(zip(bounds, expected, strict=True)):
                    allowed = (SEQUENCE if name == "sequence" else 1.0) * bound.total[group]
                    report.compare(name, i, got[i], value[group], allowed, _POINT)
    return tuple(np.asarray(value) for value in largest)


def _compare_chains(
    implementations: Mapping[str, _Chain],
    trained: SequenceForward,
    trajectory: _Trajectory,
    one_step: Arrays,
    report: _Report,
    rng: np.random.Generator,
) -> None:
    """Chains of ``BLOCK`` steps from states of the trajectory."""
    tokens_TB, starts, logits_TBV, ends = trajectory.chains()
    # What rounding does to the trained model: noise in the states after every step.
    spread: list[float] = []
    states = starts
    for tokens_1B in tokens_TB[:, None]:
        logits_1BV, states = _run(trained, tokens_1B, states, np.float64)
        spread.append(np.abs(logits_1BV[0] - logits_TBV[len(spread)]).max())
        states = tuple(s + size * rng.uniform(-1.0, 1.0, s.shape) for s, size in zip(states, one_step[1:], strict=True))
    allowed_T = CHAIN * np.maximum.accumulate(spread) + SEQUENCE * one_step[0].max()
    for name, run in implementations.items():
        logits, got = run(tokens_TB, starts)
        report.compare(name, 0, logits, logits_TBV, allowed_T[:, None, None], _CHAIN_STEP)
        for i, (state, end, noisy) in enumerate(zip(got, ends, states, strict=True)):
            allowed = CHAIN * np.abs(noisy - end).max() + SEQUENCE * one_step[1 + i].max()
            report.compare(name, 1 + i, state, end, allowed, _CHAIN_END)


class _Trajectory:
    """Blocks of ``BLOCK`` steps of the trained model in float64, in several rows side by side.

    Rows: texts that the model draws, random tokens, and given texts. Each block begins with
    states that float32 holds exactly. A text that ends within a block is followed by the start
    token; the next block begins another text.
    """

    def __init__(
        self, trained: SequenceForward, info: ModelInfo, texts: Sequence[Ids], blocks: int, rng: np.random.Generator
    ) -> None:
        start, end, vocab = info.start_token, info.vocabulary.special.get("end", -1), len(info.vocabulary)
        given = [_tokens_of(texts[row::_GIVEN]) for row in range(min(_GIVEN, len(texts)))]
        twins = _OWN + _RANDOM
        rows = twins + len(given)
        self._tokens: list[Array] = []
        self._before: list[Arrays] = []
        self._logits: list[Array] = []
        self._starts: list[Arrays] = []
        self._ends: list[Arrays] = []
        growth = _Growth(twins, rng)
        states: Arrays = tuple(np.zeros((rows, spec.size)) for spec in info.states)
        token_R, over_R = np.full(rows, start), np.zeros(rows, bool)
        for _ in range(blocks):
            states = tuple(np.where(over_R[:, None], 0.0, s).astype(np.float32).astype(np.float64) for s in states)
            token_R[over_R], over_R[:] = start, False
            self._starts.append(states)
            twin = growth.begin(tuple(s[:twins] for s in states))
            for t in range(BLOCK):
                self._tokens.append(token_R)
                self._before.append(states)
                fed = np.concatenate([token_R, token_R[:twins]])
                both = tuple(np.concatenate([s, other]) for s, other in zip(states, twin, strict=True))
                logits, both = _run(trained, fed[None], both, np.float64)
                states, twin = tuple(s[:rows] for s in both), tuple(s[rows:] for s in both)
                self._logits.append(logits[0, :rows])
                token_R = rng.integers(vocab, size=rows)
                for row in range(_OWN):
                    token_R[row] = _draw(logits[0, row], rng)
                for row, tokens in enumerate(given, start=twins):
                    token_R[row] = next(tokens)
                ends_R = (token_R == end) | (token_R < 0)
                ends_R[_OWN:twins] = False  # a random token is only a token
                growth.measure(tuple(s[:twins] for s in states), twin, t + 1, ~over_R & (ends_R | (t + 1 == BLOCK)))
                over_R |= ends_R
                token_R[ends_R] = start
            self._ends.append(states)
        self.steps = len(self._tokens)
        self.growth = {"own": growth.in_100_steps(slice(_OWN)), "random": growth.in_100_steps(slice(_OWN, twins))}

    @property
    def largest_logit(self) -> float:
        """The largest absolute value of a logit."""
        return max(float(np.abs(logits).max()) for logits in self._logits)

    def points(self, count: int, rng: np.random.Generator) -> tuple[Array, Arrays]:
        """Tokens ``[N]``, each of the vocabulary at least once, and states ``[N, H]`` that float32 holds exactly.

        A third of the states was passed on the way; a third takes each number from another of
        those; in a third all numbers are the tanh of normal ones.
        """
        vocab = self._logits[0].shape[1]
        tokens_N = rng.permutation(np.arange(count) % vocab)
        passed = [np.concatenate(column) for column in zip(*self._before, strict=True)]
        together = rng.integers(len(passed[0]), size=count)
        states = []
        for values in passed:
            apart = np.take_along_axis(values, rng.integers(len(values), size=(count, values.shape[1])), 0)
            random = np.tanh(rng.standard_normal(apart.shape))
            kind_N1 = np.arange(count)[:, None] % 3
            state = np.where(kind_N1 == 0, values[together], np.where(kind_N1 == 1, apart, random))
            states.append(state.astype(np.float32).astype(np.float64))
        return tokens_N, tuple(states)

    def chains(self) -> tuple[Array, Arrays, Array, Arrays]:
        """The blocks side by side: tokens ``[T, B]``, states before ``[B, H]``, logits ``[T, B, V]``, states after."""
        blocks = range(0, self.steps, BLOCK)
        tokens = np.concatenate([np.stack(self._tokens[at : at + BLOCK]) for at in blocks], 1)
        logits = np.concatenate([np.stack(self._logits[at : at + BLOCK]) for at in blocks], 1)
        before, after = (
            tuple(np.concatenate(column) for column in zip(*states, strict=True))
            for states in (self._starts, self._ends)
        )
        return tokens, before, logits, after


class _Growth:
    """How fast a small difference of the states grows: twins of some rows, a little off, fed the same tokens.

    The difference is made small again at the start of each block and keeps its direction, as in
    Benettin et al. 1980 (Lyapunov exponents).
    """

    def __init__(self, rows: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self._difference: Arrays = ()
        self._log = np.zeros(rows)
        self._steps = np.zeros(rows)

    def begin(self, states: Arrays) -> Arrays:
        """Twins of the states."""
        random = tuple(self._rng.standard_normal(s.shape) for s in states)
        old = self._difference or random
        size = _norm(old)
        usable = (size > 0) & np.isfinite(size)
        chosen = tuple(np.where(usable[:, None], a, b) for a, b in zip(old, random, strict=True))
        scale = (_TINY / _norm(chosen))[:, None]
        return tuple(s + scale * c for s, c in zip(states, chosen, strict=True))

    def measure(self, states: Arrays, twins: Arrays, steps: int, rows: NDArray[np.bool_]) -> None:
        """Notes the differences of some rows, so many steps after ``begin``."""
        difference = tuple(twin - state for state, twin in zip(states, twins, strict=True))
        rows = rows[: len(self._log)]
        ratio = np.maximum(_norm(difference) / _TINY, 1e-9)  # float64 sees nothing below
        self._log[rows] += np.log(ratio[rows])
        self._steps[rows] += steps
        self._difference = difference

    def in_100_steps(self, rows: slice) -> float:
        """By how much a difference is multiplied in 100 steps, on average over some rows."""
        return math.exp(min(700.0, 100 * self._log[rows].sum() / self._steps[rows].sum()))


def _flat(logits_1NV: Array, states: Arrays) -> Arrays:
    """The outputs of one step behind each other."""
    return (logits_1NV[0], *states)


def _norm(states: Arrays) -> Array:
    norms: Array = np.linalg.norm(np.concatenate(states, 1), axis=1)
    return norms


def _tokens_of(texts: Sequence[Ids]) -> Iterator[int]:
    """The tokens of all texts; after each of them, and for ever after the last, a -1."""
    for text in texts:
        yield from text.tolist()
        yield -1
    while True:
        yield -1


def _draw(logits_V: Array, rng: np.random.Generator) -> int:
    probabilities = np.exp(logits_V - logits_V.max())
    sums = np.cumsum(probabilities)
    return min(int(np.searchsorted(sums, rng.random() * sums[-1], "right")), len(sums) - 1)


def _implementations(
    model: onnx.ModelProto, info: ModelInfo, step: StepModule, trained: SequenceForward
) -> dict[str, _Chain]:
    data = model.SerializeToString()
    cell = OnnxCell(open_session(data, device="cpu"), info)

    def torch_sequence(tokens_TB: Array, states: Arrays) -> tuple[Array, Arrays]:
        return _run(trained, tokens_TB, states, np.float32)

    def torch_steps(tokens_TB: Array, states: Arrays) -> tuple[Array, Arrays]:
        now = tuple(torch.from_numpy(s.astype(np.float32)) for s in states)
        logits = []
        with torch.inference_mode():
            for token_B in torch.from_numpy(tokens_TB):
                out, *new = step(token_B, *now)
                now = tuple(new)
                logits.append(out.numpy())
        return np.stack(logits), tuple(s.numpy() for s in now)

    def onnx_steps(tokens_TB: Array, states: Arrays) -> tuple[Array, Arrays]:
        runner = cell.runner(tokens_TB.shape[1], tuple(s.astype(np.float32) for s in states))
        return np.stack([runner.step(token_B).copy() for token_B in tokens_TB]), runner.state()

    graph = SequenceGraph(data, info, threads=1)

    def blocks(tokens_TB: Array, states: Arrays) -> tuple[Array, Arrays]:
        logits, ends = [], []
        for b, tokens_T in enumerate(tokens_TB.T):
            runner = graph.sequence_runner(tuple(s[b : b + 1].astype(np.float32) for s in states))
            # In two pieces: the states between them count too.
            pieces = [piece for piece in np.array_split(tokens_T, 2) if len(piece)]
            logits.append(np.concatenate([runner.forward(piece) for piece in pieces]))
            ends.append(runner.state())
        return np.stack(logits, 1), tuple(np.concatenate(column) for column in zip(*ends, strict=True))

    return {"sequence": torch_sequence, "step": torch_steps, "onnx": onnx_steps, "blocks": blocks}


def _run(trained: SequenceForward, tokens_TB: Array, states: Arrays, dtype: type[np.floating]) -> tuple[Array, Arrays]:
    logits, new = trained(torch.from_numpy(tokens_TB), tuple(torch.from_numpy(s.astype(dtype)) for s in states))
    assert logits.dtype == new[0].dtype == torch.from_numpy(np.empty(0, dtype)).dtype
    return logits.numpy(), tuple(s.numpy() for s in new)


def _rounded(value: float) -> float | None:
    """Three digits; None for what JSON cannot hold."""
    return float(f"{value:.3g}") if math.isfinite(value) else None


@contextmanager
def _one_thread() -> Iterator[None]:
    """Threads cost more than they give at these sizes, many times more on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
