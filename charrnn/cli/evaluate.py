"""``charrnn eval``."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charrnn.cli.config_options import with_options
from charrnn.config import DataConfig

if TYPE_CHECKING:
    from charrnn_runtime import Sampler

    from charrnn.inference.item_scores import ItemScore


@with_options(DataConfig, only=("encoding", "lines", "separator", "column", "delimiter"))
def evaluate(
    model: Annotated[Path, typer.Argument(help="A model file (.onnx), a checkpoint (.pt) or a run folder.")],
    text: Annotated[list[str], typer.Argument(help="Files, folders, globs, - for standard input, or a known name.")],
    split: Annotated[
        str, typer.Option(help="Which part, as the model's training divided the text: all, train, val or test.")
    ] = "all",
    window: Annotated[
        int | None, typer.Option(help="Score in windows of so many characters, each from the zero state.")
    ] = None,
    per_line: Annotated[
        bool, typer.Option("--per-line", help="Print each line: its bits, its bits per character, and the line.")
    ] = False,
    sort: Annotated[bool, typer.Option("--sort", help="--per-line with the strangest lines first.")] = False,
    unknown: Annotated[str, typer.Option(help="Characters the model does not know: error or skip.")] = "error",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    **options: Any,
) -> None:
    """How well a model predicts a text: nats and bits per character, perplexity; bits per item."""
    from charrnn.data.split import PARTS
    from charrnn.errors import ConfigError
    from charrnn.inference.evaluation import evaluate_text
    from charrnn.inference.models import open_sampler
    from charrnn.training.console import reading

    if split not in ("all", *PARTS):
        raise ConfigError(f"unknown split {split!r}; known: all, {', '.join(PARTS)}")
    if unknown not in ("error", "skip"):
        raise ConfigError(f"unknown={unknown!r}: use error or skip")
    if window is not None and window < 1:
        raise ConfigError(f"window must be at least 1, got {window}")
    divided = DataConfig(**{name: value for name, value in options.items() if value is not None})
    by_item = divided.has_items or per_line or sort
    if by_item and window is not None:
        raise ConfigError("--window is for running text; leave it out, or score the text as a whole")
    sampler = open_sampler(model, device=device)
    ends = "end" in sampler.vocabulary.special
    if divided.has_items and not ends and not (per_line or sort):
        raise ConfigError(
            f"{model}: the model knows no items: it was trained on running text; "
            "leave out --lines and the like, or score each line with its newline: --per-line"
        )
    if by_item or (ends and window is None):
        _items(sampler, text, divided, split=split, unknown=unknown, each=per_line or sort, sort=sort, as_json=as_json)
        return
    with reading() as shown:
        nats, count = evaluate_text(
            sampler,
            text,
            split=split,  # type: ignore[arg-type]
            window=window,
            unknown=unknown,
            encoding=divided.encoding,
            listener=shown,
        )
    bits = nats / math.log(2)
    perplexity = math.exp(min(nats, 700))  # near the largest float
    if as_json:
        values = {"nats_per_char": nats, "bits_per_char": bits, "perplexity": perplexity, "characters": count}
        typer.echo(json.dumps(values))
    else:
        typer.echo(f"{nats:.4f} nats/char   {bits:.4f} bits/char   perplexity {perplexity:.3f}   {count:,} characters")


def _items(
    sampler: Sampler,
    text: list[str],
    divided: DataConfig,
    *,
    split: str,
    unknown: str,
    each: bool,
    sort: bool,
    as_json: bool,
) -> None:
    """Scores by item; with ``each`` they go to standard output, and the sum of them to standard error."""
    from dataclasses import replace

    from charrnn.inference.item_scores import by_surprisal, score_items
    from charrnn.inference.training_summary import item_config

    config = item_config(sampler.info)
    names = ("lines", "separator", "column", "delimiter") if divided.has_items else ()
    config = replace(config, encoding=divided.encoding, **{name: getattr(divided, name) for name in names})
    total, tokens, count = 0.0, 0, 0

    def counted(scores: Iterable[ItemScore]) -> Iterable[ItemScore]:
        nonlocal total, tokens, count
        for score in scores:
            total, tokens, count = total + score.nats, tokens + score.tokens, count + 1
            yield score

    scores = counted(score_items(sampler, text, config, split=split, unknown=unknown))  # type: ignore[arg-type]
    for score in by_surprisal(scores) if sort else scores:
        if each and as_json:
            values = {"bits": score.bits, "bits_per_char": score.bits_per_char, "text": score.text}
            sys.stdout.write(json.dumps(values, ensure_ascii=False) + "\n")
        elif each:
            sys.stdout.write(f"{score.bits:.3f}\t{score.bits_per_char:.4f}\t{score.text}\n")
    sys.stdout.flush()  # here an error still has a handler
    nats = total / tokens
    values = {
        "bits_per_item": total / count / math.log(2),
        "bits_per_char": nats / math.log(2),
        "nats_per_char": nats,
        "perplexity": math.exp(min(nats, 700)),
        "items": count,
        "characters": tokens - count,
    }
    if as_json:
        typer.echo(json.dumps(values), err=each)
    else:
        typer.echo(
            f"{values['bits_per_item']:.4f} bits/item   {values['bits_per_char']:.4f} bits/char, ends included   "
            f"{count:,} items   {tokens - count:,} characters",
            err=each,
        )
