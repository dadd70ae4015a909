"""``charrnn train``."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from charrnn.config import DataConfig, ModelConfig, TrainConfig, doc, parse_duration

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
    init_from: Annotated[
        Path | None, typer.Option(help="Begin with the weights of this checkpoint or run; new characters get new rows.")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write the metrics for TensorBoard too (needs the package).")
    ] = False,
    cell: Annotated[str | None, _option(ModelConfig, "cell", _MODEL)] = None,
    hidden_size: Annotated[int | None, _option(ModelConfig, "hidden_size", _MODEL)] = None,
    num_layers: Annotated[int | None, _option(ModelConfig, "num_layers", _MODEL)] = None,
    embedding_size: Annotated[int | None, _option(ModelConfig, "embedding_size", _MODEL)] = None,
    dropout: Annotated[float | None, _option(ModelConfig, "dropout", _MODEL)] = None,
    preset: Annotated[
        str | None, typer.Option(help="A recipe by name: char-rnn or torch-rnn.", rich_help_panel=_RECIPE)
    ] = None,
    bytes_: Annotated[bool | None, _option(DataConfig, "bytes", _TEXT, "--bytes")] = None,
    normalize: Annotated[str | None, _option(DataConfig, "normalize", _TEXT)] = None,
    val_frac: Annotated[float | None, _option(DataConfig, "val_frac", _TEXT)] = None,
    test_frac: Annotated[float | None, _option(DataConfig, "test_frac", _TEXT)] = None,
    split: Annotated[str | None, _option(DataConfig, "split", _TEXT)] = None,
    val_max: Annotated[int | None, _option(DataConfig, "val_max", _TEXT)] = None,
    lines: Annotated[bool | None, _option(DataConfig, "lines", _TEXT, "--lines")] = None,
    separator: Annotated[str | None, _option(DataConfig, "separator", _TEXT)] = None,
    column: Annotated[str | None, _option(DataConfig, "column", _TEXT)] = None,
    newlines: Annotated[str | None, _option(DataConfig, "newlines", _TEXT)] = None,
    min_count: Annotated[int | None, _option(DataConfig, "min_count", _TEXT)] = None,
    time: Annotated[str | None, _option(TrainConfig, "time", _BUDGET)] = None,
    epochs: Annotated[float | None, _option(TrainConfig, "epochs", _BUDGET)] = None,
    steps: Annotated[int | None, _option(TrainConfig, "steps", _BUDGET)] = None,
    batch_size: Annotated[int | None, _option(TrainConfig, "batch_size", _RECIPE)] = None,
    seq_len: Annotated[int | None, _option(TrainConfig, "seq_len", _RECIPE)] = None,
    optimizer: Annotated[str | None, _option(TrainConfig, "optimizer", _RECIPE)] = None,
    lr: Annotated[float | None, _option(TrainConfig, "lr", _RECIPE)] = None,
    weight_decay: Annotated[float | None, _option(TrainConfig, "weight_decay", _RECIPE)] = None,
    grad_clip: Annotated[float | None, _option(TrainConfig, "grad_clip", _RECIPE)] = None,
    init: Annotated[str | None, _option(TrainConfig, "init", _RECIPE)] = None,
    schedule: Annotated[str | None, _option(TrainConfig, "schedule", _RECIPE)] = None,
    lr_decay: Annotated[float | None, _option(TrainConfig, "lr_decay", _RECIPE)] = None,
    lr_decay_every: Annotated[float | None, _option(TrainConfig, "lr_decay_every", _RECIPE)] = None,
    lr_decay_after: Annotated[float | None, _option(TrainConfig, "lr_decay_after", _RECIPE)] = None,
    grad_clip_value: Annotated[float | None, _option(TrainConfig, "grad_clip_value", _RECIPE)] = None,
    loss_sum: Annotated[bool | None, _option(TrainConfig, "loss_sum", _RECIPE, "--loss-sum")] = None,
    warmup_steps: Annotated[int | None, _option(TrainConfig, "warmup_steps", _RECIPE)] = None,
    lr_boost: Annotated[float | None, _option(TrainConfig, "lr_boost", _RECIPE)] = None,
    eval_steps: Annotated[int | None, _option(TrainConfig, "eval_steps", _RECIPE)] = None,
    seed: Annotated[int | None, _option(TrainConfig, "seed", _RECIPE)] = None,
    device: Annotated[str | None, _option(TrainConfig, "device", _RECIPE)] = None,
    precision: Annotated[str | None, _option(TrainConfig, "precision", _RECIPE)] = None,
) -> None:
    """Train a model on text."""
    from charrnn.data.corpus import corpus_name, read_corpus
    from charrnn.errors import ConfigError
    from charrnn.runs import folder as run_folder
    from charrnn.training.settings import Settings

    budget = {"time": None if time is None else parse_duration(time), "epochs": epochs, "steps": steps}
    given_model = _given(
        cell=cell, hidden_size=hidden_size, num_layers=num_layers, embedding_size=embedding_size, dropout=dropout
    )
    given_data = _given(
        bytes=bytes_,
        normalize=normalize,
        val_frac=val_frac,
        test_frac=test_frac,
        split=split,
        val_max=val_max,
        lines=lines,
        separator=separator,
        column=column,
        newlines=newlines,
        min_count=min_count,
    )
    given_train = _given(
        **budget,
        batch_size=batch_size,
        seq_len=seq_len,
        optimizer=optimizer,
        lr=lr,
        weight_decay=weight_decay,
        grad_clip=grad_clip,
        init=init,
        schedule=schedule,
        lr_decay=lr_decay,
        lr_decay_every=lr_decay_every,
        lr_decay_after=lr_decay_after,
        grad_clip_value=grad_clip_value,
        loss_sum=loss_sum,
        warmup_steps=warmup_steps,
        lr_boost=lr_boost,
        eval_steps=eval_steps,
        seed=seed,
        device=device,
        precision=precision,
    )
    if resume and (overwrite or preset or init_from):
        other = "overwrite" if overwrite else "preset" if preset else "init-from"
        raise ConfigError(f"--resume continues the run as it is: leave out --{other}")
    # Every setting is checked before anything is read, written or imported.
    settings = Settings.given(given_model, given_data, given_train, preset=preset)
    arguments = text or []
    if "-" in arguments and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("several processes cannot share standard input; write the text to a file first")
    folder = out or Path("runs") / corpus_name(arguments)
    if resume:
        from charrnn.training.trainer import resumable

        settings = settings.resuming(resumable(folder))
    elif not overwrite:
        run_folder.check_free(folder)
    if init_from is not None:
        from charrnn.runs.checkpoint import load_checkpoint

        settings = settings.starting_from(load_checkpoint(run_folder.find_checkpoint(init_from)))

    from charrnn.cli.console import listener
    from charrnn.events import Listener
    from charrnn.training.device import keep_freed_memory
    from charrnn.training.distributed import processes
    from charrnn.training.trainer import Trainer

    with ExitStack() as stack:
        group = stack.enter_context(processes(settings.train.device))
        shown = stack.enter_context(listener()) if group.first else Listener()
        corpus = read_corpus(arguments or settings.arguments, settings.data, settings.vocabulary, listener=shown)
        keep_freed_memory()
        # What is chosen depends on a measurement, which every process would make with another result.
        settings = settings.completed(corpus)
        model_config, train_config, notes = group.broadcast((settings.model, settings.train, settings.notes))
        settings = replace(settings, model=model_config, train=train_config, notes=notes)
        for note in (*corpus.notes, *settings.notes):
            shown.on_notice(note)
        trainer = Trainer(
            model_config=settings.model,
            data_config=settings.data,
            train_config=settings.train,
            corpus=corpus,
            folder=folder,
            listener=shown,
            checkpoint=settings.checkpoint,
            weights=settings.weights,
            tensorboard=tensorboard and group.first,
            processes=group,
        )
        # Only now, when nothing that was asked for can be wrong any more, does an earlier run go.
        if group.first:
            run_folder.make(folder)
            if overwrite:
                run_folder.clear(folder)
        with _signals() as (stop, received):
            trainer.train(stop)
    if received:
        sys.exit(128 + received[0])


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


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
