"""The engine: every text is its single run, whatever happens around it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest
from charrnn_runtime import BusyError, Engine, Job, Request, Sampler, UnknownCharacterError, UsageError, Vocabulary
from charrnn_runtime.blocks import MAX_STEPS
from charrnn_runtime.options import SamplingKwargs

from tests.runtime.conftest import wait_until

if TYPE_CHECKING:
    from tests.runtime.conftest import Forked, TinyModel


@pytest.fixture
def engine(sampler: Sampler) -> Iterator[Engine]:
    with Engine(sampler, batch=8, queue=50) as engine:
        yield engine


def collect(job: Job, patience: float = 10.0) -> str:
    """The whole text; fails where it does not end."""
    text, until = "", time.monotonic() + patience
    while True:
        ended = job.ended
        text += job.take()[0]
        if ended:
            return text
        assert time.monotonic() < until, "the job does not end"
        time.sleep(0.002)


OPTIONS: list[SamplingKwargs] = [
    {},
    {"temperature": 0.7},
    {"top_k": 4},
    {"frequency_penalty": 0.5, "logit_bias": {"a": 1.0}},
]


def test_texts_are_their_single_runs(sampler: Sampler, engine: Engine) -> None:
    requests = [
        Request(
            prompt="abc,"[: i % 5] * (1 + i % 7),
            length=1 + 37 * i % 90,
            stop=["ab"] if i % 3 == 0 else (),
            seed=i,
            index=i % 2,
            options=OPTIONS[i % 4],
        )
        for i in range(40)
    ]
    jobs = [engine.submit(request) for request in requests]
    for request, job in zip(requests, jobs, strict=True):
        alone = sampler.generate(
            request.prompt,
            length=request.length,
            stop=request.stop,
            seed=request.seed,
            index=request.index,
            **request.options,
        )
        assert (collect(job), job.finish_reason) == (alone.text, alone.finish_reason)
        assert (job.seed, job.index, job.completion_tokens) == (request.seed, request.index, len(alone.tokens))
    assert (engine.active, engine.waiting) == (0, 0)


def test_scores_are_the_samplers(sampler: Sampler, engine: Engine) -> None:
    job = engine.submit(Request(prompt="abc", length=30, seed=3, log_probs=True), top=2, scores_prompt=True)
    alone = sampler.generate("abc", length=30, seed=3, log_probs=True)
    scores = []
    while not job.ended:
        scores += job.take()[1]
    scores += job.take()[1]
    assert alone.log_probs is not None
    assert [s.token for s in scores] == list(alone.tokens)
    np.testing.assert_allclose([s.log_prob or 0 for s in scores], alone.log_probs, rtol=1e-6)
    for score in scores:
        (best, first), (_, second) = score.top
        assert first >= second
        assert score.log_prob is not None
        assert score.log_prob <= first
        assert score.token == best or score.log_prob < first
    assert job.prompt_scores[0].log_prob is None, "nothing comes before the first character"
    whole = engine.score("abc")
    collect(whole)
    np.testing.assert_allclose(
        [s.log_prob or 0 for s in whole.prompt_scores], sampler.score("abc").log_probs, rtol=1e-6
    )
    np.testing.assert_allclose(
        [s.log_prob or 0 for s in job.prompt_scores[1:]],
        # Without a start token before it the state differs: this is the prompt as it is read.
        sampler.score_windows(sampler.vocabulary.encode("abc")[None])[0],
        rtol=1e-6,
    )
    empty = engine.score("")
    assert (collect(empty), empty.prompt_scores, empty.finish_reason) == ("", [], "length")


def test_a_text_that_is_not_taken_is_paused_and_goes_on(sampler: Sampler) -> None:
    with Engine(sampler, batch=2, queue=4, max_buffered=20) as engine:
        slow = engine.submit(Request(prompt="ab", length=200, seed=1))
        other = engine.submit(Request(length=300, seed=2))
        assert collect(other) == sampler.sample(length=300, seed=2)
        wait_until(lambda: not engine.active)
        assert (engine.active, engine.waiting, slow.ended) == (0, 1, False)
        assert 20 <= slow.completion_tokens < 20 + MAX_STEPS, "nothing more is generated until it is taken"
        assert collect(slow) == sampler.sample("ab", length=200, seed=1)


def test_cancelled_jobs_free_their_places(sampler: Sampler) -> None:
    with Engine(sampler, batch=2, queue=4) as engine:
        endless = [engine.submit(Request(length=10**9, seed=i)) for i in range(2)]
        waiting = engine.submit(Request(length=10**9, seed=3))
        last = engine.submit(Request(length=50, seed=4))
        waiting.cancel()
        endless[0].cancel()
        assert collect(last) == sampler.sample(length=50, seed=4)
        endless[1].cancel()
        endless[1].cancel()
        wait_until(lambda: not engine.active)
        assert (engine.active, engine.waiting) == (0, 0)
        assert endless[0].finish_reason is None
        assert endless[0].error is None


def test_the_queue_is_bounded(sampler: Sampler) -> None:
    with Engine(sampler, batch=2, queue=3, queue_tokens=100) as engine:
        for i in range(5):
            engine.submit(Request(length=10**9, seed=i))
        with pytest.raises(BusyError, match="wait"):
            engine.submit(Request(length=5))
    with Engine(sampler, batch=1, queue=50, queue_tokens=100) as wide:
        wide.submit(Request(length=10**9))
        wait_until(lambda: wide.active == 1)
        wide.submit(Request(prompt="a" * 60, length=5))
        with pytest.raises(BusyError):
            wide.submit(Request(prompt="a" * 60, length=5))


def test_an_engine_that_does_not_run_says_so(sampler: Sampler) -> None:
    engine = Engine(sampler)
    uses: list[Callable[[], object]] = [lambda: engine.submit(Request(length=5)), lambda: engine.score("ab")]
    for use in uses:
        with pytest.raises(UsageError, match=r"not started; .*start\(\)"):
            use()
    engine.start()
    engine.start()
    engine.close()
    for use in (engine.start, *uses):
        with pytest.raises(UsageError, match="closed; make a new one"):
            use()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_an_engine_in_a_forked_child_says_so(sampler: Sampler, forked: Forked) -> None:
    with Engine(sampler) as engine:
        job = engine.submit(Request(length=10**9))

        def child() -> None:
            uses: list[Callable[[], object]] = [lambda: engine.submit(Request(length=5)), lambda: engine.score("a")]
            for use in (*uses, engine.start, job.take):
                with pytest.raises(UsageError, match="forked"):
                    use()
            job.cancel()
            engine.close()
            with Engine(sampler) as own:
                assert collect(own.submit(Request(length=50, seed=1))) == sampler.sample(length=50, seed=1)

        forked(child)
        assert not job.ended


def test_a_long_prompt_holds_nobody_up(sampler: Sampler, engine: Engine) -> None:
    long = engine.submit(Request(prompt="abcdefghij" * 100_000, length=5, seed=1))
    while not engine.tokens_prefilled:
        time.sleep(0.001)
    assert collect(engine.submit(Request(prompt="ab", length=200, seed=2))) == sampler.sample("ab", length=200, seed=2)
    assert not long.ended
    long.cancel()


def test_a_prompt_of_ids_is_the_prompt_of_their_text(sampler: Sampler, engine: Engine) -> None:
    ids = sampler.vocabulary.encode("abc").tolist()
    expected = sampler.sample("abc", length=20, seed=1)
    assert sampler.sample(ids, length=20, seed=1) == expected
    assert collect(engine.submit(Request(prompt=ids, length=20, seed=1))) == expected
    with pytest.raises(UsageError, match="no token 999"):
        engine.submit(Request(prompt=[999], length=5))


def test_the_begin_token_of_a_prompt_of_ids_is_not_doubled(tiny_of: Callable[[Vocabulary], TinyModel]) -> None:
    vocabulary = Vocabulary(symbols=(-1, 97, 98, -1), special={"begin": 0, "end": 3})
    sampler = Sampler(tiny_of(vocabulary).data())

    def scores(prompt: list[int]) -> list[float]:
        log_probs = sampler.generate(prompt, length=20, seed=1, log_probs=True).log_probs
        assert log_probs is not None
        return list(log_probs)

    assert scores([0, 1, 2]) == scores([1, 2])
    assert scores([0, 0, 1, 2]) != scores([1, 2])


def test_wrong_requests_are_told_at_once_and_spoil_nothing(sampler: Sampler, engine: Engine) -> None:
    with pytest.raises(UnknownCharacterError):
        engine.submit(Request(prompt="X", length=5))
    with pytest.raises(UsageError, match="length"):
        engine.submit(Request(length=-1))
    with pytest.raises(UsageError, match="temperature"):
        engine.submit(Request(length=5, options={"temperature": -1.0}))

    def raises(ids: Sequence[int], logits: object) -> None:
        logits[:] = np.nan  # type: ignore[index]

    good = engine.submit(Request(length=100, seed=1))
    bad = engine.submit(Request(length=100, options={"logits_processor": raises}))
    assert collect(bad) == ""
    assert isinstance(bad.error, UsageError)
    assert collect(good) == sampler.sample(length=100, seed=1)


def test_updates_come_with_the_first_piece_and_the_end(sampler: Sampler) -> None:
    told: list[tuple[Job, bool]] = []
    ended = threading.Event()

    def on_update(jobs: Sequence[Job]) -> None:
        told.extend((job, job.ended) for job in jobs)
        if jobs[-1].ended:
            ended.set()

    with Engine(sampler, update_interval=100.0, on_update=on_update) as engine:
        engine._last_update = time.perf_counter()  # so that no regular update is due
        job = engine.submit(Request(length=50, seed=1))
        assert ended.wait(5)
    assert told == [(job, False), (job, True)]


def test_closing_ends_what_is_left_and_what_is_paused(sampler: Sampler) -> None:
    engine = Engine(sampler, batch=1, max_buffered=10)
    engine.start()
    jobs = [engine.submit(Request(length=10**9)) for _ in range(3)]
    wait_until(lambda: (engine.active, engine.waiting) == (0, 3))  # all paused
    engine.close()
    assert all(job.ended and isinstance(job.error, UsageError) for job in jobs)
    with pytest.raises(UsageError, match="closed"):
        engine.submit(Request(length=1))
