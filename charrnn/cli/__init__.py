"""The command line. Only this package knows all other ones. Heavy imports are inside the commands."""

from __future__ import annotations

from typing import Annotated

import typer
from charrnn_runtime.command_line import run_command

from charrnn.cli import data_cache as _data_cache  # noqa: F401  # adds its commands to data
from charrnn.cli.bench import bench
from charrnn.cli.classify import classify
from charrnn.cli.data import app as data
from charrnn.cli.evaluate import evaluate
from charrnn.cli.export import export
from charrnn.cli.heatmap import heatmap
from charrnn.cli.inspect import inspect
from charrnn.cli.plot import plot
from charrnn.cli.sample import sample
from charrnn.cli.serve import serve
from charrnn.cli.train import train
from charrnn.cli.tune import tune
from charrnn.training.threads import bound_spinning
from charrnn.version import __version__

app = typer.Typer(
    name="charrnn",
    help="Train character-level recurrent language models, export them to ONNX, sample from them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(train)
app.command()(tune)
app.command()(export)
app.command()(sample)
app.command()(bench)
app.command("eval")(evaluate)
app.command()(classify)
app.command()(inspect)
app.command()(plot)
app.add_typer(data, name="data")
app.command()(heatmap)
app.command()(serve)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"charrnn {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: our own errors become a line and an exit code, without a traceback."""
    bound_spinning()
    run_command(app)
