"""Settings that were not given are chosen from the text, the budget and the machine's speed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from charrnn.config import DataConfig, ModelConfig, TrainConfig
from charrnn.data.corpus import read_corpus
from charrnn.model.char_rnn import CharRNN
from charrnn.training import defaults
from charrnn.training.batch_choice import MOST_RATE
from charrnn.training.defaults import (
    CHARACTERS_OF_LARGE_BATCH,
    LARGEST_BATCH,
    SMALL_MODEL,
    WEIGHT_DECAY,
    WEIGHTS_PER_CHARACTER,
    Choice,
    choose,
    choose_here,
    fitting_batch,
    fitting_dropout,
    fitting_weight_decay,
    fitting_weight_dropout,
    recurrent_weights,
)
from charrnn.training.memory import needed_bytes, parameters
from charrnn.training.presets import presets

if TYPE_CHECKING:
    from tests.conftest import Charrnn


def chosen(train: TrainConfig, *, given: set[str] | None = None, characters: int = 1_000_000, **model: Any) -> Choice:
    """The choice on a machine that makes 10 GFLOP a second, and needs 6 FLOP for each parameter and character."""
    return choose(
        ModelConfig(**model),
        train,
        given=given or set(),
        vocab_size=65,
        train_characters=characters,
        speed=lambda m, t: 1e10 / (6 * parameters(m, 65)),
    )


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("embedding_size", [0, 24])
def test_parameters_are_counted_as_the_model_has_them(cell: Any, embedding_size: int) -> None:
    config = ModelConfig(cell=cell, hidden_size=40, num_layers=3, embedding_size=embedding_size)
    assert parameters(config, 65) == CharRNN(config, 65).num_parameters()


def test_more_time_takes_a_larger_model_and_never_one_that_outgrows_the_text() -> None:
    sizes = [chosen(TrainConfig(time=60.0 * 2**i)).model.hidden_size for i in range(12)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    for characters in (20_000, 1_000_000):
        largest = chosen(TrainConfig(time=1e9), characters=characters).model
        assert recurrent_weights(largest, 65) <= WEIGHTS_PER_CHARACTER * characters + SMALL_MODEL


def test_the_size_grows_with_what_is_read_and_a_little_with_the_alphabet() -> None:
    sizes = [chosen(TrainConfig(epochs=e), characters=10_000_000).model.hidden_size for e in (0.1, 0.4, 1.6, 6.4)]
    assert sizes == [128, 192, 320, 1024]  # more for a text that is read several times
    large = choose(
        ModelConfig(),
        TrainConfig(epochs=0.1),
        given=(),
        vocab_size=3000,
        train_characters=10_000_000,
        speed=lambda m, t: 1.0,
    )
    assert large.model.hidden_size == 192
    assert recurrent_weights(ModelConfig(), 65) == recurrent_weights(ModelConfig(), 3000)


def test_a_short_text_is_read_twenty_times_by_a_model_of_usual_size_and_the_run_ends_early() -> None:
    choice = chosen(TrainConfig(time=600.0), characters=20_000)
    assert choice.model.hidden_size >= 192
    assert choice.model.dropout == 0.6
    assert choice.model.weight_dropout == 0.2
    assert choice.train.max_epochs == 20
    assert "will end before its time is used up" in choice.reason
    assert choice.ends_after is not None
    assert 0 < choice.ends_after < 600.0
    # The same with the budget that this plan comes to.
    passes = chosen(TrainConfig(epochs=20.0), characters=20_000)
    assert passes.model == choice.model
    assert passes.train.max_epochs is None
    assert passes.ends_after is None


def test_a_time_ends_after_the_passes_that_pay() -> None:
    for characters in (1_000, 1_000_000, 100_000_000):
        assert chosen(TrainConfig(time=600.0), characters=characters).train.max_epochs == 20
    own = chosen(TrainConfig(time=600.0, max_epochs=3.0), given={"max_epochs"})
    assert own.train.max_epochs == 3
    assert "do not pay" not in own.reason
    assert chosen(TrainConfig(time=600.0), given={"hidden_size", "dropout"}).train.max_epochs == 20
    assert chosen(TrainConfig(time=600.0, schedule="decay")).train.max_epochs is None  # as the ancestors trained
    assert chosen(TrainConfig(steps=600)).train.max_epochs is None


def test_dropout_grows_with_the_passes_and_with_the_parameters_for_each_character() -> None:
    assert [fitting_dropout(epochs, 100.0) for epochs in (0.5, 1.0, 2.0)] == [0, 0, 0]
    assert [fitting_dropout(12.0, ratio) for ratio in (0.05, 0.4, 1.6, 6.7, 100.0)] == [0, 0.05, 0.3, 0.5, 0.6]
    assert [fitting_dropout(epochs, 0.5) for epochs in (2.0, 5.0, 10.0, 40.0, 1000.0)] == [0, 0, 0.1, 0.3, 0.6]
    # Less for a list of items.
    assert [fitting_dropout(18.0, ratio, items=True) for ratio in (0.5, 3.5, 14.0)] == [0, 0.3, 0.5]


def test_items_get_less_dropout_and_the_same_weight_dropout(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("alpha\nbeta\ngamma\ndelta\n" * 2_000)
    models = []
    for lines in (False, True):
        data, train = DataConfig(lines=lines), TrainConfig(epochs=20.0)
        corpus = read_corpus([str(tmp_path / "names.txt")], data)
        models.append(choose_here(ModelConfig(hidden_size=256), train, given={"hidden_size"}, corpus=corpus, data=data))
    text, items = (choice.model for choice in models)
    assert 0 < items.dropout < text.dropout - 0.1
    assert items.weight_dropout == text.weight_dropout == 0.2


def test_weight_dropout_is_for_many_passes() -> None:
    assert [fitting_weight_dropout(epochs) for epochs in (0.1, 9.0, 12.0, 15.0, 20.0, 100.0)] == [
        0,
        0,
        0.1,
        0.15,
        0.2,
        0.2,
    ]
    assert chosen(TrainConfig(epochs=15.0)).model.weight_dropout == 0.15
    # It stays as it is if the user has set it, or the dropout.
    assert chosen(TrainConfig(epochs=15.0), given={"dropout"}).model.weight_dropout == 0
    assert chosen(TrainConfig(epochs=15.0), given={"weight_dropout"}).model.weight_dropout == 0


def test_the_rate_grows_with_the_root_of_a_large_size() -> None:
    def rate(size: int, **values: Any) -> float:
        given = {"hidden_size", "dropout", "weight_decay", *values}
        return chosen(TrainConfig(steps=600, **values), given=given, hidden_size=size).train.lr

    assert [rate(size) for size in (64, 384, 768, 1536)] == [0.008, 0.008, 0.011, 0.016]
    assert chosen(TrainConfig(steps=600), given={"hidden_size"}, hidden_size=768).train.lr == 0.011
    assert rate(768, lr=0.008) == 0.008
    assert rate(768, schedule="decay") == TrainConfig().lr


def test_weight_decay_grows_with_the_steps() -> None:
    steps = (10, 200, 1_000, 2_000, 1_000_000)
    decays = [chosen(TrainConfig(steps=number)).train.weight_decay for number in steps]
    assert decays == sorted(decays)
    assert decays == [fitting_weight_decay(number) for number in steps]
    assert decays[-1] == WEIGHT_DECAY
    assert chosen(TrainConfig(steps=2_000), given={"hidden_size", "dropout"}).train.weight_decay == decays[3]
    assert chosen(TrainConfig(steps=2_000, weight_decay=0.5), given={"weight_decay"}).train.weight_decay == 0.5
    for name in ("lr", "optimizer", "schedule"):  # it was measured with the usual rate
        assert chosen(TrainConfig(steps=2_000), given={name}).train.weight_decay == TrainConfig().weight_decay


def test_only_the_speed_of_a_given_size_is_measured() -> None:
    measured = []

    def speed(model: ModelConfig, train: TrainConfig) -> float:
        measured.append(model.hidden_size)
        return 1e6

    choice = choose(
        ModelConfig(hidden_size=99),
        TrainConfig(time=3.072),
        given={"hidden_size"},
        vocab_size=65,
        train_characters=1_000_000,
        speed=speed,
    )
    assert set(measured) == {99}
    assert choice.train.weight_decay == fitting_weight_decay(2_000)  # of 32 times 48 characters


def test_a_validation_takes_a_hundredth_of_the_budget() -> None:
    """It reads 3 % of the characters, each of which costs a third of what it costs in training."""
    assert chosen(TrainConfig(epochs=4.0), characters=10_000_000).val_max == 1_200_000
    assert chosen(TrainConfig(steps=1000)).val_max == 50_000
    assert chosen(TrainConfig(steps=10), given={"hidden_size", "dropout"}).val_max is None


def test_short_texts_are_read_in_smaller_batches() -> None:
    batches = [fitting_batch(TrainConfig(), n) for n in (1_000, 20_000, 50_000, 200_000, 10_000_000)]
    assert batches == [8, 16, 32, 32, 32]
    assert fitting_batch(TrainConfig(epochs=100.0), 20_000) == 32
    assert fitting_batch(TrainConfig(batch_size=4), 20_000) == 4


def batch_of(
    train: TrainConfig, *, given: set[str] | None = None, characters: int = 100_000_000, update: float = 1e-7
) -> Choice:
    """The choice where each step takes ``update`` seconds a parameter for the update, whatever the batch."""

    def speed(model: ModelConfig, train: TrainConfig) -> float:
        tokens = train.batch_size * train.seq_len
        return tokens / parameters(model, 65) / (update + tokens * 6 / 1e11)

    return choose(ModelConfig(), train, given=given or set(), vocab_size=65, train_characters=characters, speed=speed)


HOURS = TrainConfig(time=6000.0)


def test_a_long_time_takes_larger_batches() -> None:
    choices = [batch_of(TrainConfig(time=6.0 * 10**i)) for i in range(5)]
    batches = [choice.train.batch_size for choice in choices]
    assert batches == sorted(batches)
    assert (batches[0], batches[-1]) == (32, LARGEST_BATCH)
    for choice in choices:
        said = re.search(r"reads about ([\d.]+) (thousand|million|billion)", choice.reason)
        assert said is not None
        read = float(said[1]) * {"thousand": 1e3, "million": 1e6, "billion": 1e9}[said[2]]
        batch = choice.train.batch_size
        assert batch == 32 or read > 0.99 * CHARACTERS_OF_LARGE_BATCH * batch**3
        assert (f"batch {batch}" in choice.reason) == (batch > 32)
        # The rate grows with the square roots of the size and of the batch. The batch makes it twice as high at most.
        by_size = max(1.0, choice.model.hidden_size / 384) ** 0.5
        factor = max(by_size, min(by_size * (batch / 32) ** 0.5, MOST_RATE))
        assert choice.train.lr == pytest.approx(0.008 * factor, rel=0.05)
    assert choices[-1].train.lr > choices[0].train.lr
    assert batch_of(HOURS, given={"lr"}).train.lr == HOURS.lr


def test_a_larger_batch_must_be_faster_and_is_for_texts_that_are_not_learnt_by_heart() -> None:
    assert batch_of(HOURS).train.batch_size > 32
    assert batch_of(HOURS, update=0.0).train.batch_size == 32
    # This one is read several times: it takes dropout, or ends before its time.
    several = batch_of(HOURS, characters=1_000_000)
    assert several.model.dropout > 0
    assert several.train.batch_size == 32
    assert batch_of(HOURS, characters=20_000).train.batch_size == 32


@pytest.mark.parametrize("given", ["batch_size", "optimizer"])
def test_a_batch_grows_only_beside_the_usual_optimizer_and_for_a_time(given: str) -> None:
    assert batch_of(HOURS, given={given}).train.batch_size == 32
    assert batch_of(TrainConfig(steps=100_000)).train.batch_size == 32
    assert batch_of(TrainConfig(epochs=1.0)).train.batch_size == 32
    assert batch_of(HOURS, given={"hidden_size", "dropout"}).train.batch_size > 32


def test_a_larger_batch_stays_within_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.txt").write_text("to be or not to be " * 1_000_000)
    data, train = DataConfig(), TrainConfig(time=600.0)
    corpus = read_corpus([str(tmp_path / "text.txt")], data)
    # Twice the batch is as fast again.
    monkeypatch.setattr(defaults, "measure_speed", lambda model, train, *_, **__: 500.0 * train.batch_size)

    def batch() -> int:
        return choose_here(ModelConfig(), train, given=(), corpus=corpus, data=data).train.batch_size

    assert batch() > 32
    usual = needed_bytes(ModelConfig(), TrainConfig(), 8)
    monkeypatch.setattr(defaults, "available_bytes", lambda device: 2 * usual)
    assert batch() == 32


def test_the_boost_is_for_the_rate_that_it_was_measured_with() -> None:
    assert chosen(TrainConfig(steps=100)).train.lr_boost == 3.0
    for name in ("lr_boost", "lr", "optimizer", "schedule"):
        assert chosen(TrainConfig(steps=100), given={name}).train.lr_boost == 1.0
    assert chosen(TrainConfig(steps=100)).train.warmup_steps == 5
    assert chosen(TrainConfig(steps=100, warmup_steps=30), given={"warmup_steps"}).train.warmup_steps == 30
    assert chosen(TrainConfig(steps=100), given={"lr"}).train.warmup_steps == 20
    assert all(recipe.train["lr_boost"] == 1.0 for recipe in presets().values())


def test_a_size_beyond_those_that_were_measured_is_measured_too() -> None:
    """With the dropout that it is likely to get, which takes time too."""
    asked: list[ModelConfig] = []

    def speed(model: ModelConfig, train: TrainConfig) -> float:
        asked.append(model)
        return 1e10 / (6 * parameters(model, 65)) / (2 if model.hidden_size > 512 else 1) / (1 + model.dropout)

    choice = choose(
        ModelConfig(), TrainConfig(time=30_000.0), given=(), vocab_size=65, train_characters=1_000_000, speed=speed
    )
    assert [model.hidden_size for model in asked] == [128, 512, choice.model.hidden_size]
    assert choice.model.hidden_size > 512
    assert 0 < choice.model.dropout < asked[-1].dropout  # from the passes before and after that measurement
    said = re.search(r"([\d.]+) times the text", choice.reason)
    assert said is not None
    assert float(said[1]) == pytest.approx(30_000 * speed(asked[2], TrainConfig()) / 1_000_000, abs=0.1)


def test_what_was_given_is_kept_and_no_speed_is_asked_for_a_budget_of_steps() -> None:
    model = ModelConfig(hidden_size=777, dropout=0.123)
    choice = choose(
        model,
        TrainConfig(steps=10),
        given={"hidden_size", "dropout"},
        vocab_size=65,
        train_characters=1000,
        speed=lambda m, t: pytest.fail("measured for nothing"),
    )
    assert choice.model == model
    assert choice.reason == ""
    assert chosen(TrainConfig(steps=10_000), given={"hidden_size"}, hidden_size=99).model.hidden_size == 99


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("the cat sat on the mat, the en", []),  # far less than the default batch
        ("the cat sat on the mat, the en", ["--batch-size", 4, "--seq-len", 5]),
        ("the cat sat on the mat. " * 300, ["--batch-size", 3, "--seq-len", 50]),
        ("".join(f"{i}\n" for i in range(300)), ["--lines", "--batch-size", 4, "--seq-len", 30]),
    ],
)
def test_the_advice_says_how_often_the_text_is_read(
    charrnn: Charrnn, tmp_path: Path, text: str, options: list[object]
) -> None:
    (tmp_path / "text.txt").write_text(text)
    out = tmp_path / "run"
    done = charrnn("train", tmp_path / "text.txt", "--steps", 6, "--hidden-size", 8, "--out", out, *options)
    assert done.code == 0, done.err
    said = re.search(r"\(([\d.]+) times the text\)", done.out + done.err)
    assert said is not None, done
    epochs = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["epoch"]
    assert float(said[1]) == pytest.approx(epochs, rel=0.1, abs=0.06)
