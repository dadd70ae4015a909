"""``charrnn inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from charrnn_runtime import ModelFile

    from charrnn.runs.checkpoint import Checkpoint


def inspect(
    model: Annotated[Path, typer.Argument(help="A model file (.onnx), a checkpoint (.pt) or a run folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What a model is, and how it was trained."""
    from charrnn_runtime import ModelFile

    from charrnn.inference.models import read_model
    from charrnn.runs.folder import find_checkpoint

    path, found = find_checkpoint(model), read_model(model)
    described = _describe_model_file(found, path) if isinstance(found, ModelFile) else _describe_checkpoint(found, path)
    if as_json:
        typer.echo(json.dumps(described, indent=2))
        return
    history = described.pop("history")
    for section, values in described.items():
        if not isinstance(values, dict):
            typer.echo(f"{section}: {values}")
            continue
        typer.echo(f"{section}:")
        for key, value in values.items():
            typer.echo(f"  {key}: {value}")
    typer.echo("history:" if history else "history: none")
    for step, train_loss, val_loss in history:
        typer.echo(f"  step {step:>8,}   train {train_loss:.4f}   val {val_loss:.4f}")


def _describe_checkpoint(checkpoint: Checkpoint, path: Path) -> dict[str, Any]:
    from charrnn.inference.training_summary import training_summary

    parameters = sum(tensor.numel() for tensor in checkpoint.weights.values())
    progress = {k: v for k, v in checkpoint.progress.items() if k != "position"}
    return {
        "file": str(path),
        "kind": f"checkpoint (charrnn {checkpoint.version})",
        "model": {**checkpoint.model_config.to_json(), "parameters": parameters},
        "vocabulary": _describe_vocabulary(checkpoint.vocabulary),
        "corpus": checkpoint.corpus,
        "train": checkpoint.train_config.to_json(),
        "data": checkpoint.data_config.to_json(),
        "progress": progress,
        "history": training_summary(checkpoint)["history"],
    }


def _describe_model_file(file: ModelFile, path: Path) -> dict[str, Any]:
    info = file.info
    training = dict(info.training)
    history = training.pop("history", [])
    return {
        "file": str(path),
        "kind": f"model file (format {info.format}, opset {info.opset}, {len(file.data):,} bytes)"
        + ("" if info.verified else ", NOT VERIFIED"),
        "model": {
            "cell": info.cell,
            "hidden_size": info.hidden_size,
            "num_layers": info.num_layers,
            "dtype": info.dtype,
            "states": ", ".join(f"{s.input} [batch, {s.size}]" for s in info.states),
        },
        "vocabulary": _describe_vocabulary(info.vocabulary),
        "training": training,
        "parity": dict(info.parity),
        "producer": dict(info.producer),
        "weights_sha256": info.weights_sha256,
        "history": history,
    }


def _describe_vocabulary(vocabulary: Any) -> dict[str, Any]:
    described = vocabulary.to_json()
    tokens = described.pop("tokens")
    shown = tokens if len(tokens) <= 256 else [*tokens[:256], f"… {len(tokens) - 256} more"]
    return {"size": len(tokens), **described, "tokens": shown if vocabulary.kind == "characters" else "all bytes"}
