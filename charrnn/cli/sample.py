"""``charrnn sample``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def sample(
    model: Annotated[Path, typer.Argument(help="A model file (.onnx), a checkpoint (.pt) or a run folder.")],
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = "",
    prompt_file: Annotated[Path | None, typer.Option(help="File with the text to continue; - for stdin.")] = None,
    length: Annotated[int, typer.Option(help="How many characters to draw.")] = 2000,
    temperature: Annotated[float, typer.Option(help="Below 1 is bolder, above 1 wilder, 0 is greedy.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Only the k likeliest characters.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Only the likeliest that together reach this.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Only those this likely, measured by the likeliest.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the likeliest: --temperature 0.")] = False,
    stop: Annotated[list[str] | None, typer.Option(help="End the text here; may be repeated.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same text.", show_default="a new one")] = None,
    num: Annotated[int, typer.Option(help="How many texts.")] = 1,
    unknown: Annotated[str, typer.Option(help="Prompt characters the model does not know: error or skip.")] = "error",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto.")] = "cpu",
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the text alone, without the prompt.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Sample text from a model."""
    from charrnn_runtime import SamplingOptions
    from charrnn_runtime.options import check_count, check_seed, new_seed
    from charrnn_runtime.sampling import StopStrings

    from charrnn.models import open_sampler

    # Wrong values are told before a model is loaded.
    options = SamplingOptions(temperature=0.0 if greedy else temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    check_count("length", length, least=1)
    check_count("num", num, least=1)
    StopStrings(stop or ())
    chosen = new_seed() if seed is None else check_seed(seed)
    if prompt_file is not None:
        prompt = _read_prompt(prompt_file)
    sampler = open_sampler(model, device=device)
    if not quiet and not as_json and (seed is None or device == "auto"):
        typer.echo(f"seed {chosen}, device {sampler.device}", err=True)
    settings = {
        "length": length,
        "temperature": options.temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "stop": stop or (),
        "seed": chosen,
        "unknown": unknown,
    }
    if as_json or num > 1:
        texts = sampler.sample_batch([prompt] * num, **settings)  # type: ignore[arg-type]
        if as_json:
            typer.echo(json.dumps({"seed": chosen, "prompt": prompt, "texts": texts}, ensure_ascii=False))
            return
        for i, text in enumerate(texts):
            if i:
                typer.echo("----")
            typer.echo(text if quiet else prompt + text)
        return
    pieces = sampler.stream(prompt, **settings)  # type: ignore[arg-type]
    if not quiet:
        sys.stdout.write(prompt)
    for piece in pieces:
        sys.stdout.write(piece)
        if sys.stdout.isatty():
            sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()  # here an error still has a handler


def _read_prompt(path: Path) -> str:
    from charrnn.sources import read_text

    return read_text([str(path)])
