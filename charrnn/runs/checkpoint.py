"""Checkpoints: .pt files that hold plain values and tensors only, and no code.

A checkpoint holds all that resuming needs: weights, optimizer, schedule,
position in the text, hidden state, states of the random-number generators,
configuration, vocabulary and history. Tensors are stored as CPU tensors, so that
they load on any machine.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from charrnn_runtime import UsageError, Vocabulary
from torch import Tensor

from charrnn.config import DataConfig, ModelConfig, TrainConfig
from charrnn.errors import CheckpointError, ConfigError
from charrnn.files import write_atomically
from charrnn.model.char_rnn import CharRNN
from charrnn.version import __version__

FORMAT = 1
_FORMAT_KEY = "charrnn_checkpoint"


TURNED_UP = 0.01  # part of the lowest validation loss; smaller differences may be noise


def turned_up(history: Sequence[Mapping[str, Any]], patience: int) -> bool:
    """Whether the validation loss has turned up for good: more training makes the model worse.

    Args:
        history: the validations, oldest first.
        patience: how many of the last validations must be more than 1 % above the lowest one. 0: always False.
    """
    losses = [row["val_loss"] for row in history]
    return 0 < patience < len(losses) and min(losses[-patience:]) > (1 + TURNED_UP) * min(losses)


@dataclass(kw_only=True)
class Checkpoint:
    """A training run at one moment.

    Attributes:
        corpus: name, description, arguments, sha256 and length of the text.
        weights: the model's state_dict.
        progress: step, epoch, position, elapsed seconds, val_loss, best_val_loss.
        history: one entry for each validation: step, epoch, elapsed, train_loss, val_loss, val_error.
        resume: optimizer states, hidden state, random-number states.
        version: the version of charrnn that wrote it.
    """

    model_config: ModelConfig
    data_config: DataConfig
    train_config: TrainConfig
    vocabulary: Vocabulary
    corpus: dict[str, Any]
    weights: dict[str, Tensor]
    progress: dict[str, Any]
    history: list[dict[str, Any]]
    resume: dict[str, Any] = field(repr=False)
    version: str = __version__

    def completes(self, train_config: TrainConfig) -> bool:
        """Whether a run with this configuration ends here.

        The model has been validated, and the budget is used up or the validation loss has turned up for good.
        """
        step, epoch, elapsed = (self.progress[name] for name in ("step", "epoch", "elapsed"))
        validated = bool(self.history) and self.history[-1]["step"] == step
        return validated and (
            train_config.with_budget().fraction(step=step, epoch=epoch, elapsed=elapsed) >= 1.0
            or turned_up(self.history, train_config.patience)
        )

    def to_bytes(self) -> bytes:
        """The contents of the .pt file."""
        payload = {
            _FORMAT_KEY: FORMAT,
            "version": self.version,
            "model_config": self.model_config.to_json(),
            "data_config": self.data_config.to_json(),
            "train_config": self.train_config.to_json(),
            "vocabulary": self.vocabulary.to_json(),
            "corpus": self.corpus,
            "weights": self.weights,
            "progress": self.progress,
            "history": self.history,
            "resume": self.resume,
        }
        buffer = io.BytesIO()
        torch.save(on_cpu(payload), buffer)
        return buffer.getvalue()

    def save(self, *paths: Path) -> None:
        """Writes the file to each path. A path never holds a part of it.

        Raises:
            WriteError: a folder cannot be written, or the disk is full.
        """
        data = self.to_bytes()
        for path in paths:
            write_atomically(path, data)

    def build_model(self) -> CharRNN:
        """The model with its weights, on the CPU.

        Raises:
            CheckpointError: the weights do not fit the configuration.
        """
        config, vocab_size = self.model_config, len(self.vocabulary)
        try:
            if config.num_layers > len(self.weights):
                raise ValueError(f"{len(self.weights)} weights are too few for {config.num_layers} layers")
            # Shapes are compared first: with a damaged size, making the model could take all memory.
            with torch.device("meta"):
                expected = {name: tuple(w.shape) for name, w in CharRNN(config, vocab_size).state_dict().items()}
            given = {name: tuple(w.shape) for name, w in self.weights.items()}
            for name in sorted(expected.keys() | given.keys()):
                if expected.get(name) != given.get(name):
                    raise ValueError(f"{name} is {given.get(name)}, expected {expected.get(name)}")
            model = CharRNN(config, vocab_size)
            model.load_state_dict(self.weights)
        except (RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint's weights do not fit its configuration: {error}") from error
        return model


def load_checkpoint(path: Path, data: bytes | None = None) -> Checkpoint:
    """Reads a checkpoint; nothing in the file is executed.

    Args:
        path: the file.
        data: its contents, if they have been read already.

    Raises:
        CheckpointError: the file does not exist, is not a checkpoint, is cut short
            or damaged, was written by a version with other settings, or holds
            something else than tensors and plain values. A setting that is missing
            in the file takes its default.
    """
    try:
        data = path.read_bytes() if data is None else data
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not data.startswith(b"PK\x03\x04"):
        raise CheckpointError(f"{path}: not a charrnn checkpoint (a .pt file that charrnn train writes)")
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise CheckpointError(f"{path}: cut short or damaged; take an earlier checkpoint of the run")
    try:
        payload = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused: it holds more than tensors and plain values, or is damaged; nothing in it was executed"
        ) from error
    except Exception as error:  # for damaged archives, torch raises RuntimeError, EOFError, KeyError and others
        raise CheckpointError(f"{path}: damaged: {str(error).partition(chr(10))[0]}") from error
    if not isinstance(payload, dict) or _FORMAT_KEY not in payload:
        raise CheckpointError(f"{path}: a PyTorch file, but not a charrnn checkpoint")
    try:
        return _from_payload(payload)
    except _UnknownError as error:
        version = payload.get("version")
        raise CheckpointError(f"{path}: {error}{_written_by(version)}") from error
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise CheckpointError(f"{path}: the checkpoint lacks something or is damaged: {error}") from error


class _UnknownError(Exception):
    """The file holds something that this version does not know."""


# How each field of Checkpoint is read from its stored value.
_READERS: dict[str, Callable[[Any], Any]] = {
    "model_config": ModelConfig.from_json,
    "data_config": DataConfig.from_json,
    "train_config": TrainConfig.from_json,
    "vocabulary": Vocabulary.from_json,
    "corpus": dict,
    "weights": dict,
    "progress": dict,
    "history": list,
    "resume": dict,
    "version": str,
}


def _from_payload(payload: dict[Any, Any]) -> Checkpoint:
    """The checkpoint in a loaded file.

    Raises:
        _UnknownError: it has a part or a setting that this version does not know.
        KeyError, TypeError, ValueError, UsageError: it lacks a part, or a part is damaged.
    """
    written = payload[_FORMAT_KEY]
    if not isinstance(written, int) or written > FORMAT:
        raise _UnknownError(f"checkpoint format {written} is newer than format {FORMAT}")
    if unknown := payload.keys() - _READERS.keys() - {_FORMAT_KEY}:
        raise _UnknownError(f"unknown parts: {', '.join(sorted(map(str, unknown)))}")
    try:
        checkpoint = Checkpoint(**{name: read(payload[name]) for name, read in _READERS.items()})
    except ConfigError as error:
        raise _UnknownError(str(error)) from error
    _check_values(checkpoint)
    return checkpoint


def _written_by(version: Any) -> str:
    """The end of a message on something unknown: which version wrote the file, and the remedy."""
    if version == __version__:
        return f"; this version wrote it ({version}), so the file is damaged, or charrnn was changed since"
    if not isinstance(version, str) or not re.fullmatch(r"\d[\w.+]{0,40}", version, re.ASCII):
        return f"; this is charrnn {__version__}, a later version may read it: pip install -U charrnn"
    return f"; charrnn {version} wrote it, and this is {__version__}: pip install charrnn=={version}"


def _check_values(checkpoint: Checkpoint) -> None:
    """Raises KeyError, TypeError or ValueError if a value that is used later is missing or of the wrong type."""
    if not all(isinstance(w, Tensor) for w in checkpoint.weights.values()):
        raise TypeError("a weight is not a tensor")
    if not all(isinstance(a, str) for a in checkpoint.corpus["arguments"]):
        raise TypeError("the text's names are not strings")
    counters = ("step", "epoch", "elapsed")
    numbers = [
        (checkpoint.progress, counters),
        *((e, (*counters, "train_loss", "val_loss")) for e in checkpoint.history),
    ]
    for values, names in numbers:
        for name in names:
            if not isinstance(values[name], (int, float)):
                raise TypeError(f"{name} is not a number")


def on_cpu(value: Any) -> Any:
    """A copy of nested containers in which every tensor is a detached copy on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {k: on_cpu(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [on_cpu(v) for v in value]
    return value
