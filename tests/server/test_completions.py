"""``/v1/completions`` and its neighbours: what they give, and that each text is its single run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import openai
import pytest
from charrnn_runtime import Sampler

from tests.server.conftest import Served, events, serving


def test_the_openai_client_streams(server: Served) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == list(server.samplers)
        pieces: list[str] = []
        reasons: list[Any] = []
        for chunk in client.completions.create(model="tiny", prompt="ab", max_tokens=3000, seed=7, stream=True):
            pieces.append(chunk.choices[0].text)
            reasons.append(chunk.choices[0].finish_reason)
        assert "".join(pieces) == server.sampler.sample("ab", length=3000, seed=7)
        assert len(pieces) > 1
        assert (set(reasons[:-1]), reasons[-1]) == ({None}, "length")
        whole = client.completions.create(model="tiny", prompt="ab", max_tokens=50, seed=7, n=2, temperature=0.5)
        for index, choice in enumerate(whole.choices):
            assert choice.text == server.sampler.sample("ab", length=50, seed=7, index=index, temperature=0.5)
        assert whole.usage is not None
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (2, 100, 102)
        with pytest.raises(openai.BadRequestError, match="has never seen 'X'"):
            client.completions.create(model="tiny", prompt="X")
        with pytest.raises(openai.NotFoundError, match="no model 'gpt'"):
            client.completions.create(model="gpt", prompt="a")


@pytest.mark.parametrize(
    ("body", "options"),
    [
        ({"top_p": 0.8, "top_k": 9, "min_p": 0.01}, {"top_p": 0.8, "top_k": 9, "min_p": 0.01}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"stop": ["ab", "cd"]}, {"stop": ["ab", "cd"]}),
        ({"stop": "a"}, {"stop": "a"}),
        ({"presence_penalty": 1.5, "frequency_penalty": -0.5}, {"presence_penalty": 1.5, "frequency_penalty": -0.5}),
        ({"logit_bias": {"2": 3, "4": -100}}, {"logit_bias": {" ": 3.0, "/": -100.0}}),
        ({"temperature": None, "n": None, "stop": None}, {}),
    ],
)
def test_options_are_the_samplers(server: Served, body: dict[str, Any], options: dict[str, Any]) -> None:
    vocabulary = server.sampler.vocabulary
    if "logit_bias" in options:  # ids of this vocabulary
        body = {"logit_bias": {str(vocabulary.token(c)): v for c, v in options["logit_bias"].items()}}
    alone = server.sampler.generate("ab", length=120, seed=5, **options)
    (choice,) = server.complete(prompt="ab", max_tokens=120, seed=5, **body).json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == (alone.text, alone.finish_reason)
    chunks = events(server, prompt="ab", max_tokens=120, seed=5, **body)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == alone.text
    assert chunks[-1]["choices"][0]["finish_reason"] == alone.finish_reason


def test_byte_models_take_any_text(server: Served, bytewise: Sampler) -> None:
    bias = {"200": 1.5, "97": 2}
    answer = server.complete(model="bytes", prompt="né漢😀", max_tokens=60, seed=2).json()
    assert answer["choices"][0]["text"] == bytewise.sample("né漢😀", length=60, seed=2)
    biased = server.complete(model="bytes", max_tokens=60, seed=2, logit_bias=bias).json()["choices"][0]["text"]

    def add(_: Any, logits: Any) -> None:
        logits[[200, 97]] += [1.5, 2]

    assert biased == bytewise.sample(length=60, seed=2, logits_processor=add)


def test_prompts_and_n_make_choices_in_order(server: Served) -> None:
    answer = server.complete(prompt=["a", "b"], n=2, max_tokens=20, seed=9).json()
    expected = [server.sampler.sample(p, length=20, seed=9, index=i) for i, p in enumerate(["a", "a", "b", "b"])]
    assert [choice["text"] for choice in answer["choices"]] == expected
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 80, "total_tokens": 82}


def test_a_chosen_seed_is_told_and_draws_the_text_again(server: Served) -> None:
    first = server.complete(max_tokens=40).json()
    again = server.complete(max_tokens=40, seed=first["seed"]).json()
    assert again["choices"][0]["text"] == first["choices"][0]["text"]


def test_usage_of_a_stream(server: Served) -> None:
    *_, last = events(server, prompt="ab", max_tokens=5, stream_options={"include_usage": True})
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7}


def test_score(server: Served) -> None:
    alone = server.sampler.score("abc, abc")
    with server.client() as client:
        got = client.post("/score", json={"model": "tiny", "text": "abc, abc", "logprobs": 3}).json()
        empty = client.post("/score", json={"model": "tiny", "text": ""}).json()
        wrong = client.post("/score", json={"model": "tiny", "text": "aX", "unknown": "error"})
        strange = client.post("/score", json={"model": "tiny", "text": "aXb", "logprobs": 1}).json()
    assert math.isclose(got["nats_per_char"], alone.nats_per_char, rel_tol=1e-6)
    assert math.isclose(got["bits_per_char"], alone.bits_per_char, rel_tol=1e-6)
    assert math.isclose(got["perplexity"], alone.perplexity, rel_tol=1e-6)
    np.testing.assert_allclose(got["logprobs"]["token_logprobs"], alone.log_probs, rtol=1e-6)
    assert "".join(got["logprobs"]["tokens"]) == "abc, abc"
    assert (empty["characters"], empty["nats_per_char"]) == (0, None)
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "text")
    charged = server.sampler.score("aXb")
    np.testing.assert_allclose(strange["logprobs"]["token_logprobs"], charged.log_probs, rtol=1e-6)
    assert strange["logprobs"]["tokens"] == ["a", "<unknown>", "b"]
    assert (strange["characters"], strange["logprobs"]["text_offset"]) == (3, [0, 1, 2])


def test_labels(labelled: Sampler) -> None:
    sampler = labelled
    with serving({"tiny": sampler}) as served:
        for label in ("Polish", "Irish"):
            text = served.complete(prompt="a", max_tokens=40, seed=5, label=label).json()["choices"][0]["text"]
            assert text == sampler.sample("a", length=40, seed=5, label=label)
            streamed = events(served, max_tokens=40, seed=5, label=label)
            expected = sampler.sample(length=40, seed=5, label=label)
            assert "".join(event["choices"][0]["text"] for event in streamed) == expected
        steered: dict[str, Any] = {"label": "Polish", "seed": 5, "pattern": "[ab]+(c|de?)*"}
        text = served.complete(max_tokens=40, **steered).json()["choices"][0]["text"]
        assert text == sampler.sample(length=40, **steered)
        streamed = events(served, max_tokens=40, particles=4, **steered)
        expected = sampler.sample(length=40, particles=4, **steered)
        assert "".join(event["choices"][0]["text"] for event in streamed) == expected
        for neutral in ("", None):
            text = served.complete(max_tokens=40, seed=5, label=neutral).json()["choices"][0]["text"]
            assert text == sampler.sample(length=40, seed=5)
        wrong = served.complete(label="polich")
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "label")
        assert "did you mean 'Polish'" in wrong.json()["error"]["message"]
        with served.client() as client:
            assert client.get("/v1/models/tiny").json()["labels"] == ["Polish", "Irish"]
            score = client.post("/score", json={"text": "bad", "label": "Irish"}).json()
            assert math.isclose(score["nats_per_char"], sampler.score("bad", label="Irish").nats_per_char, rel_tol=1e-6)
            found = client.post("/complete", json={"prompt": "b", "until": "e", "label": "Irish"}).json()["completions"]
            completed = sampler.complete("b", until="e", label="Irish")
            assert [item["text"] for item in found] == [item.text for item in completed]
            for path in ("/score", "/complete"):
                text = {"/score": "text", "/complete": "prompt"}[path]
                refused = client.post(path, json={text: "b", "label": "polich"}).json()["error"]
                assert (refused["param"], "did you mean 'Polish'" in refused["message"]) == ("label", True)


def test_classification(labelled: Sampler) -> None:
    sampler = labelled
    with serving({"tiny": sampler}, max_prompt=100) as served, served.client() as client:
        for text in ("bad", "", "baX"):
            found = client.post("/classify", json={"text": text, "prior": "uniform"}).json()
            assert list(found["labels"]) == list(sampler.classify(text, prior="uniform"))
            assert found["labels"] == pytest.approx(sampler.classify(text, prior="uniform"))
        for body, message in (
            ({"text": "a" * 51}, "2 labels, with which a text may have 50"),
            ({"text": "baX", "unknown": "error"}, "never seen 'X'"),
            ({"text": "a", "prior": "flat"}, "training"),
        ):
            refused = client.post("/classify", json=body)
            assert refused.status_code == 400
            assert message in refused.json()["error"]["message"]


def test_a_model_without_labels_cannot_classify(server: Served) -> None:
    with server.client() as client:
        answer = client.post("/classify", json={"model": "tiny", "text": "a"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")


def test_a_model_without_labels_refuses_one(server: Served) -> None:
    assert server.complete(label="Polish").json()["error"]["param"] == "label"


def test_models_and_health(server: Served) -> None:
    with server.client() as client:
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/v1/models/bytes").json()["vocabulary"] == 256
        assert client.get("/v1/models/none").status_code == 404


def test_a_text_that_cannot_be_finished(characters: Sampler) -> None:
    nothing = {str(token): -100 for token in range(len(characters.vocabulary))}
    with serving({"tiny": characters}) as served:
        # Every character at -100 is as before; it takes a processor that raises to fail half way.
        assert served.complete(max_tokens=9, seed=1, logit_bias=nothing).json()["choices"][0]["text"]
        engine = served.models.engines["tiny"]
        generate = engine._generate
        failed: list[bool] = []

        def fail() -> None:
            if engine.tokens_generated > 300 and not failed:
                failed.append(True)
                raise RuntimeError("out of memory")
            generate()

        engine._generate = fail  # type: ignore[method-assign]
        answer = served.complete(max_tokens=5000)
        assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
        failed.clear()
        last = events(served, max_tokens=5000)[-1]
        assert "out of memory" in last["error"]["message"]
        assert served.complete(max_tokens=9).status_code == 200, "the engine goes on"
