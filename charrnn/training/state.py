"""Where a run stands: everything that a checkpoint holds and a resumed run takes up again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from charrnn.cells.layer import State
from charrnn.config import DataConfig, TrainConfig
from charrnn.data.corpus import Corpus
from charrnn.data.item_streams import ItemStreams
from charrnn.data.streams import Split
from charrnn.errors import CheckpointError
from charrnn.model.char_rnn import CharRNN
from charrnn.runs.checkpoint import Checkpoint, on_cpu
from charrnn.training.distributed import Processes
from charrnn.training.optim import Optimizers

RECENT = 100  # steps over which the training loss that is shown is averaged


@dataclass(kw_only=True)
class Counters:
    """How far a run has come."""

    step: int = 0
    elapsed: float = 0.0  # seconds, validations included, earlier sessions included
    best_val_loss: float = math.inf
    lr_scale: float = 1.0  # halved at each explosion


class RunState:
    """What changes as a run goes on: weights, optimizer, place in the text, carried state, losses and counters.

    ``checkpoint()`` puts all of it down, and ``load_state()`` goes on from there bit for bit.

    Args:
        model: on its device.
        train_config: with a batch and a budget that fit the text.
        data_config, corpus, split: what is read.
        processes: those that share the run; each has a RunState with its rows of the batch.
    """

    def __init__(
        self,
        model: CharRNN,
        *,
        train_config: TrainConfig,
        data_config: DataConfig,
        corpus: Corpus,
        split: Split,
        processes: Processes,
    ) -> None:
        self.model = model
        self.config = train_config
        self.data_config = data_config
        self.corpus = corpus
        self.split = split
        self.processes = processes
        self.device = next(model.parameters()).device
        self.rows = processes.rows(train_config.batch_size)
        self.streams = split.train.rows(self.rows)
        if processes.rank:
            self._reseed()
        self.optimizers = Optimizers(model, train_config)
        self.state: State = model.initial_state(len(range(train_config.batch_size)[self.rows]))
        # Losses of the last steps, where they are computed; reading them is a CPU-GPU sync point.
        self.losses = torch.zeros(RECENT, device=self.device)
        self.counters = Counters()
        self.history: list[dict[str, Any]] = []

    @property
    def recent_loss(self) -> float:
        """Mean training loss of the last steps. A CPU-GPU sync point."""
        return float(self.losses[: self.counters.step].mean())

    @property
    def fraction(self) -> float:
        """Part of the budget that is used up."""
        config, counters = self.config, self.counters
        if config.steps is not None:
            return counters.step / config.steps
        if config.epochs is not None:
            return self.streams.epoch / config.epochs
        assert config.time is not None
        return counters.elapsed / config.time

    def checkpoint(self) -> Checkpoint:
        """The run as it stands, ready to be saved; the same in all processes, and for any number of them."""
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        places = self.streams.places if isinstance(self.streams, ItemStreams) else None
        parts = self.processes.all_gather((on_cpu(self.state), rng, places))
        checkpoint = Checkpoint(
            model_config=self.model.config,
            data_config=self.data_config,
            train_config=self.config,
            vocabulary=self.corpus.vocabulary,
            corpus=corpus_summary(self.corpus) | self.split.summary(),
            weights=self.model.state_dict(),
            progress={
                "step": self.counters.step,
                "epoch": self.streams.epoch,
                "position": self.streams.position,
                "elapsed": self.counters.elapsed,
                "val_loss": self.history[-1]["val_loss"] if self.history else None,
                "best_val_loss": self.counters.best_val_loss,
                "lr_scale": self.counters.lr_scale,
            },
            history=list(self.history),
            resume={
                "optimizers": self.optimizers.state_dict(),
                "state": [torch.cat(rows) for rows in zip(*(part[0] for part in parts), strict=True)],
                "losses": self.losses,
                "rng": parts[0][1],
                "rng_of_others": [part[1] for part in parts[1:]],
                "places": None if places is None else torch.cat([part[2] for part in parts if part[2] is not None]),
            },
        )
        # Copies on the CPU: training goes on and writes over the originals.
        checkpoint.weights, checkpoint.resume = on_cpu(checkpoint.weights), on_cpu(checkpoint.resume)
        return checkpoint

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes up everything that ``checkpoint()`` had put down.

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
        """``restore`` for a checkpoint of this run.

        Raises:
            CheckpointError: it is incomplete, or of another batch size or architecture.
        """
        try:
            self.model.load_state_dict(checkpoint.weights)
            self.optimizers.load_state_dict(checkpoint.resume["optimizers"])
            progress, states = checkpoint.progress, checkpoint.resume["state"]
            shapes = [tuple(s.shape) for s in states]
            self.state = tuple(s[self.rows].to(self.device) for s in states)
            self.losses = checkpoint.resume["losses"].to(self.device).view(RECENT)
            if isinstance(self.streams, ItemStreams):
                self.streams.places = checkpoint.resume["places"][self.rows]
            self.streams.position = int(progress["position"])
            counters = self.counters  # changed in place: a running loop holds on to it
            counters.step = int(progress["step"])
            counters.elapsed = float(progress["elapsed"])
            counters.best_val_loss = float(progress["best_val_loss"])
            counters.lr_scale = float(progress["lr_scale"])
            self.history = list(checkpoint.history)
            self._load_rng([checkpoint.resume["rng"], *checkpoint.resume.get("rng_of_others", [])])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise CheckpointError(f"this checkpoint cannot be resumed: {error}") from error
        if shapes != [tuple(s.shape) for s in self.model.initial_state(self.config.batch_size)]:
            raise CheckpointError("this checkpoint cannot be resumed with another batch size or architecture")

    def _load_rng(self, states: list[dict[str, Tensor]]) -> None:
        """The random-number states of all processes; a run that had fewer has none for this one."""
        if self.processes.rank >= len(states):
            self._reseed()
            return
        own = states[self.processes.rank]
        torch.set_rng_state(own["cpu"])
        if "cuda" in own and self.device.type == "cuda":
            torch.cuda.set_rng_state(own["cuda"], self.device)

    def _reseed(self) -> None:
        """Random numbers of this process's own: equal dropout in all rows would be half a dropout."""
        torch.manual_seed((self.config.seed + 7919 * self.processes.rank) % 2**63)


def corpus_summary(corpus: Corpus) -> dict[str, Any]:
    """What a checkpoint says of the text."""
    return {
        "name": corpus.name,
        "description": corpus.description,
        "arguments": list(corpus.arguments),
        "sha256": corpus.sha256,
        "characters": len(corpus.ids),
    }
