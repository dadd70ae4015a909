"""The training loop: budget, batch, forward, backward, update; and at due moments report, validate, save.

The state of the model is carried from one batch to the next, and cut from the
graph between them (truncated backpropagation through time). If there are
several processes, each runs this loop with its rows of the batch; they agree
on the clock and on signals, and so on every decision. Kinds of text are the
concern of texts.py, intervals of cadence.py, files and events of reporting.py.

Letters: T sequence, B batch, V vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from charrnn.config import DataConfig, ModelConfig, TrainConfig
from charrnn.data.corpus import Corpus
from charrnn.errors import DivergedError
from charrnn.events import Finished, Listener
from charrnn.model.char_rnn import CharRNN
from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.metrics import require_tensorboard
from charrnn.training.cadence import Cadence, Due
from charrnn.training.device import choose_device, choose_precision, flushed_denormals, to_device
from charrnn.training.distributed import SINGLE, Processes
from charrnn.training.optim import schedule
from charrnn.training.reporting import Reporter
from charrnn.training.state import RunState
from charrnn.training.texts import fit_batch, training_text

MAX_ROLLBACKS = 5  # each halves the learning rate


class Trainer:
    """One training run: build it, then call ``train``.

    Args:
        model_config, data_config, train_config: what to train and how.
        corpus: the text.
        folder: the run folder, which must exist.
        listener: receives the events of the run.
        checkpoint: continue from here instead of from the beginning.
        weights: begin with these weights instead of random ones.
        replay: another text, of which some rows of each batch are read; needed if ``train_config.replay`` names one.
        tensorboard: write the metrics for TensorBoard, too.
        processes: the processes of the run; each builds a Trainer with the same arguments.
        cadence: how often to report, log, validate and save.
        clock: returns seconds; for tests.
        step_done: called after each step with the seconds that it took.

    Attributes:
        run: the state of the run.

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
        replay: Corpus | None = None,
        tensorboard: bool = False,
        processes: Processes = SINGLE,
        cadence: Cadence | None = None,
        clock: Callable[[], float] = time.monotonic,
        step_done: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        if tensorboard:
            require_tensorboard()
        self.folder, self.listener, self.processes = folder, listener or Listener(), processes
        self.cadence, self.clock, self.step_done = cadence or Cadence(), clock, step_done
        config = fit_batch(corpus, data_config, train_config.with_budget(), self.listener.on_notice)
        text = training_text(corpus, data_config, config, processes, replay=replay)
        device = choose_device(config.device)
        self.precision = choose_precision(config.precision, device)

        torch.manual_seed(config.seed)
        model = checkpoint.build_model() if checkpoint else CharRNN(model_config, len(corpus.vocabulary))
        if checkpoint is None:
            model.initialise(config.init)
            if weights is not None:
                model.load_state_dict(weights)
        self.run = RunState(
            model.to(device),
            train_config=config,
            data_config=data_config,
            corpus=corpus,
            text=text,
            processes=processes,
        )
        self.model = processes.wrap(self.run.model)
        if checkpoint is not None:
            self.run.restore(checkpoint)
        self.reporter = Reporter(self.run, folder, self.listener, precision=self.precision, tensorboard=tensorboard)

    def train(self, stop: Callable[[], bool] = lambda: False) -> Finished:
        """Trains until the budget is used up, the validation loss has turned up for good, or ``stop()`` is true.

        All three ways end with a checkpoint.

        Raises:
            DivergedError: the loss became NaN or very large; earlier checkpoints are still there.
            WriteError: a checkpoint cannot be written; earlier ones are still there.
        """
        self.run.model.train()
        self._first_loss = 0.0
        self._good = self.run.checkpoint()  # where to go back to if the loss explodes
        with flushed_denormals(), self.reporter.session():
            self._loop(stop)
        return self.reporter.finished()

    def _loop(self, stop: Callable[[], bool]) -> None:
        run, config, text, device = self.run, self.run.config, self.run.text, self.run.device
        agreed = self.processes.all_reduce_max
        started = self.clock() - run.counters.elapsed
        self.cadence.begin(run)
        (stopped,) = agreed(stop())
        while True:
            # Budget. At least one step is made, so that there is something to save.
            if run.fraction >= 1.0 or run.turned_up or (run.counters.step and stopped):
                if run.validated:
                    # The last validation may have used up the time, so the checkpoint that it wrote does not say so.
                    if run.fraction >= 1.0 and not self._good.completes(config):
                        self.reporter.save(run.checkpoint())
                    return
                if self._validate():
                    return
                self.cadence.begin(run)  # the validation has gone back to an earlier step
                continue
            lr_factor = run.counters.lr_scale * schedule(
                config, fraction=run.fraction, epoch=text.epoch, step=run.counters.step
            )
            # Batch.
            began = self.clock()
            x_TB, y_TB = (to_device(ids, device) for ids in text.next(config.seq_len))
            # Forward.
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                logits_TBV, state = self.model(x_TB, run.state, text.resets(x_TB))
            run.state = tuple(s.detach() for s in state)
            loss, targets = text.loss(logits_TBV.float(), y_TB)
            # Backward.
            mean_loss, weight = self.processes.mean(loss, targets)
            objective = loss * config.seq_len if config.loss_sum else loss
            (objective * weight).backward()  # type: ignore[no-untyped-call]
            # Update.
            grad_norm = run.optimizers.step(lr_factor)
            run.count_step(mean_loss)
            self.step_done(self.clock() - began)
            run.counters.elapsed, stopped = agreed(self.clock() - started, stop())

            due = self.cadence.due(run)
            if not due:
                continue
            # Reading the loss waits for the device, so it is read only when something is due.
            latest = float(mean_loss)
            self._first_loss = self._first_loss or latest
            (run.counters.elapsed,) = agreed(self.clock() - started)
            if self._exploded(latest):
                self._roll_back(latest)
                self.cadence.begin(run)
                continue
            speed = self.cadence.steps_per_second(run) * config.batch_size * config.seq_len
            self.reporter.progress(speed)
            if Due.LOG in due:
                self.reporter.metrics(lr=config.lr * lr_factor, grad_norm=float(grad_norm), chars_per_second=speed)
            before = run.counters.elapsed
            if Due.VALIDATE in due:
                self._validate()
            elif Due.SAVE in due:
                self._good = run.checkpoint()
                self.reporter.save(self._good)
            if due & (Due.VALIDATE | Due.SAVE):
                run.counters.elapsed, stopped = agreed(self.clock() - started, stop())
            self.cadence.done(due, run, seconds=run.counters.elapsed - before)

    def _validate(self) -> bool:
        """Validates and saves; or, if the loss has exploded, goes back and returns False."""
        val_loss = self.run.text.validation_loss(self.run.model)
        if self._exploded(val_loss.mean):
            self._roll_back(val_loss.mean)
            return False
        best = self.run.add_validation(val_loss)
        self._good = self.run.checkpoint()
        self.reporter.validation(self._good, best=best)
        return True

    def _exploded(self, loss: float) -> bool:
        """Whether a loss is NaN or very large.

        Very large is more than twice as large, and one nat, as that of a uniform guess (log V), and as the first
        loss of the run: with --init-from, a model may begin far worse than a guess.
        """
        guess = math.log(len(self.run.corpus.vocabulary))
        return not loss <= 2 * max(guess, self._first_loss) + 1

    def _roll_back(self, loss: float) -> None:
        """Goes back to the last good checkpoint, and halves the learning rate.

        Raises:
            DivergedError: the rate has been halved often enough.
        """
        run, failed = self.run, self.run.counters
        run.load_state(self._good)
        run.counters.lr_scale, run.counters.elapsed = failed.lr_scale / 2, failed.elapsed
        self.reporter.rolled_back()
        if run.counters.lr_scale < 0.5**MAX_ROLLBACKS:
            last = self.folder / "last.pt"
            kept = f"; {last} is from before" if last.exists() else ""
            raise DivergedError(
                f"the loss exploded ({loss:.3g} at step {failed.step:,}) though the rate was halved {MAX_ROLLBACKS} "
                f"times: training has diverged; begin again with a lower --lr (it was {run.config.lr:g}){kept}"
            )
        self.listener.on_notice(
            f"the loss exploded ({loss:.3g} at step {failed.step:,}): back to step {run.counters.step:,}, "
            f"with the rate halved to {run.config.lr * run.counters.lr_scale:g}"
        )
