"""``charrnn tune``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charrnn.cli.config_options import with_options
from charrnn.cli.train import SIGNALS
from charrnn.config import BUDGETS, DataConfig, ModelConfig, TrainConfig, options

if TYPE_CHECKING:
    from charrnn.tuning.tune import Tuning

SHOWN = 5  # trials
SETTINGS = [
    option.name
    for config in (ModelConfig, DataConfig, TrainConfig)
    for option in options(config)
    if option.name not in BUDGETS
]


@with_options(ModelConfig, DataConfig, TrainConfig, only=SETTINGS)
def tune(
    text: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files, folders, globs or a known name (tinyshakespeare). Default: the Python standard library's own "
            "source."
        ),
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Limit of search and training together: 20m, 1h, 8h.", show_default="1h")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder.", show_default="runs/NAME-OF-TEXT-tune")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the search in the folder; begin it if there is none yet.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the search or run in the folder.")] = False,
    **given: Any,
) -> None:
    """Search for better settings than the recipe's, and train a model with the best ones.

    At most two thirds of the time are for the search: size, layers, dropout, cell, sequence length, batch size,
    learning rate and weight decay, except for those that are given. The rest is for the training: nearly all of it
    where more time is worth more than what the search finds.
    """
    from charrnn.tuning.tune import tune as search

    found = search(*text or (), time=time, out=out, resume=resume, overwrite=overwrite, signals=SIGNALS, **given)
    if found.run is not None:
        _print(found)
    if found.signal is not None:
        sys.exit(128 + found.signal)


def _print(found: Tuning) -> None:
    from rich.console import Console
    from rich.table import Table

    from charrnn.tuning.space import described

    table = Table("trial", "trained", "loss, nats", "change of the recipe", title="The best trials")
    for outcome in found.outcomes[:SHOWN]:
        times = f"{len(outcome.losses)} time{'s' if len(outcome.losses) > 1 else ''}"
        table.add_row(str(outcome.number), times, f"{outcome.losses[-1]:.4f}", described(outcome.change))
    console = Console()
    console.print(table)
    if found.importances:
        shares = (f"{name.replace('_', ' ')} {share:.0%}" for name, share in found.importances.items())
        console.print(f"importance  {', '.join(shares)}", soft_wrap=True, highlight=False)
    console.print("the winner's training, which is in tune.txt too:", highlight=False)
    console.print(found.command, soft_wrap=True, highlight=False, markup=False)
