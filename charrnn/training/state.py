"""The state of a training run: everything that a checkpoint holds, and that a resumed run continues from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from charrnn.cells.layer import State
from charrnn.config import DataConfig, TrainConfig
from charrnn.data.corpus import Corpus
from charrnn.errors import CheckpointError
from charrnn.model.char_rnn import CharRNN
from charrnn.runs.checkpoint import Checkpoint, on_cpu, turned_up
from charrnn.training.distributed import Processes
from charrnn.training.optim import Optimizers
from charrnn.training.texts import TrainingText
from charrnn.training.validation import MeanLoss

RECENT = 100  # number of steps over which the displayed training loss is averaged


@dataclass(kw_only=True)
class Counters:
    """How far a run has come."""

    step: int = 0
    elapsed: float = 0.0  # seconds, including validations and earlier sessions
    best_val_loss: float = math.inf
    lr_scale: float = 1.0  # halved each time the loss explodes


class RunState:
    """What changes during a run: weights, optimizer, position in the text, hidden state, losses and counters.

    ``checkpoint`` copies all of it, and ``load_state`` continues from such a copy bit for bit.

    Args:
        model: on its device.
        train_config: with a budget, and a batch that fits the text.
        data_config, corpus, text: what is read.
        processes: the processes of the run; each has a RunState with its rows of the batch.

    Attributes:
        state: the model's state after the last step, cut from the graph.
        losses: ring buffer of the last training losses, on the device; reading it waits for the device.
        history: one entry for each validation: step, epoch, elapsed, train_loss, val_loss, val_error.
    """

    def __init__(
        self,
        model: CharRNN,
        *,
        train_config: TrainConfig,
        data_config: DataConfig,
        corpus: Corpus,
        text: TrainingText,
        processes: Processes,
    ) -> None:
        self.model = model
        self.config = train_config
        self.data_config = data_config
        self.corpus = corpus
        self.text = text
        self.processes = processes
        self.device = next(model.parameters()).device
        self.rows = processes.rows(train_config.batch_size)
        if processes.rank:
            self._reseed()
        self.optimizers = Optimizers(model, train_config)
        self.state: State = model.initial_state(len(range(train_config.batch_size)[self.rows]))
        self.losses = torch.zeros(RECENT, device=self.device)
        self.counters = Counters()
        self.history: list[dict[str, Any]] = []

    @property
    def fraction(self) -> float:
        """The part of the budget that is used up, 0 to 1 or a little more."""
        counters = self.counters
        return self.config.fraction(step=counters.step, epoch=self.text.epoch, elapsed=counters.elapsed)

    @property
    def turned_up(self) -> bool:
        """Whether the validation loss has turned up for good, so that the run ends early."""
        return turned_up(self.history, self.config.patience)

    @property
    def passes(self) -> float | None:
        """The most passes over the training text that the budget allows; None if only its time is limited."""
        config = self.config
        if config.steps is not None:
            return config.steps * config.batch_size * config.seq_len / self.text.characters
        return config.epochs or config.max_epochs

    @property
    def recent_loss(self) -> float:
        """Mean training loss of the last steps, in nats per character. Waits for the device."""
        return float(self.losses[: self.counters.step].mean())

    @property
    def validated(self) -> bool:
        """Whether the last validation was made at the current step."""
        return bool(self.history) and self.history[-1]["step"] == self.counters.step

    def count_step(self, loss: Tensor) -> None:
        """Counts a step and records its loss, a scalar on the device."""
        self.losses[self.counters.step % RECENT] = loss
        self.counters.step += 1

    def add_validation(self, val_loss: MeanLoss) -> bool:
        """Adds an entry to the history; returns whether its validation loss is the lowest so far."""
        best = val_loss.mean < self.counters.best_val_loss
        if best:
            self.counters.best_val_loss = val_loss.mean
        self.history.append(
            {
                "step": self.counters.step,
                "epoch": round(self.text.epoch, 4),
                "elapsed": round(self.counters.elapsed, 3),
                "train_loss": self.recent_loss,
                "val_loss": val_loss.mean,
                "val_error": val_loss.error,
            }
        )
        return best

    def checkpoint(self) -> Checkpoint:
        """A copy of the state, on the CPU.

        All processes must call this, and all get the same checkpoint. It can be continued by any number of processes.
        """
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        states, rngs, row_states = zip(
            *self.processes.all_gather((on_cpu(self.state), rng, self.text.row_state())), strict=True
        )
        checkpoint = Checkpoint(
            model_config=self.model.config,
            data_config=self.data_config,
            train_config=self.config,
            vocabulary=self.corpus.vocabulary,
            corpus=corpus_summary(self.corpus) | self.text.summary(),
            weights=self.model.state_dict(),
            progress={
                "step": self.counters.step,
                "epoch": self.text.epoch,
                "position": self.text.position,
                "elapsed": self.counters.elapsed,
                "val_loss": self.history[-1]["val_loss"] if self.history else None,
                "best_val_loss": self.counters.best_val_loss,
                "lr_scale": self.counters.lr_scale,
            },
            history=list(self.history),
            resume={
                "optimizers": self.optimizers.state_dict(),
                "state": _joined(states),
                "losses": self.losses,
                "rng": rngs[0],
                "rng_of_others": list(rngs[1:]),
                "row_state": _joined(row_states),
            },
        )
        # Copies: training goes on and overwrites the originals.
        checkpoint.weights, checkpoint.resume = on_cpu(checkpoint.weights), on_cpu(checkpoint.resume)
        return checkpoint

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continues from a checkpoint of an earlier session.

        Raises:
            CheckpointError: it is of another text, batch size or architecture, or incomplete.
        """
        if checkpoint.corpus.get("sha256") != self.corpus.sha256:
            raise CheckpointError(
                f"the run was trained on another text ({checkpoint.corpus.get('description')}); "
                "resume with the same one, or begin a new run"
            )
        self.load_state(checkpoint)

    def load_state(self, checkpoint: Checkpoint) -> None:
        """Continues from a checkpoint of this run.

        Raises:
            CheckpointError: it is incomplete, or of another batch size or architecture.
        """
        try:
            progress, resume = checkpoint.progress, checkpoint.resume
            self.model.load_state_dict(checkpoint.weights)
            self.optimizers.load_state_dict(resume["optimizers"])
            shapes = [tuple(s.shape) for s in resume["state"]]
            self.state = tuple(s[self.rows].to(self.device) for s in resume["state"])
            self.losses = resume["losses"].to(self.device).view(RECENT)
            self.text.load_state(int(progress["position"]), [t[self.rows] for t in resume["row_state"]])
            self.counters = Counters(
                step=int(progress["step"]),
                elapsed=float(progress["elapsed"]),
                best_val_loss=float(progress["best_val_loss"]),
                lr_scale=float(progress["lr_scale"]),
            )
            self.history = list(checkpoint.history)
            self._load_rng([resume["rng"], *resume.get("rng_of_others", [])])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise CheckpointError(f"this checkpoint cannot be resumed: {error}") from error
        if shapes != [tuple(s.shape) for s in self.model.initial_state(self.config.batch_size)]:
            raise CheckpointError("this checkpoint cannot be resumed with another batch size or architecture")

    def _load_rng(self, states: list[dict[str, Tensor]]) -> None:
        """Sets the random-number state of this process; a new one if the checkpoint is from fewer processes."""
        if self.processes.rank >= len(states):
            self._reseed()
            return
        own = states[self.processes.rank]
        torch.set_rng_state(own["cpu"])
        if "cuda" in own and self.device.type == "cuda":
            torch.cuda.set_rng_state(own["cuda"], self.device)

    def _reseed(self) -> None:
        """Gives this process its own random numbers, so that dropout differs between the rows of a batch."""
        torch.manual_seed((self.config.seed + 7919 * self.processes.rank) % 2**63)


def _joined(parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Tensors of all rows, from those that each process has of its rows."""
    return [torch.cat(rows) for rows in zip(*parts, strict=True)]


def corpus_summary(corpus: Corpus) -> dict[str, Any]:
    """What a checkpoint and config.json tell about the text."""
    return {
        "name": corpus.name,
        "description": corpus.description,
        "arguments": list(corpus.arguments),
        "in_memory": corpus.in_memory,
        "sha256": corpus.sha256,
        "characters": len(corpus.ids),
    }
