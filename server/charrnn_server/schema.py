"""Requests and responses of the API. Their checks and the OpenAPI description are made from these classes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, cast, get_type_hints

from charrnn_runtime import Request, SamplingOptions, UsageError, Vocabulary
from charrnn_runtime.options import MAX_SEED, LogitsProcessor, SamplingKwargs
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from charrnn_server.options import ServerOptions


class Foreign(NamedTuple):
    """A field of other servers that this one does not have.

    Attributes:
        remedy: what to do instead, if a request needs it.
        neutral: values, besides those in ``EMPTY``, with which the field changes nothing.
    """

    remedy: str = "leave it out"
    neutral: tuple[float | bool, ...] = ()


# Clients often send every field that they know. A field with one of these values is ignored, whatever its name.
EMPTY: tuple[Any, ...] = (None, False, "", [], {})
# Further fields that clients of OpenAI, vLLM, llama.cpp and text-generation-webui send.
FOREIGN = {
    "add_special_tokens": Foreign(neutral=(True,)),
    "cache_prompt": Foreign(neutral=(True,)),
    "dry_multiplier": Foreign(neutral=(0,)),
    "length_penalty": Foreign(neutral=(1,)),
    "max_completion_tokens": Foreign("here it is called max_tokens"),
    "max_new_tokens": Foreign("here it is called max_tokens"),
    "messages": Foreign("these models do not chat; put the text to continue into prompt"),
    "min_tokens": Foreign("here it is called min_length", neutral=(0,)),
    "mirostat": Foreign(neutral=(0,)),
    "mirostat_mode": Foreign(neutral=(0,)),
    "n_predict": Foreign("here it is called max_tokens"),
    "repeat_last_n": Foreign("here it is called penalty_window"),
    "repeat_penalty": Foreign("here it is called repetition_penalty", neutral=(1,)),
    "skip_special_tokens": Foreign(neutral=(True,)),
    "spaces_between_special_tokens": Foreign(neutral=(True,)),
    "tfs": Foreign(neutral=(1,)),
    "tfs_z": Foreign(neutral=(1,)),
    "top_a": Foreign(neutral=(0,)),
    "xtc_probability": Foreign(neutral=(0,)),
}


# Values with which clients of other servers say that they want no limit.
NO_LIMIT: dict[str, Any] = {"top_k": -1, "allowed": "", "pattern": "", "fill": ""}
DEFAULT_TOKENS = 200
DEFAULT_UNTIL = " \n.,"  # as Sampler.complete


def _same(a: Any, b: Any) -> bool:
    """Whether two JSON values are equal; unlike Python's numbers, JSON's are never equal to true or false."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _whole(value: Any) -> Any:
    """A number without a fraction as int: JSON has one kind of number, and some clients write 40.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def whole(**details: Any) -> Any:
    """The type of a whole number with these bounds and this description."""
    # Only in this order do the bounds appear in the schema.
    return Annotated[int, Field(**details), BeforeValidator(_whole)]


Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,7}$")]
Unknown = Annotated[
    Literal["error", "skip"] | None,
    Field(
        description="Characters that the model has never seen: refuse the request (error), or leave them out (skip)."
    ),
]
Whole = Annotated[int, BeforeValidator(_whole)]
TopLogprobs = Annotated[
    int, Field(ge=0, le=20, description="How many of the likeliest tokens to report at each."), BeforeValidator(_whole)
]
NumCompletions = Annotated[int, Field(ge=1, le=20, description="How many continuations."), BeforeValidator(_whole)]
CompletionLength = Annotated[
    int, Field(ge=1, le=100, description="How many tokens a continuation has at most."), BeforeValidator(_whole)
]
MAX_STOP, MAX_STOP_LENGTH = 16, 100
StopString = Annotated[str, Field(max_length=MAX_STOP_LENGTH)]
StopList = Annotated[list[StopString], Field(max_length=MAX_STOP)]


def _check_seed(value: int) -> int:
    if not -(2**63) <= value <= MAX_SEED:  # pydantic's own message would show these bounds rounded
        raise PydanticCustomError("seed", "must be from -2**63 to 2**64 - 1")
    return value


Seed = Annotated[
    int,
    Field(
        description="The same seed gives the same text; a negative seed stands for seed + 2**64.",
        json_schema_extra={"minimum": -(2**63), "maximum": MAX_SEED},
    ),
    BeforeValidator(_whole),
    AfterValidator(_check_seed),
]
Label = Annotated[
    str | None, Field(max_length=200, description="What kind of text, one of the model's labels; none if it is empty.")
]
UnknownScore = Annotated[
    Literal["charge", "error"] | None,
    Field(
        description="Characters that the model has never seen: as unlikely as the least likely character at their "
        "place, or refuse the request."
    ),
]


def _stop_list(value: Any) -> Any:
    return [] if value is None else [value] if isinstance(value, str) else value


Stop = Annotated[
    StopList,
    BeforeValidator(_stop_list, json_schema_input_type=StopString | StopList | None),
    AfterValidator(lambda strings: [string for string in strings if string]),  # an empty one never stops a text
    Field(description="Strings at which a text ends; they are not part of it.", validate_default=True),
]


TEXT, IDS = "text form", "ids form"  # pydantic's names for the forms of a prompt, which appear in the places of errors


def _prompt_list(value: Any) -> Any:
    """A prompt in any of its forms as the list of prompts."""
    prompts = [""] if value is None else [value] if isinstance(value, str) or _are_ids(value) else value
    if not isinstance(prompts, list) or not all(
        isinstance(item, str) or _are_ids(item) or item == [] for item in prompts
    ):
        raise PydanticCustomError(
            "prompt_type", "write a text, a list of texts, a list of token ids, or a list of such lists"
        )
    return prompts


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def describe_error(error: Mapping[str, Any]) -> tuple[str, str | None]:
    """The message for one of pydantic's errors in a request, and the field that it is about."""
    place = [str(part) for part in error["loc"] if part not in ("body", TEXT, IDS)]
    if not place:
        return f"the body is wrong: {error['msg']}", None
    return f"{'.'.join(place)}: {error['msg']}"[:1000], place[0][:200]


