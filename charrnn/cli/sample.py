"""``charrnn sample``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charrnn.cli import sampling_options as opt

if TYPE_CHECKING:
    from charrnn_runtime import Sampler

    from charrnn.data.item_filter import Membership
    from charrnn.inference.item_samples import Report


def sample(
    model: Annotated[Path, typer.Argument(help="A model file (.onnx), a checkpoint (.pt) or a run folder.")],
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = "",
    prompt_file: Annotated[Path | None, typer.Option(help="File with the text to continue; - for stdin.")] = None,
    length: Annotated[int, typer.Option(help="How many characters to draw.")] = 2000,
    temperature: Annotated[float, typer.Option(help="Below 1 is bolder, above 1 wilder, 0 is greedy.")] = 1.0,
    top_k: opt.TopK = None,
    typical_p: opt.TypicalP = None,
    top_p: opt.TopP = None,
    min_p: opt.MinP = None,
    repetition_penalty: opt.RepetitionPenalty = 1.0,
    frequency_penalty: opt.FrequencyPenalty = 0.0,
    presence_penalty: opt.PresencePenalty = 0.0,
    penalty_window: opt.PenaltyWindow = 64,
    logit_bias: opt.LogitBias = None,
    allowed: opt.Allowed = None,
    min_length: opt.MinLength = 0,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the likeliest: --temperature 0.")] = False,
    stop: Annotated[list[str] | None, typer.Option(help="End the text here; may be repeated.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same text.", show_default="a new one")] = None,
    num: Annotated[int, typer.Option(help="How many texts.")] = 1,
    unknown: Annotated[str, typer.Option(help="Prompt characters the model does not know: error or skip.")] = "error",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N, auto or another provider.")] = "cpu",
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the text alone, without the prompt.")] = False,
    unique: Annotated[
        bool, typer.Option("--unique", help="Items, for a model of items: draw until so many distinct ones are there.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Items: how many are distinct, empty, cut, in the training text.")
    ] = False,
    against: Annotated[
        Path | None, typer.Option(help="Items: the text to look them up in.", show_default="the training text")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with why each text ended.")] = False,
    logprobs: opt.Logprobs = False,
) -> None:
    """Sample text from a model; from a model of items (train --lines), one item a line."""
    from charrnn_runtime.options import check_count, check_seed, new_seed
    from charrnn_runtime.sampling import StopStrings

    from charrnn.errors import SamplingError
    from charrnn.inference.item_samples import ItemSampler, has_items
    from charrnn.inference.models import open_sampler

    # Wrong values are told before a model is loaded.
    drawing = opt.draw_options(
        greedy=greedy,
        temperature=temperature,
        top_k=top_k,
        typical_p=typical_p,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        frequency_penalty=frequency_penalty,
        presence_penalty=presence_penalty,
        penalty_window=penalty_window,
        logit_bias=logit_bias,
        allowed=allowed,
        min_length=min_length,
    )
    check_count("length", length, least=1)
    check_count("num", num, least=1)
    StopStrings(stop or ())
    chosen = new_seed() if seed is None else check_seed(seed)
    if prompt_file is not None:
        prompt = _read_prompt(prompt_file)
    as_json = as_json or logprobs
    sampler = open_sampler(model, device=device, expected_batch=num)
    if not quiet and not as_json and (seed is None or device == "auto"):
        typer.echo(f"seed {chosen}, device {sampler.device}", err=True)
    settings = {"length": length, "stop": stop or (), "seed": chosen, "unknown": unknown, **drawing}
    if unique or report or against is not None or (has_items(sampler) and (as_json or num > 1)):
        drawn = ItemSampler(
            sampler,
            length=length,
            seed=chosen,
            prompt=prompt,
            unknown=unknown,
            stop=stop or (),
            options=drawing,
            against=_filter(sampler, model, against) if report or against is not None else None,
        )
        items = drawn.draw_distinct(num) if unique else drawn.draw(num)
        _print_items(items, drawn.report, prompt, chosen, as_json=as_json, report=report, quiet=quiet, sampler=sampler)
        if unique and drawn.report.distinct < num:
            raise SamplingError(
                f"it gave {drawn.report.distinct:,} distinct items in {drawn.report.drawn:,} drawn, not {num:,}: "
                "ask for fewer, or raise --temperature (or --length, if many were cut)"
            )
        return
    if as_json or num > 1:
        done = opt.generate_all(sampler, [prompt] * num, log_probs=logprobs, settings=settings)
        if as_json:
            typer.echo(json.dumps(opt.to_json(chosen, prompt, done), ensure_ascii=False))
            return
        for i, one in enumerate(done):
            if i:
                typer.echo("----")
            typer.echo(one.text if quiet else prompt + one.text)
        return
    pieces = sampler.stream(prompt, **settings)
    if not quiet:
        sys.stdout.write(prompt)
    for piece in pieces:
        sys.stdout.write(piece)
        if sys.stdout.isatty():
            sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()  # here an error still has a handler


def _read_prompt(path: Path) -> str:
    from charrnn.data.finder import read_text

    return read_text([str(path)])


def _print_items(
    texts: Iterator[str],
    counts: Report,
    prompt: str,
    seed: int,
    *,
    as_json: bool,
    report: bool,
    quiet: bool,
    sampler: Sampler,
) -> None:
    """One item a line, or, where items may hold a newline, a line of dashes between them."""
    if as_json:
        values = {"seed": seed, "prompt": prompt, "texts": [text[len(prompt) :] for text in texts]}
        if report:
            values["report"] = counts.to_json()
        typer.echo(json.dumps(values, ensure_ascii=False))
        return
    between = "----\n" if sampler.vocabulary.token("\n") is not None and sampler.vocabulary.kind != "bytes" else ""
    for i, text in enumerate(texts):
        sys.stdout.write((between if i else "") + text[len(prompt) if quiet else 0 :] + "\n")
    sys.stdout.flush()  # here an error still has a handler
    if report:
        typer.echo(str(counts), err=True)


def _filter(sampler: Sampler, model: Path, against: Path | None) -> Membership | None:
    """What to look items up in: the given text or filter, or that of the training text if it is there."""
    from charrnn.data import item_filter

    training = sampler.info.training
    if against is None:
        found = item_filter.find(model, training.get("corpus_sha256"))
        return None if found is None else item_filter.Membership.load(found)
    if against.suffix == ".npy":
        return item_filter.Membership.load(against)
    from charrnn.inference.item_scores import item_texts
    from charrnn.inference.training_summary import item_config

    return item_filter.Membership.of_items(item_texts([str(against)], item_config(sampler.info)))
