"""Generations, many at once, conversations, and scores of many texts."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from charrnn_runtime import Request, Sampler, SnapshotError, UsageError, Vocabulary
from charrnn_runtime.options import Logits64, SamplingKwargs
from charrnn_runtime.sampling import UniformStream

if TYPE_CHECKING:
    from tests.runtime.conftest import TinyModel


def test_generation_tells_how_it_came_about(tiny: TinyModel, sampler: Sampler) -> None:
    done = sampler.generate(length=50, log_probs=True, temperature=0.5, top_k=4)
    assert done.finish_reason == "length"
    assert done.text == sampler.sample(length=50, seed=done.seed, temperature=0.5, top_k=4)
    assert tiny.vocabulary.decode(done.tokens) == done.text
    assert done.log_probs is not None
    # The model's own probabilities: those of score(), whatever the options.
    np.testing.assert_allclose(done.log_probs, sampler.score(done.text).log_probs, atol=1e-5)
    assert sampler.generate("bad", length=5).log_probs is None


def test_finish_reasons(sampler: Sampler, tiny_of: Callable[[Vocabulary], TinyModel]) -> None:
    whole = sampler.sample("a", length=100, seed=3)
    stopped = sampler.generate("a", length=100, seed=3, stop=whole[40:43])
    assert stopped.finish_reason == "stop"
    assert stopped.text == whole[: whole.index(whole[40:43])]
    assert len(stopped.tokens) == len(stopped.text) + 3
    ending = tiny_of(Vocabulary(symbols=(-1, 97, 98), special={"end": 0}))
    done = Sampler(ending.data()).generate("a", length=10_000, seed=1)
    assert done.finish_reason == "end"
    assert done.tokens[-1] == 0
    assert len(done.text) == len(done.tokens) - 1


@pytest.mark.parametrize("batch", [1, 2, 3, 64])
def test_many_at_once_are_what_each_is_alone(sampler: Sampler, batch: int) -> None:
    options: list[SamplingKwargs] = [{}, {"temperature": 0.5}, {"top_p": 0.8}, {"repetition_penalty": 1.2}]
    requests = [
        Request(
            prompt="abcdefghij"[: n % 7],
            length=5 + 13 * n % 70,
            seed=n,
            index=n % 3,
            stop="ab" if n % 4 == 1 else (),
            log_probs=n % 5 == 0,
            options=options[n % 4],
        )
        for n in range(17)
    ]
    done = dict(sampler.generate_many(iter(requests), batch=batch))
    assert sorted(done) == list(range(17))
    for n, r in enumerate(requests):
        alone = sampler.generate(
            r.prompt, length=r.length, seed=r.seed, index=r.index, stop=r.stop, log_probs=r.log_probs, **r.options
        )
        assert (done[n].text, done[n].finish_reason, done[n].tokens) == (alone.text, alone.finish_reason, alone.tokens)
        if r.log_probs:
            np.testing.assert_allclose(done[n].log_probs, alone.log_probs, atol=1e-4)  # type: ignore[arg-type]


def test_requests_are_taken_only_when_there_is_room(sampler: Sampler) -> None:
    taken = 0

    def endless() -> Iterator[Request]:
        nonlocal taken
        for n in itertools.count():
            taken = n + 1
            yield Request(prompt="a", length=20 + n % 5, seed=n)

    done = list(itertools.islice(sampler.generate_many(endless(), batch=4), 30))
    assert len({n for n, _ in done}) == 30
    assert taken <= 30 + 4


def test_many_prompts_of_different_lengths(sampler: Sampler) -> None:
    prompts = ["abcdefghij"[i % 10 :] * (i % 4) for i in range(2_000)]
    texts = sampler.sample_batch(prompts, length=4, seed=1)
    for i in (0, 1, 7, 999, 1_999):
        assert texts[i] == sampler.sample(prompts[i], length=4, seed=1, index=i)


def test_wrong_batches(sampler: Sampler) -> None:
    with pytest.raises(UsageError, match="batch"):
        sampler.sample_batch(["a"], length=3, batch=0)
    with pytest.raises(UsageError, match="batch"):
        sampler.generate_many([], batch=0)
    with pytest.raises(UsageError, match="temperature"):
        list(sampler.generate_many([Request(length=3, options={"temperature": -1})]))


def test_a_conversation_is_one_text(sampler: Sampler) -> None:
    whole = sampler.sample("bad", length=90, seed=4, temperature=0.8)
    talk = sampler.start("bad", seed=4, temperature=0.8)
    assert talk.sample(30) + "".join(talk.stream(40)) + talk.sample(20) == whole
    assert talk.finish_reason == "length"
    empty = sampler.start(seed=4)
    assert empty.sample(50) == sampler.sample(length=50, seed=4)


def test_feeding_goes_on_where_the_text_stands(sampler: Sampler) -> None:
    """What was drawn and what is fed make one prompt."""
    talk = sampler.start("bad", seed=4, temperature=0)
    first = talk.sample(10)
    talk.feed(" face")
    assert talk.sample(20) == sampler.sample("bad" + first + " face", length=20, temperature=0)
    pieces = sampler.start("b", seed=9)
    pieces.feed("a")
    pieces.feed("")
    pieces.feed("d")
    assert pieces.sample(20) == sampler.sample("bad", length=20, seed=9)


def test_snapshots_go_back_as_often_as_one_likes(sampler: Sampler) -> None:
    talk = sampler.start("bad", seed=4, repetition_penalty=1.2)
    talk.sample(25)
    moment = talk.snapshot()
    first = talk.sample(40)
    talk.feed("jjj")
    talk.sample(5)
    for _ in range(2):
        talk.restore(moment)
        assert talk.sample(40) == first


def test_bytes_come_back_in_another_process(tiny: TinyModel, sampler: Sampler) -> None:
    talk = sampler.start("bad", seed=4, frequency_penalty=0.1)
    talk.sample(25)
    data = talk.to_bytes()
    rest = talk.sample(40)
    again = Sampler(tiny.data()).resume(data, frequency_penalty=0.1)
    assert again.seed == 4
    assert again.sample(40) == rest


def test_a_byte_conversation_saved_inside_a_character(tiny_of: Callable[[Vocabulary], TinyModel]) -> None:
    sampler = Sampler(tiny_of(Vocabulary.from_text("", kind="bytes")).data())
    talk = sampler.start("é", seed=2)
    for _ in range(60):
        talk = sampler.resume(talk.to_bytes())
        whole = sampler.resume(talk.to_bytes()).sample(7)
        assert talk.sample(3) + sampler.resume(talk.to_bytes()).sample(4) == whole


def test_saved_conversations_are_checked(
    sampler: Sampler, tiny_of: Callable[[Vocabulary], TinyModel], tiny: TinyModel
) -> None:
    data = sampler.start("bad", seed=4).to_bytes()
    other = tiny_of(tiny.vocabulary)
    other.weights["b"] = other.weights["b"] + 1
    with pytest.raises(SnapshotError, match="another model"):
        Sampler(other.data()).resume(data)
    with pytest.raises(SnapshotError, match="another model"):
        Sampler(other.data()).start().restore(sampler.start().snapshot())
    for size in range(0, len(data), 5):
        with pytest.raises(SnapshotError):
            sampler.resume(data[:size])
    for at in range(len(data)):
        with pytest.raises(SnapshotError):
            sampler.resume(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_a_failed_draw_loses_nothing(sampler: Sampler) -> None:
    fails = False

    def sometimes(ids: Sequence[int], logits: Logits64) -> None:
        if fails:
            raise RuntimeError("mine")

    talk = sampler.start("bad", seed=4, logits_processor=sometimes)
    head = talk.sample(10)
    for _ in range(2):
        fails = True
        with pytest.raises(RuntimeError, match="mine"):
            talk.sample(10)
        with pytest.raises(UsageError, match=r"sample\(\) failed"):
            talk.snapshot()
        fails = False
    assert head + talk.sample(10) == sampler.sample("bad", length=20, seed=4)


def test_a_stop_string_ends_a_turn_and_is_part_of_the_text(sampler: Sampler) -> None:
    whole = sampler.sample("bad", length=200, seed=4)
    stop = whole[50:52]
    at = whole.index(stop)
    talk = sampler.start("bad", seed=4)
    assert talk.sample(200, stop=stop) == whole[:at]
    assert talk.finish_reason == "stop"
    assert talk.sample(20) == whole[at + 2 : at + 22]


@pytest.mark.parametrize("length", [0, -1, True, 1.5])
def test_a_conversation_checks_lengths(sampler: Sampler, length: Any) -> None:
    with pytest.raises(UsageError, match="length"):
        sampler.start("a").sample(length)


def test_scores_of_many_and_of_pieces(sampler: Sampler) -> None:
    texts = ["face", "", "a", "bad, bead. " * 30, "\n\n", "jig"]
    for batch in (1, 2, 64):
        for got, text in zip(sampler.score_batch(texts, batch=batch), texts, strict=True):
            np.testing.assert_allclose(got.log_probs, sampler.score(text).log_probs, atol=1e-5)
    pieces = sampler.score_stream(["fa", "", "ce, b", "ad"])
    np.testing.assert_allclose(np.concatenate(list(pieces)), sampler.score("face, bad").log_probs, atol=1e-6)
    assert sampler.score_batch([]) == []
    assert math.isnan(sampler.score_batch([""])[0].nats_per_char)
    with pytest.raises(UsageError, match="list of texts"):
        sampler.score_batch("abc")


def test_memory_is_flat(sampler: Sampler) -> None:
    """A stream, and a score in pieces, hold no more after 20,000 characters than after 5,000."""
    stream = sampler.stream("a", length=10**9, seed=1, repetition_penalty=1.1)
    scores = sampler.score_stream(itertools.repeat("bad face", 10**9))
    tracemalloc.start()
    sizes = []
    for count in (5_000, 15_000):
        for _ in itertools.islice(stream, count):
            pass
        for _ in itertools.islice(scores, count // 10):
            pass
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert sizes[1] - sizes[0] < 20_000


@pytest.mark.parametrize("special", [{}, {"end": 0}])
def test_texts_drawn_in_blocks_of_steps_are_what_each_is_alone(
    tiny_of: Callable[[Vocabulary], TinyModel], special: dict[str, int]
) -> None:
    symbols = (-1, *range(97, 110)) if special else tuple(range(96, 110))
    sampler = Sampler(tiny_of(Vocabulary(symbols=symbols, special=special)).data())
    options: SamplingKwargs = {"temperature": 0.9}
    requests = [
        Request(prompt="abc"[: n % 4], length=3 + 67 * n % 230, seed=4, index=n, options=options) for n in range(30)
    ]
    done = dict(sampler.generate_many(requests, batch=12))
    for n, r in enumerate(requests):
        alone = sampler.generate(r.prompt, length=r.length, seed=4, index=n, **options)
        assert (done[n].text, done[n].tokens, done[n].finish_reason) == (alone.text, alone.tokens, alone.finish_reason)
    assert {d.finish_reason for d in done.values()} == ({"end", "length"} if special else {"length"})


def test_uniform_numbers_looked_at_ahead_are_those_that_come() -> None:
    ahead, one_by_one = UniformStream(5, 2, 3), UniformStream(5, 2, 3)
    for count in (1, 200, 64, 64, 300, 7):
        shown = ahead.peek(count)
        ahead.skip(count - 1)
        assert shown == [one_by_one.next() for _ in range(count - 1)] + [ahead.next()]
        one_by_one.next()
        assert ahead.position == one_by_one.position
