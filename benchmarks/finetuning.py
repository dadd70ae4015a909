"""Fine-tuning a model of Python's standard library on one package: against itself, and against a new model.

    python benchmarks/finetuning.py BASE [--packages rich httpx jinja2] [--seconds 30]

BASE is a run folder or checkpoint, such as that of `charrnn train --time 10m`. Both models are trained with what the
recipe chooses for so many seconds of processor time of one thread, and scored on the last tenth of the source.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from charrnn.config import DataConfig, ModelConfig, TrainConfig
from charrnn.data.corpus import read_corpus
from charrnn.runs.checkpoint import Checkpoint, load_checkpoint
from charrnn.runs.folder import find_checkpoint
from charrnn.training.defaults import choose_here
from charrnn.training.device import flushed_denormals, keep_freed_memory
from charrnn.training.finetune import grown_weights
from charrnn.training.trainer import Trainer


def losses(source: Path, origin: Checkpoint | None, seconds: float) -> tuple[float, float, str]:
    """Validation loss before training and the best one after it, in nats, and what was chosen."""
    data = DataConfig(val_max=100_000)
    corpus = read_corpus([str(source)], data, origin.vocabulary if origin else None)
    choice = choose_here(
        origin.model_config if origin else ModelConfig(),
        TrainConfig(time=seconds),
        given={"hidden_size", "lr_boost"} if origin else (),
        corpus=corpus,
        data=data,
        clock=time.process_time,
    )
    with tempfile.TemporaryDirectory() as folder, flushed_denormals():
        trainer = Trainer(
            model_config=choice.model,
            data_config=data,
            train_config=replace(choice.train, threads=1),
            corpus=corpus,
            folder=Path(folder),
            weights=grown_weights(origin, corpus.vocabulary) if origin else None,
            clock=time.process_time,
        )
        before = trainer.run.text.validation_loss(trainer.run.model).mean
        finished = trainer.train()
    described = f"1×{choice.model.hidden_size}, dropout {choice.model.dropout:g}, {finished.epoch:.1f} passes"
    return before, finished.best_val_loss, described


def main() -> None:
    """Prints a row for each package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("--packages", nargs="*", default=["rich", "httpx", "jinja2"])
    parser.add_argument("--seconds", type=float, default=30.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    origin = load_checkpoint(find_checkpoint(args.base))
    print(
        f"| package, {args.seconds:g} s | characters | the model itself | fine-tuned | a new model | settings of both |"
    )
    print("|---|---|---|---|---|---|")
    for package in args.packages:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        text = "\n".join(p.read_text("utf-8") for p in sorted(Path(spec.origin).parent.rglob("*.py")))
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / f"{package}.txt"
            source.write_text(text, "utf-8")
            itself, tuned, how = losses(source, origin, args.seconds)
            _, new, how_new = losses(source, None, args.seconds)
        print(f"| {package} | {len(text):,} | {itself:.4f} | {tuned:.4f} | {new:.4f} | {how}; {how_new} |", flush=True)


if __name__ == "__main__":
    main()
