"""Reports what happens in a training run: events for the listener, files in the run folder.

Every process of a run has a ``Reporter``. Only that of the first process writes files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from charrnn.config import TrainConfig, format_duration
from charrnn.events import Finished, Listener, Progress, Started, Validated
from charrnn.files import write_atomically
from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.metrics import MetricsFile, NoMetrics
from charrnn.runs.samples import Sample, append_sample, drop_samples_after
from charrnn.training.advice import loss_advice
from charrnn.training.live_sample import sample_live
from charrnn.training.state import RunState, corpus_summary

KEEP = 3  # periodic checkpoints
SAMPLE_LENGTH = 200


class Reporter:
    """Reports a run.

    Args:
        run: the run.
        folder: its folder, which must exist.
        listener: receives the events.
        precision: what the run computes in, for display.
        tensorboard: write the metrics for TensorBoard, too.
    """

    def __init__(
        self, run: RunState, folder: Path, listener: Listener, *, precision: str, tensorboard: bool = False
    ) -> None:
        self.run, self.folder, self.listener = run, folder, listener
        self._writes = run.processes.first
        self._precision, self._tensorboard = precision, tensorboard
        self._metrics: MetricsFile = NoMetrics()

    @contextmanager
    def session(self) -> Iterator[None]:
        """Announces the run, writes its settings, and keeps the metrics file open until the session ends."""
        run = self.run
        self.listener.on_start(self._started())
        if self._writes:
            settings = {
                "model": run.model.config.to_json(),
                "data": run.data_config.to_json(),
                "train": run.config.to_json(),
                "corpus": corpus_summary(run.corpus),
            }
            write_atomically(self.folder / "config.json", json.dumps(settings, indent=2).encode())
            run.text.save_files(self.folder)
            drop_samples_after(self.folder, run.counters.step)
            self._metrics = MetricsFile(self.folder, run.counters.step, tensorboard=self._tensorboard)
        with self._metrics:
            yield

    def progress(self, chars_per_second: float) -> None:
        """Tells the listener where the run is."""
        run, fraction = self.run, min(1.0, self.run.fraction)
        self.listener.on_progress(
            Progress(
                step=run.counters.step,
                epoch=run.text.epoch,
                fraction=fraction,
                loss=run.recent_loss,
                chars_per_second=chars_per_second,
                seconds_left=run.counters.elapsed * (1 - fraction) / fraction if fraction else math.inf,
            )
        )

    def metrics(self, *, lr: float, grad_norm: float, chars_per_second: float) -> None:
        """Writes a line to metrics.jsonl."""
        self._metrics.write(
            **self._when(),
            loss=self.run.recent_loss,
            lr=lr,
            grad_norm=grad_norm,
            chars_per_second=round(chars_per_second),
        )

    def validation(self, checkpoint: Checkpoint, *, best: bool) -> None:
        """Writes the last validation's metrics, a sample and the checkpoint, and tells the listener.

        Args:
            checkpoint: of the run as it is.
            best: whether the validation loss is the lowest so far.
        """
        run, epoch = self.run, self.run.text.epoch
        train_loss, val_loss = run.history[-1]["train_loss"], run.history[-1]["val_loss"]
        periodic = self.folder / f"epoch{epoch:.2f}-loss{val_loss:.4f}.pt"
        self._metrics.write(**self._when(), val_loss=val_loss, val_error=run.history[-1]["val_error"])
        text = ""
        if self._writes:
            text = sample_live(run.model, run.corpus.vocabulary, length=SAMPLE_LENGTH, seed=run.counters.step)
            append_sample(
                self.folder,
                Sample(step=run.counters.step, epoch=epoch, train_loss=train_loss, val_loss=val_loss, text=text),
            )
        best_too = best or not (self.folder / "best.pt").exists()
        self._save(checkpoint, self.folder / "last.pt", periodic, *([self.folder / "best.pt"] if best_too else []))
        if self._writes:
            self._delete_old(periodic)
        self.listener.on_validation(
            Validated(
                step=run.counters.step,
                epoch=epoch,
                elapsed=run.counters.elapsed,
                train_loss=train_loss,
                val_loss=val_loss,
                best=best,
                sample=text,
                checkpoint=periodic,
            )
        )

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes last.pt, between validations."""
        self._save(checkpoint, self.folder / "last.pt")

    def rolled_back(self) -> None:
        """Removes metrics and samples of the steps after the one to which the run has gone back."""
        self._metrics.drop_after(self.run.counters.step)
        if self._writes:
            drop_samples_after(self.folder, self.run.counters.step)

    def finished(self) -> Finished:
        """Tells the listener how the run ended, and returns it."""
        run, last = self.run, self.run.history[-1]
        if run.turned_up and run.fraction < 1.0:
            self.listener.on_notice(
                f"the last {run.config.patience} validations were all more than 1 % above the best one, "
                f"{run.counters.best_val_loss:.4f}: the run ends early, and best.pt is that best model "
                "(--patience 0 always uses up the budget)"
            )
        finished = Finished(
            interrupted=run.fraction < 1.0 and not run.turned_up,
            step=run.counters.step,
            epoch=run.text.epoch,
            elapsed=run.counters.elapsed,
            train_loss=last["train_loss"],
            val_loss=last["val_loss"],
            val_error=last.get("val_error", 0.0),  # older checkpoints lack it
            best_val_loss=run.counters.best_val_loss,
            best=self.folder / "best.pt",
            last=self.folder / "last.pt",
            advice=loss_advice(
                train_loss=last["train_loss"],
                val_loss=last["val_loss"],
                best_val_loss=run.counters.best_val_loss,
                dropout=run.model.config.dropout,
            ),
        )
        self.listener.on_finish(finished)
        return finished

    def _when(self) -> dict[str, float]:
        counters = self.run.counters
        return {
            "step": counters.step,
            "epoch": round(self.run.text.epoch, 4),
            "elapsed": round(counters.elapsed, 3),
        }

    def _save(self, checkpoint: Checkpoint, *paths: Path) -> None:
        # A checkpoint on the disk must not be ahead of the metrics.
        self._metrics.sync()
        if self._writes:
            checkpoint.save(*paths)

    def _delete_old(self, newest: Path) -> None:
        """Deletes all but the last few periodic checkpoints."""
        periodic = sorted(self.folder.glob("epoch*-loss*.pt"), key=lambda p: (p == newest, p.stat().st_mtime_ns))
        for path in periodic[:-KEEP]:
            path.unlink(missing_ok=True)

    def _started(self) -> Started:
        run, model, config = self.run, self.run.model.config, self.run.config
        size = run.processes.size
        return Started(
            folder=self.folder,
            description=run.corpus.description,
            device=str(run.device),
            precision=self._precision,
            threads=torch.get_num_threads(),
            characters=len(run.corpus.ids),
            train_characters=run.text.characters,
            batches=run.text.batches,
            vocab_size=len(run.corpus.vocabulary),
            parameters=run.model.num_parameters(),
            dropout=model.dropout,
            settings=(
                f"{model.cell} {model.num_layers}×{model.hidden_size}, dropout {model.dropout:g}, "
                + (f"weight dropout {model.weight_dropout:g}, " if model.weight_dropout else "")
                + f"batch {config.batch_size}, sequence {config.seq_len}, {config.optimizer} {config.lr:g}, "
                f"weight decay {config.weight_decay:g}" + (f", {size} processes" if size > 1 else "")
            ),
            budget=_budget(config),
            step=run.counters.step,
            vocabulary=run.corpus.report,
        )


def _budget(config: TrainConfig) -> str:
    if config.steps is not None:
        return f"{config.steps:,} steps"
    if config.epochs is not None:
        return f"{config.epochs:g} epochs"
    return format_duration(config.time or 0)
