"""The options of drawing as the command line has them; ``charrnn_runtime.SamplingOptions`` says what they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from charrnn_runtime import Generation, Sampler

TopK = Annotated[int | None, typer.Option(help="Only the k likeliest characters.")]
TypicalP = Annotated[
    float | None, typer.Option(help="Only those of the most expected surprise that reach this together.")
]
TopP = Annotated[float | None, typer.Option(help="Only the likeliest that together reach this.")]
MinP = Annotated[float | None, typer.Option(help="Only those this likely, measured by the likeliest.")]
RepetitionPenalty = Annotated[float, typer.Option(help="Above 1: divides the logits of recent characters.")]
FrequencyPenalty = Annotated[float, typer.Option(help="Off a logit for each time its character is recent.")]
PresencePenalty = Annotated[float, typer.Option(help="Off a logit, once, if its character is recent.")]
PenaltyWindow = Annotated[int, typer.Option(help="How many of the last characters are recent.")]
LogitBias = Annotated[
    list[str] | None, typer.Option(metavar="C=N", help="Adds N to the logit of character C; may be repeated.")
]
Allowed = Annotated[str | None, typer.Option(help="Draw these characters only.")]
MinLength = Annotated[int, typer.Option(help="No end and no stop string before so many characters.")]
Logprobs = Annotated[bool, typer.Option("--logprobs", help="JSON with the log-probability of each character.")]


def draw_options(*, greedy: bool, logit_bias: Sequence[str] | None, **options: Any) -> dict[str, Any]:
    """Keyword arguments of ``Sampler.sample`` for what the command line was given, checked.

    Raises:
        UsageError: a value is out of its range.
    """
    from charrnn_runtime import SamplingOptions
    from charrnn_runtime.options import parse_logit_bias

    if greedy:
        options["temperature"] = 0.0
    options["logit_bias"] = parse_logit_bias(logit_bias or ()) or None
    SamplingOptions(**options)
    return options


def generate_all(
    sampler: Sampler, prompts: Sequence[str], *, log_probs: bool, settings: Mapping[str, Any]
) -> list[Generation]:
    """``Sampler.sample_batch`` with all that is known of each text.

    Args:
        sampler: the model.
        prompts: one for each text; text i has index i.
        log_probs: whether they hold log-probabilities.
        settings: length, stop, seed, unknown, and the options of drawing.
    """
    from charrnn_runtime import Request

    named = ("length", "stop", "seed", "unknown")
    own = {name: settings[name] for name in named}
    options: Any = {name: value for name, value in settings.items() if name not in named}
    requests = [
        Request(prompt=prompt, index=i, log_probs=log_probs, options=options, **own) for i, prompt in enumerate(prompts)
    ]
    done = dict(sampler.generate_many(requests))
    return [done[i] for i in range(len(prompts))]


def to_json(seed: int, prompt: str, done: Sequence[Generation]) -> dict[str, Any]:
    """What ``--json`` prints; log-probabilities are natural logarithms, one list a text."""
    values: dict[str, Any] = {
        "seed": seed,
        "prompt": prompt,
        "texts": [one.text for one in done],
        "finish_reasons": [one.finish_reason for one in done],
    }
    if done and done[0].log_probs is not None:
        values["log_probs"] = [one.log_probs.tolist() for one in done if one.log_probs is not None]
    return values
