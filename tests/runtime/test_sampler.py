from __future__ import annotations

import contextlib
import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from charrnn_runtime import (
    DeviceError,
    ModelOutputError,
    Request,
    Sampler,
    SamplingOptions,
    SnapshotError,
    UnknownCharacterError,
    UsageError,
    Vocabulary,
)
from charrnn_runtime.sampling import UniformStream, log_softmax, sample_token
from onnx import numpy_helper

if TYPE_CHECKING:
    from tests.runtime.conftest import TinyModel

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def test_a_text_is_what_the_formula_gives(tiny: TinyModel, sampler: Sampler) -> None:
    """Sampling by hand: numpy's float64 model, the specified numbers, the specified rule."""
    options = SamplingOptions(temperature=0.9, top_k=9)
    fed = tiny.vocabulary.encode("bad").tolist()
    uniforms = UniformStream(21, 2)
    drawn = []
    for _ in range(60):
        logits = tiny.logits(np.array(fed))[-1].astype(np.float32)
        drawn.append(sample_token(logits, options, uniforms.next()))
        fed.append(drawn[-1])
    text = sampler.sample("bad", length=60, temperature=0.9, top_k=9, seed=21, index=2)
    assert text == tiny.vocabulary.decode(drawn)


def test_an_empty_prompt_begins_with_the_start_token(sampler: Sampler) -> None:
    assert sampler.sample(length=40, seed=1) == sampler.sample("\n", length=40, seed=1)
    assert sampler.sample("漢", length=40, seed=1) != sampler.sample(length=40, seed=1)


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0}, {"temperature": 0.7, "top_p": 0.9}, {"top_k": 5, "min_p": 0.05}, {"stop": ["ab", "ca"]}],
    ids=str,
)
def test_batch_equals_single_equals_stream(sampler: Sampler, options: dict[str, Any]) -> None:
    prompts = ["", "a", "face", "a,b.c", "jjjjjjjj", "漢é", "f"]
    batch = sampler.sample_batch(prompts, length=150, seed=99, **options)
    for i, prompt in enumerate(prompts):
        single = sampler.sample(prompt, length=150, seed=99, index=i, **options)
        assert batch[i] == single
        assert "".join(sampler.stream(prompt, length=150, seed=99, index=i, **options)) == single
        if "stop" in options:
            assert not any(s in single for s in options["stop"])
        else:
            assert len(single) == 150


def test_seeds(sampler: Sampler) -> None:
    texts = {sampler.sample("a", length=80, seed=seed, index=i) for seed, i in itertools.product(range(4), range(3))}
    assert len(texts) == 12
    assert sampler.sample("a", length=80, seed=2**64 - 1) == sampler.sample("a", length=80, seed=2**64 - 1)
    assert sampler.sample("a", length=80) != sampler.sample("a", length=80)
    short, long = (sampler.sample("a", length=n, seed=5) for n in (30, 80))
    assert long.startswith(short)


def test_threads_do_not_mix(sampler: Sampler) -> None:
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda i: sampler.sample("ab", length=200, seed=4, index=i % 4), range(16)))
    assert texts == [sampler.sample("ab", length=200, seed=4, index=i % 4) for i in range(16)]


def test_interleaved_streams_do_not_mix(sampler: Sampler) -> None:
    streams = [sampler.stream("ab", length=50, seed=4, index=i) for i in range(3)]
    pieces = list(zip(*streams, strict=True))
    for i, text in enumerate(map("".join, zip(*pieces, strict=True))):
        assert text == sampler.sample("ab", length=50, seed=4, index=i)


def test_an_abandoned_stream_does_no_harm(sampler: Sampler) -> None:
    stream = sampler.stream("a", length=10**9, seed=3)
    head = "".join(itertools.islice(stream, 5))
    stream.close()  # type: ignore[attr-defined]
    assert sampler.sample("a", length=len(head), seed=3) == head


def test_stop_string_ends_the_text_where_it_begins(sampler: Sampler) -> None:
    whole = sampler.sample("a", length=300, seed=8)
    stop = whole[100:103]
    text = sampler.sample("a", length=300, seed=8, stop=stop)
    assert text == whole[: whole.index(stop)]
    # A stop string in the prompt is no reason to stop.
    assert len(sampler.sample("abc", length=20, seed=8, stop="abc\n漢漢漢漢")) == 20


