"""``charrnn train``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charrnn.config import DataConfig, ModelConfig, TrainConfig, doc, parse_duration

if TYPE_CHECKING:
    from charrnn.checkpoint import Checkpoint

_MODEL, _TEXT, _BUDGET, _RECIPE = "Model", "Text", "Budget (one of)", "Recipe"


def _option(config: type, name: str, panel: str, *declarations: str) -> Any:
    """The option of a configuration field: its text is the field's, and so is the default that is shown."""
    default = next(f for f in fields(config) if f.name == name).default
    shown = False if default is None or default is False else str(default)
    return typer.Option(*declarations, help=doc(config, name), show_default=shown, rich_help_panel=panel)


def train(
    text: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files, folders, globs, - for standard input, .gz, or a known name (tinyshakespeare). "
            "Default: the Python standard library's own source."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder.", show_default="runs/NAME-OF-TEXT")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")] = False,
    cell: Annotated[str | None, _option(ModelConfig, "cell", _MODEL)] = None,
    hidden_size: Annotated[int | None, _option(ModelConfig, "hidden_size", _MODEL)] = None,
    num_layers: Annotated[int | None, _option(ModelConfig, "num_layers", _MODEL)] = None,
    embedding_size: Annotated[int | None, _option(ModelConfig, "embedding_size", _MODEL)] = None,
    dropout: Annotated[float | None, _option(ModelConfig, "dropout", _MODEL)] = None,
    bytes_: Annotated[bool | None, _option(DataConfig, "bytes", _TEXT, "--bytes")] = None,
    normalize: Annotated[str | None, _option(DataConfig, "normalize", _TEXT)] = None,
    val_frac: Annotated[float | None, _option(DataConfig, "val_frac", _TEXT)] = None,
    time: Annotated[str | None, _option(TrainConfig, "time", _BUDGET)] = None,
    epochs: Annotated[float | None, _option(TrainConfig, "epochs", _BUDGET)] = None,
    steps: Annotated[int | None, _option(TrainConfig, "steps", _BUDGET)] = None,
    batch_size: Annotated[int | None, _option(TrainConfig, "batch_size", _RECIPE)] = None,
    seq_len: Annotated[int | None, _option(TrainConfig, "seq_len", _RECIPE)] = None,
    optimizer: Annotated[str | None, _option(TrainConfig, "optimizer", _RECIPE)] = None,
    lr: Annotated[float | None, _option(TrainConfig, "lr", _RECIPE)] = None,
    weight_decay: Annotated[float | None, _option(TrainConfig, "weight_decay", _RECIPE)] = None,
    grad_clip: Annotated[float | None, _option(TrainConfig, "grad_clip", _RECIPE)] = None,
    warmup_steps: Annotated[int | None, _option(TrainConfig, "warmup_steps", _RECIPE)] = None,
    eval_steps: Annotated[int | None, _option(TrainConfig, "eval_steps", _RECIPE)] = None,
    seed: Annotated[int | None, _option(TrainConfig, "seed", _RECIPE)] = None,
    device: Annotated[str | None, _option(TrainConfig, "device", _RECIPE)] = None,
    precision: Annotated[str | None, _option(TrainConfig, "precision", _RECIPE)] = None,
) -> None:
    """Train a model on text."""
    budget = {"time": None if time is None else parse_duration(time), "epochs": epochs, "steps": steps}
    given_model = _given(
        cell=cell, hidden_size=hidden_size, num_layers=num_layers, embedding_size=embedding_size, dropout=dropout
    )
    given_data = _given(bytes=bytes_, normalize=normalize, val_frac=val_frac)
    given_train = _given(
        **budget,
        batch_size=batch_size,
        seq_len=seq_len,
        optimizer=optimizer,
        lr=lr,
        weight_decay=weight_decay,
        grad_clip=grad_clip,
        warmup_steps=warmup_steps,
        eval_steps=eval_steps,
        seed=seed,
        device=device,
        precision=precision,
    )
    # Every setting is checked before anything is read, written or imported.
    configs = (ModelConfig(**given_model), DataConfig(**given_data), TrainConfig(**given_train))

    from charrnn import run_folder
    from charrnn.corpus import corpus_name, read_corpus
    from charrnn.errors import ConfigError

    if resume and overwrite:
        raise ConfigError("--resume continues the run and --overwrite removes it: give one of them")
    arguments = text or []
    folder = out or Path("runs") / corpus_name(arguments)
    checkpoint: Checkpoint | None = None
    if resume:
        from charrnn.train import resumable

        checkpoint = resumable(folder)
        configs = _resumed(checkpoint, given_model, given_data, given_train)
        arguments = arguments or checkpoint.corpus["arguments"]
    elif not overwrite:
        run_folder.check_free(folder)
    model_config, data_config, train_config = configs
    corpus = read_corpus(arguments, data_config)

    from charrnn.console import listener
    from charrnn.train import Trainer

    with listener() as shown:
        trainer = Trainer(
            model_config=model_config,
            data_config=data_config,
            train_config=train_config,
            corpus=corpus,
            folder=folder,
            listener=shown,
            checkpoint=checkpoint,
        )
        # Only now, when nothing that was asked for can be wrong any more, does an earlier run go.
        run_folder.make(folder)
        if overwrite:
            run_folder.clear(folder)
        with _signals() as (stop, received):
            trainer.train(stop)
    if received:
        sys.exit(128 + received[0])


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _resumed(
    checkpoint: Checkpoint, model: dict[str, Any], data: dict[str, Any], train: dict[str, Any]
) -> tuple[ModelConfig, DataConfig, TrainConfig]:
    """The checkpoint's own configuration; a new budget or recipe may be given, another architecture may not."""
    from charrnn.errors import CheckpointError

    differences = [
        f"--{name.replace('_', '-')} {value} (the run has {getattr(config, name)})"
        for config, given in ((checkpoint.model_config, model), (checkpoint.data_config, data))
        for name, value in given.items()
        if getattr(config, name) != value
    ]
    fixed = [name for name in ("batch_size", "optimizer", "seed") if name in train]
    differences += [
        f"--{name.replace('_', '-')} {train[name]} (the run has {getattr(checkpoint.train_config, name)})"
        for name in fixed
        if getattr(checkpoint.train_config, name) != train[name]
    ]
    if differences:
        raise CheckpointError(f"a run is resumed as it was begun; leave out {', '.join(differences)}")
    if {"time", "epochs", "steps"} & set(train):
        train = {"time": None, "epochs": None, "steps": None} | train
    return checkpoint.model_config, checkpoint.data_config, replace(checkpoint.train_config, **train)


@contextmanager
def _signals() -> Iterator[tuple[Callable[[], bool], list[int]]]:
    """The first SIGINT or SIGTERM asks the loop to finish its step and save; a second SIGINT breaks off."""
    received: list[int] = []

    def handle(number: int, _frame: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received), received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
