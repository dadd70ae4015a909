"""What changes to the recipe are worth: validation loss of each variant after equally many characters.

    python benchmarks/sweep.py TEXT [--steps 1500] [--hidden-size 256] [--dropout 0] [--seeds 1] [--only NAME ...]

The variants that are not options of charrnn live here alone: what does not
help stays out of the product. Its table is kept in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from charrnn.cells.layer import State
from charrnn.config import DataConfig, ModelConfig, TrainConfig
from charrnn.data.corpus import Corpus, read_corpus
from charrnn.model.char_rnn import CharRNN
from charrnn.training.defaults import BOOSTED_WARMUP_STEPS, LR_BOOST
from charrnn.training.device import keep_freed_memory
from charrnn.training.optim import Optimizers, schedule
from charrnn.training.texts import training_text

EMA_DECAY = 0.998


class Residual(CharRNN):
    """Each layer's input is added to its output, where both are as wide."""

    def forward(self, tokens_TB: Tensor, state: State, resets_TB: Tensor | None = None) -> tuple[Tensor, State]:
        """As CharRNN's."""
        x = self.embedding(tokens_TB)
        kinds = len(state) // self.config.num_layers
        new: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            y, last = layer(x, state[i * kinds : (i + 1) * kinds], resets_TB)
            new += last
            x = self.dropout(y + x if y.shape == x.shape else y)
        return self.head(x), tuple(new)


def layer_norm(model: CharRNN) -> None:
    """Normalisation before the output layer."""
    model.head = nn.Sequential(nn.LayerNorm(model.config.hidden_size), model.head)  # type: ignore[assignment]


def input_dropout(model: CharRNN) -> None:
    """Dropout on the embedding too."""
    model.embedding.register_forward_hook(lambda module, _, y: F.dropout(y, 0.1, module.training))


def orthogonal(model: CharRNN) -> None:
    """Recurrent matrices that begin orthogonal, gate by gate."""
    for layer in model.export_weights().layers:
        for gate in layer["weight_hh"].detach().chunk(4):
            nn.init.orthogonal_(gate)


def tied(model: CharRNN) -> None:
    """The output layer's matrix is the embedding's."""
    model.head.weight = model.embedding.weight
    with torch.no_grad():
        model.embedding.weight.mul_(model.config.hidden_size**-0.5)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the table."""

    model: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    kind: type[CharRNN] = CharRNN
    change: Callable[[CharRNN], None] = lambda _: None
    ema: bool = False
    weight_drop: float = 0.0
    jitter: bool = False
    grow: int = 0  # steps over which sequences grow from 16 characters to their length


VARIANTS = {
    "the recipe": Variant(),
    "no lr_boost": Variant(train={"lr_boost": 1.0}),
    "averaged weights (EMA 0.998)": Variant(ema=True),
    "layer normalisation before the output": Variant(change=layer_norm),
    "dropout 0.1 on the embedding": Variant(change=input_dropout),
    "weight drop 0.1 on recurrent matrices": Variant(weight_drop=0.1),
    "sequence length jittered by a quarter": Variant(jitter=True),
    "sequences that grow from 16, 200 steps": Variant(grow=200),
    "orthogonal recurrent matrices": Variant(change=orthogonal),
    "tied embeddings": Variant(model={"embedding_size": 0}, change=tied),
    "two layers": Variant(model={"num_layers": 2}),
    "two layers, residual": Variant(model={"num_layers": 2}, kind=Residual),
    "batch doubled, half as many steps": Variant(train={"batch_size": 64}),
    "batch halved, twice as many steps": Variant(train={"batch_size": 16}),
    "AdamW instead of Muon": Variant(train={"optimizer": "adamw", "lr_boost": 1.0}),
}


def run(variant: Variant, corpus: Corpus, base: ModelConfig, steps: int, seed: int) -> tuple[float, float]:
    """Validation loss in nats, and seconds of training."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    standard = TrainConfig(lr_boost=LR_BOOST, warmup_steps=BOOSTED_WARMUP_STEPS)
    config = replace(standard, steps=steps, **variant.train)
    steps = steps * standard.batch_size // config.batch_size
    model_config = replace(base, **variant.model)
    if not model_config.embedding_size:
        model_config = replace(model_config, embedding_size=model_config.hidden_size)
    model = variant.kind(model_config, len(corpus.vocabulary))
    variant.change(model)
    text = training_text(corpus, DataConfig(val_max=0), config)
    optimizers = Optimizers(model, config)
    matrices = [layer["weight_hh"] for layer in model.export_weights().layers]
    average = copy.deepcopy(model) if variant.ema else None
    state = model.initial_state(config.batch_size)
    began = time.perf_counter()
    model.train()
    for step in range(steps):
        seq_len = config.seq_len
        if variant.jitter:
            seq_len = max(8, round(rng.normal(seq_len, seq_len / 4)))
        if step < variant.grow:
            seq_len = 16 + (seq_len - 16) * step // variant.grow
        x_TB, y_TB = (torch.from_numpy(ids) for ids in text.next(seq_len))
        kept = [m.detach().clone() for m in matrices if variant.weight_drop]
        masks = [(torch.rand_like(m) >= variant.weight_drop) / (1 - variant.weight_drop) for m in kept]
        if variant.weight_drop:
            for matrix, mask in zip(matrices, masks, strict=True):
                matrix.data.mul_(mask)
        with torch.autocast("cpu", torch.bfloat16):
            logits, new = model(x_TB, state)
        F.cross_entropy(logits.float().flatten(0, 1), y_TB.flatten()).backward()  # type: ignore[no-untyped-call]
        if variant.weight_drop:
            for matrix, whole, mask in zip(matrices, kept, masks, strict=True):
                matrix.data.copy_(whole)
                matrix.grad.mul_(mask)  # type: ignore[union-attr]
        state = tuple(s.detach() for s in new)
        optimizers.step(schedule(config, fraction=step / steps, epoch=text.epoch, step=step))
        if average is not None:
            for mean, now in zip(average.parameters(), model.parameters(), strict=True):
                mean.data.lerp_(now.data, min(1 - EMA_DECAY, 1.0))
    seconds = time.perf_counter() - began
    return text.validation_loss(average or model).mean, seconds


def main() -> None:
    """Prints the table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    keep_freed_memory()
    corpus = read_corpus([args.text], DataConfig())
    base = ModelConfig(hidden_size=args.hidden_size, num_layers=1, dropout=args.dropout)
    print(f"| lstm 1×{args.hidden_size}, dropout {args.dropout:g}, {args.steps:,} steps | nats | spread | seconds |")
    print("|---|---|---|---|")
    for name in args.only:
        results = [run(VARIANTS[name], corpus, base, args.steps, seed) for seed in range(args.seeds)]
        losses, times = zip(*results, strict=True)
        print(
            f"| {name} | {statistics.median(losses):.4f} | {max(losses) - min(losses):.4f} "
            f"| {statistics.median(times):.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
