"""A search from its options to its results: what ``charrnn tune`` and ``charrnn.tune`` do."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import signal
import time as clocks
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charrnn_runtime import UsageError

from charrnn.config import BUDGETS, DataConfig, format_duration, options
from charrnn.data.corpus import Corpus, read_corpus, remembered_arguments
from charrnn.data.in_memory import InMemory, Item
from charrnn.data.text_report import label_table
from charrnn.errors import CheckpointError, ConfigError, RunFolderError
from charrnn.events import Listener
from charrnn.files import write_atomically
from charrnn.reports.plots import trials_picture
from charrnn.runs import folder as run_folder
from charrnn.training import run as training
from charrnn.training.run import Name, Run
from charrnn.training.settings import Settings
from charrnn.training.threads import bound_spinning, computing, default_threads
from charrnn.tuning.plan import JOURNAL, MOST_PART, Outcome, budgets, search_time, whole_training, winner
from charrnn.tuning.space import Change, check_free, command, described, settled
from charrnn.tuning.trial import Job, Source, Worker

if TYPE_CHECKING:
    from charrnn.tuning.search import Search

COMMAND, PICTURE, TRIALS = "tune.txt", "tune.png", "trials"
HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """A finished or interrupted search. ``tune`` returns one.

    Attributes:
        folder: the run folder.
        run: the training of the winner; None if the search was interrupted before.
        outcomes: the trials, best first.
        importances: how much each setting matters, in parts of 1; empty for fewer than five trials.
        command: the command line that trains with the winner's settings; empty if there is none yet.
        signal: the number of the signal that interrupted the search or the training, or None.
    """

    folder: Path
    run: Run | None
    outcomes: list[Outcome] = field(repr=False)
    importances: dict[str, float] = field(repr=False)
    command: str
    signal: int | None = None

    @property
    def interrupted(self) -> bool:
        """Whether the search, or the training after it, was interrupted; ``tune`` with ``resume=True`` goes on."""
        return self.run is None or self.run.interrupted

    def __repr__(self) -> str:
        how = repr(self.run) if self.run else f"interrupted after {len(self.outcomes)} trials"
        return f"Tuning({str(self.folder)!r}: {how})"


def tune(
    *texts: Name,
    text: str | bytes | None = None,
    items: Iterable[Item] | None = None,
    time: float | str | None = None,
    out: Name | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    listener: Listener | None = None,
    signals: Sequence[int] = (signal.SIGINT,),
    **options: Any,
) -> Tuning:
    """Searches for better settings than the recipe's, and trains a model with the best ones, as ``charrnn tune`` does.

    At most two thirds of the time are for the search, and the rest is for the training. The search is shorter where
    longer training is worth more than what it finds, so the model is about as good as the recipe's at least. Models of
    the search are trained side by side, each in a process with one thread. ``search`` says how trials are compared,
    ``plan`` when the search ends, ``space`` what it varies.

    Args:
        texts, text, items: see ``train``; standard input cannot be read again and again, and is refused.
        time: limit of everything together, as a duration such as "1h30m" or in seconds; an hour by default.
        out: the run folder; by default ``runs/``, the name of the text and ``-tune``. The winner's run stands in it.
        resume: go on with the search in the folder, with the time that it has left; begin it if there is none.
        overwrite: replace the search or the run in the folder.
        progress, listener, signals: see ``train``.
        options: options of ``charrnn train``, except for budgets. What is given is not searched for.

    Raises:
        UsageError: Optuna is not installed.
        ConfigError: an option is unknown or has a value that cannot be used, the time is too short, nothing is left to
            search for, or a search is resumed with other settings.
        RunFolderError: there is a run or a search in the folder already, or the folder cannot be written.
        CorpusError: the text cannot be read, is too short, or has changed since the search began.
        DistributedError: the processes of trials end without a result.
        DivergedError, WriteError: see ``train``.
    """
    began = clocks.monotonic()
    bound_spinning()
    require_optuna()
    from charrnn.training.state import corpus_summary
    from charrnn.tuning.search import Search, remembered

    if items is not None and not isinstance(items, (str, bytes)):
        items = list(items)  # they are read again and again
    source = training.text_source(texts, text, items)
    given = {name: value for name, value in options.items() if value is not None}
    folder = Path(out) if out is not None else _default_folder(source)
    if resume and overwrite:
        raise ConfigError("--resume goes on with the search in the folder: leave out --overwrite")
    known = remembered(folder) if resume else None
    if known is not None:
        given, time = given or known["options"], time if time is not None else known["time"]
        source = source or remembered_arguments(known["text"], "give it again")
    if not isinstance(source, InMemory) and "-" in source:
        raise ConfigError("a search reads the text again and again: write standard input to a file first")
    settings, seconds = _checked(given, time, items=items is not None)
    shortened = budgets(seconds)
    run_folder.check_unlocked(folder)
    if not (resume or overwrite):
        _check_free(folder)
    with ExitStack() as stack:
        shown = stack.enter_context(training.display(progress, listener))
        corpus = read_corpus(source, settings.data, listener=shown)
        for note in (*corpus.notes, *filter(None, [label_table(corpus.labels)])):
            shown.on_notice(note)
        facts = {"text": corpus_summary(corpus), "time": seconds, "options": settings.given}
        _check_same(folder, known, facts)
        run_folder.make(folder)
        stack.enter_context(run_folder.locked(folder))
        shutil.rmtree(folder / TRIALS, ignore_errors=True)
        if overwrite:
            run_folder.clear(folder)
        elif not resume:  # another one may have begun in the folder in the meantime
            _check_free(folder)
        recipe = cache(lambda budget: _recipe(settings, budget, corpus, 1))
        if known is not None:
            trial_budgets = tuple(known.get("budgets", shortened))
        else:
            longest = shortened[-1]
            whole = whole_training(seconds, longest, recipe(longest).ends_after, _side_by_side(settings))
            trial_budgets = shortened if whole is None else (whole,)
        search = Search(
            folder,
            given=given,
            seed=settings.train.seed,
            budgets=trial_budgets,
            facts={**facts, "budgets": trial_budgets},
            on_notice=shown.on_notice,
            began=began,
        )
        if search.final is None:
            received = _searched(search, source, settings, recipe, seconds, trial_budgets, folder, signals, shown)
            if received is not None:
                return _result(search, folder, signal=received)
            _choose(search, settings, corpus, seconds, len(trial_budgets), shown.on_notice)
        result = _result(search, folder, source=source)
        write_atomically(folder / COMMAND, f"{result.command}\n".encode("utf-8", "surrogateescape"))
        _draw(folder, result, shown.on_notice)
    final = {} if (folder / "last.pt").exists() else search.final
    begin_or_go_on = partial(training.train, out=folder, **final) if final else partial(training.resume, folder)
    arguments = () if isinstance(source, InMemory) else source
    run = begin_or_go_on(*arguments, text=text, items=items, progress=progress, listener=listener, signals=signals)
    return replace(result, run=run, signal=run.signal)


def require_optuna() -> None:
    """Raises UsageError if Optuna is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise UsageError("a search needs Optuna; run: pip install 'charrnn[tune]'")


