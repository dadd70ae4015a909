"""Models from files of either kind: checkpoints and exported model files."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from charrnn_runtime import ModelFile, Sampler, UnknownCharacterError, read_model_file
from charrnn_runtime.model_file import read_bytes

from charrnn.data.containers import ZIP
from charrnn.errors import CorpusError
from charrnn.inference.training_summary import training_summary
from charrnn.runs.folder import find_checkpoint
from charrnn.version import __version__

if TYPE_CHECKING:
    from charrnn_export import Exported
    from charrnn_runtime.vocab import Ids
    from numpy.typing import NDArray

    from charrnn.runs.checkpoint import Checkpoint

MEASURED = 65_536  # tokens of a text on which int8 and float16 are measured
_PIECES = 16  # of running text, scored side by side


Dtype = Literal["float32", "float16", "int8"]
DTYPES: dict[str, Dtype] = {"fp32": "float32", "fp16": "float16", "int8": "int8"}  # as the command line calls them


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint, by its first bytes or else by its name. Of a pipe only the name is looked at."""
    try:
        if path.is_file():
            with path.open("rb") as file:
                if file.read(len(ZIP)) == ZIP:
                    return True
    except OSError:
        pass  # reading the file gives the error message
    return path.suffix == ".pt"


def read_model(path: str | os.PathLike[str]) -> Checkpoint | ModelFile:
    """A model file, a checkpoint or the checkpoint of a run folder. It is read once, so that it may be a pipe.

    Raises:
        CharrnnError: the file cannot be read, or is neither a model file nor a checkpoint.
    """
    found = find_checkpoint(Path(path))
    data = None if found.suffix == ".pt" else read_bytes(found)
    if data is not None and not data.startswith(ZIP):
        return read_model_file(data, name=str(found))
    from charrnn.runs.checkpoint import load_checkpoint  # imports torch

    return load_checkpoint(found, data)


def open_sampler(path: str | os.PathLike[str], *, device: str = "cpu", expected_batch: int = 1) -> Sampler:
    """A sampler for a model file, a checkpoint or a run folder.

    A checkpoint is exported in memory first, so that both kinds go through
    the same graph and give the same text.

    Raises:
        CharrnnError: the file cannot be read, or is neither a model file nor a checkpoint.
    """
    model = read_model(path)
    if not isinstance(model, ModelFile):
        from charrnn_export.verify import SHORT_STEPS

        # The complete parity check is for files that are given to others.
        model = read_model_file(export_checkpoint(model, parity_steps=SHORT_STEPS).data, name=os.fspath(path))
    return Sampler(model, device=device, expected_batch=expected_batch)


def export_checkpoint(
    checkpoint: Checkpoint,
    *,
    opset: int | None = None,
    parity_steps: int | None = None,
    parity_seed: int = 0,
    unverified: bool = False,
    dtype: Dtype = "float32",
    text: Sequence[str] = (),
    max_loss_increase: float | None = None,
) -> Exported:
    """The model file for a checkpoint, in memory.

    Args:
        checkpoint: the model.
        opset, parity_steps, parity_seed, unverified: see ``charrnn_export.export_model``.
        dtype: of the weights in the file. Of a smaller one, the increase of the loss is measured, unless
            ``max_loss_increase`` is infinite.
        text: the text to measure it on; by default the validation part of the training text. If there
            is any, the parity check goes along it too.
        max_loss_increase: by how many nats per character the loss may be higher than with float32.

    Raises:
        ExportError: the graph cannot be made, or does not compute what the model computes.
        CorpusError: the text cannot be read.
    """
    from charrnn_export import DEFAULT_OPSET, export_model
    from charrnn_export.export import MAX_LOSS_INCREASE
    from charrnn_export.verify import STEPS

    model = checkpoint.build_model()
    return export_model(
        model.export_weights(),
        checkpoint.vocabulary,
        model.sequence_forward(),
        training=training_summary(checkpoint),
        producer={"charrnn": __version__},
        opset=opset or DEFAULT_OPSET,
        parity_steps=parity_steps or STEPS,
        parity_seed=parity_seed,
        unverified=unverified,
        dtype=dtype,
        validation=_validation(checkpoint, text)
        if text or (dtype != "float32" and max_loss_increase != math.inf)
        else (),
        max_loss_increase=MAX_LOSS_INCREASE if max_loss_increase is None else max_loss_increase,
    )


def _validation(checkpoint: Checkpoint, text: Sequence[str]) -> list[Ids]:
    """Texts to measure a quantised model on: items, or pieces of running text."""
    import numpy as np

    from charrnn.data.corpus import read_corpus, remembered_arguments
    from charrnn.data.split import split_text

    arguments = text or remembered_arguments(checkpoint.corpus, "name a text to measure on: --text FILE")
    try:
        corpus = read_corpus(arguments, checkpoint.data_config, known=checkpoint.vocabulary, fixed="error")
    except UnknownCharacterError as error:
        raise CorpusError(
            f"{arguments[0] if arguments else 'this text'}: it holds characters that the model has never seen "
            f"({error.character!r}); name another text"
        ) from error
    if not text and corpus.sha256 != checkpoint.corpus.get("sha256"):
        raise CorpusError(f"{corpus.description}: no longer the text of the training; name one with --text")
    data, train = checkpoint.data_config, checkpoint.train_config
    if data.has_items:
        assert corpus.items is not None
        from charrnn.data.item_streams import Items

        if text:  # the items that fit within the limit, at least one
            numbers = np.arange(max(1, int(np.searchsorted(corpus.items[1:], MEASURED, side="right"))))
        else:
            numbers = Items(corpus, data).validation_items(MEASURED)
        # Without the begin token, which scoring feeds first.
        return [corpus.ids[corpus.items[i] + 1 : corpus.items[i + 1]].astype(np.int64) for i in numbers.tolist()]
    if text:
        return _pieces(corpus.ids[:MEASURED])
    split = split_text(len(corpus.ids), data, batch_size=train.batch_size, seq_len=train.seq_len)
    return _pieces(corpus.ids[split.val.positions(MEASURED)])


def _pieces(ids: NDArray[Any]) -> list[Ids]:
    import numpy as np

    return np.array_split(np.asarray(ids, np.int64), _PIECES)
