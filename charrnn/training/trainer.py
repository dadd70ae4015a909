"""The training loop.

    text → streams → model → loss → gradient → clip → update
                 └── every so often: validate, sample, checkpoint

Several processes divide the batch between them (distributed.py); each runs
this loop, and clocks and signals are agreed upon, so that all go the same way.
State is carried from step to step (truncated backpropagation through time)
and cut from the graph between steps. The loop knows no terminal: it tells a
``Listener``. Letters: T sequence, B batch, V vocabulary.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from charrnn.config import DataConfig, ModelConfig, TrainConfig, format_duration
from charrnn.data import item_filter
from charrnn.data.corpus import Corpus
from charrnn.data.item_streams import NO_TARGET
from charrnn.data.split import split_end
from charrnn.data.streams import divided
from charrnn.errors import CheckpointError, ConfigError, CorpusError, DivergedError
from charrnn.events import Finished, Listener, Progress, Started, Validated
from charrnn.files import write_atomically
from charrnn.model.char_rnn import CharRNN
from charrnn.runs.checkpoint import Checkpoint, load_checkpoint
from charrnn.runs.metrics import MetricsFile, NoMetrics, require_tensorboard
from charrnn.runs.samples import Sample, append_sample, drop_samples_after
from charrnn.training.advice import loss_advice
from charrnn.training.device import choose_device, choose_precision, flushed_denormals, to_device
from charrnn.training.distributed import SINGLE, Processes
from charrnn.training.live_sample import sample_live
from charrnn.training.optim import schedule
from charrnn.training.state import RECENT, RunState, corpus_summary
from charrnn.training.validation import items_loss, streams_loss, validation_loss

VALIDATIONS = 10  # of a budget, unless eval_steps says otherwise
VALIDATION_SHARE = 0.05  # of a time budget that validations may take; those that would take more are left out
KEEP = 3  # periodic checkpoints
SAVE_SECONDS = 300.0  # at most this much work is lost to a power cut
REPORT_SECONDS = 0.5
METRICS_STEPS = 50  # between two lines in metrics.jsonl
TRIES = 5  # halvings of the rate before giving up
SAMPLE_LENGTH = 200
MIN_CHARACTERS = 20
MIN_SEQ_LEN = 8


class Trainer:
    """One training run: build it, then ``train()``.

    Args:
        model_config, data_config, train_config: what to train and how.
        corpus: the text.
        folder: the run folder; it must exist.
        listener: hears of everything.
        checkpoint: continue from here instead of from the beginning.
        weights: begin with these instead of random ones.
        tensorboard: write the metrics for TensorBoard too.
        processes: those that share the run; each builds a Trainer with the same arguments.

    Raises:
        CorpusError: the text is too short.
        ConfigError: the device is not available.
        UsageError: the package tensorboard is not installed.
        CheckpointError: the checkpoint is of another text or architecture.
    """

    def __init__(
        self,
        *,
        model_config: ModelConfig,
        data_config: DataConfig,
        train_config: TrainConfig,
        corpus: Corpus,
        folder: Path,
        listener: Listener | None = None,
        checkpoint: Checkpoint | None = None,
        weights: Mapping[str, Tensor] | None = None,
        tensorboard: bool = False,
        processes: Processes = SINGLE,
    ) -> None:
        if tensorboard:
            require_tensorboard()
        self.listener = listener or Listener()
        self.tensorboard = tensorboard
        self.folder = folder
        self.processes = processes
        self.corpus = corpus
        self.vocabulary = corpus.vocabulary
        self.data_config = data_config
        self.config = self._fit(train_config.with_budget(), corpus)
        self.split = divided(
            corpus,
            data_config,
            batch_size=self.config.batch_size,
            seq_len=self.config.seq_len,
            seed=self.config.seed,
        )
        self.device = choose_device(self.config.device)
        self.precision = choose_precision(self.config.precision, self.device)

        torch.manual_seed(self.config.seed)
        model = checkpoint.build_model() if checkpoint else CharRNN(model_config, len(self.vocabulary))
        if checkpoint is None:
            model.initialise(self.config.init)
            if weights is not None:
                model.load_state_dict(weights)
        self.run = RunState(
            model.to(self.device),
            train_config=self.config,
            data_config=data_config,
            corpus=corpus,
            split=self.split,
            processes=processes,
        )
        self.forward = processes.wrap(self.run.model)
        if checkpoint is not None:
            self.run.restore(checkpoint)

    def train(self, stop: Callable[[], bool] = lambda: False) -> Finished:
        """Runs until the budget is used up or ``stop()`` says so; both ways end with a checkpoint.

        Raises:
            ConfigError: nothing of the budget is left.
            DivergedError: the loss is no longer a number; earlier checkpoints are still there.
            WriteError: a checkpoint cannot be written; earlier ones are still there.
        """
        counters = self.run.counters
        if self.run.fraction >= 1.0:
            raise ConfigError("the run has used up its budget; give a larger one (--time, --epochs or --steps)")
        self._announce()
        if self.processes.first:
            write_atomically(self.folder / "config.json", json.dumps(self._settings(), indent=2).encode())
            self._write_membership()
        self.run.model.train()
        self._good = self.run.checkpoint()
        self._first_loss: float | None = None
        if self.processes.first:
            drop_samples_after(self.folder, counters.step)
        with (
            flushed_denormals(),
            self._open_metrics() as self._metrics,
        ):
            self._loop(stop)
            # A last validation that explodes goes back to the last good point, and on from there.
            while not self._validated() and not self._validate(self.run.recent_loss):
                self._loop(stop)
            interrupted = self.run.fraction < 1.0
        finished = Finished(
            interrupted=interrupted,
            step=counters.step,
            epoch=self.run.streams.epoch,
            elapsed=counters.elapsed,
            train_loss=self.run.history[-1]["train_loss"],
            val_loss=self.run.history[-1]["val_loss"],
            best_val_loss=counters.best_val_loss,
            best=self.folder / "best.pt",
            last=self.folder / "last.pt",
            advice=loss_advice(
                train_loss=self.run.history[-1]["train_loss"],
                val_loss=self.run.history[-1]["val_loss"],
                best_val_loss=counters.best_val_loss,
                dropout=self.run.model.config.dropout,
            ),
        )
        self.listener.on_finish(finished)
        return finished

    def _open_metrics(self) -> MetricsFile:
        if not self.processes.first:
            return NoMetrics()
        return MetricsFile(self.folder, self.run.counters.step, tensorboard=self.tensorboard)

    def _write_membership(self) -> None:
        """The filter by which samples are told from items of the training text."""
        items, path = self.split.items, self.folder / item_filter.file_name(self.corpus.sha256)
        if items is not None and not path.exists():
            item_filter.save(path, items.train_hashes(), items.train_items)

    def _validated(self) -> bool:
        """Whether the run stands where it was last validated."""
        return bool(self.run.history) and self.run.history[-1]["step"] == self.run.counters.step

    def _loop(self, stop: Callable[[], bool]) -> None:
        """Steps until the budget is used up or ``stop()`` says so."""
        counters, config = self.run.counters, self.config
        began = time.monotonic() - counters.elapsed
        next_validation = self._validation_after(self.run.fraction)
        saved_at = reported_at = counters.elapsed
        report_every, step_of_report, validating = 1, counters.step, 0.0
        agree = self.processes.all_reduce_max
        (stopped,) = agree(stop())
        # The first step is always made, so that there is something to save.
        while (fraction := self.run.fraction) < 1.0 and not (counters.step and stopped):
            factor = counters.lr_scale * schedule(
                config, fraction=fraction, epoch=self.run.streams.epoch, step=counters.step
            )
            loss, norm = self._step(factor)
            self.run.losses[counters.step % RECENT] = loss
            counters.step += 1
            counters.elapsed, stopped = agree(time.monotonic() - began, stop())
            due = self._validation_due(next_validation)
            log = counters.step % METRICS_STEPS == 0
            save = counters.elapsed - saved_at > SAVE_SECONDS
            if not (due or log or save or counters.step - step_of_report >= report_every):
                continue
            # From here to the next step everything waits for the device: a CPU-GPU sync point.
            latest = float(loss)
            if self._first_loss is None:
                self._first_loss = latest
            (counters.elapsed,) = agree(time.monotonic() - began)
            if self._exploded(latest):
                self._roll_back(latest)
                began = time.monotonic() - counters.elapsed
                next_validation = self._validation_after(self.run.fraction)
                reported_at, step_of_report = counters.elapsed, counters.step
                continue
            steps, seconds = counters.step - step_of_report, max(counters.elapsed - reported_at, 1e-9)
            speed = steps * config.batch_size * config.seq_len / seconds
            self._report(speed)
            if log:
                self._log(factor, float(norm), speed)
            report_every = max(1, round(steps * REPORT_SECONDS / seconds))
            if due and self.run.fraction < 1.0:
                if config.time is None or config.eval_steps or validating <= VALIDATION_SHARE * counters.elapsed:
                    self._validate(self.run.recent_loss)
                before = counters.elapsed
                counters.elapsed, stopped = agree(time.monotonic() - began, stop())
                validating += counters.elapsed - before
                next_validation = self._validation_after(self.run.fraction)
                saved_at = counters.elapsed
            elif save:
                self._save(self.folder / "last.pt")
                saved_at = counters.elapsed
            reported_at, step_of_report = counters.elapsed, counters.step

    def _exploded(self, loss: float) -> bool:
        """Whether a loss is NaN, or more than twice as bad, and a nat, as blind guessing (log V) and as the beginning.

        A model that was sure of another text (--init-from) may begin far worse than guessing.
        """
        blind = math.log(len(self.vocabulary))
        return not loss <= 2 * max(blind, self._first_loss or 0.0) + 1

    def _roll_back(self, loss: float) -> None:
        """Back to the last good point with half the rate.

        Raises:
            DivergedError: the rate has been halved often enough.
        """
        step, elapsed, lr_scale = self.run.counters.step, self.run.counters.elapsed, self.run.counters.lr_scale / 2
        self.run.load_state(self._good)
        self.run.counters.lr_scale, self.run.counters.elapsed = lr_scale, elapsed
        self._metrics.drop_after(self.run.counters.step)
        if self.processes.first:
            drop_samples_after(self.folder, self.run.counters.step)
        if lr_scale < 0.5**TRIES:
            last = self.folder / "last.pt"
            kept = f"; {last} is from before" if last.exists() else ""
            raise DivergedError(
                f"the loss exploded ({loss:.3g} at step {step:,}) though the rate was halved {TRIES} times: training "
                f"has diverged; begin again with a lower --lr (it was {self.config.lr:g}){kept}"
            )
        self.listener.on_notice(
            f"the loss exploded ({loss:.3g} at step {step:,}): back to step {self.run.counters.step:,}, "
            f"with the rate halved to {self.config.lr * lr_scale:g}"
        )

    def _log(self, factor: float, norm: float, speed: float) -> None:
        """A line in metrics.jsonl."""
        self._metrics.write(
            step=self.run.counters.step,
            epoch=round(self.run.streams.epoch, 4),
            elapsed=round(self.run.counters.elapsed, 3),
            loss=self.run.recent_loss,
            lr=self.config.lr * factor,
            grad_norm=norm,
            chars_per_second=round(speed),
        )

    def _step(self, factor: float) -> tuple[Tensor, Tensor]:
        """One batch forward, back, and update; mean loss in nats and gradient norm, scalars still on the device."""
        x_TB, y_TB = (to_device(ids, self.device) for ids in self.run.streams.next(self.config.seq_len))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits_TBV, state = self.forward(x_TB, self.run.state, self._resets(x_TB))
        self.run.state = tuple(s.detach() for s in state)
        logits_NV, targets = logits_TBV.float().flatten(0, 1), y_TB.flatten()
        count: int | Tensor = y_TB.numel()
        if self.split.items is None:
            loss = F.cross_entropy(logits_NV, targets)
        else:
            # The ends of items predict nothing; a process may by chance read nothing else.
            count = (y_TB != NO_TARGET).sum()
            loss = F.cross_entropy(logits_NV, targets, ignore_index=NO_TARGET, reduction="sum") / count.clamp(min=1)
        objective = loss * self.config.seq_len if self.config.loss_sum else loss
        mean, share = self.processes.mean(loss, count)
        (objective * share).backward()  # type: ignore[no-untyped-call]
        return mean, self.run.optimizers.step(factor)

    def _resets(self, x_TB: Tensor) -> Tensor | None:
        """Where the state is to be zero after the inputs: at the ends of items."""
        return None if self.split.items is None else x_TB == self.split.items.end

    def _validate(self, train_loss: float) -> bool:
        """Validation loss, checkpoint under all its names, a sample for the listener; False if it went back."""
        counters, most = self.run.counters, self.data_config.val_max
        if self.split.items is not None:
            val_loss = items_loss(self.run.model, self.split.items, self.processes, most=most)
        elif self.split.val is not None:
            val_loss = streams_loss(self.run.model, self.split.val, self.config.seq_len, self.processes, most=most)
        else:
            ids, start = self.split.val_ids, self.vocabulary.start_token
            val_loss = validation_loss(self.run.model, ids, start, self.processes, most=most)
        if self._exploded(val_loss):
            self._roll_back(val_loss)
            return False
        best = val_loss < counters.best_val_loss
        if best:
            counters.best_val_loss = val_loss
        epoch = self.run.streams.epoch
        self.run.history.append(
            {
                "step": counters.step,
                "epoch": round(epoch, 4),
                "elapsed": round(counters.elapsed, 3),
                "train_loss": train_loss,
                "val_loss": val_loss,
            }
        )
        periodic = self.folder / f"epoch{epoch:.2f}-loss{val_loss:.4f}.pt"
        names = [self.folder / "last.pt", periodic]
        if best or not (self.folder / "best.pt").exists():
            names.append(self.folder / "best.pt")
        self._metrics.write(
            step=counters.step, epoch=round(epoch, 4), elapsed=round(counters.elapsed, 3), val_loss=val_loss
        )
        sample = self._sample()
        if self.processes.first:
            append_sample(
                self.folder,
                Sample(step=counters.step, epoch=epoch, train_loss=train_loss, val_loss=val_loss, text=sample),
            )
        self._save(*names)
        self._forget_old(periodic)
        self.listener.on_validation(
            Validated(
                step=counters.step,
                epoch=epoch,
                elapsed=counters.elapsed,
                train_loss=train_loss,
                val_loss=val_loss,
                best=best,
                sample=sample,
                checkpoint=periodic,
            )
        )
        return True

    def _save(self, *paths: Path) -> None:
        """A checkpoint under all these names, and the point to roll back to."""
        self._metrics.sync()
        self._good = self.run.checkpoint()
        if self.processes.first:
            self._good.save(*paths)

    def _sample(self) -> str:
        if not self.processes.first:
            return ""
        return sample_live(self.run.model, self.vocabulary, length=SAMPLE_LENGTH, seed=self.run.counters.step)

    @property
    def train_characters(self) -> int:
        """Characters that are trained on."""
        return self.split.train_characters

    def _validation_after(self, fraction: float) -> float:
        """Part of the budget at which to validate next."""
        return (math.floor(fraction * VALIDATIONS + 1e-9) + 1) / VALIDATIONS

    def _validation_due(self, next_validation: float) -> bool:
        if self.config.eval_steps is not None:
            return self.run.counters.step % self.config.eval_steps == 0
        return self.run.fraction >= next_validation

    def _report(self, speed: float) -> None:
        fraction = min(1.0, self.run.fraction)
        left = self.run.counters.elapsed * (1 - fraction) / fraction if fraction else math.inf
        self.listener.on_progress(
            Progress(
                step=self.run.counters.step,
                epoch=self.run.streams.epoch,
                fraction=fraction,
                loss=self.run.recent_loss,
                chars_per_second=speed,
                seconds_left=left,
            )
        )

    def _announce(self) -> None:
        model, config = self.run.model.config, self.config
        budget = (
            f"{config.steps:,} steps"
            if config.steps is not None
            else f"{config.epochs:g} epochs"
            if config.epochs is not None
            else format_duration(config.time or 0)
        )
        self.listener.on_start(
            Started(
                folder=self.folder,
                description=self.corpus.description,
                device=str(self.device),
                precision=self.precision,
                characters=len(self.corpus.ids),
                train_characters=self.train_characters,
                batches=self.split.batches,
                vocab_size=len(self.vocabulary),
                parameters=self.run.model.num_parameters(),
                dropout=model.dropout,
                settings=(
                    f"{model.cell} {model.num_layers}×{model.hidden_size}, dropout {model.dropout:g}, "
                    f"batch {config.batch_size}, sequence {config.seq_len}, {config.optimizer} {config.lr:g}"
                    + (f", {self.processes.size} processes" if self.processes.size > 1 else "")
                ),
                budget=budget,
                step=self.run.counters.step,
                vocabulary=self.corpus.report,
            )
        )

    def _fit(self, config: TrainConfig, corpus: Corpus) -> TrainConfig:
        """The configuration with batch and sequence shrunk to a short text."""
        total = len(corpus.ids)
        n_train = split_end(total, self.data_config).train.length
        if total < MIN_CHARACTERS or n_train <= MIN_SEQ_LEN:
            raise CorpusError(
                f"{corpus.description}: {total} characters ({n_train} of them for training) are too few; "
                f"at least {MIN_CHARACTERS} are needed, {MIN_SEQ_LEN + 1} of them for training "
                "(a lower --val-frac or --test-frac leaves more), and a few thousand before a model learns anything"
            )
        batch_size, seq_len = config.batch_size, config.seq_len
        while batch_size > 1 and batch_size * seq_len > n_train:
            batch_size = max(1, batch_size // 2)
        # Behind the end of an item there is nothing to predict: of two steps, one has a target at least.
        seq_len = max(min(seq_len, n_train - 1), 2 if self.data_config.has_items else 1)
        if (batch_size, seq_len) != (config.batch_size, config.seq_len):
            self.listener.on_notice(
                f"the training text has {n_train:,} characters, and one batch of {config.batch_size} streams × "
                f"{config.seq_len} characters needs {config.batch_size * config.seq_len:,}: "
                f"shrunk to {batch_size} × {seq_len}"
            )
        return replace(config, batch_size=batch_size, seq_len=seq_len)

    def _forget_old(self, newest: Path) -> None:
        """Removes all but the last few periodic checkpoints."""
        if not self.processes.first:
            return
        periodic = sorted(self.folder.glob("epoch*-loss*.pt"), key=lambda p: (p == newest, p.stat().st_mtime_ns))
        for path in periodic[:-KEEP]:
            path.unlink(missing_ok=True)

    def _settings(self) -> dict[str, Any]:
        return {
            "model": self.run.model.config.to_json(),
            "data": self.data_config.to_json(),
            "train": self.config.to_json(),
            "corpus": corpus_summary(self.corpus),
        }


def resumable(folder: Path) -> Checkpoint:
    """The last checkpoint of a run.

    Raises:
        CheckpointError: the folder has none, or it is damaged.
    """
    path = folder / "last.pt"
    if not path.exists():
        raise CheckpointError(f"{folder}: nothing to resume: there is no last.pt in it")
    return load_checkpoint(path)
