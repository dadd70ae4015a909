"""A batch for the device, chosen from speeds that are made up."""

from __future__ import annotations

import pytest
import torch

from charrnn.config import TrainConfig
from charrnn.training.batch_choice import LARGEST_BATCH, LEAST_STEPS, choose_batch, on_device

HOUR = TrainConfig(time=3600.0)


class Card:
    """A step takes a fixed time, and then a time for each character; beyond some batch there is no memory."""

    def __init__(self, *, start: float, character: float, memory: float = 1e9) -> None:
        self.start, self.character, self.memory, self.asked = start, character, memory, 0

    def __call__(self, train: TrainConfig) -> float:
        self.asked += 1
        characters = train.batch_size * train.seq_len
        if characters > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        # A sequence is computed one character after the other, a batch side by side.
        return characters / (self.start * (1 + train.seq_len) + characters * self.character)


def chosen(card: Card, train: TrainConfig = HOUR, *, given: set[str] | None = None, text: float = 1e12) -> TrainConfig:
    return choose_batch(train, given=given or set(), readable=text, speed=on_device(card))[0]


def test_a_batch_grows_while_a_step_takes_little_longer() -> None:
    """At 128 rows of 48 characters the time of the characters is a third of a step: twice as many take 1.33 as long."""
    card = Card(start=1e-4, character=1e-4 / 256)
    config, said = choose_batch(HOUR, given=set(), readable=1e12, speed=card)
    assert (config.batch_size, config.seq_len) == (128, 48)
    assert config.lr == 2 * TrainConfig().lr
    assert f"batch 128 × 48 and learning rate {config.lr:g}" in said
    assert chosen(Card(start=1e-4, character=1e-4 / 512)).batch_size == 256
    assert chosen(Card(start=1e-4, character=0.0)).batch_size == LARGEST_BATCH
    assert chosen(Card(start=1e-4, character=0.0)).lr == 2 * TrainConfig().lr  # twice the rate is the most


def test_a_device_that_computes_one_character_after_the_other_changes_nothing() -> None:
    config, said = choose_batch(HOUR, given=set(), readable=1e12, speed=Card(start=0.0, character=1e-6))
    assert config == HOUR
    assert said == ""


def test_enough_steps_remain() -> None:
    card = Card(start=1e-4, character=0.0)
    for text in (1e6, 1e7, 1e8, 1e9):
        config = chosen(card, text=text)
        steps = text / (config.batch_size * config.seq_len)
        assert config == HOUR or steps >= LEAST_STEPS
        assert config.batch_size == LARGEST_BATCH or steps < 2 * LEAST_STEPS or config.batch_size == 32
    short = chosen(card, TrainConfig(time=60.0))
    assert 60.0 * card(short) / (short.batch_size * short.seq_len) >= LEAST_STEPS
    assert chosen(card, TrainConfig(epochs=3.0), text=3e7).batch_size == 256


@pytest.mark.parametrize("budget", [{"time": 10.0}, {"steps": 100_000}])
def test_a_number_of_steps_and_a_short_time_stay_as_they_are(budget: dict[str, float]) -> None:
    card = Card(start=1e-4, character=0.0)
    config = TrainConfig(**budget)  # type: ignore[arg-type]
    assert chosen(card, config) == config
    assert card.asked == 0


def test_what_was_given_is_kept() -> None:
    card = Card(start=1e-4, character=0.0)
    assert chosen(card, given={"batch_size"}).batch_size == 32
    assert chosen(card, given={"lr"}).lr == HOUR.lr
    config = chosen(card, given={"batch_size", "seq_len"})
    assert config == HOUR


def test_a_batch_fits_in_the_memory() -> None:
    assert chosen(Card(start=1e-4, character=0.0, memory=100 * 48)).batch_size == 64
