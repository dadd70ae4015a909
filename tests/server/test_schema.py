"""What real clients send: every field of OpenAI's, with values that ask for nothing; prompts in all their forms."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import openai
import pytest
from charrnn_runtime import Sampler, SamplingOptions, Vocabulary
from charrnn_server import schema
from openai.types import completion_create_params as openai_params
from typing_extensions import is_typeddict

from tests.runtime.conftest import TinyModel
from tests.server.conftest import Served, serving

PLAIN: dict[str, Any] = {"model": "tiny", "prompt": "ab", "max_tokens": 20, "seed": 1}
OPENAIS = {
    **get_type_hints(openai_params.CompletionCreateParamsNonStreaming),
    **get_type_hints(openai_params.CompletionCreateParamsStreaming),
}
# Values of OpenAI's fields with which a request gives the same text as without the field.
NEUTRAL: dict[str, list[Any]] = {
    "model": ["tiny"],
    "prompt": ["ab", ["ab"]],
    "best_of": [1, 1.0],
    "echo": [False],
    "frequency_penalty": [0, 0.0],
    "logit_bias": [{}, {"3": 0}],
    "logprobs": [],
    "max_tokens": [20, 20.0],
    "n": [1, 1.0],
    "presence_penalty": [0, 0.0],
    "seed": [1, 1.0],
    "stop": ["", [], [""], "never", ["never", ""]],
    "stream": [False],
    "stream_options": [{}, {"include_usage": False}, {"include_usage": None, "include_obfuscation": False}],
    "suffix": [""],
    "temperature": [1, 1.0],
    "top_p": [1, 1.0],
    "user": ["", "somebody"],
}


def text_of(served: Served, **body: Any) -> str:
    answer = served.complete(**body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


@pytest.fixture(scope="module")
def plain_text(server: Served) -> str:
    return text_of(server, **PLAIN)


@pytest.mark.parametrize("name", OPENAIS)
def test_a_field_of_openais_is_served_if_it_asks_for_nothing(server: Served, plain_text: str, name: str) -> None:
    assert name in NEUTRAL, "a new field of OpenAI's: which of its values ask for nothing?"
    for value in NEUTRAL[name]:
        assert text_of(server, **{**PLAIN, name: value}) == plain_text, value
    if name != "model":  # two models are served
        assert text_of(server, **{**PLAIN, name: None})
    if name not in PLAIN:
        assert text_of(server, **{**PLAIN, name: None}) == plain_text


def values(kind: Any) -> list[Any]:
    """Some values of a type, for JSON."""
    plain: dict[Any, list[Any]] = {str: ["a"], int: [2], float: [0.5], bool: [True, False]}
    if kind in plain:
        return plain[kind]
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    if get_origin(kind) is dict:
        return [{"2": 1}]
    if is_typeddict(kind):
        return [{name: value} for name, inner in get_type_hints(kind).items() for value in values(inner)]
    inner_values = [value for part in get_args(kind) for value in values(part)]
    return inner_values + [[value] for value in inner_values]


@pytest.mark.parametrize("name", OPENAIS)
def test_a_field_of_openais_is_supported_or_refused_by_name(server: Served, name: str) -> None:
    tried = values(OPENAIS[name])
    assert tried
    for value in tried:
        body = {**PLAIN, name: value}
        answer = server.complete(**body)
        if answer.status_code == 200:
            assert name in schema.CompletionRequest.model_fields or name in schema.sampling_fields()
        else:
            error = answer.json()["error"]
            assert answer.status_code in ((400, 404) if name == "model" else (400,))
            assert error["param"] == name, value
            assert name in error["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"suffix": "x"}, ["suffix", "leave suffix out"]),
        ({"best_of": 3, "n": 2}, ["best_of", "choose by their logprobs"]),
        ({"stream_options": {"include_obfuscation": True}}, ["stream_options.include_obfuscation", "leave it out"]),
        ({"temprature": 0}, ["temprature", "did you mean temperature?"]),
        ({"nonsense": 0}, ["nonsense", "leave it out"]),
        ({"messages": [{"role": "user", "content": "Hi"}]}, ["messages", "do not chat", "prompt"]),
        ({"min_tokens": 5}, ["min_tokens", "min_length"]),
        ({"allowed": "aX"}, ["allowed", "'X'", "leave it out"]),
        ({"pattern": "a(?=b)"}, ["pattern", "look-ahead", "position 1"]),
        ({"pattern": "XYZ"}, ["pattern", "has never seen 'X'"]),
        ({"pattern": "a{9}", "max_tokens": 8}, ["length 8", "9 tokens"]),
        ({"particles": 65, "pattern": "a"}, ["particles", "64"]),
        ({"particles": 4, "pattern": "a", "temperature": 0}, ["particles", "above 0"]),
        ({"prompt": "aX"}, ["'X'", '"unknown": "skip"']),
        ({"prompt": [999]}, ["no token 999", "0 to 19"]),
        ({"prompt": [10**30]}, ["token ids"]),
        ({"prompt": [[-1]]}, ["prompt"]),
        ({"prompt": [1, "a"]}, ["prompt", "a list of token ids"]),
        ({"prompt": [True]}, ["prompt", "a list of token ids"]),
        ({"prompt": [[1.5]]}, ["prompt", "a list of token ids"]),
        ({"prompt": [None]}, ["prompt", "a list of token ids"]),
        ({"prompt": [["a"]]}, ["prompt", "a list of token ids"]),
        ({"seed": 2**64}, ["seed", "2**64 - 1"]),
        ({"seed": 0.5}, ["seed"]),
        ({"logit_bias": {"50256": -100}}, ["logit_bias", "no token 50256", "0 to 19"]),
    ],
)
def test_refusals_say_what_to_do(server: Served, body: dict[str, Any], words: list[str]) -> None:
    answer = server.complete(**{**PLAIN, **body})
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["param"] in body
    for word in words:
        assert word in error["message"]


def test_complete(server: Served) -> None:
    with server.client() as client:
        bodies: list[dict[str, Any]] = [{"prompt": "ab"}, {"prompt": "ab", "n": 3, "until": "c", "max_length": 4}, {}]
        for body in bodies:
            answer = client.post("/complete", json={"model": "tiny", **body})
            assert answer.status_code == 200, answer.text
            found = server.sampler.complete(**body)
            assert answer.json() == {
                "model": "tiny",
                "completions": [
                    {"text": item.text, "probability": item.probability, "ended": item.ended} for item in found
                ],
                "exact": found.exact,
            }
        for wrong, param in (({"n": 21}, "n"), ({"max_length": 0}, "max_length"), ({"prompt": "aX"}, "prompt")):
            answer = client.post("/complete", json={"model": "tiny", **wrong})
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == param
        assert client.post("/complete", json={"model": "tiny", "prompt": "aX", "unknown": "skip"}).status_code == 200


def test_particles_of_a_request_are_bounded(server: Served) -> None:
    answer = server.complete(prompt=["a", "b"], n=2, particles=20, pattern="a")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "particles"


def test_fields_of_other_servers(server: Served, plain_text: str) -> None:
    own = {*schema.CompletionRequest.model_fields, *schema.sampling_fields()}
    for name, foreign in schema.FOREIGN.items():
        assert name not in own
        for value in (*schema.EMPTY, *foreign.neutral):
            assert text_of(server, **PLAIN, **{name: value}) == plain_text
        for value in (5, True, "x", 0, 1, 0.5, [0]):
            answer = server.complete(**PLAIN, **{name: value})
            if value in foreign.neutral and isinstance(value, bool) == isinstance(foreign.neutral[0], bool):
                assert answer.status_code == 200
            else:
                error = answer.json()["error"]
                assert (answer.status_code, error["param"], error["code"]) == (400, name, "unknown_field")
                assert foreign.remedy in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        # LangChain's OpenAI class
        {"prompt": ["ab"], "temperature": 1, "top_p": 1, "frequency_penalty": 0, "presence_penalty": 0, "n": 1,
         "best_of": 1, "logit_bias": {}, "seed": 1, "max_tokens": 20},
        # vLLM's benchmark
        {"prompt": "ab", "best_of": 1, "temperature": 1.0, "max_tokens": 20, "repetition_penalty": 1.0,
         "use_beam_search": False, "ignore_eos": False, "logprobs": None, "min_tokens": 0, "top_k": -1, "min_p": 0.0,
         "skip_special_tokens": True, "spaces_between_special_tokens": True, "stop_token_ids": []},
        # llama.cpp's fields
        {"prompt": "ab", "cache_prompt": True, "typical_p": 1.0, "tfs_z": 1, "mirostat": 0, "repeat_penalty": 1,
         "grammar": "", "max_tokens": 20, "samplers": [], "n_probs": None},
        # text-generation-webui's and SillyTavern's
        {"prompt": "ab", "top_a": 0, "tfs": 1, "length_penalty": 1, "early_stopping": False, "ban_eos_token": False,
         "top_k": 0, "typical_p": 1, "mirostat_mode": 0, "truncation_length": None, "custom_token_bans": "",
         "add_special_tokens": True, "max_tokens": 20},
    ],
)  # fmt: skip
def test_requests_as_other_clients_send_them(server: Served, plain_text: str, body: dict[str, Any]) -> None:
    assert text_of(server, model="tiny", seed=1, **{k: v for k, v in body.items() if k != "seed"}) == plain_text


def test_the_evaluation_harness_scores_a_text(server: Served) -> None:
    # lm-evaluation-harness, "local-completions": ids or texts, one token more than it needs, and the likeliest one.
    ids = server.sampler.vocabulary.encode("abc").tolist()
    for prompt in ("abc", ids):
        body = {"prompt": [prompt], "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True, "temperature": 0}
        (choice,) = server.complete(**body).json()["choices"]
        scores = choice["logprobs"]
        assert scores["tokens"][:3] == ["a", "b", "c"]
        assert len(scores["tokens"]) == len(scores["top_logprobs"]) == 4
        for score, top in zip(scores["token_logprobs"][1:], scores["top_logprobs"][1:], strict=True):
            assert score <= max(top.values())


def test_every_option_of_the_runtime(server: Served) -> None:
    tried = set()
    for option in fields(SamplingOptions):
        limits, name = option.metadata["range"], option.name
        if name == "logits_processor":  # a function cannot be sent
            assert name not in schema.sampling_fields()
            continue
        if name == "logit_bias":
            value: Any = {"a": 3.0}
            sent: Any = {str(server.sampler.vocabulary.token("a")): 3.0}
        elif name == "fill":
            value = sent = "abc?a"
        elif limits is None:
            value = sent = "abc"
        else:
            value = sent = 3 if limits.whole else 0.5 if limits.most == 1 else 1.5
        # A window is only seen with a penalty.
        more: dict[str, Any] = {"repetition_penalty": 1.5} if name == "penalty_window" else {}
        if name == "particles":
            more = {"pattern": "[a-f]+, [g-j]{9}"}
        drawn = text_of(server, prompt="ab", max_tokens=60, seed=5, **{name: sent}, **more)
        assert drawn == server.sampler.sample("ab", length=60, seed=5, **{name: value}, **more)
        if drawn != server.sampler.sample("ab", length=60, seed=5, **more):
            tried.add(name)
        described = server.described("CompletionRequest")[name]
        assert described["description"]
        if limits is not None:
            assert option.default == described.get("default", None)
            lowest = described["anyOf"][0].get("minimum", described["anyOf"][0].get("exclusiveMinimum"))
            assert lowest in (limits.least, limits.above, schema.NO_LIMIT.get(name))
    assert tried == {*SamplingOptions.names()} - {"logits_processor", "min_length"}  # this model has no end


def test_no_end_before_the_shortest_length() -> None:
    ends = Sampler(TinyModel(Vocabulary(symbols=(-1, 97, 98), special={"end": 0})).data())
    with serving({"ends": ends}) as served:
        texts = [
            [text_of(served, model="ends", seed=seed, max_tokens=30, **more) for seed in range(20)]
            for more in ({}, {"min_length": 25})
        ]
    assert min(map(len, texts[0])) < 25 <= min(map(len, texts[1]))
    assert texts[1] == [ends.sample(length=30, seed=seed, min_length=25) for seed in range(20)]


def test_values_that_mean_no_limit(server: Served, plain_text: str) -> None:
    for name, value in schema.NO_LIMIT.items():
        assert text_of(server, **PLAIN, **{name: value}) == plain_text
    assert text_of(server, **PLAIN, frequency_penalty=-1) != plain_text


def test_prompts_in_all_their_forms(server: Served, bytewise: Sampler) -> None:
    def drawn(prompt: Any, **more: Any) -> list[str]:
        answer = server.complete(prompt=prompt, max_tokens=20, seed=9, **more).json()
        return [choice["text"] for choice in answer["choices"]]

    ids = [server.sampler.vocabulary.encode(text).tolist() for text in ("ab", "c")]
    one = [server.sampler.sample("ab", length=20, seed=9)]
    two = [server.sampler.sample(text, length=20, seed=9, index=index) for index, text in enumerate(("ab", "c"))]
    empty = [server.sampler.sample(length=20, seed=9)]
    assert drawn("ab") == drawn(["ab"]) == drawn(ids[0]) == drawn([ids[0]]) == one
    assert drawn(["ab", "c"]) == drawn(ids) == drawn(["ab", ids[1]]) == two
    assert drawn(None) == drawn("") == drawn([""]) == drawn([[]]) == empty
    assert drawn(ids[0], echo=True) == ["ab" + one[0]]
    # Bytes that are no text on their own can only be sent as ids.
    assert drawn([0xE6, 0xBC], model="bytes") == [bytewise.sample([0xE6, 0xBC], length=20, seed=9)]
    usage = server.complete(prompt=ids, max_tokens=1).json()["usage"]
    assert usage["prompt_tokens"] == 3


def test_seeds(server: Served) -> None:
    for seed in (0, -1, -(2**63), 2**63, 2**64 - 1, 2**53 + 1):
        answer = server.complete(prompt="ab", max_tokens=20, seed=seed).json()
        assert answer["seed"] == seed % 2**64
        assert answer["choices"][0]["text"] == server.sampler.sample("ab", length=20, seed=seed % 2**64)
    seeds = {server.complete(max_tokens=1).json()["seed"] for _ in range(4)}
    assert len(seeds) == 4


def test_the_only_model_needs_no_name(characters: Sampler) -> None:
    with serving({"only": characters}) as served, served.client() as client:
        for more in ({}, {"model": None}, {"model": ""}):
            for path, body in (("/v1/completions", {"prompt": "ab"}), ("/score", {"text": "ab"})):
                answer = client.post(path, json={**body, **more})
                assert (answer.status_code, answer.json()["model"]) == (200, "only")
        assert client.post("/v1/completions", json={"model": "gpt"}).status_code == 404


def test_which_of_several_models_must_be_said(server: Served) -> None:
    with server.client() as client:
        for more in ({}, {"model": None}, {"model": ""}):
            for path, body in (("/v1/completions", {"prompt": "ab"}), ("/score", {"text": "ab"})):
                answer = client.post(path, json={**body, **more})
                error = answer.json()["error"]
                assert (answer.status_code, error["param"], error["code"]) == (400, "model", "missing")
                assert "tiny, bytes" in error["message"]


def test_score_ignores_what_asks_for_nothing(server: Served) -> None:
    with server.client() as client:
        plain = client.post("/score", json={"model": "tiny", "text": "ab"}).json()
        more = {"logprobs": None, "unknown": None, "user": "", "stream": False}
        assert client.post("/score", json={"model": "tiny", "text": "ab", **more}).json() == plain
        wrong = client.post("/score", json={"model": "tiny", "text": "ab", "stream": True}).json()["error"]
        assert (wrong["param"], wrong["code"]) == ("stream", "unknown_field")


def test_openais_client_with_every_field(server: Served, plain_text: str) -> None:
    everything: dict[str, Any] = {name: (found or [None])[0] for name, found in NEUTRAL.items()}
    everything |= {**PLAIN, "extra_body": {"top_k": None, "unknown_to_us": None, "typical_p": 1.0}}
    ids = server.sampler.vocabulary.encode("ab").tolist()
    with openai.OpenAI(base_url=f"{server.url}/v1/", api_key="any", max_retries=0) as client:
        for prompt in ("ab", ["ab"], ids, [ids]):
            assert client.completions.create(**{**everything, "prompt": prompt}).choices[0].text == plain_text
        told = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = list(client.completions.create(**{**everything, **told}))
        assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == plain_text
        assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 22)
        assert client.models.retrieve("tiny").owned_by == "charrnn"
        with pytest.raises(openai.BadRequestError, match="leave suffix out") as caught:
            client.completions.create(**{**everything, "suffix": "x"})
        assert (caught.value.param, caught.value.type) == ("suffix", "invalid_request_error")
        with pytest.raises(openai.NotFoundError, match="do not chat"):
            client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hi"}])


def test_many_tasks_with_openais_client(server: Served) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
            asked = (client.completions.create(**{**PLAIN, "seed": seed}) for seed in range(16))
            return [answer.choices[0].text for answer in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == [server.sampler.sample("ab", length=20, seed=seed) for seed in range(16)]


def test_fields_side_by_side(server: Served, plain_text: str) -> None:
    """No neutral value of one field makes that of another one ask for something."""
    pairs = [(name, value) for name, found in NEUTRAL.items() if name not in PLAIN for value in [*found, None]]
    bodies = [dict(pair) for pair in itertools.combinations(pairs, 2)]
    rest = bodies[:: len(bodies) // 60]
    assert {text_of(server, **{**PLAIN, **body}) for body in rest} == {plain_text}
