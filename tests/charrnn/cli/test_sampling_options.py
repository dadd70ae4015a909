"""The options of drawing on ``charrnn sample``."""

from __future__ import annotations

import inspect
import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from charrnn_runtime import Sampler, SamplingOptions

from charrnn.cli.sample import sample

if TYPE_CHECKING:
    from tests.conftest import Charrnn, Run

OPTIONS: dict[str, Any] = {
    "typical_p": 0.9,
    "repetition_penalty": 1.2,
    "frequency_penalty": 0.1,
    "presence_penalty": 0.2,
    "penalty_window": 9,
    "allowed": "theca .",
    "min_length": 12,
}


def test_every_option_is_there() -> None:
    known = set(inspect.signature(sample).parameters)
    assert set(SamplingOptions.names()) - {"logits_processor"} <= known


def test_options_reach_the_sampler(run: Run, charrnn: Charrnn) -> None:
    arguments: list[object] = ["--length", 80, "--seed", 5, "--stop", "cat", "--prompt", "the "]
    for name, value in OPTIONS.items():
        arguments += [f"--{name.replace('_', '-')}", value]
    arguments += ["--logit-bias", "a=-inf", "--logit-bias", " =0.5"]
    sampler = Sampler(run.model)
    expected = [
        sampler.generate(
            "the ",
            length=80,
            seed=5,
            index=i,
            stop="cat",
            log_probs=True,
            logit_bias={"a": -math.inf, " ": 0.5},
            **OPTIONS,
        )
        for i in range(3)
    ]
    outcome = charrnn("sample", run.model, *arguments)
    assert outcome.out == f"the {expected[0].text}\n"
    values = json.loads(charrnn("sample", run.model, *arguments, "--num", 3, "--logprobs").out)
    assert values["texts"] == [e.text for e in expected]
    assert values["finish_reasons"] == [e.finish_reason for e in expected]
    for got, e in zip(values["log_probs"], expected, strict=True):
        assert e.log_probs is not None
        assert got == pytest.approx(e.log_probs.tolist(), abs=1e-4)
    plain = json.loads(charrnn("sample", run.model, *arguments, "--json").out)
    assert set(plain) == {"seed", "prompt", "texts", "finish_reasons"}


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--typical-p", "0"], "typical_p"),
        (["--repetition-penalty", "-1"], "repetition_penalty"),
        (["--frequency-penalty", "nan"], "frequency_penalty"),
        (["--presence-penalty", "inf"], "presence_penalty"),
        (["--penalty-window", "0"], "penalty_window"),
        (["--logit-bias", "ab=1"], "write CHARACTER=NUMBER"),
        (["--logit-bias", "a"], "write CHARACTER=NUMBER"),
        (["--logit-bias", "a=1", "--logit-bias", "a=1"], "given twice"),
        (["--logit-bias", "a=inf"], "logit_bias['a']"),
        (["--allowed", ""], "allowed"),
        (["--min-length", "-1"], "min_length"),
        (["--device", "npu"], "unknown device"),
    ],
)
def test_nonsense_is_refused(run: Run, charrnn: Charrnn, options: list[str], part: str) -> None:
    model = run.model if options[0] == "--device" else "no-such-model.onnx"  # told before a model is loaded
    outcome = charrnn("sample", model, *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert part in outcome.err


@pytest.mark.parametrize("options", [["--logit-bias", "~=1"], ["--allowed", "a~"]])
def test_characters_the_model_does_not_know(run: Run, charrnn: Charrnn, options: list[str]) -> None:
    outcome = charrnn("sample", run.model, *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert "never seen '~'" in outcome.err
