"""``charrnn train``."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from charrnn.cli.config_options import with_options
from charrnn.config import DataConfig, ModelConfig, TrainConfig

# Signals at which a run saves and ends: SIGINT (Ctrl-C), SIGTERM and SIGHUP (a closed terminal).
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


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
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in the folder; begin it if there is none yet.")
    ] = False,
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

    begin: dict[str, Any] = {"init_from": init_from, "preset": preset}
    common: dict[str, Any] = {"tensorboard": tensorboard, "signals": SIGNALS, **begin, **options}
    if not resume:
        finished = run.train(*text or (), out=out, overwrite=overwrite, **common)
    elif overwrite:
        raise ConfigError("--resume goes on with the run in the folder: leave out --overwrite")
    else:
        finished = run.resume(out or run.default_folder(text or ()), *text or (), **common)
    if finished.signal is not None:
        sys.exit(128 + finished.signal)