class Strict(BaseModel):
    """Takes its own fields, with exactly their types. Other fields are ignored if they have a neutral value."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "additionalProperties": {
                "enum": list(EMPTY),
                "description": "Fields that this server does not have are ignored if they have a neutral value.",
            }
        },
    )

    @model_validator(mode="before")
    @classmethod
    def _ignore_neutral(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        own = {}
        for name, value in data.items():
            if name in cls.model_fields:
                own[name] = value
                continue
            foreign = FOREIGN.get(name, Foreign())
            if any(_same(value, neutral) for neutral in (*EMPTY, *foreign.neutral)):
                continue
            close = difflib.get_close_matches(name, cls.model_fields, n=1, cutoff=0.75)
            remedy = f"did you mean {close[0]}?" if close and name not in FOREIGN else foreign.remedy
            error = PydanticCustomError(
                "unknown_field", "this server does not have this field; {remedy}", {"remedy": remedy}
            )
            details = InitErrorDetails(type=error, loc=(name,), input=value)
            raise ValidationError.from_exception_data(cls.__name__, [details])
        return own


class StreamOptions(Strict):
    """What a stream tells besides the text."""

    include_usage: bool | None = False


class CompletionRequest(Strict):
    """A completion, in OpenAI's form, with all options that the runtime has for sampling."""

    model: str | None = None
    prompt: list[str | list[int]]
    max_tokens: int | None = None
    stop: Stop = None  # type: ignore[assignment]  # validated to []
    seed: Seed | None = None
    label: Label = None
    n: int | None = 1
    best_of: Annotated[Whole | None, Field(description="Taken if it is 1 or n: texts are not ranked.")] = None
    suffix: Annotated[str | None, Field(description="Taken if it is empty.")] = None
    logprobs: TopLogprobs | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    echo: bool | None = False
    logit_bias: Annotated[
        dict[TokenId, Bias] | None, Field(description="Maps token ids to numbers that are added to their logits.")
    ] = None
    unknown: Unknown = "error"
    user: Annotated[str | None, Field(description="Taken for compatibility; it has no effect.")] = None

    @field_validator("suffix")
    @classmethod
    def _no_suffix(cls, value: str | None) -> str | None:
        if value:
            raise PydanticCustomError("unsupported", "these models only continue a text; leave suffix out")
        return value

    @field_validator("best_of")
    @classmethod
    def _no_ranking(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value not in (None, 1, info.data.get("n")):
            raise PydanticCustomError(
                "unsupported", "texts are not ranked; leave best_of out, ask for n texts and choose by their logprobs"
            )
        return value

    def requests(self, vocabulary: Vocabulary, seed: int) -> list[Request]:
        """One request a text, in the order of the choices; the k-th is ``sample(prompt, seed=seed, index=k)``.

        Raises:
            UsageError: ``logit_bias`` names tokens that the model does not have.
        """
        given = {name: getattr(self, name) for name in sampling_fields()}
        options = cast(
            SamplingKwargs, {name: value for name, value in given.items() if value not in (None, NO_LIMIT.get(name))}
        )
        _add_bias(options, self.logit_bias or {}, vocabulary)
        return [
            Request(
                prompt=prompt,
                length=DEFAULT_TOKENS if self.max_tokens is None else self.max_tokens,
                stop=tuple(self.stop),
                seed=seed,
                index=index,
                unknown=self.unknown or "error",
                log_probs=self.logprobs is not None,
                label=self.label or None,
                options=options,
            )
            for index, prompt in enumerate(prompt for prompt in self.prompt for _ in range(self.n or 1))
        ]


def _add_bias(options: SamplingKwargs, bias: dict[str, float], vocabulary: Vocabulary) -> None:
    """Adds OpenAI's ``logit_bias``, by token id: by character if the token is one, else by a processor."""
    characters: dict[str, float] = {}
    others: dict[int, float] = {}
    for key, value in bias.items():
        token = int(key)
        if token >= len(vocabulary):
            raise UsageError(f"logit_bias: the model has no token {token}; its ids are 0 to {len(vocabulary) - 1}")
        symbol = vocabulary.symbols[token]
        plain = 0 <= symbol < (128 if vocabulary.kind == "bytes" else 0x110000)
        if plain and vocabulary.normalize is None:
            characters[chr(symbol)] = characters.get(chr(symbol), 0.0) + value
        else:
            others[token] = others.get(token, 0.0) + value
    if characters:
        options["logit_bias"] = characters
    if others:
        ids, values = list(others), list(others.values())

        def add(_: Any, logits: Any) -> None:
            logits[ids] += values

        logits_processor: LogitsProcessor = add
        options["logits_processor"] = logits_processor


@cache
def sampling_fields() -> dict[str, Any]:
    """A field for each of the runtime's options that JSON can express, as ``create_model`` takes them.

    ``logit_bias`` is not among them, because OpenAI's has another form.
    """
    made: dict[str, Any] = {}
    for option in fields(SamplingOptions):
        limits = option.metadata["range"]
        kind: Any = get_type_hints(SamplingOptions)[option.name]
        if limits is not None:
            least = min(limits.least, NO_LIMIT[option.name]) if option.name in NO_LIMIT else limits.least
            bounds = {"ge": least, "gt": limits.above, "le": limits.most}
            kind = whole(**bounds) if limits.whole else Annotated[float, Field(**bounds, allow_inf_nan=False)]
        elif kind != str | None:
            continue
        info = Field(default=option.default, description=SamplingOptions.help(option.name))
        made[option.name] = (kind | None, info)
    return made


def bounded(options: ServerOptions, models: Sequence[str]) -> type[CompletionRequest]:
    """``CompletionRequest`` with the runtime's options, and with this server's models and limits in its schema."""
    text = Annotated[str, Field(max_length=options.max_prompt)]
    ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=options.max_prompt)]
    some_ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=options.max_prompt)]
    several = Field(min_length=1, max_length=options.max_choices)
    one = Annotated[
        Annotated[text, Tag(TEXT)] | Annotated[ids, Tag(IDS)],
        Discriminator(lambda value: IDS if isinstance(value, list) else TEXT),
    ]
    prompt = Annotated[
        list[one],
        several,
        BeforeValidator(
            _prompt_list, json_schema_input_type=text | some_ids | Annotated[list[text | ids], several] | None
        ),
        Field(
            description="Text to continue, or the ids of its tokens; with a list of them, one text for each.",
            validate_default=True,
        ),
    ]
    max_tokens = whole(ge=0, le=options.max_tokens, description="How many tokens (characters) to sample at most.")
    n = whole(ge=1, le=options.max_choices, description="How many texts for each prompt.")
    particles = Field(default=1, description=SamplingOptions.help("particles"))
    return create_model(
        "CompletionRequest",
        __base__=CompletionRequest,
        __doc__=CompletionRequest.__doc__,
        model=model_field(models),
        prompt=(prompt, ""),
        max_tokens=(max_tokens | None, DEFAULT_TOKENS),
        n=(n | None, 1),
        **{**sampling_fields(), "particles": (whole(ge=1, le=options.max_particles) | None, particles)},
    )


