"""``charrnn eval``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from charrnn.cli.config_options import with_options
from charrnn.config import DataConfig

if TYPE_CHECKING:
    from charrnn_runtime import Sampler
    from charrnn_runtime.vocab import UnknownScore


@with_options(DataConfig, only=("encoding", "lines", "separator", "column", "delimiter", "label"))
def evaluate(
    model: Annotated[Path, typer.Argument(help="A model file (.onnx), a checkpoint (.pt) or a run folder.")],
    text: Annotated[list[str], typer.Argument(help="Files, folders, globs, - for standard input, or a known name.")],
    split: Annotated[
        str, typer.Option(help="Which part, as the model's training divided the text: all, train, val or test.")
    ] = "all",
    window: Annotated[
        int | None, typer.Option(help="Score in windows of N characters, each from the zero state.")
    ] = None,
    per_line: Annotated[
        bool, typer.Option("--per-line", help="Print each line: its bits, its bits per character, and the line.")
    ] = False,
    sort: Annotated[bool, typer.Option("--sort", help="--per-line with the strangest lines first.")] = False,
    unknown: Annotated[
        Literal["charge", "error"],
        typer.Option(help="Characters that the model has never seen: score them as the least likely one, or refuse."),
    ] = "charge",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    **options: Any,
) -> None:
    """How well a model predicts a text: nats and bits per character, perplexity; bits per item; by label, accuracy."""
    from charrnn_runtime.text_scores import Totals, print_text_score, print_unknown

    from charrnn.data.split import PARTS
    from charrnn.errors import ConfigError
    from charrnn.inference.evaluation import evaluate_text
    from charrnn.inference.models import open_sampler
    from charrnn.training.console import reading

    if split not in ("all", *PARTS):
        raise ConfigError(f"unknown split {split!r}; known: all, {', '.join(PARTS)}")
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
        score = evaluate_text(
            sampler,
            text,
            split=split,  # type: ignore[arg-type]
            window=window,
            unknown=unknown,
            encoding=divided.encoding,
            listener=shown,
        )
    totals = Totals(score.nats_per_char * score.characters, score.characters)
    print_text_score(totals, None, unknown=score.unknown.count, as_json=as_json)
    print_unknown(score.unknown)


def _items(
    sampler: Sampler,
    text: list[str],
    divided: DataConfig,
    *,
    split: Any,
    unknown: UnknownScore,
    each: bool,
    sort: bool,
    as_json: bool,
) -> None:
    """Scores items; with ``each`` their scores go to standard output, and the sums to standard error."""
    from dataclasses import replace

    from charrnn_runtime.text_io import shown_name
    from charrnn_runtime.text_scores import print_line_scores

    from charrnn.inference.item_scores import by_surprisal, item_lines
    from charrnn.inference.label_scores import LabelScores
    from charrnn.inference.training_summary import item_config

    config = item_config(sampler.info)
    names = ("lines", "separator", "column", "delimiter", "label") if divided.has_items else ()
    config = replace(config, encoding=divided.encoding, **{name: getattr(divided, name) for name in names})
    by_label = LabelScores(sampler)
    lines = item_lines(sampler, text, config, split=split)
    print_line_scores(
        sampler,
        by_label.classified(lines) if config.label is not None else lines,
        name=shown_name(text[0]),
        unknown=unknown,
        each=each,
        as_json=as_json,
        order=lambda scores: by_label.scored(by_surprisal(scores) if sort else scores),
        more=by_label.to_json,
    )
    if by_label.labels and not as_json:
        typer.echo(str(by_label), err=each)
