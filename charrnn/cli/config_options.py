"""Options of a command, made from the fields of configurations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Annotated, Any, Literal

import typer

from charrnn.config import Option, options


def with_options(
    *configs: Any, only: Collection[str] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator: the command's ``**options`` become one option for each field of the configurations.

    An option that is not given has the value None.

    Args:
        configs: the configurations.
        only: names of the fields to take; all of them by default.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        made = [
            _parameter(option)
            for config in configs
            for option in options(config)
            if only is None or option.name in only
        ]
        # typer reads both the signature and the annotations.
        command.__signature__ = signature.replace(parameters=own + made)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in own + made} | {"return": None}
        return command

    return decorate


def _parameter(option: Option) -> inspect.Parameter:
    kind: Any = str if option.parse else option.kind
    if option.choices:
        kind = Literal[option.choices]
    shown = False if option.default is None or option.default is False else str(option.default)
    declared = typer.Option(parser=option.typed, help=option.help, show_default=shown, rich_help_panel=option.panel)
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, declared]
    )
