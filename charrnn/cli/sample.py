"""``charrnn sample``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from charrnn.cli.config_options import with_options
from charrnn.cli.sampling_options import with_sampling_options
from charrnn.config import DataConfig

if TYPE_CHECKING:
    from charrnn_runtime import Request, Sampler

    from charrnn.data.item_filter import Membership
    from charrnn.inference.item_samples import ItemSampler

_ITEMS = "Items (for a model of items)"


@with_options(DataConfig, only=("encoding",))
@with_sampling_options
def sample(
    model: Annotated[Path, typer.Argument(help="A model file (.onnx), a checkpoint (.pt) or a run folder.")],
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = "",
    prompt_file: Annotated[Path | None, typer.Option(help="File with the text to continue; - for stdin.")] = None,
    length: Annotated[int, typer.Option(help="How many characters to sample at most.")] = 2000,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the most likely: --temperature 0.")] = False,
    stop: Annotated[list[str] | None, typer.Option(help="End the text here; may be repeated.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same text.", show_default="a new one")] = None,
    num: Annotated[int, typer.Option(help="How many texts.")] = 1,
    label: Annotated[
        str | None, typer.Option(help="What kind of text, of a model that was trained with --label.")
    ] = None,
    unknown: Annotated[
        Literal["error", "skip"], typer.Option(help="Prompt characters that the model has never seen.")
    ] = "error",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N, auto or another provider.")] = "cpu",
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the text alone, without the prompt.")] = False,
    unique: Annotated[
        bool, typer.Option("--unique", help="Sample until there are --num distinct ones.", rich_help_panel=_ITEMS)
    ] = False,
    report: Annotated[
        bool,
        typer.Option("--report", help="Count distinct, empty, cut and known ones.", rich_help_panel=_ITEMS),
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(help="The text to look them up in.", show_default="the training text", rich_help_panel=_ITEMS),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with why each text ended.")] = False,
    logprobs: Annotated[
        bool, typer.Option("--logprobs", help="JSON with the log-probability of each character.")
    ] = False,
    **options: Any,
) -> None:
    """Sample text from a model; from a model of items (train --lines), one item a line."""
    from charrnn_runtime import Request
    from charrnn_runtime.options import check_count, check_seed, new_seed, options_from_cli
    from charrnn_runtime.sampling import StopStrings
    from charrnn_runtime.text_io import write_json_texts, write_stream, write_texts

    from charrnn.inference.item_samples import ItemSampler, has_items
    from charrnn.inference.models import open_sampler

    # Wrong values are reported before a model is loaded.
    sampling = options_from_cli({**options, "temperature": 0.0} if greedy else options)
    check_count("length", length, least=1)
    check_count("num", num, least=1)
    StopStrings(stop or ())
    chosen = new_seed() if seed is None else check_seed(seed)
    as_json = as_json or logprobs
    sampler = open_sampler(model, device=device, expected_batch=num)
    if not quiet and not as_json and (seed is None or device == "auto"):
        typer.echo(f"seed {chosen}, device {sampler.device}", err=True)
    request = Request(
        prompt=_prompt(prompt, prompt_file, DataConfig(encoding=options["encoding"]).encoding, sampler),
        length=length,
        stop=stop or (),
        seed=chosen,
        unknown=unknown,
        log_probs=logprobs,
        label=label,
        options=sampling,
    )
    if unique or report or against is not None or (has_items(sampler) and (as_json or num > 1)):
        looked_up = _filter(sampler, model, against) if report or against is not None else None
        items = ItemSampler(sampler, request, looked_up)
        _write_items(items, request, sampler, num, unique=unique, report=report, quiet=quiet, as_json=as_json)
    elif as_json:
        write_json_texts(sampler, request, num)
    elif num > 1:
        write_texts(sampler, request, num, with_prompt=not quiet)
    else:
        write_stream(sampler, request, with_prompt=not quiet)


def _prompt(prompt: str, file: Path | None, encoding: str | None, sampler: Sampler) -> str | bytes:
    from charrnn_runtime.text_io import prompt_of_argument

    from charrnn.data.finder import read_for

    if file is None:
        return prompt_of_argument(prompt, sampler.vocabulary)
    return read_for(sampler.vocabulary, str(file), encoding=encoding)


def _write_items(
    items: ItemSampler,
    request: Request,
    sampler: Sampler,
    num: int,
    *,
    unique: bool,
    report: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """One item a line as soon as it is finished, or, if items may hold a newline, a line of dashes between them."""
    from dataclasses import replace

    from charrnn_runtime import Generation
    from charrnn_runtime.text_io import SEPARATOR, TextOutput, json_of_texts, uninterrupted, write_json

    from charrnn.errors import SamplingError

    vocabulary = sampler.vocabulary
    between = f"{SEPARATOR}\n" if vocabulary.token("\n") is not None and vocabulary.kind != "bytes" else ""
    output = TextOutput(vocabulary)
    texts: list[Generation] = []
    begin = b"" if quiet else request.prompt
    assert isinstance(begin, (str, bytes))

    first = True

    def write(done: Generation) -> None:
        nonlocal first
        if not first:
            output.write(between)
        first = False
        output.write(begin)
        output.write(done.text + "\n")
        output.flush()

    def collect(done: Generation) -> None:
        # JSON has no bytes: what is not UTF-8 becomes U+FFFD.
        text = done.text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        texts.append(replace(done, text=text) if vocabulary.kind == "bytes" else done)

    try:
        (items.sample_distinct if unique else items.sample)(num, collect if as_json else write)
    finally:
        if texts:
            with uninterrupted():
                write_json(json_of_texts(request, texts) | ({"report": items.report.to_json()} if report else {}))
    if report and not as_json:
        typer.echo(str(items.report), err=True)
    if unique and items.report.distinct < num:
        raise SamplingError(
            f"it gave {items.report.distinct:,} distinct items in {items.report.sampled:,} sampled, not {num:,}: "
            "ask for fewer, or raise --temperature (or --length, if many were cut)"
        )


def _filter(sampler: Sampler, model: Path, against: Path | None) -> Membership | None:
    """The filter to look items up in: of the given text, or else of the training text, if there is one."""
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
