"""Fine-tuning a model on the source of a package: against the model itself, a new model, and with replay.

    python benchmarks/finetuning.py BASE TEXT [--packages rich httpx jinja2] [--seconds 30] [--share 0.2]

BASE is the run folder or checkpoint of a model of TEXT, such as the standard library's source. All models are trained
with what the recipe chooses for so many seconds of processor time of one thread, and scored on the last tenth of the
package's source; the fine-tuned ones on the last tenth of TEXT, too. The last two columns are with `--replay
TEXT:SHARE`.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import zoo  # type: ignore[import-not-found]  # it stands beside this script

from charrnn.config import DataConfig, TrainConfig, parse_replay
from charrnn.data.corpus import Corpus, read_corpus
from charrnn.model.char_rnn import CharRNN
from charrnn.runs.checkpoint import Checkpoint, load_checkpoint
from charrnn.runs.folder import find_checkpoint
from charrnn.training.device import keep_freed_memory
from charrnn.training.finetune import grown_weights
from charrnn.training.texts import training_text

DATA = DataConfig(val_max=100_000)


def tuned(source: Path, origin: Checkpoint | None, seconds: float, replay: str | None = None) -> tuple[str, CharRNN]:
    """What was chosen, with the validation losses before training and after it, in nats; and the model."""
    corpus = read_corpus([str(source)], DATA, origin.vocabulary if origin else None)
    given = {"hidden_size", "lr_boost"} if origin else ()
    model, train = zoo.chosen_here(corpus, DATA, seconds, origin.model_config if origin else None, given)
    more: dict[str, Any] = {"weights": grown_weights(origin, corpus.vocabulary)} if origin else {}
    if replay is not None:
        train = replace(train, replay=replay)
        more["replay"] = read_corpus([parse_replay(replay)[0]], DATA, corpus.vocabulary, fixed="skip")
    with zoo.trainer(corpus, DATA, model, train, **more) as trainer:
        before = trainer.run.text.validation_loss(trainer.run.model).mean
        finished = trainer.train()
    described = f"1×{model.hidden_size}, dropout {model.dropout:g}, {finished.epoch:.1f} passes"
    itself = f"{before:.4f} → " if origin else ""
    return f"{itself}{finished.best_val_loss:.4f} ({described})", trainer.run.model


def loss_on(text: Corpus, model: CharRNN) -> float:
    """Validation loss on the last tenth of a text, in nats."""
    return training_text(text, DATA, TrainConfig(steps=1)).validation_loss(model).mean


def main() -> None:
    """Prints a row for each package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("text")
    parser.add_argument("--packages", nargs="*", default=["rich", "httpx", "jinja2"])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--share", type=float, default=0.2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    origin = load_checkpoint(find_checkpoint(args.base))
    before = loss_on(read_corpus([args.text], DATA, origin.vocabulary, fixed="skip"), origin.build_model())
    print(
        f"| package, {args.seconds:g} s | characters | fine-tuned | a new model | the first text, before → after "
        "| fine-tuned with replay | the first text, after |"
    )
    print("|---|---|---|---|---|---|---|")
    for package in args.packages:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        text = "\n".join(p.read_text("utf-8") for p in sorted(Path(spec.origin).parent.rglob("*.py")))
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / f"{package}.txt"
            source.write_text(text, "utf-8")
            how, model = tuned(source, origin, args.seconds)
            how_new, _ = tuned(source, None, args.seconds)
            how_mixed, mixed = tuned(source, origin, args.seconds, f"{args.text}:{args.share:g}")
            vocabulary = read_corpus([str(source)], DATA, origin.vocabulary).vocabulary
        first = read_corpus([args.text], DATA, vocabulary, fixed="skip")
        print(
            f"| {package} | {len(text):,} | {how} | {how_new} | {before:.4f} → {loss_on(first, model):.4f} "
            f"| {how_mixed} | {loss_on(first, mixed):.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
