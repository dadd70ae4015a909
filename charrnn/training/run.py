"""A training run from its options to its results: what ``charrnn train`` and ``charrnn.train`` do."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charrnn_runtime import Sampler

from charrnn.config import format_duration, parse_replay
from charrnn.data.corpus import corpus_name, read_corpus, remembered_arguments
from charrnn.data.in_memory import InMemory, Item
from charrnn.data.text_report import label_table
from charrnn.errors import CheckpointError, ConfigError
from charrnn.events import Listener
from charrnn.inference.export import ExportedModel, export
from charrnn.inference.models import open_sampler
from charrnn.runs import folder as run_folder
from charrnn.training.settings import Settings
from charrnn.training.threads import bound_spinning, computing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from charrnn.data.corpus import Corpus
    from charrnn.runs.checkpoint import Checkpoint

Name = str | os.PathLike[str]


class Run:
    """A finished or interrupted training run. ``train`` and ``resume`` return one.

    Attributes:
        folder: the run folder.
        interrupted: whether the run was interrupted before its budget was used up; ``resume`` goes on with it.
        signal: the number of the signal that interrupted it, or None.
        best_val_loss: the lowest validation loss, in nats per character.
        history: one dict for each validation, with the keys step, epoch, elapsed (seconds), train_loss (mean of the
            last 100 steps), val_loss and its standard error val_error (all in nats per character);
            ``pandas.DataFrame(run.history)`` is a table.
        settings: the values of all options, by name.
    """

    def __init__(self, folder: Path, checkpoint: Checkpoint, *, interrupted: bool, signal: int | None = None) -> None:
        self.folder = folder
        self.interrupted = interrupted
        self.signal = signal
        self.best_val_loss = float(checkpoint.progress["best_val_loss"])
        self.history = checkpoint.history
        configs = (checkpoint.model_config, checkpoint.data_config, checkpoint.train_config)
        self.settings = {name: value for config in configs for name, value in config.to_json().items()}
        self._progress = checkpoint.progress

    @cached_property
    def sampler(self) -> Sampler:
        """The best model of the run, ready to write and to score text."""
        return open_sampler(self.folder)

    def sample(self, prompt: str = "", **options: Any) -> str:
        """A text from the best model; the options are those of ``charrnn_runtime.Sampler.sample``."""
        return self.sampler.sample(prompt, **options)

    def plot(self, *, x: str = "epoch") -> Figure:
        """Training and validation loss as a matplotlib figure, which a notebook shows.

        Args:
            x: "step", "epoch" or "elapsed".

        Raises:
            UsageError: ``x`` is unknown, or matplotlib is not installed.
        """
        from charrnn.reports.plots import draw_runs

        return draw_runs([self.folder], x=x)

    def export(self, model: Name | None = None, **options: Any) -> ExportedModel:
        """Writes the best model as an ONNX file; ``charrnn.export`` describes the options and the errors."""
        return export(self.folder, model, **options)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}: {self.summary()})"

    def summary(self) -> str:
        """How the run ended, in a few words."""
        how = "interrupted" if self.interrupted else "finished"
        return (
            f"{how} after {self._progress['step']:,} steps and {format_duration(self._progress['elapsed'])}, "
            f"best validation loss {self.best_val_loss:.4f} nats per character"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: the summary and the validations."""
        names = ("step", "epoch", "train_loss", "val_loss")
        head = "".join(f"<th>{name}</th>" for name in names)
        rows = "".join(
            f"<tr><td>{row['step']:,}</td><td>{row['epoch']:.2f}</td>"
            f"<td>{row['train_loss']:.4f}</td><td>{row['val_loss']:.4f}</td></tr>"
            for row in self.history
        )
        return (
            f"<p><b>{escape(str(self.folder))}</b>: {self.summary()}</p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        )


def train(
    *texts: Name,
    text: str | bytes | None = None,
    items: Iterable[Item] | None = None,
    out: Name | None = None,
    overwrite: bool = False,
    init_from: Name | None = None,
    preset: str | None = None,
    tensorboard: bool = False,
    progress: bool = True,
    listener: Listener | None = None,
    signals: Sequence[int] = (signal.SIGINT,),
    **options: Any,
) -> Run:
    """Trains a model on text, as ``charrnn train`` does.

    A ``KeyboardInterrupt`` (Ctrl-C, or "interrupt" in a notebook) does not stop the run in the middle of a step: the
    run saves a checkpoint and is returned, with ``interrupted`` set. A second one is raised.

    Args:
        texts: files, folders, globs, or names of known texts. Without any text, the source of Python's standard
            library is used.
        text: a text itself, instead of files. Bytes are read like those of a file.
        items: short texts, such as names, instead of files. Each has a beginning and an end of its own. Pairs
            (label, text) train a model that writes texts with a label, and classifies texts.
        out: the run folder; by default ``runs/`` and the name of the text.
        overwrite: replace the run that is in the folder.
        init_from: a checkpoint or run folder whose weights the model begins with.
        preset: the name of a recipe: char-rnn or torch-rnn.
        tensorboard: write the metrics for TensorBoard too.
        progress: show the progress in the terminal or notebook.
        listener: receives the events of the run, instead of the display.
        signals: the signals that interrupt the run as a ``KeyboardInterrupt`` does. Only those whose handlers are
            Python's default ones are handled, and only in the main thread.
        options: any option of ``charrnn train`` by name, for example ``time="2m"`` (or seconds), ``hidden_size=128``.

    Raises:
        ConfigError: an option is unknown, or has a value that cannot be used.
        RunFolderError: there is a run in the folder already, or it cannot be written.
        CorpusError: the text cannot be read, or is too short.
        CheckpointError: ``init_from`` cannot be read, or does not fit the options.
        DivergedError: the loss became NaN or very large; earlier checkpoints are still there.
        WriteError: a checkpoint cannot be written; earlier ones are still there.
    """
    bound_spinning()
    source = text_source(texts, text, items)
    if items is not None:
        options = with_items(options)
    settings = Settings.from_options(options, preset=preset)
    folder = Path(out) if out is not None else default_folder(source)
    run_folder.check_unlocked(folder)
    if not overwrite:
        run_folder.check_free(folder)
    if init_from is not None:
        from charrnn.runs.checkpoint import load_checkpoint

        settings = settings.starting_from(load_checkpoint(run_folder.find_checkpoint(Path(init_from))))

    def take_folder(stack: ExitStack) -> None:
        run_folder.make(folder)
        stack.enter_context(run_folder.locked(folder))
        if overwrite:
            run_folder.clear(folder)
        else:  # another run may have used the folder in the meantime
            run_folder.check_free(folder)

    return _run(
        settings,
        source,
        folder,
        take_folder=take_folder,
        tensorboard=tensorboard,
        progress=progress,
        listener=listener,
        signals=signals,
    )


def resume(
    folder: Name,
    *texts: Name,
    text: str | bytes | None = None,
    items: Iterable[Item] | None = None,
    init_from: Name | None = None,
    preset: str | None = None,
    tensorboard: bool = False,
    progress: bool = True,
    listener: Listener | None = None,
    signals: Sequence[int] = (signal.SIGINT,),
    **options: Any,
) -> Run:
    """Goes on with the run in a folder, as ``charrnn train --resume`` does.

    The same call may be made any number of times: it begins the run if the folder has none yet, goes on with it if
    it has been interrupted, and returns it as it is if its budget is used up.

    Args:
        folder: the run folder.
        texts, text, items: the text of the run, which is needed to begin it. Later it is read from where it was read
            before; but a text that was given as ``text`` or ``items`` must be given again.
        init_from: used when the run begins.
        preset, tensorboard, progress, listener, signals: see ``train``.
        options: options of ``charrnn train``. For a run that has begun, for example a larger budget; those that
            change the model, the text or the order of reading cannot be changed.

    Raises:
        CheckpointError: the folder has no checkpoint and no text was named, or the checkpoint does not fit the options
            or the text.
        RunFolderError: another process is writing into the folder.
        ConfigError, CorpusError, DivergedError, WriteError: see ``train``.
    """
    bound_spinning()
    source, folder = text_source(texts, text, items), Path(folder)
    settings = Settings.from_options(options, preset=preset)
    common: dict[str, Any] = {
        "tensorboard": tensorboard, "progress": progress, "listener": listener, "signals": signals
    }  # fmt: skip
    if not (folder / "last.pt").exists():
        if not source and folder != default_folder(()):
            raise CheckpointError(f"{folder}: nothing to resume: there is no last.pt in it; name a text to begin a run")
        begin: dict[str, Any] = {"text": text, "items": items, "init_from": init_from, "preset": preset}
        return train(*texts, out=folder, **begin, **common, **options)
    from charrnn.runs.checkpoint import load_checkpoint, turned_up

    with ExitStack() as stack:
        if os.environ.get("RANK", "0") == "0":  # of several processes, the first one writes
            run_folder.make(folder)
            stack.enter_context(run_folder.locked(folder))
        checkpoint = load_checkpoint(folder / "last.pt")
        settings = settings.resuming(checkpoint)
        if checkpoint.completes(settings.train):
            run = Run(folder, checkpoint, interrupted=False)
            with display(progress, listener) as shown:
                early = turned_up(checkpoint.history, settings.train.patience)
                more = "a larger --patience, or 0" if early else "a larger budget"
                shown.on_notice(f"{folder}: {run.summary()}; to go on, give {more}")
            return run
        return _run(
            settings,
            source or remembered_arguments(checkpoint.corpus, _GIVE_AGAIN),
            folder,
            **common,
        )


_GIVE_AGAIN = (
    "give the same text again: charrnn train TEXT --resume --out FOLDER, or charrnn.resume(FOLDER, text=…) or items=…"
)


def default_folder(source: Sequence[str] | InMemory) -> Path:
    """The run folder of a text if no other is named."""
    return Path("runs") / (source.kind if isinstance(source, InMemory) else corpus_name(source))


def text_source(
    texts: Sequence[Name], text: str | bytes | None, items: Iterable[Item] | None
) -> Sequence[str] | InMemory:
    """The text that was given, by its names or in memory.

    Raises:
        ConfigError: it is neither, or both, or standard input for several processes.
    """
    for name in texts:
        if not isinstance(name, (str, os.PathLike)):
            raise ConfigError(
                f"a text is named by a string or a path, not by {type(name).__name__}: {name!r:.80}; "
                "several texts are several arguments, and strings to train on are given as items=[…]"
            )
    arguments = [os.fspath(name) for name in texts]
    if text is not None or items is not None:
        if arguments:
            raise ConfigError("give the text in one way: names of files, or text=…, or items=…")
        return InMemory(text=text, items=items)
    for name in arguments:
        if "\n" in name and not os.path.exists(name):  # noqa: PTH110  # Path.exists raises for a long name
            raise ConfigError("a text of several lines was given where the name of a text belongs; give it as text=…")
    if "-" in arguments and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("several processes cannot share standard input; write the text to a file first")
    return arguments


def with_items(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a run on items in memory, which need no separator."""
    for name in ("lines", "separator", "column", "delimiter", "label"):
        if options.get(name) is not None:
            raise ConfigError(f"items=… are divided already: leave out {name}")
    return {**options, "lines": True}


def _run(
    settings: Settings,
    source: Sequence[str] | InMemory,
    folder: Path,
    *,
    take_folder: Callable[[ExitStack], None] = lambda _: None,
    tensorboard: bool,
    progress: bool,
    listener: Listener | None,
    signals: Sequence[int],
) -> Run:
    """Reads the text, completes the settings and trains.

    ``take_folder`` is called before the first file is written, after all options have been checked.
    It may enter contexts that end with the run.
    """
    import torch

    from charrnn.runs.checkpoint import load_checkpoint
    from charrnn.training.device import choose_device, keep_freed_memory
    from charrnn.training.distributed import processes
    from charrnn.training.memory import check_memory
    from charrnn.training.trainer import Trainer

    with ExitStack() as stack:
        # The trainer seeds torch's random numbers; those of the caller's program are restored afterwards.
        stack.enter_context(torch.random.fork_rng(devices=[]))
        group = stack.enter_context(processes(settings.train.device))
        shown = stack.enter_context(display(progress, listener)) if group.first else Listener()
        # A model that is too large for any text is refused before the text is read.
        alone = replace(settings.train, batch_size=1, seq_len=1)
        check_memory(settings.model, alone, 1, choose_device(settings.train.device))
        corpus = read_corpus(source, settings.data, settings.vocabulary, listener=shown)
        keep_freed_memory()
        step_done = stack.enter_context(computing(settings.train.threads, shown.on_notice, alone=group.size == 1))
        replay = _read_replay(settings, corpus, group.size, shown)
        # The choice depends on a measurement, whose result would differ between processes.
        settings = settings.completed(corpus)
        model, data, train, notes = group.broadcast((settings.model, settings.data, settings.train, settings.notes))
        settings = replace(settings, model=model, data=data, train=train, notes=notes)
        for note in (*corpus.notes, *filter(None, [label_table(corpus.labels)]), *settings.notes):
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
            replay=replay,
            tensorboard=tensorboard and group.first,
            processes=group,
            step_done=step_done,
        )
        if group.first:
            take_folder(stack)
        with interrupted_by(signals) as received:
            finished = trainer.train(lambda: bool(received))
    return Run(
        folder,
        load_checkpoint(folder / "last.pt"),
        interrupted=finished.interrupted,
        signal=received[0] if received else None,
    )


def _read_replay(settings: Settings, corpus: Corpus, processes: int, listener: Listener) -> Corpus | None:
    """The text that ``--replay`` mixes into the batches. Characters that the model does not know are left out."""
    if settings.train.replay is None:
        return None
    if processes > 1:
        raise ConfigError("--replay is for one process: leave it out, or start without torchrun")
    name, share = parse_replay(settings.train.replay)
    replay = read_corpus([name], settings.data, corpus.vocabulary, fixed="skip", listener=listener)
    listener.on_notice(f"{share:.0%} of each batch is read from {replay.description}")
    return replay


@contextmanager
def display(progress: bool, listener: Listener | None) -> Iterator[Listener]:
    """The user's listener, or the display, or a listener that does nothing."""
    if listener is not None or not progress:
        yield listener or Listener()
        return
    from charrnn.training import console

    with console.listener() as shown:
        yield shown


@contextmanager
def interrupted_by(signals: Sequence[int]) -> Iterator[list[int]]:
    """Collects the signals that arrive, so that the loop can finish its step and save; a second SIGINT is raised.

    A signal that the process ignores (as under nohup), or for which a program has a handler of its own, is left alone.
    """
    received: list[int] = []

    def handle(number: int, _frame: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    before = {}
    if threading.current_thread() is threading.main_thread():  # Python allows signal handlers only there
        for number in signals:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, handle)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