def _default_folder(source: Sequence[str] | InMemory) -> Path:
    folder = training.default_folder(source)
    return folder.with_name(f"{folder.name}-tune")


def _checked(given: Mapping[str, Any], time: float | str | None, *, items: bool) -> tuple[Settings, float]:
    """The settings that are fixed, with the options by name in their own types; and the time in seconds.

    Raises:
        ConfigError: an option is unknown, or has a value that cannot be used; or nothing is left to search for.
    """
    if budget := sorted(set(BUDGETS) & set(given)):
        raise ConfigError(f"a search has a budget of time: leave out {' and '.join(budget)}, and give time")
    settings = Settings.from_options({**(training.with_items(dict(given)) if items else given), "time": time or HOUR})
    seconds = settings.train.time
    assert seconds is not None
    check_free(given)
    own = {name: value for name, value in settings.given.items() if name in given}
    return replace(settings, given=own), seconds


def _check_free(folder: Path) -> None:
    """Raises RunFolderError if the folder has a run or a search."""
    run_folder.check_free(folder)
    if (folder / JOURNAL).exists():
        raise RunFolderError(
            f"{folder}: there is a search in it already; continue it with --resume, "
            "replace it with --overwrite, or choose another folder with --out"
        )


def _check_same(folder: Path, known: Mapping[str, Any] | None, facts: Mapping[str, Any]) -> None:
    """Raises CheckpointError if a search would go on with another text, time or options than it was begun with."""
    if known is None:
        return
    changed = [name for name in ("time", "options") if known[name] != facts[name]]
    if known["text"]["sha256"] != facts["text"]["sha256"]:
        changed.append("text")
    if changed:
        raise CheckpointError(
            f"{folder}: the search in it was begun with another {' and another '.join(changed)}: give what it was "
            "begun with, or only --resume and --out; or begin another search with --overwrite or another --out"
        )


