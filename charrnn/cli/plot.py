"""``charrnn plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def plot(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture: .png, .svg or .pdf.")] = Path("loss.png"),
    x: Annotated[str, typer.Option(help="What to draw over: step, epoch or elapsed.")] = "epoch",
) -> None:
    """Draw training and validation curves of one or several runs."""
    from charrnn.files import check_writable
    from charrnn.plots import plot_runs

    check_writable(out)
    plot_runs(runs, out, x=x)
    typer.echo(f"{out}: {len(runs)} run{'s' if len(runs) > 1 else ''}")