def model_field(models: Sequence[str]) -> Any:
    """The field that names the model, as ``create_model`` takes it."""
    names = "One of: " + ", ".join(models)
    return (str | None, Field(default=None, description=names, examples=list(models)))


class ScoreRequest(Strict):
    """A text whose likelihood is asked for."""

    model: str | None = None
    text: str
    label: Label = None
    logprobs: TopLogprobs | None = None
    unknown: UnknownScore = "charge"


class CompleteRequest(Strict):
    """A text whose most probable continuations are asked for."""

    model: str | None = None
    prompt: str | None = ""
    n: NumCompletions | None = 5
    until: Annotated[str | None, Field(max_length=100, description="Characters at which a continuation ends.")] = (
        DEFAULT_UNTIL
    )
    max_length: CompletionLength | None = 20
    label: Label = None
    unknown: Unknown = "error"


class Continuation(BaseModel):
    """A continuation; if it is not ended, it was cut at ``max_length`` tokens."""

    text: str
    probability: float
    ended: bool


class CompleteResponse(BaseModel):
    """The continuations, the most probable first; exact: whether no other one is more probable for certain."""

    model: str
    completions: list[Continuation]
    exact: bool


class ClassifyRequest(Strict):
    """A text whose label is asked for; the model must have been trained with labels."""

    model: str | None = None
    text: str
    prior: Annotated[
        Literal["training", "uniform"] | None,
        Field(description="Probabilities of the labels before the text is known: their shares in training, or equal."),
    ] = "training"
    unknown: UnknownScore = "charge"