def test_held_back_text_comes_out_when_the_length_is_reached(sampler: Sampler) -> None:
    whole = sampler.sample("a", length=50, seed=8)
    assert sampler.sample("a", length=50, seed=8, stop=whole[-2:] + "漢漢漢漢") == whole


def test_end_token_ends_a_text(tiny_of: Callable[[Vocabulary], TinyModel]) -> None:
    vocabulary = Vocabulary(symbols=(-1, -1, 97, 98, 99), special={"begin": 0, "end": 1})
    tiny = tiny_of(vocabulary)
    tiny.weights["b"][0] = -100
    tiny.weights["b"][1] = 1
    sampler = Sampler(tiny.data())
    texts = sampler.sample_batch([""] * 20, length=500, seed=1)
    assert all(len(text) < 500 for text in texts)
    assert set("".join(texts)) <= set("abc")
    # Every text begins with the begin token, a prompt or not.
    log_probs = log_softmax(tiny.logits(np.array([0, 2])).astype(np.float32))
    np.testing.assert_allclose(sampler.score("ab").log_probs, [log_probs[0, 2], log_probs[1, 3]], atol=1e-5)
    fed = tiny.logits(np.array([0, 2]))[-1].astype(np.float32)
    first = sample_token(fed, SamplingOptions(), UniformStream(6).next())
    assert sampler.sample("a", length=1, seed=6) == vocabulary.decode([first])


def test_a_byte_model_never_gives_half_a_character(tiny_of: Callable[[Vocabulary], TinyModel]) -> None:
    sampler = Sampler(tiny_of(Vocabulary.from_text("", kind="bytes")).data())
    pieces = list(sampler.stream("é", length=400, seed=2))
    text = "".join(pieces)
    assert text == sampler.sample_batch(["é"], length=400, seed=2)[0]
    assert text.encode().decode() == text
    assert "\ufffd" in text  # random weights write no valid UTF-8


