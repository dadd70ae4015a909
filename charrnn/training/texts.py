"""The kinds of text that a run can be trained on: one interface for the training loop, three implementations.

    RunningText    one long text: readers go round its training part
    StreamText     char-rnn's division: each reader goes round its own stream of the text
    ItemText       items in a new order every epoch; the state is zero at the beginning of each

``training_text`` chooses the implementation. Nothing else in training asks what
kind of text it has.

Letters: T sequence, B rows of the batch that this process has, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from charrnn.config import DataConfig, TrainConfig, parse_replay
from charrnn.data import item_filter
from charrnn.data.corpus import Corpus
from charrnn.data.item_streams import NO_TARGET, Items, ItemStreams
from charrnn.data.split import split_end, split_streams
from charrnn.data.streams import Streams
from charrnn.errors import ConfigError, CorpusError
from charrnn.model.char_rnn import CharRNN
from charrnn.training.distributed import SINGLE, Processes
from charrnn.training.validation import MeanLoss, items_loss, streams_loss, validation_loss

Reader: TypeAlias = "Streams | ItemStreams | MixedReader"

MIN_CHARACTERS = 20
MIN_SEQ_LEN = 8


class TrainingText(ABC):
    """A text as the training loop sees it.

    Args:
        corpus: the text.
        data: how it is divided, and how much of it a validation reads.
        train: batch size, sequence length and seed.
        processes: the processes of the run; each reads its own rows of the batch.

    Attributes:
        reader: deals out the batches of this process.
        characters: number of characters in the training part.
        batches: batches of the whole text and of its training part, where they are counted; else None.

    Raises:
        CorpusError: the text cannot be divided.
    """

    min_seq_len: ClassVar[int] = 1  # so that every batch has a target
    reader: Reader
    characters: int
    batches: tuple[int, int] | None = None

    @abstractmethod
    def __init__(self, corpus: Corpus, data: DataConfig, train: TrainConfig, processes: Processes = SINGLE) -> None: ...

    @abstractmethod
    def validation_loss(self, model: CharRNN) -> MeanLoss:
        """Mean negative log-likelihood of the validation part, in nats per character; the same in all processes."""

    @property
    def epoch(self) -> float:
        """Number of passes over the training part so far."""
        return self.reader.epoch

    @property
    def position(self) -> int:
        """Number of tokens that each row of the batch has read."""
        return self.reader.position

    def next(self, seq_len: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """The next inputs and targets, int64 ``[T, B]`` each."""
        return self.reader.next(seq_len)

    def resets(self, x_TB: Tensor) -> Tensor | None:  # noqa: ARG002
        """Where the state becomes zero after the inputs, bool ``[T, B]``; None if it never does."""
        return None

    def loss(self, logits_TBV: Tensor, y_TB: Tensor) -> tuple[Tensor, int | Tensor]:
        """Mean cross-entropy in nats over this process's targets, and how many targets there are."""
        return F.cross_entropy(logits_TBV.flatten(0, 1), y_TB.flatten()), y_TB.numel()

    def row_state(self) -> tuple[Tensor, ...]:
        """For a checkpoint: the state of each row besides ``position``, tensors ``[B, …]`` on the CPU."""
        return self.reader.row_state()

    def load_state(self, position: int, row_state: Sequence[Tensor]) -> None:
        """Continues where a text with this ``position`` and ``row_state`` was.

        Raises:
            ValueError: the state is of another kind of text, or of another number of rows.
        """
        self.reader.load_state(position, row_state)

    def summary(self) -> dict[str, Any]:
        """For a checkpoint: plain values that tell how this text was divided, beyond what ``DataConfig`` says."""
        return {}

    def save_files(self, folder: Path) -> None:  # noqa: B027
        """Writes what other commands need to know of the training part into the run folder; most kinds have nothing."""


