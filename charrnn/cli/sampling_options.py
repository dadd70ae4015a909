"""The options of sampling on the command line, made from the runtime's ``SamplingOptions``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from charrnn_runtime.options import CliOption, cli_options


def with_sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """A decorator: the command's ``**options`` become one option for each sampling option."""
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    made = [_parameter(option) for option in cli_options()]
    # typer reads both the signature and the annotations.
    command.__signature__ = signature.replace(parameters=own + made)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in own + made} | {"return": None}
    return command


def _parameter(option: CliOption) -> inspect.Parameter:
    kind: Any = list[option.type] if option.repeatable else option.type  # type: ignore[name-defined]
    declared = typer.Option(
        help=option.help,
        metavar=option.metavar,
        show_default=False if option.default is None else f"{option.default:g}",
        rich_help_panel="Sampling",
    )
    optional = kind | None if option.default is None else kind
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=Annotated[optional, declared]
    )
