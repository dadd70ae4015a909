"""Models from files of either kind: checkpoints and exported model files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charrnn_runtime import Sampler

from charrnn import __version__
from charrnn.run_folder import find_checkpoint

if TYPE_CHECKING:
    from charrnn_export import Exported

    from charrnn.checkpoint import Checkpoint


def is_checkpoint(path: Path) -> bool:
    """Whether a file is to be read as a checkpoint; looks at its first bytes, or else at its name."""
    try:
        with path.open("rb") as file:
            if file.read(4) == b"PK\x03\x04":
                return True
    except OSError:
        pass  # whoever opens it says what is wrong
    return path.suffix == ".pt"


def open_sampler(path: Path, *, device: str = "cpu") -> Sampler:
    """A sampler for a model file, a checkpoint or a run folder.

    A checkpoint is exported in memory first, so that both kinds go through
    the same graph and give the same text.

    Raises:
        CharrnnError: the file cannot be read or is none of ours.
    """
    path = find_checkpoint(path)
    if not is_checkpoint(path):
        return Sampler(path, device=device)
    from charrnn.checkpoint import load_checkpoint

    # The whole parity check is for files that leave the house.
    return Sampler(export_checkpoint(load_checkpoint(path), parity_steps=50).data, device=device)


def export_checkpoint(checkpoint: Checkpoint, *, opset: int | None = None, parity_steps: int | None = None) -> Exported:
    """The model file for a checkpoint, in memory.

    Raises:
        ExportError: the graph cannot be made, or does not compute what the model computes.
    """
    from charrnn_export import DEFAULT_OPSET, export_model
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
    )


def training_summary(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """What a model file says of its training."""
    return {
        "corpus": checkpoint.corpus.get("name"),
        "corpus_sha256": checkpoint.corpus.get("sha256"),
        "characters": checkpoint.corpus.get("characters"),
        "val_frac": checkpoint.data_config.val_frac,
        "split": checkpoint.data_config.split,
        "step": checkpoint.progress.get("step"),
        "epochs": round(checkpoint.progress.get("epoch") or 0.0, 4),
        "val_loss": checkpoint.progress.get("val_loss"),
        "history": [
            [entry["step"], round(entry["train_loss"], 5), round(entry["val_loss"], 5)] for entry in checkpoint.history
        ],
    }
