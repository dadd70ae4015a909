"""Conversations: one text in several turns, snapshots, and saved conversations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest
from charrnn_runtime import Sampler, SnapshotError, UsageError, Vocabulary
from charrnn_runtime.options import Logits64

if TYPE_CHECKING:
    from tests.runtime.conftest import TinyModel


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
