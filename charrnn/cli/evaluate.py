"""``charrnn eval``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[Path, typer.Argument(help="A model file (.onnx), a checkpoint (.pt) or a run folder.")],
    text: Annotated[list[str], typer.Argument(help="Files, folders, globs, - for standard input, or a known name.")],
    split: Annotated[
        str, typer.Option(help="Which part: all, train, or val (the last part, as the model's training split it).")
    ] = "all",
    window: Annotated[
        int | None, typer.Option(help="Score in windows of so many characters, each from the zero state.")
    ] = None,
    unknown: Annotated[str, typer.Option(help="Characters the model does not know: error or skip.")] = "error",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """How well a model predicts a text: nats and bits per character, perplexity."""
    from charrnn.console import reading
    from charrnn.errors import ConfigError
    from charrnn.evaluation import evaluate_text
    from charrnn.models import open_sampler

    if split not in ("all", "train", "val"):
        raise ConfigError(f"unknown split {split!r}; known: all, train, val")
    if unknown not in ("error", "skip"):
        raise ConfigError(f"unknown={unknown!r}: use error or skip")
    if window is not None and window < 1:
        raise ConfigError(f"window must be at least 1, got {window}")
    sampler = open_sampler(model, device=device)
    with reading() as shown:
        nats, count = evaluate_text(sampler, text, split=split, window=window, unknown=unknown, listener=shown)
    bits = nats / math.log(2)
    perplexity = math.exp(min(nats, 700))  # near the largest float
    if as_json:
        values = {"nats_per_char": nats, "bits_per_char": bits, "perplexity": perplexity, "characters": count}
        typer.echo(json.dumps(values))
    else:
        typer.echo(f"{nats:.4f} nats/char   {bits:.4f} bits/char   perplexity {perplexity:.3f}   {count:,} characters")
