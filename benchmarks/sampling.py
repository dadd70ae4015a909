"""Characters per second of sampling, everything included, next to PyTorch's eager loop; one thread, one process.

    python benchmarks/sampling.py [--seconds 1.0] [--rounds 7] [2x128 2x512 …]

Weights are random: speed does not depend on them. The contestants take turns,
so that a busy machine is busy for all of them, and each is quoted by its
median and quartiles.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import torch
from charrnn_export import StepModule
from charrnn_export.export import describe
from charrnn_export.quantize import quantize
from charrnn_export.trace import trace
from charrnn_runtime import ModelInfo, Sampler, Vocabulary
from charrnn_runtime.model_file import seal

from charrnn.config import ModelConfig
from charrnn.model.char_rnn import CharRNN

VOCABULARY = Vocabulary(symbols=tuple(range(32, 97)))


def make(layers: int, hidden: int) -> tuple[CharRNN, Sampler, Sampler]:
    """A model, and samplers of its float32 and int8 files."""
    torch.manual_seed(0)
    model = CharRNN(ModelConfig(cell="lstm", num_layers=layers, hidden_size=hidden), len(VOCABULARY)).eval()
    step = StepModule(model.export_weights())
    proto = trace(step, opset=18)

    def sampler(graph: onnx.ModelProto, info: ModelInfo) -> Sampler:
        for key, value in info.to_metadata().items():
            graph.metadata_props.add(key=key, value=value)
        return Sampler(seal(graph.SerializeToString()))

    small, info = quantize(proto), describe(step, VOCABULARY)
    return (
        model,
        sampler(proto, info),
        sampler(small, replace(info, dtype="int8")),
    )


def eager(model: CharRNN, length: int) -> None:
    """What people write first: one nn.LSTM call and one multinomial for each character."""
    with torch.inference_mode():
        state = model.initial_state(1)
        token = torch.zeros(1, 1, dtype=torch.int64)
        for _ in range(length):
            logits, state = model(token, state)
            token = torch.multinomial(logits[0].softmax(-1), 1)


def plain_loop(sampler: Sampler, length: int) -> None:
    """session.run and numpy's choice: what an ONNX user writes first."""
    session = sampler.cell.session  # type: ignore[attr-defined]
    names = [value.name for value in session.get_inputs()]
    feeds = dict(zip(names[1:], sampler.initial_state(), strict=True))
    rng = np.random.default_rng(0)
    token = 0
    for _ in range(length):
        logits, *state = session.run(None, {"token": np.array([token]), **feeds})
        feeds = dict(zip(names[1:], state, strict=True))
        p = np.exp(logits[0].astype(np.float64) - logits.max())
        token = int(rng.choice(len(p), p=p / p.sum()))


def measure(contestants: dict[str, tuple[int, Callable[[int], None]]], seconds: float, rounds: int) -> None:
    """Prints a row for each contestant: name → (streams, function of the length)."""
    lengths, speeds = {}, {name: list[float]() for name in contestants}
    for name, (_, run) in contestants.items():
        run(5)
        begin = time.perf_counter()
        run(20)
        lengths[name] = max(20, int(20 * seconds / (time.perf_counter() - begin)))
    for _, (name, (streams, run)) in itertools.product(range(rounds), contestants.items()):
        begin = time.perf_counter()
        run(lengths[name])
        speeds[name].append(lengths[name] * streams / (time.perf_counter() - begin))
    for name, values in speeds.items():
        low, middle, high = statistics.quantiles(values, n=4)
        print(f"  {name:<34} {middle:>10,.0f} chars/s   quartiles {low:,.0f} to {high:,.0f}, best {max(values):,.0f}")


def main() -> None:
    """Measures the sizes that were named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", default=["2x128", "2x512"])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for size in arguments.sizes:
        layers, hidden = map(int, size.split("x"))
        model, whole, small = make(layers, hidden)
        contestants: dict[str, tuple[int, Callable[[int], None]]] = {
            "PyTorch eager": (1, lambda n, m=model: eager(m, n)),  # type: ignore[misc]
            "session.run and numpy's choice": (1, lambda n, s=whole: plain_loop(s, n)),  # type: ignore[misc]
        }
        for dtype, sampler in (("fp32", whole), ("int8", small)):
            contestants |= {
                f"sample, {dtype}": (1, lambda n, s=sampler: s.sample(length=n, seed=1)),  # type: ignore[misc]
                f"sample top_p 0.9, {dtype}": (1, lambda n, s=sampler: s.sample(length=n, seed=1, top_p=0.9)),  # type: ignore[misc]
                f"read a prompt, {dtype}": (1, lambda n, s=sampler: s.sample("A" * n, length=1)),  # type: ignore[misc]
                f"64 streams in all, {dtype}": (64, lambda n, s=sampler: s.sample_batch([""] * 64, length=n, seed=1)),  # type: ignore[misc]
                f"score, {dtype}": (1, lambda n, s=sampler: s.score("A" * n)),  # type: ignore[misc]
                f"score 64 texts in all, {dtype}": (64, lambda n, s=sampler: s.score_batch(["A" * n] * 64)),  # type: ignore[misc]
            }
        print(f"LSTM {size}, vocabulary {len(VOCABULARY)}, one thread")
        measure(contestants, arguments.seconds, arguments.rounds)


if __name__ == "__main__":
    main()