class ClassifyResponse(BaseModel):
    """The probability of each label, the most probable first."""

    model: str
    labels: dict[str, float]


class Logprobs(BaseModel):
    """Natural log-probabilities before penalties, temperature and filters; null for a token that follows nothing."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class ScoreResponse(BaseModel):
    """How likely the model finds the text; the figures are null for an empty text."""

    model: str
    characters: int
    nats_per_char: float | None
    bits_per_char: float | None
    perplexity: float | None
    logprobs: Logprobs | None


class Choice(BaseModel):
    """One text."""

    text: str
    index: int
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None


class Usage(BaseModel):
    """Tokens: characters, or bytes for a byte model."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionResponse(BaseModel):
    """A completion, in OpenAI's form; ``seed`` is an addition: a request with it gives the same texts again."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None
    seed: int
    system_fingerprint: str


class Model(BaseModel):
    """A model, in OpenAI's form; the fields after ``owned_by`` are additions."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    cell: str
    num_layers: int
    hidden_size: int
    vocabulary: int
    labels: list[str]


class ModelList(BaseModel):
    """The models served."""

    object: Literal["list"]
    data: list[Model]


class Health(BaseModel):
    """The server is up."""

    status: Literal["ok"]


class ErrorDetail(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """An error, in OpenAI's form."""

    error: ErrorDetail
