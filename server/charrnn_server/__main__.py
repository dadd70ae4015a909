"""``python -m charrnn_server MODEL…``: the server for machines without torch and the trainer."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import fields
from typing import get_type_hints

from charrnn_runtime.command_line import exit_code, run_command

from charrnn_server.options import ServerOptions
from charrnn_server.serve import serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0, 1 for a failure, 2 for wrong usage."""
    return exit_code(lambda: _serve(arguments))


def _serve(arguments: Sequence[str] | None) -> None:
    values = vars(_parser().parse_args(arguments))
    models = values.pop("models")
    serve(models, ServerOptions.from_command_line(values))


def _parser() -> argparse.ArgumentParser:
    """One option for each field of ``ServerOptions``."""
    parser = argparse.ArgumentParser(prog="python -m charrnn_server", description="A playground and an API.")
    parser.add_argument("models", nargs="+", metavar="MODEL", help="A model file (.onnx).")
    kinds = get_type_hints(ServerOptions)
    for field in fields(ServerOptions):
        name, help, kind = "--" + field.name.replace("_", "-"), field.metadata["help"], kinds[field.name]
        if kind is bool:
            parser.add_argument(name, action="store_true", help=help)
        elif kind == tuple[str, ...]:
            parser.add_argument(name, action="append", help=f"{help} May be repeated.")
        else:
            variable = field.metadata["variable"]
            default = os.environ.get(variable) if variable else field.default
            shown = "" if field.default is None else f" Default: {field.default}."
            parser.add_argument(name, type=int if kind is int else str, default=default, help=help + shown)
    return parser


if __name__ == "__main__":
    run_command(main)
