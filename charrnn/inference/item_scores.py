"""Scoring a text item by item, or line by line, in memory that does not grow with it."""

from __future__ import annotations

import itertools
import math
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from charrnn_runtime import Sampler
from charrnn_runtime.vocab import Unknown

from charrnn.config import DataConfig
from charrnn.data import corpus
from charrnn.data.item_filter import item_hash
from charrnn.data.split import Part
from charrnn.errors import ConfigError, CorpusError
from charrnn.inference.training_summary import item_split

_BATCH = 256  # items side by side
_TOGETHER = 4096  # items that are looked at together, so that those of like lengths go side by side
_CHARACTERS = 1 << 20  # of all of them


@dataclass(frozen=True, kw_only=True)
class ItemScore:
    """How likely a model finds an item.

    Attributes:
        text: the item.
        nats: its negative log-probability, its end included.
        tokens: over how many tokens: its characters (or bytes) and its end.
    """

    text: str
    nats: float
    tokens: int

    @property
    def bits(self) -> float:
        """``nats`` in bits."""
        return self.nats / math.log(2)

    @property
    def bits_per_char(self) -> float:
        """Bits for each token, which compares items of any length."""
        return self.bits / max(1, self.tokens)


def item_texts(arguments: Sequence[str], config: DataConfig) -> Iterator[str]:
    """The items of a text, named as for training; empty ones are left out, as in training."""
    return corpus.read_items(arguments, config)


def score_items(
    sampler: Sampler,
    arguments: Sequence[str],
    config: DataConfig,
    *,
    split: Literal["all"] | Part = "all",
    unknown: Unknown = "error",
) -> Iterator[ItemScore]:
    """Scores the items of a text one by one, each from the beginning, in their order.

    A model that knows no end of an item is given lines, each with its newline.

    Args:
        sampler: the model.
        arguments: the text, named as for training.
        config: how it is divided.
        split: "all", or the items that training took for "train", "val" or "test", by their hashes.
        unknown: "error", or "skip" to leave out characters that the model does not know.

    Raises:
        ConfigError: the model knows no items, and the text is not divided by lines, or a split is asked for;
            or training kept no items for a test.
        CorpusError: the text cannot be read, or holds nothing to score.
        UnknownCharacterError: the model has never seen one of its characters.
    """
    vocabulary = sampler.vocabulary
    end = vocabulary.special.get("end")
    if end is None and (split != "all" or config.separator is not None or config.column is not None):
        raise ConfigError("the model was trained on running text: it scores whole lines (--per-line), without --split")
    newline = vocabulary.token("\n")
    tail = [newline if end is None else end]
    if tail == [None]:
        raise ConfigError("the model knows neither an end of items nor a newline; score the text as a whole")
    parts = None if split == "all" else item_split(sampler.info, split)
    found = False
    for texts in _batches(item_texts(arguments, config)):
        if parts is not None and split != "all":
            hashes = np.fromiter(map(item_hash, texts), np.uint64)
            texts = list(itertools.compress(texts, parts.mask(hashes, split)))
        ids = [np.concatenate([vocabulary.encode(text, unknown=unknown), tail]) for text in texts]
        for text, log_probs in zip(texts, sampler.score_many(ids, batch=_BATCH), strict=True):
            found = True
            yield ItemScore(text=text, nats=-float(log_probs.sum()), tokens=len(log_probs))
    if not found:
        raise CorpusError(f"{arguments[0]}: there is nothing to score in it")


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if len(batch) == _TOGETHER or characters >= _CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def by_surprisal(scores: Iterable[ItemScore]) -> Iterator[ItemScore]:
    """The scores sorted by bits per character, highest first.

    The texts wait in a temporary file; 24 bytes of memory are needed for each.
    """
    nats, tokens, ends = array("d"), array("q"), array("q", [0])
    with tempfile.TemporaryFile() as spool:
        for score in scores:
            nats.append(score.nats)
            tokens.append(score.tokens)
            ends.append(ends[-1] + spool.write(score.text.encode("utf-8", "surrogatepass")))
        for i in np.argsort(-np.asarray(nats) / np.asarray(tokens), kind="stable").tolist():
            spool.seek(ends[i])
            text = spool.read(ends[i + 1] - ends[i]).decode("utf-8", "surrogatepass")
            yield ItemScore(text=text, nats=nats[i], tokens=tokens[i])
