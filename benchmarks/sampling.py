"""Characters per second of sampling, everything included, beside what else people use; all in one process.

    python benchmarks/sampling.py [--seconds 1.0] [--rounds 7] [--threads 2] [2x128 2x512 …]
    python benchmarks/sampling.py --compiled …      # torch.compile and AOTInductor too, which need a C++ compiler
    python benchmarks/sampling.py --sharing …       # texts in several threads, and beside another busy process

Weights are random: speed does not depend on them. The contestants take turns,
so that a busy machine is busy for all of them, and each is quoted by its
median and quartiles. The ratios are medians over the rounds of sample's speed
to the other's of the same round, at the same number of threads.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import torch
from charrnn_export import StepModule
from charrnn_export.export import describe
from charrnn_export.quantize import quantize
from charrnn_export.trace import trace
from charrnn_runtime import ModelInfo, Sampler, Vocabulary
from charrnn_runtime.model_file import seal
from numpy.typing import NDArray

from charrnn.config import ModelConfig
from charrnn.model.char_rnn import CharRNN

VOCABULARY = Vocabulary(symbols=tuple(range(32, 97)))


def make(layers: int, hidden: int) -> tuple[CharRNN, bytes, bytes]:
    """A model, and its float32 and int8 files."""
    torch.manual_seed(0)
    model = CharRNN(ModelConfig(cell="lstm", num_layers=layers, hidden_size=hidden), len(VOCABULARY)).eval()
    step = StepModule(model.export_weights())
    proto = trace(step, opset=18)

    def file(graph: onnx.ModelProto, info: ModelInfo) -> bytes:
        for key, value in replace(info, opset=18).to_metadata().items():
            graph.metadata_props.add(key=key, value=value)
        return seal(graph.SerializeToString())

    small, info = quantize(proto), describe(step, VOCABULARY)
    return model, file(proto, info), file(small, replace(info, dtype="int8"))


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


def numpy_step(sampler: Sampler) -> Callable[[int], NDArray[np.float32]]:
    """A step of an LSTM as one writes it in numpy; it keeps the state."""
    assert sampler._file is not None
    tensors = onnx.load_from_string(sampler._file.data).graph.initializer
    w = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tensors}
    layers, size = sampler.info.num_layers, sampler.info.hidden_size
    h, c = ([np.zeros(size, np.float32) for _ in range(layers)] for _ in range(2))

    def step(token: int) -> NDArray[np.float32]:
        gates = w["layer_0.input.rows"][token] + h[0] @ w["layer_0.weight"]
        for i in range(layers):
            if i:
                gates = np.concatenate([h[i - 1], h[i]]) @ w[f"layer_{i}.weight"] + w[f"layer_{i}.bias"]
            into, forget, new, out = np.split(gates, 4)
            c[i] = c[i] / (1 + np.exp(-forget)) + np.tanh(new) / (1 + np.exp(-into))
            h[i] = np.tanh(c[i]) / (1 + np.exp(-out))
        logits: NDArray[np.float32] = h[-1] @ w["head.weight"] + w["head.bias"]
        return logits

    return step


def numpy_loop(sampler: Sampler, length: int) -> None:
    """The step above, and a token from the cumulated probabilities."""
    step, rng, token = numpy_step(sampler), np.random.default_rng(0), 0
    for _ in range(length):
        logits = step(token)
        sums = np.exp(logits - logits.max()).cumsum()
        token = int(sums.searchsorted(rng.random() * sums[-1]))


def step_loop(step: Callable[..., tuple[torch.Tensor, ...]], states: int, size: int) -> Callable[[int], None]:
    """A step of PyTorch, eager or compiled, in a Python loop."""

    def run(length: int) -> None:
        with torch.inference_mode():
            state = [torch.zeros(1, size) for _ in range(states)]
            token = torch.zeros(1, dtype=torch.int64)
            for _ in range(length):
                logits, *state = step(token, *state)
                token = torch.multinomial(logits.softmax(-1), 1)[0]

    return run


def compiled_steps(step: StepModule, layers: int, hidden: int) -> dict[str, Callable[[int], None]]:
    """The step through torch.compile and through AOTInductor."""
    import torch._inductor

    example = (torch.zeros(1, dtype=torch.int64), *(torch.zeros(1, hidden) for _ in range(2 * layers)))
    with tempfile.TemporaryDirectory() as folder:
        package = torch._inductor.aoti_compile_and_package(
            torch.export.export(step, example), package_path=f"{folder}/step.pt2"
        )
        packaged = torch._inductor.aoti_load_package(package)
    return {
        "torch.compile": step_loop(torch.compile(step), 2 * layers, hidden),
        "AOTInductor": step_loop(packaged, 2 * layers, hidden),
    }


def uses(sampler: Sampler) -> dict[str, tuple[int, Callable[[int], object]]]:
    """What a sampler is used for: name → (streams, function of the length)."""
    return {
        "sample": (1, lambda n: sampler.sample(length=n, seed=1)),
        "sample top_p 0.9": (1, lambda n: sampler.sample(length=n, seed=1, top_p=0.9)),
        "sample a pattern": (1, lambda n: sampler.sample(length=n, seed=1, pattern="(...)*")),
        "read a prompt": (1, lambda n: sampler.sample("A" * n, length=1)),
        "64 streams in all": (64, lambda n: sampler.sample_batch([""] * 64, length=n, seed=1)),
        "score": (1, lambda n: sampler.score("A" * n)),
        "score 64 texts in all": (64, lambda n: sampler.score_batch(["A" * n] * 64)),
    }


def measure(
    contestants: dict[str, tuple[int, Callable[[int], object]]], seconds: float, rounds: int
) -> dict[str, list[float]]:
    """Prints a row for each contestant: name → (streams, function of the length).

    Returns:
        Characters per second in each round.
    """
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
    return speeds


def sharing(sampler: Sampler, length: int, rounds: int) -> None:
    """Prints how texts in several threads, and another busy process, change the speed; and what the CPU does after."""

    def speed(texts: int) -> float:
        begin = time.perf_counter()
        with ThreadPoolExecutor(texts) as pool:
            list(pool.map(lambda seed: sampler.sample(length=length, seed=seed), range(texts)))
        return texts * length / (time.perf_counter() - begin)

    speed(1)
    alone, together, beside = [], [], []
    for _ in range(rounds):
        alone.append(speed(1))
        together.append(speed(4))
    begin = time.process_time()
    time.sleep(1)
    busy = time.process_time() - begin
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            beside = [speed(1) for _ in range(rounds)]
        finally:
            other.kill()
    middle = statistics.median(alone)
    print(f"  four texts in four threads : one text   {statistics.median(together) / middle:.2f}")
    print(f"  beside a busy process : alone           {statistics.median(beside) / middle:.2f}")
    print(f"  CPU time in the second after a call     {busy * 1000:.0f} ms")


def main() -> None:
    """Measures the sizes that were named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", default=["2x128", "1x512", "2x512"])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compiled", action="store_true", help="also torch.compile and AOTInductor")
    parser.add_argument("--sharing", action="store_true", help="instead: several threads, and another busy process")
    arguments = parser.parse_args()
    threads = str(arguments.threads)
    if os.environ.get("OPENBLAS_NUM_THREADS") != threads:  # numpy reads it when it is imported
        os.environ |= {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        os.execv(sys.executable, [sys.executable, *sys.argv])
    torch.set_num_threads(arguments.threads)
    for size in arguments.sizes:
        layers, hidden = map(int, size.split("x"))
        model, *files = make(layers, hidden)
        whole, small = (Sampler(file, threads=arguments.threads) for file in files)
        step, eager_step = numpy_step(whole), StepModule(model.export_weights()).eval()
        state = whole.initial_state()
        for token in (3, 5):
            logits, state = whole.step([token], state)
            np.testing.assert_allclose(step(token), logits[0], rtol=1e-4, atol=1e-5)
        others: dict[str, Callable[[int], None]] = {
            "numpy": partial(numpy_loop, whole),
            "session.run and numpy's choice": partial(plain_loop, whole),
            "PyTorch, nn.LSTM": partial(eager, model),
            "PyTorch, the step": step_loop(eager_step, 2 * layers, hidden),
        }
        if arguments.compiled:
            others |= compiled_steps(eager_step, layers, hidden)
        contestants: dict[str, tuple[int, Callable[[int], object]]] = {name: (1, run) for name, run in others.items()}
        for dtype, sampler in (("fp32", whole), ("int8", small)):
            contestants |= {f"{name}, {dtype}": work for name, work in uses(sampler).items()}
        print(f"LSTM {size}, vocabulary {len(VOCABULARY)}, {threads} thread{'s' * (threads != '1')}")
        if arguments.sharing:
            sharing(whole, int(20_000 * arguments.seconds * (128 / hidden) ** 2 / layers), arguments.rounds)
            continue
        speeds = measure(contestants, arguments.seconds, arguments.rounds)
        for name in others:
            ratios = [ours / theirs for ours, theirs in zip(speeds["sample, fp32"], speeds[name], strict=True)]
            print(f"  sample, fp32 : {name:<30} {statistics.median(ratios):6.2f}")


if __name__ == "__main__":
    main()
