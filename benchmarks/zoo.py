"""Regret of the default recipe: its validation loss minus that of the best alternative, for many texts and budgets.

    python benchmarks/zoo.py measure RESULTS [--texts NAME ...] [--budgets 30 120] [--only NAME ...] [--seeds 1]
    python benchmarks/zoo.py table RESULTS

``measure`` trains the default and each alternative to it, one process a core with one thread each, and appends a line
of JSON for each run; what is in the file already is not run again. Budgets are seconds of processor time of one
thread, so that other programs on the machine cost time but hardly change the result. ``table`` prints the table.

The texts are not downloaded: a licence, the standard library and the grammar of smiles.py are on every Debian machine,
the others are in its packages wamerican, manpages-de and manpages-ja; tinyshakespeare is taken from ../shared or from
the cache. A text that the machine does not have is left out, with a message.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import smiles  # type: ignore[import-not-found]  # it stands beside this script
import torch

from charrnn.config import DataConfig, ModelConfig, TrainConfig
from charrnn.data.corpus import Corpus, read_corpus
from charrnn.training.defaults import choose_here
from charrnn.training.device import flushed_denormals, keep_freed_memory
from charrnn.training.trainer import Trainer

CPU = torch.device("cpu")
SHARED = Path(__file__).parents[2] / "shared" / "tinyshakespeare.txt"
ITEMS = {"lines": True}
LONGEST = 20_000_000  # characters of a text
VALIDATED = 100_000  # characters in a validation


def _manual(language: str) -> str:
    """All manual pages in a language."""
    pages = sorted(Path("/usr/share/man", language).glob("man*/*.gz"))
    if not pages:
        raise FileNotFoundError(f"install Debian's package manpages-{language}")
    return "\n".join(gzip.decompress(page.read_bytes()).decode("utf-8", "replace") for page in pages)


def _library() -> str:
    """The standard library's source, without its tests."""
    root = Path(os.__file__).parent
    paths = sorted([*root.glob("*.py"), *root.glob("*/*.py")])
    kept = [p for p in paths if not {"test", "tests", "site-packages", "dist-packages"} & set(p.parts)]
    return "\n".join(path.read_text("utf-8", "replace") for path in kept)


def _molecules() -> str:
    return "\n".join(itertools.islice(smiles.molecules(1), 200_000))


TEXTS: dict[str, tuple[Callable[[], str], dict[str, Any]]] = {
    "licence": (lambda: Path("/usr/share/common-licenses/GPL-3").read_text("utf-8"), {}),
    "tinyshakespeare": (lambda: SHARED.read_text("utf-8"), {}),
    "Python": (_library, {}),
    "words": (lambda: Path("/usr/share/dict/american-english").read_text("utf-8"), ITEMS),
    "German manual": (lambda: _manual("de"), {}),
    "Japanese manual": (lambda: _manual("ja"), {}),
    "molecules": (_molecules, ITEMS),
}


def text_file(name: str, folder: Path) -> Path:
    """The text as a file."""
    path = folder / f"{name}.txt"
    if not path.exists():
        path.write_text(TEXTS[name][0]()[:LONGEST], "utf-8")
    return path


def _step(sizes: tuple[int, ...], value: int, up: bool) -> int:
    """The next larger or smaller size."""
    others = [size for size in sizes if (size > value if up else size < value)]
    return (min if up else max)(others, default=value)


Configs = tuple[ModelConfig, TrainConfig]
SIZES = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


def _resized(up: bool) -> Callable[[ModelConfig, TrainConfig], Configs]:
    def change(model: ModelConfig, train: TrainConfig) -> Configs:
        size = _step(SIZES, _step(SIZES, model.hidden_size, up), up)
        return replace(model, hidden_size=size, embedding_size=min(128, size)), train

    return change


def _times(setting: str, factor: float) -> Callable[[ModelConfig, TrainConfig], Configs]:
    def change(model: ModelConfig, train: TrainConfig) -> Configs:
        value = getattr(train, setting)
        return model, replace(train, **{setting: value and value * factor})

    return change


