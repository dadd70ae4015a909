"""``charrnn heatmap``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from charrnn.cli.config_options import with_options
from charrnn.config import DataConfig


@with_options(DataConfig, only=("encoding",))
def heatmap(
    model: Annotated[Path, typer.Argument(help="A model file (.onnx), a checkpoint (.pt) or a run folder.")],
    text: Annotated[str | None, typer.Option(help="The text: a file, a folder, - for standard input.")] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Use a text that the model samples itself.")] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("heatmap.html"),
    length: Annotated[
        int | None, typer.Option(help="Characters at most.", show_default="100,000; 5,000 for --sample")
    ] = None,
    units: Annotated[int, typer.Option(help="How many units to keep; each adds up to a byte per character.")] = 40,
    unit: Annotated[list[str] | None, typer.Option(help="Keep this unit, such as c_0[57]; may be repeated.")] = None,
    state: Annotated[
        list[str] | None, typer.Option(help="Compare this state; may be repeated.", show_default="c_…, or all")
    ] = None,
    unknown: Annotated[str, typer.Option(help="Characters the model does not know: error or skip.")] = "error",
    label: Annotated[
        str | None, typer.Option(help="Read or sample a text of this kind, of a model that was trained with --label.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="For --sample: text to continue.")] = "",
    temperature: Annotated[float, typer.Option(help="For --sample.")] = 1.0,
    seed: Annotated[int, typer.Option(help="For --sample: same seed, same text.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto.")] = "cpu",
    **options: Any,
) -> None:
    """Write a page that colours a text by what the model's units do, and by what surprises it."""
    from charrnn_runtime import Request
    from charrnn_runtime.options import SamplingKwargs
    from charrnn_runtime.text_io import prompt_of_argument

    from charrnn.data.finder import read_for
    from charrnn.errors import ConfigError
    from charrnn.files import check_writable, write_atomically
    from charrnn.inference.models import open_sampler
    from charrnn.reports.heatmap.build import build_heatmap, model_title

    if (text is None) == (not sample):
        raise ConfigError("name a text with --text FILE, or let the model sample one: --sample")
    encoding = DataConfig(encoding=options["encoding"]).encoding
    if unknown not in ("error", "skip"):
        raise ConfigError(f"unknown={unknown!r}: use error or skip")
    check_writable(out)
    sampler = open_sampler(model, device=device)
    if text is None:
        length = 5000 if length is None else length
        given = prompt_of_argument(prompt, sampler.vocabulary)
        settings = SamplingKwargs(temperature=temperature)
        request = Request(
            prompt=given, length=length, seed=seed, errors="surrogateescape", label=label, options=settings
        )
        sampled = "".join(sampler.stream_request(request))
        contents = given + sampled if isinstance(given, str) else given + sampled.encode("utf-8", "surrogateescape")
        length, name = len(contents), f"the model's own, seed {seed}, temperature {temperature:g}"
    else:
        contents = read_for(sampler.vocabulary, text, encoding=encoding)
        length, name = 100_000 if length is None else length, "standard input" if text == "-" else Path(text).name
    made = build_heatmap(
        sampler,
        contents,
        title=model_title(model),
        text_name=name,
        length=length,
        units=units,
        names=unit or (),
        states=state or (),
        unknown=unknown,
        label=label,
    )
    page = made.page.encode()
    write_atomically(out, page)
    behind = f", {made.left_out:,} more left out (--length)" if made.left_out else ""
    typer.echo(f"{out}: {len(made.analysis.shown):,} characters{behind}, {len(page):,} bytes")
    for best in made.analysis.units[:8]:
        feature, r = best.best
        typer.echo(f"  {best.name:<12} r = {r:+.3f}  {feature}")