class MixedReader:
    """Two readers side by side: the first rows of a batch are of one text, the last ones of another.

    Args:
        main: reads the text of the run, which says how many passes have been made.
        other: reads the other text, of the same kind.
        rows: number of rows that ``main`` has.
    """

    def __init__(self, main: Reader, other: Reader, rows: int) -> None:
        self._main, self._other, self._rows = main, other, rows

    @property
    def epoch(self) -> float:
        """Number of passes over the text of the run so far."""
        return self._main.epoch

    @property
    def position(self) -> int:
        """Number of tokens that each row has read."""
        return self._main.position

    def next(self, seq_len: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """The next inputs and targets, both ``[T, B]``."""
        inputs, targets = zip(self._main.next(seq_len), self._other.next(seq_len), strict=True)
        return np.concatenate(inputs, axis=1), np.concatenate(targets, axis=1)

    def row_state(self) -> tuple[Tensor, ...]:
        """The state of each row."""
        return tuple(torch.cat(both) for both in zip(self._main.row_state(), self._other.row_state(), strict=True))

    def load_state(self, position: int, row_state: Sequence[Tensor]) -> None:
        """Sets where the readers are; raises ValueError if the state is that of another reader."""
        self._main.load_state(position, [state[: self._rows] for state in row_state])
        self._other.load_state(position, [state[self._rows :] for state in row_state])


class RunningText(TrainingText):
    """One long text. Its end is for validation."""

    def __init__(self, corpus: Corpus, data: DataConfig, train: TrainConfig, processes: Processes = SINGLE) -> None:
        split = split_end(len(corpus.ids), data)
        self.reader = Streams.around(corpus.ids[: split.train.length], train.batch_size).rows(
            processes.rows(train.batch_size)
        )
        self.characters = split.train.characters
        start = int(split.val.starts_P[0])
        self._val_ids = corpus.ids[start : start + split.val.length]
        self._start_token = corpus.vocabulary.start_token
        self._max_tokens, self._processes = data.val_max, processes

    def validation_loss(self, model: CharRNN) -> MeanLoss:
        """Every character is scored, up to ``val_max``; the state is carried."""
        return validation_loss(model, self._val_ids, self._start_token, self._processes, max_tokens=self._max_tokens)


class StreamText(TrainingText):
    """A text in as many streams as the batch has rows; the end of each stream is for validation."""

    def __init__(self, corpus: Corpus, data: DataConfig, train: TrainConfig, processes: Processes = SINGLE) -> None:
        batch_size, seq_len = train.batch_size, train.seq_len
        split = split_streams(len(corpus.ids), data, batch_size=batch_size, seq_len=seq_len)
        self.reader = Streams(corpus.ids, split.train.starts_P, split.train.length).rows(processes.rows(batch_size))
        self.characters, self.batches = split.train.characters, split.batches
        self._val = Streams(corpus.ids, split.val.starts_P, split.val.length)
        self._seq_len, self._max_tokens, self._processes = seq_len, data.val_max, processes

    def validation_loss(self, model: CharRNN) -> MeanLoss:
        """Each stream is read from the zero state."""
        return streams_loss(model, self._val, self._seq_len, self._processes, max_tokens=self._max_tokens)


class ItemText(TrainingText):
    """Items. The hash of an item decides which part it is in."""

    # After the end of an item there is nothing to predict: only one of two neighbouring inputs can be an end.
    min_seq_len = 2

    def __init__(self, corpus: Corpus, data: DataConfig, train: TrainConfig, processes: Processes = SINGLE) -> None:
        self.items = Items(corpus, data)
        self.reader = self.items.streams(train.batch_size, train.seed).rows(processes.rows(train.batch_size))
        self.characters = self.items.train_tokens - self.items.train_items  # the ends of items are counted
        self._filter_name = item_filter.file_name(corpus.sha256)
        self._max_tokens, self._processes = data.val_max, processes

    def validation_loss(self, model: CharRNN) -> MeanLoss:
        """The ends of items are scored, too."""
        return items_loss(model, self.items, self._processes, max_tokens=self._max_tokens)

    def resets(self, x_TB: Tensor) -> Tensor:
        """After the end of an item."""
        return x_TB == self.items.end

    def loss(self, logits_TBV: Tensor, y_TB: Tensor) -> tuple[Tensor, int | Tensor]:
        """The ends of items have no target. By chance, a process may have no target at all in a batch."""
        count = (y_TB != NO_TARGET).sum()
        total = F.cross_entropy(logits_TBV.flatten(0, 1), y_TB.flatten(), ignore_index=NO_TARGET, reduction="sum")
        return total / count.clamp(min=1), count

    def summary(self) -> dict[str, Any]:
        """The limits of hashes, which may have been moved so that no part is empty, and how many items have labels."""
        labels = {"labels": self.items.label_counts} if self.items.labels else {}
        return {"item_split": self.items.split.to_json(), **labels}

    def save_files(self, folder: Path) -> None:
        """The filter that tells whether a sampled item is one of the training items."""
        path = folder / self._filter_name
        if not path.exists():
            item_filter.save(path, self.items.train_hashes(), self.items.train_items)


def _kind(data: DataConfig) -> type[TrainingText]:
    if data.has_items:
        return ItemText
    return StreamText if data.split == "streams" else RunningText


def training_text(
    corpus: Corpus,
    data: DataConfig,
    train: TrainConfig,
    processes: Processes = SINGLE,
    *,
    replay: Corpus | None = None,
) -> TrainingText:
    """The text, of the kind that the configuration names.

    Args:
        corpus: the text.
        data, train: how it is divided and read.
        processes: the processes of the run; only one if there is another text.
        replay: another text, in the same vocabulary, of which ``replay_rows(train)`` rows of each batch are read.

    Raises:
        CorpusError: a text cannot be divided.
    """
    kind = _kind(data)
    if replay is None:
        return kind(corpus, data, train, processes)
    other = replay_rows(train)
    rows = train.batch_size - other
    text = kind(corpus, data, replace(train, batch_size=rows))
    text.reader = MixedReader(text.reader, kind(replay, data, replace(train, batch_size=other)).reader, rows)
    return text


def replay_rows(train: TrainConfig) -> int:
    """Rows of a batch that are read from the text of ``--replay``: its share, but at least one, and not all."""
    assert train.replay is not None
    if train.batch_size < 2:
        raise ConfigError("--replay divides the rows of a batch between two texts; give --batch-size 2 or more")
    _, share = parse_replay(train.replay)
    return min(max(round(share * train.batch_size), 1), train.batch_size - 1)


def fit_batch(corpus: Corpus, data: DataConfig, train: TrainConfig, on_notice: Callable[[str], None]) -> TrainConfig:
    """The configuration, with batch size and sequence length made smaller for a short text.

    Raises:
        CorpusError: the text is too short to be trained on.
    """
    total = len(corpus.ids)
    n_train = split_end(total, data).train.length
    if total < MIN_CHARACTERS or n_train <= MIN_SEQ_LEN:
        raise CorpusError(
            f"{corpus.description}: {total} characters ({n_train} of them for training) are too few; "
            f"at least {MIN_CHARACTERS} are needed, {MIN_SEQ_LEN + 1} of them for training "
            "(a lower --val-frac or --test-frac leaves more), and a few thousand before a model learns anything"
        )
    batch_size = train.batch_size
    while batch_size > 1 and batch_size * train.seq_len > n_train:
        batch_size = max(1, batch_size // 2)
    seq_len = max(min(train.seq_len, n_train - 1), _kind(data).min_seq_len)
    if (batch_size, seq_len) != (train.batch_size, train.seq_len):
        on_notice(
            f"the training text has {n_train:,} characters, and one batch of {train.batch_size} streams × "
            f"{train.seq_len} characters needs {train.batch_size * train.seq_len:,}: "
            f"shrunk to {batch_size} × {seq_len}"
        )
    return replace(train, batch_size=batch_size, seq_len=seq_len)