ALTERNATIVES: dict[str, Callable[[ModelConfig, TrainConfig], Configs]] = {
    "default": lambda m, t: (m, t),
    "half the size": _resized(False),
    "double the size": _resized(True),
    "two layers": lambda m, t: (replace(m, num_layers=2), t),
    "GRU": lambda m, t: (replace(m, cell="gru"), t),
    "less dropout": lambda m, t: (replace(m, dropout=max(0.0, m.dropout - 0.15)), t),
    "more dropout": lambda m, t: (replace(m, dropout=min(0.7, m.dropout + 0.15)), t),
    "half the batch": lambda m, t: (m, replace(t, batch_size=max(1, t.batch_size // 2))),
    "double the batch": lambda m, t: (m, replace(t, batch_size=t.batch_size * 2)),
    "sequences of 96": lambda m, t: (m, replace(t, seq_len=96)),
    "half the rate": _times("lr", 0.5),
    "double the rate": _times("lr", 2.0),
    "half the weight decay": _times("weight_decay", 0.5),
    "double the weight decay": _times("weight_decay", 2.0),
    "half the passes": _times("max_epochs", 0.5),
    "double the passes": _times("max_epochs", 2.0),
}


def measure(
    text: str, path: Path, budget: float, seed: int, name: str, chosen: dict[str, Any] | None
) -> dict[str, Any]:
    """One run. Returns the line for the file of results.

    Args:
        text, path, budget, seed: the text, its file, seconds, and the seed of the run.
        name: of the alternative.
        chosen: the line of the default; the alternative is a change to what was chosen there. None for the default.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    data = DataConfig(val_max=VALIDATED, **TEXTS[text][1])
    corpus = read_corpus([os.fspath(path)], data)
    if chosen is None:
        default = chosen_here(corpus, data, budget)
    else:
        default = (ModelConfig.from_json(chosen["model"]), TrainConfig.from_json(chosen["train"]))
    model, train = ALTERNATIVES[name](*default)
    result = {"text": text, "budget": budget, "name": name, "seed": seed}
    if chosen is not None and (model, train) == default:
        return result  # such as less dropout, if the default has no dropout
    with trainer(corpus, data, model, replace(train, seed=seed)) as run:
        finished = run.train()
    return result | {
        "loss": finished.best_val_loss,
        "last": finished.val_loss,
        "train_loss": finished.train_loss,
        "epochs": finished.epoch,
        "steps": finished.step,
        "seconds": finished.elapsed,
        "parameters": run.run.model.num_parameters(),
        "characters": run.run.text.characters,
        "model": model.to_json(),
        "train": train.to_json(),
    }


def chosen_here(
    corpus: Corpus, data: DataConfig, budget: float, model: ModelConfig | None = None, given: Collection[str] = ()
) -> Configs:
    """The recipe's choice for a budget of processor time, in seconds; see ``choose_here``."""
    train = TrainConfig(time=budget)
    choice = choose_here(model or ModelConfig(), train, given=given, corpus=corpus, data=data, clock=time.process_time)
    return choice.model, choice.train


@contextmanager
def trainer(corpus: Corpus, data: DataConfig, model: ModelConfig, train: TrainConfig, **more: Any) -> Iterator[Trainer]:
    """A trainer whose clock counts processor time and whose files are thrown away; ``more`` is for ``Trainer``."""
    with tempfile.TemporaryDirectory() as folder, flushed_denormals():
        yield Trainer(
            model_config=model,
            data_config=data,
            train_config=train,
            corpus=corpus,
            folder=Path(folder),
            clock=time.process_time,
            **more,
        )


Cell = tuple[str, float, int]  # text, budget, seed


def _measure_all(args: argparse.Namespace) -> None:
    rows: dict[Cell, dict[str, dict[str, Any]]] = defaultdict(dict)
    if args.results.exists():
        for row in map(json.loads, args.results.read_text("utf-8").splitlines()):
            rows[row["text"], row["budget"], row["seed"]][row["name"]] = row
    folder = Path(tempfile.gettempdir()) / "charrnn-zoo"
    folder.mkdir(exist_ok=True)
    cells: list[Cell] = []
    for text in args.texts:
        try:
            text_file(text, folder)
        except OSError as error:
            print(f"left out: {text}: {error}", file=sys.stderr)
            continue
        cells += [(text, budget, seed) for budget in args.budgets for seed in range(1, args.seeds + 1)]

    def run(cell: Cell, name: str) -> None:
        if name in rows[cell]:
            return
        text, budget, seed = cell
        job = (text, text_file(text, folder), budget, seed, name, rows[cell].get("default"))
        line = subprocess.run(
            [sys.executable, __file__, "one", json.dumps(job, default=os.fspath)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
        rows[cell][name] = json.loads(line)
        with args.results.open("a", encoding="utf-8") as file:
            file.write(line)
        print(line, end="", flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda cell: run(cell, "default"), cells))  # the alternatives are changes to the defaults
        list(pool.map(lambda job: run(*job), [(cell, name) for cell in cells for name in args.only]))


def _table(path: Path) -> None:
    cells: dict[float, dict[str, dict[str, list[dict[str, Any]]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        if "loss" in row:
            cells[row["budget"]][row["text"]][row["name"]].append(row)
    for budget, texts in cells.items():
        print(f"{budget:g} s:\n\n| text | chosen | passes | loss | regret | others, difference in 0.001 nats |")
        print("|---|---|---|---|---|---|")
        for text, runs in texts.items():
            losses = {name: median(row["loss"] for row in rows) for name, rows in runs.items()}
            default, chosen = losses.pop("default"), runs["default"][0]
            model, train = chosen["model"], chosen["train"]
            weights = f", weight dropout {model['weight_dropout']:g}" if model["weight_dropout"] else ""
            described = f"1×{model['hidden_size']}, dropout {model['dropout']:g}{weights}, batch {train['batch_size']}"
            regret = max(0.0, default - min(losses.values(), default=default))
            others = ", ".join(f"{name} {1000 * (losses[name] - default):+.0f}" for name in losses)
            print(f"| {text} | {described} | {chosen['epochs']:.2g} | {default:.4f} | {regret:.3f} | {others} |")
        print()


def main() -> None:
    """Measures, or prints the table."""
    if sys.argv[1:2] == ["one"]:
        text, path, budget, seed, name, chosen = json.loads(sys.argv[2])
        print(json.dumps(measure(text, Path(path), budget, seed, name, chosen), ensure_ascii=False))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    measuring = commands.add_parser("measure")
    measuring.add_argument("results", type=Path)
    measuring.add_argument("--texts", nargs="*", choices=list(TEXTS), default=list(TEXTS))
    measuring.add_argument("--budgets", nargs="*", type=float, default=[30.0, 120.0])
    measuring.add_argument("--only", nargs="*", choices=list(ALTERNATIVES), default=list(ALTERNATIVES))
    measuring.add_argument("--seeds", type=int, default=1)
    measuring.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    printing = commands.add_parser("table")
    printing.add_argument("results", type=Path)
    args = parser.parse_args()
    if args.command == "measure":
        _measure_all(args)
    else:
        _table(args.results)


if __name__ == "__main__":
    main()
