"""``charrnn train``."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from charrnn.cli.config_options import with_options
from charrnn.config import DataConfig, ModelConfig, TrainConfig


@with_options(ModelConfig, DataConfig, TrainConfig)
def train(
    text: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files, folders, globs, - for standard input, or a known name (tinyshakespeare). "
            "Default: the Python standard library's own source."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder.", show_default="runs/NAME-OF-TEXT")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")] = False,
    init_from: Annotated[
        Path | None, typer.Option(help="Begin with the weights of this checkpoint or run; new characters get new rows.")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write the metrics for TensorBoard too (needs the package).")
    ] = False,
    preset: Annotated[str | None, typer.Option(help="A recipe by name: char-rnn or torch-rnn.")] = None,
    **options: Any,
) -> None:
    """Train a model on text."""
    from charrnn.errors import ConfigError
    from charrnn.training import run

    common: dict[str, Any] = {"tensorboard": tensorboard, "signals": (signal.SIGINT, signal.SIGTERM), **options}
    if resume:
        if overwrite or preset or init_from:
            other = "overwrite" if overwrite else "preset" if preset else "init-from"
            raise ConfigError(f"--resume continues the run as it is: leave out --{other}")
        finished = run.resume(out or run.default_folder(text or ()), *text or (), **common)
    else:
        finished = run.train(*text or (), out=out, overwrite=overwrite, init_from=init_from, preset=preset, **common)
    if finished.signal is not None:
        sys.exit(128 + finished.signal)
