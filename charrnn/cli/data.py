"""``charrnn data``: known corpora and what is kept of them."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(help="Known corpora: list them, fetch them, say where they are.", no_args_is_help=True)


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="One JSON object a corpus.")] = False) -> None:
    """List the known corpora with size, licence and checksum, and which of them are downloaded."""
    from charrnn.data import catalogue

    for name in catalogue.names():
        known = catalogue.entry(name)
        path = catalogue.cache_path(name)
        here = path is not None and path.is_file()
        if as_json:
            values = {"name": name, "url": known.url, "size": known.size, "sha256": known.sha256 or None}
            values |= {"licence": known.licence, "description": known.description, "here": here}
            typer.echo(json.dumps(values))
            continue
        size = f"{'' if known.sha256 else 'about '}{(known.unpacked or known.size) / 1e6:.1f} MB"
        checked = f"sha256 {known.sha256[:12]}…" if known.sha256 else "unverified"
        typer.echo(f"{name:16} {size:>13}  {known.licence}; {checked}{'; here' if here else ''}")
        typer.echo(f"{'':16} {known.description}")
        typer.echo(f"{'':16} {known.url}")


@app.command()
def fetch(names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names from the list.")]) -> None:
    """Download known corpora into the cache, or go on with a download that broke off."""
    from charrnn.data import catalogue

    for name in names:
        catalogue.entry(name)
    for name in names:
        path = catalogue.fetch(name)
        typer.echo(f"{path}: {path.stat().st_size:,} bytes")


@app.command()
def path(name: Annotated[str, typer.Argument(help="A name from the list.")]) -> None:
    """Print where a known corpus is in the cache; fails if it is missing or incomplete."""
    from charrnn.data import catalogue
    from charrnn.errors import DownloadError

    found = catalogue.fetched(name)
    if found is None:
        raise DownloadError(f"{name}: not in the cache; fetch it with: charrnn data fetch {name}")
    typer.echo(found)
