"""Log-probabilities in OpenAI's form."""

from __future__ import annotations

import numpy as np

from tests.server.conftest import Served, events


def test_logprobs_and_echo(server: Served) -> None:
    alone = server.sampler.generate("ab", length=40, seed=3, log_probs=True)
    assert alone.log_probs is not None
    body = {"prompt": "ab", "max_tokens": 40, "seed": 3, "logprobs": 2, "echo": True}
    choice = server.complete(**body).json()["choices"][0]
    assert choice["text"] == "ab" + alone.text
    scores = choice["logprobs"]
    assert "".join(scores["tokens"]) == choice["text"]
    assert scores["text_offset"] == list(range(42))
    assert scores["token_logprobs"][0] is None
    np.testing.assert_allclose(scores["token_logprobs"][2:], alone.log_probs, rtol=1e-6)
    assert scores["top_logprobs"][0] is None
    assert all(len(top) == 2 for top in scores["top_logprobs"][1:])
    streamed = [event["choices"][0] for event in events(server, **body)]
    assert "".join(piece["text"] for piece in streamed) == choice["text"]
    for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [x for piece in streamed for x in piece["logprobs"][key]] == scores[key]
    # Only the prompt: how other people's evaluation scripts score a text.
    read = server.complete(prompt="ab", max_tokens=0, logprobs=0, echo=True).json()["choices"][0]
    assert (read["text"], read["logprobs"]["token_logprobs"]) == ("ab", scores["token_logprobs"][:2])


def test_scores_of_a_stop_string_are_left_out(server: Served) -> None:
    body = {"max_tokens": 400, "seed": 1, "stop": ["ab", "c"], "logprobs": 0}
    choice = server.complete(**body).json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]


def test_bytes_of_a_character_share_its_offset(server: Served) -> None:
    choice = server.complete(model="bytes", prompt="a漢", max_tokens=0, echo=True, logprobs=0).json()["choices"][0]
    assert choice["logprobs"]["tokens"] == ["a", "bytes:\\xe6", "bytes:\\xbc", "bytes:\\xa2"]
    assert choice["logprobs"]["text_offset"] == [0, 1, 1, 1]
