"""What a model file says of its training: written from a checkpoint, read for evaluation. One owner of both directions.

The entry ``charrnn.training`` of a model file is optional, and so is each of
its values. A value that is absent stands for the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from charrnn_runtime import ModelFileError

from charrnn.config import DataConfig
from charrnn.data.split import ItemSplit, Part, TextSplit, split_end, split_streams
from charrnn.errors import ConfigError

if TYPE_CHECKING:
    from charrnn_runtime import ModelInfo

    from charrnn.runs.checkpoint import Checkpoint

# Fields of DataConfig that are stored always, and those that are stored if they are not the default. Kind of tokens and
# normal form are the vocabulary's. The encoding is not stored: it belongs to a file, and other texts have other ones.
_FIELDS = ("val_frac", "split", "newlines", "lines", "separator", "column")
_OPTIONAL = ("test_frac", "delimiter", "label", "label_dropout")


def training_summary(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """What a model file says of its training."""
    data, train = checkpoint.data_config, checkpoint.train_config
    summary = {
        "corpus": checkpoint.corpus.get("name"),
        "corpus_sha256": checkpoint.corpus.get("sha256"),
        "characters": checkpoint.corpus.get("characters"),
        **{name: getattr(data, name) for name in _FIELDS},
        "step": checkpoint.progress.get("step"),
        "epochs": round(checkpoint.progress.get("epoch") or 0.0, 4),
        "val_loss": checkpoint.progress.get("val_loss"),
        "history": [
            [entry["step"], round(entry["train_loss"], 5), round(entry["val_loss"], 5)] for entry in checkpoint.history
        ],
    }
    summary |= {name: getattr(data, name) for name in _OPTIONAL if getattr(data, name) != getattr(DataConfig(), name)}
    if data.split == "streams":
        summary["streams"] = [train.batch_size, train.seq_len]
    if labels := checkpoint.corpus.get("labels"):
        summary["labels"] = labels
    item_split = checkpoint.corpus.get("item_split")
    if item_split is not None and item_split != ItemSplit.by_fractions(data).to_json():
        summary["item_split"] = item_split
    return summary


def data_config(info: ModelInfo) -> DataConfig:
    """How a model's training text became tokens, and how it was divided.

    Raises:
        ModelFileError: the file's description of its training is damaged.
    """
    stored = {name: info.training[name] for name in (*_FIELDS, *_OPTIONAL) if info.training.get(name) is not None}
    is_bytes = info.vocabulary.kind == "bytes"
    try:
        return DataConfig(**stored, bytes=is_bytes, normalize=None if is_bytes else info.vocabulary.normalize)
    except (ConfigError, TypeError) as error:
        raise _damaged(error) from error


def text_split(info: ModelInfo, length: int, part: Part) -> TextSplit:
    """The parts of a model's training text, of ``length`` characters.

    Raises:
        ConfigError: the model's training kept no such part, or divided the text in items.
        CorpusError: a text of this length cannot be divided into streams.
        ModelFileError: the file does not say how, or its description of its training is damaged.
    """
    config = _config_with(info, part)
    if "end" in info.vocabulary.special:
        raise ConfigError(f"the model was trained on items: as running text, --split {part} does not exist; use all")
    if config.split == "end":
        return split_end(length, config)
    streams = info.training.get("streams")
    if streams is None:
        raise ConfigError("the model file does not say how its training divided the text; export its checkpoint again")
    try:
        batch_size, seq_len = streams
        if not all(isinstance(n, int) and n > 0 for n in (batch_size, seq_len)):
            raise ValueError(f"streams must be two numbers above 0, got {streams}")
    except (TypeError, ValueError) as error:
        raise _damaged(error) from error
    return split_streams(length, config, batch_size=batch_size, seq_len=seq_len)


def item_split(info: ModelInfo, part: Part) -> ItemSplit:
    """The parts into which a model's training divided items.

    Raises:
        ConfigError: the model's training kept no such part.
        ModelFileError: the file's description of its training is damaged.
    """
    config = _config_with(info, part)
    stored = info.training.get("item_split")
    try:
        return ItemSplit.by_fractions(config) if stored is None else ItemSplit.from_json(stored)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(error) from error


def item_config(info: ModelInfo) -> DataConfig:
    """``data_config`` for reading items; one item a line if the model was trained on running text."""
    config = data_config(info)
    return config if config.has_items else replace(config, lines=True, split="end")


def _config_with(info: ModelInfo, part: Part) -> DataConfig:
    config = data_config(info)
    if part == "test" and not config.test_frac:
        raise ConfigError("--split test: training kept no text for a test; train with --test-frac")
    return config


def _damaged(error: Exception) -> ModelFileError:
    return ModelFileError(f"metadata 'charrnn.training': {error}; export the model's checkpoint again")