def _recipe(settings: Settings, seconds: float, corpus: Corpus, threads: int | None) -> Settings:
    """The settings with what the recipe chooses for a training of so many seconds with so many threads."""
    with computing(threads, lambda _: None):
        return replace(settings, train=replace(settings.train, time=seconds)).completed(corpus)


def _side_by_side(settings: Settings) -> int:
    """How many trials are trained at a time."""
    from charrnn.training.device import choose_device

    number = default_threads() if settings.train.threads is None else settings.train.threads
    return number if choose_device(settings.train.device).type == "cpu" else 1


class _Trainer:
    """Trains the models of trials in a process of its own; see ``search.Trains``."""

    def __init__(
        self, source: Source, settings: Settings, recipes: Sequence[Settings], budgets: Sequence[float], folder: Path
    ) -> None:
        self._source, self._settings, self._recipes, self._budgets = source, settings, recipes, budgets
        self._folder, self._worker = folder, Worker()

    def run(self, change: Change, budget: int) -> float:
        recipe, seconds = self._recipes[budget], self._budgets[budget]
        chosen = settled(recipe.model, recipe.train, change)
        options = {**_data_options(self._settings), **chosen, "threads": 1, "time": seconds}
        return self._worker.run(Job(source=self._source, options=options, folder=self._folder))

    def end(self) -> None:
        self._worker.close()


def _searched(
    search: Search,
    source: Source,
    settings: Settings,
    recipe: Callable[[float], Settings],
    seconds: float,
    budgets: Sequence[float],
    folder: Path,
    signals: Sequence[int],
    shown: Listener,
) -> int | None:
    """Makes the search; the number of the signal that interrupted it, or None."""
    recipes = [recipe(budget) for budget in budgets]
    side_by_side, ends_early = _side_by_side(settings), recipes[-1].ends_after is not None
    limit = partial(search_time, seconds, budgets, ends_early=ends_early)
    shown.on_notice(
        f"searching: trials of {', '.join(format_duration(budget) for budget in budgets)}"
        f"{' at most' if ends_early else ''}, {side_by_side} at a time"
    )
    trainers = [_Trainer(source, settings, recipes, budgets, folder / TRIALS) for _ in range(side_by_side)]
    with training.interrupted_by(signals) as received:
        search.run(trainers, limit, lambda: bool(received))
    shutil.rmtree(folder / TRIALS, ignore_errors=True)
    if not received:
        if limit(search.outcomes()) < seconds * MOST_PART:
            shown.on_notice(
                f"the search ends after {format_duration(search.used)}: more time for the training is worth more than "
                "what it has found"
            )
        return None
    shown.on_notice(
        f"interrupted and saved after {len(search.outcomes())} trials; "
        f"continue with: charrnn tune --resume --out {shlex.quote(str(folder))}"
    )
    return received[0]


def _choose(
    search: Search, settings: Settings, corpus: Corpus, seconds: float, steps: int, on_notice: Callable[[str], None]
) -> None:
    """Decides on the options of the final training."""
    best = winner(search.outcomes(), steps)
    change = best.change if best else {}
    left = max(seconds - search.used - search.around, 1.0)
    recipe = _recipe(settings, left, corpus, settings.train.threads)
    search.finish({**_data_options(settings), **settled(recipe.model, recipe.train, change), "time": round(left, 1)})
    on_notice(f"the best of {len(search.outcomes())} trials: {described(change)}; now a training of it")


def _data_options(settings: Settings) -> dict[str, Any]:
    names = {option.name for option in options(DataConfig)}
    return {name: value for name, value in settings.given.items() if name in names}


def _result(search: Search, folder: Path, *, source: Source = (), signal: int | None = None) -> Tuning:
    texts = ["TEXT"] if isinstance(source, InMemory) else source
    return Tuning(
        folder=folder,
        run=None,
        outcomes=sorted(search.outcomes(), key=lambda outcome: outcome.rank),
        importances=search.importances(),
        command=shlex.join(command(texts, search.final)) if search.final else "",
        signal=signal,
    )


def _draw(folder: Path, result: Tuning, on_notice: Callable[[str], None]) -> None:
    """Draws what the search found, if matplotlib is there."""
    points = [(outcome.change, outcome.losses[0]) for outcome in result.outcomes]
    try:
        picture = trials_picture(points, result.importances)
    except UsageError as error:
        on_notice(f"no picture of the search: {error}")
        return
    write_atomically(folder / PICTURE, picture)
