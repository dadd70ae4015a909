"""What resetting the state inside a batch costs: a training step on items next to one on plain streams.

    python benchmarks/items.py [--hidden-size 256] [--batch-size 16] [--seq-len 64] [--length 45] [--rounds 15]

Both make the same step, reading the batch included, of the same shape, in one
process and by turns; items are about ``--length`` characters long. Medians of
a step, the cost of the reset, and the share of the positions behind an item's
end, which predict nothing.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from charrnn.config import DataConfig, ModelConfig, TrainConfig
from charrnn.data.corpus import read_corpus
from charrnn.data.item_streams import NO_TARGET, Items, ItemStreams
from charrnn.data.streams import Streams
from charrnn.model.char_rnn import CharRNN
from charrnn.training.device import choose_device, choose_precision
from charrnn.training.optim import Optimizers


def training_step(
    model_config: ModelConfig, config: TrainConfig, streams: Streams | ItemStreams, end: int, device: torch.device
) -> Callable[[], None]:
    """A step as the trainer makes it; ``end`` only counts for items."""
    torch.manual_seed(1)
    model = CharRNN(model_config, end + 1).to(device)
    optimizers = Optimizers(model, config)
    precision = choose_precision("auto", device)
    state = model.initial_state(config.batch_size)
    resets = isinstance(streams, ItemStreams)

    def step() -> None:
        nonlocal state
        x, y = (torch.from_numpy(ids).to(device) for ids in streams.next(config.seq_len))
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits, new = model(x, state, x == end if resets else None)
        state = tuple(s.detach() for s in new)
        F.cross_entropy(logits.float().flatten(0, 1), y.flatten(), ignore_index=NO_TARGET).backward()  # type: ignore[no-untyped-call]
        optimizers.step(1e-3)

    return step


def main() -> None:
    """Prints a table, one row a cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("hidden-size", 256), ("num-layers", 1), ("batch-size", 16), ("seq-len", 64), ("length", 45), ("rounds", 15),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--cells", nargs="+", default=["lstm", "gru", "rnn"])
    args = parser.parse_args()
    device = choose_device("auto")
    torch.set_flush_denormal(True)
    draw = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "items.txt"
        lengths = draw.integers(args.length // 2, args.length * 3 // 2 + 1, 20_000)
        path.write_text("\n".join("".join(map(chr, draw.integers(97, 123, n))) for n in lengths))
        corpus = read_corpus([str(path)], DataConfig(lines=True))
    end = corpus.vocabulary.special["end"]
    config = TrainConfig(batch_size=args.batch_size, seq_len=args.seq_len)
    print(f"{torch.get_num_threads()} threads, {device}, {args.num_layers}×{args.hidden_size}, batch {args.batch_size}")
    print(
        f"{'cell':6}{'plain ms':>10}{'items ms':>10}{'cost':>9}   medians of {args.rounds}; median of the pairs' ratios"
    )
    for cell in args.cells:
        model = ModelConfig(cell=cell, hidden_size=args.hidden_size, num_layers=args.num_layers)
        plain = training_step(model, config, Streams.around(corpus.ids, args.batch_size), end, device)
        packed = training_step(
            model, config, Items(corpus, DataConfig(lines=True)).streams(args.batch_size, 1), end, device
        )
        pairs = [(_seconds(plain, device), _seconds(packed, device)) for _ in range(args.rounds + 3)][3:]
        ratio = statistics.median(b / a for a, b in pairs) - 1
        one, other = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
        print(f"{cell:6}{one:10.2f}{other:10.2f}{ratio:9.1%}")
    print(f"{len(lengths) / len(corpus.ids):.1%} of the positions stand behind an item's end and predict nothing")


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    began = time.perf_counter()
    for _ in range(4):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / 4


if __name__ == "__main__":
    main()
