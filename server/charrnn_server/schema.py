"""What the API takes and gives; the OpenAPI description is made from this."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from charrnn_runtime import Request, UsageError, Vocabulary
from charrnn_runtime.options import MAX_SEED, LogitsProcessor, SamplingKwargs
from pydantic import BaseModel, ConfigDict, Field, create_model

from charrnn_server.options import ServerOptions

Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
Stop = Annotated[str, Field(min_length=1, max_length=100)]
Unknown = Annotated[
    Literal["error", "skip"],
    Field(description="Prompt characters that the model has never seen: refuse the request, or leave them out."),
]


class Strict(BaseModel):
    """Takes what it names and nothing else, and guesses no types."""

    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(Strict):
    """What a stream tells besides the text."""

    include_usage: bool = False


class CompletionRequest(Strict):
    """A completion, in OpenAI's form; top_k, min_p and unknown are additions."""

    model: str
    prompt: str | list[str] = ""
    max_tokens: int | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    n: Annotated[int, Field(ge=1)] | None = 1
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    echo: bool | None = False
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = 0.0
    logit_bias: dict[Annotated[str, Field(pattern=r"^[0-9]{1,7}$")], Bias] | None = None
    unknown: Unknown = "error"
    user: Annotated[str | None, Field(description="Taken for compatibility; not used.")] = None

    @property
    def prompts(self) -> list[str]:
        """The prompts."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    def requests(self, vocabulary: Vocabulary, seed: int) -> list[Request]:
        """One request a text, in the order of the choices; the k-th is ``sample(prompt, seed=seed, index=k)``.

        Raises:
            UsageError: ``logit_bias`` names tokens that the model does not have.
        """
        options = SamplingKwargs(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
        )
        _add_bias(options, self.logit_bias or {}, vocabulary)
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return [
            Request(
                prompt=prompt,
                length=DEFAULT_TOKENS if self.max_tokens is None else self.max_tokens,
                stop=stop,
                seed=seed,
                index=index,
                unknown=self.unknown,
                log_probs=self.logprobs is not None,
                options=options,
            )
            for index, prompt in enumerate(prompt for prompt in self.prompts for _ in range(self.n or 1))
        ]


DEFAULT_TOKENS = 200


def _add_bias(options: SamplingKwargs, bias: dict[str, float], vocabulary: Vocabulary) -> None:
    """``logit_bias`` by token id: by character where the token is one, else by a processor."""
    characters: dict[str, float] = {}
    others: dict[int, float] = {}
    for key, value in bias.items():
        token = int(key)
        if token >= len(vocabulary):
            raise UsageError(f"logit_bias: the model has no token {token}, only 0 to {len(vocabulary) - 1}")
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


def bounded(options: ServerOptions, models: list[str]) -> type[CompletionRequest]:
    """``CompletionRequest`` with this server's models and limits written into its schema."""
    length = Annotated[int, Field(ge=0, le=options.max_tokens)] | None
    prompt = Annotated[str, Field(max_length=options.max_prompt)]
    many = Annotated[list[prompt], Field(min_length=1, max_length=options.max_choices)]
    return create_model(
        "CompletionRequest",
        __base__=CompletionRequest,
        __doc__=CompletionRequest.__doc__,
        model=(str, Field(description="One of: " + ", ".join(models), examples=models)),
        prompt=(prompt | many, Field(default="", description="Text to continue; with a list, one text for each.")),
        max_tokens=(length, Field(default=DEFAULT_TOKENS, description="How many characters (tokens) to draw at most.")),
        n=(Annotated[int, Field(ge=1, le=options.max_choices)] | None, Field(default=1, description="Texts a prompt.")),
    )


class ScoreRequest(Strict):
    """A text whose likelihood is asked for."""

    model: str
    text: str
    logprobs: Annotated[int, Field(ge=0, le=20, description="Likeliest characters to tell at each.")] | None = None
    unknown: Unknown = "error"


class Logprobs(BaseModel):
    """Natural log-probabilities, before penalties, temperature and filters; null where nothing comes before."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class ScoreResponse(BaseModel):
    """How likely the model finds the text; the figures are null for an empty one."""

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
    """A completion, in OpenAI's form; ``seed`` is an addition: with it the same texts are drawn again."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None
    seed: int
    system_fingerprint: str


class Model(BaseModel):
    """A model, in OpenAI's form; what follows ``owned_by`` is an addition."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    cell: str
    num_layers: int
    hidden_size: int
    vocabulary: int


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
