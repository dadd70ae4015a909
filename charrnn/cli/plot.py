"""``charrnn plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def plot(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The picture: .png, .svg or .pdf; .html for a report of one run.")
    ] = Path("loss.png"),
    x: Annotated[str, typer.Option(help="What to draw over: step, epoch or elapsed.")] = "epoch",
) -> None:
    """Draw training and validation curves of one or several runs."""
    from charrnn.files import check_writable
    from charrnn.reports.plots import plot_runs

    check_writable(out)
    if out.suffix.lower() == ".html":
        from charrnn.errors import ConfigError
        from charrnn.reports.run_report import write_report

        if len(runs) != 1:
            raise ConfigError("a report is of one run; for curves of several, name a picture: -o loss.png")
        heat = write_report(runs[0], out)
        typer.echo(f"{out}{f' and {heat}' if heat else ''}")
        return
    plot_runs(runs, out, x=x)
    typer.echo(f"{out}: {len(runs)} run{'s' if len(runs) > 1 else ''}")
