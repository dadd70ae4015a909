"""Settings that were not given are chosen from the text, the budget and the machine's speed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from charrnn.config import ModelConfig, TrainConfig
from charrnn.model.char_rnn import CharRNN
from charrnn.training.defaults import PARAMETERS_PER_CHARACTER, Choice, choose
from charrnn.training.memory import parameters
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
        speed=lambda m: 1e10 / (6 * parameters(m, 65)),
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
    assert parameters(chosen(TrainConfig(time=1e9)).model, 65) <= PARAMETERS_PER_CHARACTER * 1_000_000
    assert chosen(TrainConfig(time=3600.0), characters=20_000).model.hidden_size < sizes[5]


def test_dropout_grows_with_the_passes_over_the_text() -> None:
    dropouts = [chosen(TrainConfig(epochs=e)).model.dropout for e in (1.0, 4.0, 12.0, 50.0, 1000.0)]
    assert dropouts == sorted(dropouts)
    assert dropouts[:2] == [0.0, 0.0]
    assert 0.2 <= dropouts[2] <= 0.4
    assert dropouts[-1] == 0.5


def test_the_boost_is_for_the_rate_that_it_was_measured_with() -> None:
    assert chosen(TrainConfig(steps=100)).train.lr_boost == 3.0
    for name in ("lr_boost", "lr", "optimizer", "schedule"):
        assert chosen(TrainConfig(steps=100), given={name}).train.lr_boost == 1.0
    assert chosen(TrainConfig(steps=100)).train.warmup_steps == 5
    assert chosen(TrainConfig(steps=100, warmup_steps=30), given={"warmup_steps"}).train.warmup_steps == 30
    assert chosen(TrainConfig(steps=100), given={"lr"}).train.warmup_steps == 20
    assert all(recipe.train["lr_boost"] == 1.0 for recipe in presets().values())


def test_what_was_given_is_kept_and_no_speed_is_asked_for_a_budget_of_steps() -> None:
    model = ModelConfig(hidden_size=777, dropout=0.123)
    choice = choose(
        model,
        TrainConfig(steps=10),
        given={"hidden_size", "dropout"},
        vocab_size=65,
        train_characters=1000,
        speed=lambda _: pytest.fail("measured for nothing"),
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