def test_score_is_what_the_formula_gives(tiny: TinyModel, sampler: Sampler) -> None:
    text = "fade a bead,.é漢 " * 40  # longer than one block
    targets = tiny.vocabulary.encode(text)
    logits = tiny.logits(np.concatenate([[tiny.vocabulary.start_token], targets[:-1]]))
    shifted = logits - logits.max(1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    expected = log_probs[np.arange(len(targets)), targets]
    score = sampler.score(text)
    np.testing.assert_allclose(score.log_probs, expected, atol=1e-5)
    assert score.nats_per_char == pytest.approx(-expected.mean(), abs=1e-6)
    assert score.bits_per_char == pytest.approx(-expected.mean() / math.log(2), abs=1e-6)
    assert score.perplexity == pytest.approx(math.exp(-expected.mean()), rel=1e-5)


def test_score_of_nothing(sampler: Sampler) -> None:
    score = sampler.score("")
    assert len(score.log_probs) == 0
    assert math.isnan(score.nats_per_char)


def test_score_windows(tiny: TinyModel, sampler: Sampler) -> None:
    windows = np.stack([tiny.vocabulary.encode(text) for text in ("abcde", "fgh\n ")])
    log_probs = sampler.score_windows(windows)
    assert log_probs.shape == (2, 4)
    for row, window in zip(log_probs, windows, strict=True):
        expected = log_softmax(tiny.logits(window).astype(np.float32))[np.arange(4), window[1:]]
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_step_and_state(tiny: TinyModel, sampler: Sampler) -> None:
    ids = tiny.vocabulary.encode("cab.\n")
    state = sampler.initial_state(batch=2)
    assert [s.shape for s in state] == [(2, 8), (2, 6)]
    assert all(s.dtype == np.float32 and not s.any() for s in state)
    before = [s.copy() for s in state]
    states, logits = [state], []
    for token in ids:
        row, state = sampler.step([token, ids[0]], state)
        states.append(state)
        logits.append(row)
    np.testing.assert_allclose(np.array(logits)[:, 0], tiny.logits(ids), atol=1e-5)
    assert all((a == b).all() for a, b in zip(before, states[0], strict=True)), "the state is not changed in place"
    # An old state is still good: the step is a function.
    again, _ = sampler.step([ids[3], ids[0]], states[3])
    assert (again == logits[3]).all()
    assert logits[3].flags.owndata


@pytest.mark.parametrize(
    ("tokens", "batch", "message"),
    [
        ([99], 1, "0 to"),
        ([-1], 1, "0 to"),
        ([], 1, "whole numbers"),
        ([[1]], 1, "whole numbers"),
        ([1.5], 1, "whole numbers"),
        ([1, 2], 1, "shapes"),
    ],
)
def test_step_refuses_what_does_not_fit(sampler: Sampler, tokens: Any, batch: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sampler.step(tokens, sampler.initial_state(batch))


def test_step_refuses_another_models_state(sampler: Sampler) -> None:
    with pytest.raises(UsageError, match="shapes"):
        sampler.step([1], sampler.initial_state()[:1])
    with pytest.raises(UsageError, match="batch"):
        sampler.initial_state(0)


@pytest.mark.parametrize("length", [0, -1, 2.5, True])
def test_lengths_that_are_none(sampler: Sampler, length: Any) -> None:
    for call in (sampler.sample, sampler.stream):
        with pytest.raises(UsageError, match="length"):
            call("a", length=length)
    with pytest.raises(UsageError, match="length"):
        sampler.sample_batch(["a"], length=length)


def test_wrong_arguments_are_told_at_the_call(sampler: Sampler) -> None:
    """Before the first piece is asked for, and before anything is computed."""
    for wrong in ({"temperature": -1}, {"seed": -1}, {"stop": ""}, {"unknown": "?"}, {"index": -1}):
        with pytest.raises(UsageError):
            sampler.stream("a", length=5, **wrong)
    with pytest.raises(UnknownCharacterError) as caught:
        sampler.stream("abX", length=5)
    assert (caught.value.character, caught.value.position) == ("X", 2)


def test_unknown_characters_can_be_skipped(sampler: Sampler) -> None:
    assert sampler.sample("aXbY", length=30, seed=1, unknown="skip") == sampler.sample("ab", length=30, seed=1)
    assert sampler.sample("XY", length=30, seed=1, unknown="skip") == sampler.sample("", length=30, seed=1)


def test_batches_of_odd_sizes(sampler: Sampler) -> None:
    assert sampler.sample_batch([], length=5) == []
    assert sampler.sample_batch(["a"], length=5, seed=1) == [sampler.sample("a", length=5, seed=1)]
    with pytest.raises(UsageError, match="list of texts"):
        sampler.sample_batch("abc", length=5)


def test_a_model_that_computes_nan(tiny: TinyModel) -> None:
    def poison(model: onnx.ModelProto) -> None:
        (bias,) = (t for t in model.graph.initializer if t.name == "b")
        values = numpy_helper.to_array(bias).copy()
        values[3] = math.nan
        bias.CopyFrom(numpy_helper.from_array(values, "b"))

    sampler = Sampler(tiny.data(change=poison))
    for temperature in (0, 1):
        with pytest.raises(ModelOutputError, match="NaN"):
            sampler.sample("a", length=5, temperature=temperature)


def test_an_existing_session_is_taken(tiny: TinyModel, sampler: Sampler) -> None:
    session = onnxruntime.InferenceSession(tiny.data(), providers=["CPUExecutionProvider"])
    own = Sampler(session)
    assert own.device == "cpu"
    assert own.sample("a", length=50, seed=1) == sampler.sample("a", length=50, seed=1)


@pytest.mark.parametrize("model", [None, 7, ["m.onnx"]])
def test_what_is_no_model(model: Any) -> None:
    with pytest.raises(UsageError, match="path, bytes or an InferenceSession"):
        Sampler(model)


@pytest.mark.parametrize("device", ["gpu", "cpu:1", "cuda:", "cuda:x", "", None])
def test_devices_that_are_none(tiny: TinyModel, device: Any) -> None:
    with pytest.raises(UsageError, match="unknown device"):
        Sampler(tiny.data(), device=device)


def test_auto_takes_what_is_there(tiny: TinyModel) -> None:
    assert Sampler(tiny.data(), device="auto").device in ("cpu", "cuda:0")


@pytest.mark.skipif(HAS_CUDA, reason="this onnxruntime has CUDA")
def test_cuda_without_cuda_is_an_error(tiny: TinyModel) -> None:
    with pytest.raises(DeviceError, match=r"no CUDA.*\[gpu\]"):
        Sampler(tiny.data(), device="cuda")


@pytest.mark.skipif(not HAS_CUDA, reason="needs onnxruntime-gpu and a CUDA device")
def test_cuda_gives_the_same_text(tiny: TinyModel, sampler: Sampler) -> None:
    on_card = Sampler(tiny.data(), device="cuda")
    assert on_card.device == "cuda:0"
    assert on_card.sample("ab", length=2000, seed=1) == sampler.sample("ab", length=2000, seed=1)
    prompts = ["a", "bad", ""]
    assert on_card.sample_batch(prompts, length=300, seed=1) == sampler.sample_batch(prompts, length=300, seed=1)


WRONG: list[Any] = [
    None, 7, -1, 1.5, math.nan, True, "x", b"x", (), [None], [[]], ["x", 3], {"a": 1}, object(), np.zeros(2),
]  # fmt: skip
# A call of each method with arguments that are right.
CALLS: dict[str, dict[str, Any]] = {
    "sample": {"prompt": "a", "length": 3, "stop": "q", "seed": 1, "index": 0, "unknown": "error", "errors": "replace"},
    "stream": {"prompt": "a", "length": 3, "stop": "q", "seed": 1, "index": 0, "unknown": "error"},
    "generate": {"prompt": "a", "length": 3, "stop": "q", "seed": 1, "index": 0},
    "sample_batch": {
        "prompts": ["a"],
        "length": 3,
        "stop": "q",
        "seed": 1,
        "unknown": "error",
        "batch": 2,
        "label": None,
    },
    "stream_request": {"request": Request(prompt="a", length=3)},
    "generate_many": {"requests": [Request(prompt="a", length=3)], "batch": 2},
    "generate_groups": {"requests": [Request(prompt="a", length=3)], "batch": 2},
    "start": {"prompt": "a", "seed": 1, "index": 0, "unknown": "error", "label": None},
    "resume": {"data": b""},
    "next": {"prompt": "a", "unknown": "error"},
    "complete": {"prompt": "a", "n": 2, "until": " ", "max_length": 3, "width": 4, "unknown": "error"},
    "classify": {"text": "a", "prior": "uniform", "unknown": "error"},
    "classify_batch": {"texts": ["a"], "prior": "uniform", "unknown": "error"},
    "classify_logs": {"texts": ["a"], "prior": "uniform", "unknown": "error"},
    "score": {"text": "a", "unknown": "error"},
    "score_ids": {"targets": [1]},
    "score_stream": {"pieces": ["a"], "unknown": "error"},
    "score_blocks": {"blocks": [[1]]},
    "score_batch": {"texts": ["a"], "unknown": "error", "batch": 2},
    "score_many": {"targets": [[1]], "batch": 2},
    "score_items": {"batches": [["a"]], "unknown": "error", "labels": [[""]]},
    "score_windows": {"windows": np.array([[1, 2]])},
    "encode_targets": {"text": "a", "unknown": "error"},
    "initial_state": {"batch": 1},
    "step": {"token_ids": [1], "state": ()},
    "steps": {"token_ids": [1]},
}


METHODS = [name for name, _ in inspect.getmembers(Sampler, inspect.isfunction) if name[0] != "_"]


@pytest.mark.parametrize("name", METHODS)
def test_a_wrong_type_is_a_usage_error(sampler: Sampler, name: str) -> None:
    from tests.runtime.conftest import TinyModel

    right = CALLS[name]
    if name.startswith("classify"):
        special = {"end": 1, "label:x": 2}
        sampler = Sampler(TinyModel(Vocabulary(symbols=(ord("a"), -1, -1), special=special)).data())
    for argument in [*right, *(SamplingOptions.names() if name in ("sample", "sample_batch", "start") else ())]:
        for wrong in WRONG:
            with contextlib.suppress(UsageError, SnapshotError):
                done = getattr(sampler, name)(**{**right, argument: wrong})
                if isinstance(done, Iterator):
                    list(itertools.islice(done, 9))
