"""Checks that take a long time: parity along 10,000 steps, memory over millions of characters.

    python benchmarks/endurance.py [--steps 10000] [--characters 1000000] [--batch 64] [--hidden 128]

Weights are random. The first table is the exporter's parity check along so many
steps of the model; it ends with an error if the check fails. The second reads
this process's memory while it draws.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from charrnn_export import Exported, export_model
from charrnn_runtime import Request, Sampler, Vocabulary

from charrnn.config import ModelConfig
from charrnn.model.char_rnn import CharRNN

VOCABULARY = Vocabulary(symbols=tuple(range(32, 97)))
_LENGTH = 1000  # characters of one text of the memory table


def export(cell: str, layers: int, hidden: int, steps: int) -> Exported:
    """A model with random weights, its parity checked over so many steps."""
    torch.manual_seed(0)
    model = CharRNN(ModelConfig(cell=cell, num_layers=layers, hidden_size=hidden), len(VOCABULARY)).eval()
    return export_model(
        model.export_weights(), VOCABULARY, model.sequence_forward(), training={}, producer={}, parity_steps=steps
    )


def resident() -> float:
    """Memory of this process in MB (Linux)."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def memory(sampler: Sampler, characters: int, batch: int) -> None:
    """Draws so many characters, ``batch`` streams side by side, and prints memory at eleven moments."""
    options = {"temperature": 0.9}
    count = max(batch, characters // _LENGTH)
    requests = (Request(length=_LENGTH, seed=n, options=options) for n in range(count))  # type: ignore[arg-type]
    drawn = 0
    for done, (_, text) in enumerate(sampler.generate_many(requests, batch=batch), start=1):
        drawn += len(text.text)
        if done == batch or done % max(1, count // 10) == 0:
            print(f"  {drawn:>12,} characters   {resident():.1f} MB", flush=True)


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--characters", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=128)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.steps:
        print(f"hidden size {arguments.hidden}, {arguments.steps:,} steps: largest difference of a logit from float64")
        for cell in ("lstm", "gru", "rnn"):
            for layers in (1, 2, 3):
                parity = export(cell, layers, arguments.hidden, arguments.steps).info.parity
                shares = "  ".join(f"{name} {value:.0%}" for name, value in parity["of_allowed"].items())
                print(
                    f"  {cell:<4} ×{layers}  one step {parity['one_step']:.1e}  in a chain {parity['chain']:.1e}"
                    f"   of what is allowed: {shares}",
                    flush=True,
                )
    if arguments.characters:
        data = export("lstm", 2, arguments.hidden, 10).data
        print(f"lstm 2×{arguments.hidden}, {arguments.batch} streams: memory of the process, torch included")
        memory(Sampler(data), arguments.characters, arguments.batch)


if __name__ == "__main__":
    main()
