"""Scoring a text item by item, or line by line, in memory that does not grow with it."""

from __future__ import annotations

import itertools
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
from charrnn_runtime import CharrnnError, Sampler
from charrnn_runtime.scoring import ItemScore
from charrnn_runtime.text_scores import Line

from charrnn.config import DataConfig
from charrnn.data import corpus
from charrnn.data.item_filter import item_hash
from charrnn.data.split import Part
from charrnn.errors import ConfigError
from charrnn.files import temporary_folder
from charrnn.inference.training_summary import item_split

_IN_MEMORY = 64 << 20  # bytes of texts to sort that stay in memory


def item_texts(arguments: Sequence[str], config: DataConfig) -> Iterator[str | bytes]:
    """The items of a text, named as for training; empty ones are left out, as in training."""
    return corpus.read_items(arguments, config)


def item_lines(
    sampler: Sampler, arguments: Sequence[str], config: DataConfig, *, split: Literal["all"] | Part = "all"
) -> Iterator[list[Line]]:
    """The items of a text to be scored, in lists of those that have arrived, to be scored together.

    A model that does not end its texts itself is given lines.

    Args:
        sampler: the model.
        arguments: the text, named as for training.
        config: how it is divided.
        split: "all", or the items that training took for "train", "val" or "test", by their hashes.

    Raises:
        ConfigError: the model was trained on running text, and the text is not divided by lines, or a split is
            asked for; or training kept no items for a test.
        CorpusError: the text cannot be read.
    """
    running = "end" not in sampler.vocabulary.special
    if running and (split != "all" or config.separator is not None or config.column is not None):
        raise ConfigError("the model was trained on running text: it scores whole lines (--per-line), without --split")
    if running and sampler.vocabulary.token("\n") is None:
        raise ConfigError("the model knows neither an end of items nor a newline; score the text as a whole")
    parts = None if split == "all" else item_split(sampler.info, split)
    for lines in corpus.read_item_lines(arguments, config):
        if parts is None or split == "all":
            yield lines
        else:
            hashes = np.fromiter((item_hash(line.text) for line in lines), np.uint64)
            yield list(itertools.compress(lines, parts.mask(hashes, split)))


def by_surprisal(scores: Iterable[ItemScore]) -> Iterator[ItemScore]:
    """The scores sorted by bits per character, highest first.

    The texts wait in memory, and beyond 64 MiB in a temporary file; each needs 40 bytes of memory more.

    Raises:
        CharrnnError: there are more, and no temporary file can be written.
    """
    nats, tokens, unknown, ends = array("d"), array("q"), array("q"), array("q", [0])
    label_of, labels = array("q"), dict[str, int]()
    as_bytes = False
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as spool:
        for score in scores:
            as_bytes = isinstance(score.text, bytes)
            data = score.text if isinstance(score.text, bytes) else score.text.encode("utf-8", "surrogatepass")
            nats.append(score.nats)
            tokens.append(score.tokens)
            unknown.append(score.num_unknown)
            label_of.append(labels.setdefault(score.label, len(labels)))
            try:
                spool.write(data)
            except OSError as error:
                raise CharrnnError(
                    f"{temporary_folder()}: the texts to sort cannot be written there: {error.strerror or error}; "
                    "name another folder in the variable TMPDIR, or leave out --sort"
                ) from error
            ends.append(ends[-1] + len(data))
        names = list(labels)
        for i in np.argsort(-np.asarray(nats) / np.asarray(tokens), kind="stable").tolist():
            spool.seek(ends[i])
            data = spool.read(ends[i + 1] - ends[i])
            text = data if as_bytes else data.decode("utf-8", "surrogatepass")
            yield ItemScore(text, nats[i], tokens[i], unknown[i], names[label_of[i]])
