"""``charrnn data cache`` and ``charrnn data clear``: the texts that are kept as token ids."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer

from charrnn.cli.data import app


@app.command("cache")
def show_cache(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Texts that are kept as token ids, so that the next run starts at once."""
    from charrnn.data import cache
    from charrnn.files import NO_CACHE

    found, folder = cache.entries(), cache.folder()
    if as_json:
        values = [
            {"name": e.name, "description": e.description, "tokens": e.tokens, "bytes": e.size, "made": round(e.made)}
            for e in found
        ]
        typer.echo(json.dumps({"folder": folder and str(folder), "texts": values}))
        return
    for entry in found:
        date = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.made))
        typer.echo(
            f"{entry.name}: {entry.tokens:,} tokens, {entry.size / 1e6:,.1f} MB, {date}, from {entry.description}"
        )
    total = sum(entry.size for entry in found)
    typer.echo(f"{folder or NO_CACHE}: {len(found)} texts, {total / 1e6:,.1f} MB")


@app.command("clear")
def clear_cache() -> None:
    """Remove the token ids of all texts; the texts themselves, and downloads, stay."""
    from charrnn.data import cache
    from charrnn.files import NO_CACHE

    count, freed = cache.clear()
    typer.echo(f"{cache.folder() or NO_CACHE}: {count} texts removed, {freed / 1e6:,.1f} MB")
