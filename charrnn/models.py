"""Models from files of either kind: checkpoints and exported model files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from charrnn_runtime import Sampler, UnknownCharacterError

from charrnn import __version__
from charrnn.errors import CorpusError
from charrnn.run_folder import find_checkpoint

if TYPE_CHECKING:
    from charrnn_export import Exported
    from charrnn_runtime.vocab import Ids

    from charrnn.checkpoint import Checkpoint

MEASURED = 1_000_000  # token ids of a text that are handed to the measurement of int8, which reads fewer


Dtype = Literal["float32", "float16", "int8"]
DTYPES: dict[str, Dtype] = {"fp32": "float32", "fp16": "float16", "int8": "int8"}  # as the command line calls them


def is_checkpoint(path: Path) -> bool:
    """Whether a file is to be read as a checkpoint; looks at its first bytes, or else at its name."""
    try:
        with path.open("rb") as file:
            if file.read(4) == b"PK\x03\x04":
                return True
    except OSError:
        pass  # whoever opens it says what is wrong
    return path.suffix == ".pt"


def open_sampler(path: Path, *, device: str = "cpu", expected_batch: int = 1) -> Sampler:
    """A sampler for a model file, a checkpoint or a run folder.

    A checkpoint is exported in memory first, so that both kinds go through
    the same graph and give the same text.

    Raises:
        CharrnnError: the file cannot be read or is none of ours.
    """
    path = find_checkpoint(path)
    if not is_checkpoint(path):
        return Sampler(path, device=device, expected_batch=expected_batch)
    from charrnn.checkpoint import load_checkpoint

    # The whole parity check is for files that leave the house.
    data = export_checkpoint(load_checkpoint(path), parity_steps=50).data
    return Sampler(data, device=device, expected_batch=expected_batch)


def export_checkpoint(
    checkpoint: Checkpoint,
    *,
    opset: int | None = None,
    parity_steps: int | None = None,
    dtype: Dtype = "float32",
    text: Sequence[str] = (),
    max_cost: float | None = None,
) -> Exported:
    """The model file for a checkpoint, in memory.

    Args:
        checkpoint: the model.
        opset, parity_steps: see ``charrnn_export.export_model``.
        dtype: of the weights in the file; what a smaller one costs is measured, unless ``max_cost`` is infinite.
        text: the text to measure it on; by default the validation part of the training text.
        max_cost: how many nats per character it may cost.

    Raises:
        ExportError: the graph cannot be made, or does not compute what the model computes.
        CorpusError: the text cannot be read.
    """
    from charrnn_export import DEFAULT_OPSET, export_model
    from charrnn_export.export import MAX_COST
    from charrnn_export.verify import STEPS

    model = checkpoint.build_model()
    return export_model(
        model.export_weights(),
        checkpoint.vocabulary,
        model.sequence_logits,
        training=training_summary(checkpoint),
        producer={"charrnn": __version__},
        opset=opset or DEFAULT_OPSET,
        parity_steps=parity_steps or STEPS,
        dtype=dtype,
        validation=_validation(checkpoint, text) if dtype != "float32" and max_cost != math.inf else None,
        max_cost=MAX_COST if max_cost is None else max_cost,
    )


def _validation(checkpoint: Checkpoint, text: Sequence[str]) -> Ids:
    """Token ids to measure a quantised model on."""
    import numpy as np

    from charrnn.corpus import read_corpus
    from charrnn.streams import split_streams

    arguments = text or checkpoint.corpus.get("arguments", ())
    try:
        corpus = read_corpus(arguments, checkpoint.data_config, known=checkpoint.vocabulary, fixed="error")
    except UnknownCharacterError as error:
        raise CorpusError(
            f"{arguments[0] if arguments else 'this text'}: it holds characters that the model has never seen "
            f"({error.character!r}); name another text"
        ) from error
    if text:
        return corpus.ids[:MEASURED].astype("int64")
    if corpus.sha256 != checkpoint.corpus.get("sha256"):
        raise CorpusError(f"{corpus.description}: no longer the text that the model was trained on; name one: --text")
    if corpus.items is not None:
        from charrnn.packed import Items

        # One item behind the other; that the state is not reset between them is alike for both models.
        items = Items(corpus, checkpoint.data_config.val_frac)
        parts = [corpus.ids[items.bounds[i] : items.bounds[i + 1]] for i in items.validation_items(MEASURED)]
        return np.concatenate(parts).astype(np.int64)
    split = split_streams(
        corpus.ids,
        kind=checkpoint.data_config.split,
        val_frac=checkpoint.data_config.val_frac,
        batch_size=checkpoint.train_config.batch_size,
        seq_len=checkpoint.train_config.seq_len,
    )
    if split.val is None:
        return split.val_ids[:MEASURED].astype("int64")
    # The ends of all streams, one behind the other: what was not trained on.
    places = split.val.starts_B[:, None] + np.arange(split.val.length)
    return np.asarray(corpus.ids[places.ravel()[:MEASURED]], np.int64)


def training_summary(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """What a model file says of its training."""
    return {
        "corpus": checkpoint.corpus.get("name"),
        "corpus_sha256": checkpoint.corpus.get("sha256"),
        "characters": checkpoint.corpus.get("characters"),
        "val_frac": checkpoint.data_config.val_frac,
        "split": checkpoint.data_config.split,
        "newlines": checkpoint.data_config.newlines,
        "lines": checkpoint.data_config.lines,
        "separator": checkpoint.data_config.separator,
        "column": checkpoint.data_config.column,
        "step": checkpoint.progress.get("step"),
        "epochs": round(checkpoint.progress.get("epoch") or 0.0, 4),
        "val_loss": checkpoint.progress.get("val_loss"),
        "history": [
            [entry["step"], round(entry["train_loss"], 5), round(entry["val_loss"], 5)] for entry in checkpoint.history
        ],
    }
