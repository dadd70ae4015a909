"""``charrnn data``."""

from __future__ import annotations

import typer

app = typer.Typer(help="Known texts, and the cache.", no_args_is_help=True)
