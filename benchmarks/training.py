"""Training speed against plain PyTorch in the same process: chars/s of charrnn's step and of an fp32 loop.

charrnn's step is timed with its default optimizer, Muon, and with the baseline's, AdamW.

    python benchmarks/training.py [--hidden-size 128] [--num-layers 2] [--batch-size 50] [--seq-len 50]

The baseline is nn.LSTM, nn.GRU or nn.RNN with the same shapes, fp32, AdamW and
clipping by norm. The two take turns, so that a machine that slows down slows
both; medians and the ratio's spread are printed. `charrnn train` keeps freed
memory and bounds the busy loop of waiting threads. The whole process shares
both, so the baseline profits too. `--plain-memory` leaves memory alone, for both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from charrnn.training.threads import bound_spinning

bound_spinning()  # before torch is imported

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from charrnn.config import ModelConfig, TrainConfig
from charrnn.model.char_rnn import CharRNN
from charrnn.training.device import choose_device, choose_precision, keep_freed_memory
from charrnn.training.optim import Optimizers

VOCAB = 65


def charrnn_step(
    model_config: ModelConfig, train_config: TrainConfig, device: torch.device
) -> Callable[[Tensor], None]:
    """One step as the trainer makes it."""
    model = CharRNN(model_config, VOCAB).to(device)
    optimizers = Optimizers(model, train_config)
    precision = choose_precision("auto", device)
    state = model.initial_state(train_config.batch_size)

    def step(tokens: Tensor) -> None:
        nonlocal state
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits, new = model(tokens, state)
        state = tuple(s.detach() for s in new)
        F.cross_entropy(logits.float().flatten(0, 1), tokens.flatten()).backward()  # type: ignore[no-untyped-call]
        optimizers.step(1e-3)

    return step


def plain_step(model_config: ModelConfig, device: torch.device) -> Callable[[Tensor], None]:
    """One step of the loop that one would write by hand, in fp32."""
    kind = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[model_config.cell]
    embedding = nn.Embedding(VOCAB, model_config.embedding_size).to(device)
    core = kind(model_config.embedding_size, model_config.hidden_size, model_config.num_layers).to(device)
    head = nn.Linear(model_config.hidden_size, VOCAB).to(device)
    parameters = [*embedding.parameters(), *core.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5)
    state: Tensor | tuple[Tensor, ...] | None = None

    def step(tokens: Tensor) -> None:
        nonlocal state
        y, new = core(embedding(tokens), state)
        state = tuple(s.detach() for s in new) if isinstance(new, tuple) else new.detach()
        optimizer.zero_grad()
        F.cross_entropy(head(y).flatten(0, 1), tokens.flatten()).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step


def main() -> None:
    """Prints a table, one row a cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("hidden-size", 128), ("num-layers", 2), ("batch-size", 50), ("seq-len", 50), ("rounds", 15)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--plain-memory", action="store_true", help="leave glibc's allocator as it is")
    args = parser.parse_args()
    if not args.plain_memory:
        keep_freed_memory()
    device = choose_device("auto")
    torch.set_flush_denormal(True)
    characters = args.batch_size * args.seq_len
    print(f"{torch.get_num_threads()} threads, {device}, {args.num_layers}×{args.hidden_size}, batch {args.batch_size}")
    print(f"medians of {args.rounds} rounds, chars/s; in brackets the ratio to plain fp32 and its spread")
    print(f"{'cell':6}{'plain fp32':>12}{'charrnn, adamw':>32}{'charrnn, muon':>32}")
    for cell in ("lstm", "gru", "rnn"):
        model_config = ModelConfig(cell=cell, hidden_size=args.hidden_size, num_layers=args.num_layers)
        shape = {"batch_size": args.batch_size, "seq_len": args.seq_len}
        tokens = torch.randint(VOCAB, (args.seq_len, args.batch_size), device=device)
        steps = [
            plain_step(model_config, device),
            charrnn_step(model_config, TrainConfig(optimizer="adamw", **shape), device),
            charrnn_step(model_config, TrainConfig(**shape), device),
        ]
        rounds = [[_seconds(step, tokens, device) for step in steps] for _ in range(args.rounds + 3)][3:]
        plain, *ours = zip(*rounds, strict=True)
        columns = [f"{characters / statistics.median(plain):12,.0f}"]
        for column in ours:
            ratios = sorted(p / o for p, o in zip(plain, column, strict=True))
            ratio = f"({statistics.median(ratios):.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f})"
            columns.append(f"{characters / statistics.median(column):11,.0f} {ratio:>20}")
        print(f"{cell:6}" + "".join(columns))


def _seconds(step: Callable[[Tensor], None], tokens: Tensor, device: torch.device) -> float:
    began = time.perf_counter()
    for _ in range(3):
        step(tokens)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / 3


if __name__ == "__main__":
    main()
