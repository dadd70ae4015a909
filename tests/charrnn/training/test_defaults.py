"""Choices of what nobody gave; presets; starting from another model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from charrnn_runtime import Vocabulary
from hypothesis import given
from hypothesis import strategies as st

from charrnn.config import DataConfig, ModelConfig, TrainConfig
from charrnn.errors import ConfigError
from charrnn.model.char_rnn import CharRNN
from charrnn.reports.plots import sparkline
from charrnn.runs.checkpoint import load_checkpoint
from charrnn.runs.metrics import NAME, MetricsFile, read_metrics
from charrnn.training.advice import loss_advice
from charrnn.training.defaults import PARAMETERS_PER_CHARACTER, Choice, choose, parameters
from charrnn.training.finetune import grown_weights
from charrnn.training.presets import preset, presets

if TYPE_CHECKING:
    from tests.conftest import Charrnn, Run


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


def test_every_preset_makes_valid_settings_and_an_unknown_one_is_named() -> None:
    assert set(presets()) == {"char-rnn", "torch-rnn"}
    for recipe in presets().values():
        assert recipe.description.strip()
        ModelConfig(**recipe.model), DataConfig(**recipe.data), TrainConfig(**recipe.train)
    with pytest.raises(ConfigError, match=r"no preset 'nanogpt'; known: char-rnn, torch-rnn"):
        preset("nanogpt")


def test_char_rnn_s_model_is_the_original_s() -> None:
    recipe = preset("char-rnn")
    torch.manual_seed(0)
    model = CharRNN(ModelConfig(**recipe.model), 65)
    assert model.num_parameters() == 240_321  # as the original prints for tinyshakespeare
    model.initialise(recipe.train["init"])
    weights = model.export_weights()
    assert torch.equal(weights.embedding, torch.eye(65))
    for layer in weights.layers:
        assert layer["weight_ih"].abs().max() <= 0.08
        assert torch.equal(layer["bias_ih"][128:256], torch.ones(128))
        assert layer["bias_hh"].abs().max() <= 0.08
    assert 0.045 < weights.layers[0]["weight_hh"].std() < 0.048  # 0.08 / sqrt(3)


def test_torch_rnn_s_weights_are_normal_with_its_variance() -> None:
    torch.manual_seed(0)
    model = CharRNN(ModelConfig(**preset("torch-rnn").model), 65)
    model.initialise("torch-rnn")
    first, second = model.export_weights().layers
    assert first["weight_ih"].std().item() == pytest.approx((64 + 128) ** -0.5, rel=0.03)
    assert second["weight_hh"].std().item() == pytest.approx((128 + 128) ** -0.5, rel=0.03)
    assert first["bias_hh"].abs().max() == 0


def test_a_preset_trains_on_its_split_and_the_command_line_wins(charrnn: Charrnn, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    outcome = charrnn(
        "train", run.text, "--preset", "char-rnn", "--steps", 6, "--batch-size", 10, "--lr", 0.01, "--out", out
    )
    assert outcome.code == 0
    characters = len(run.text.read_text())
    batches = characters // 500
    assert f"{batches} batches, {int(batches * 0.95)} of them for training" in outcome.out
    config = load_checkpoint(out / "last.pt").train_config
    scored = charrnn("eval", out, run.text, "--split", "val")
    assert f"{(batches - int(batches * 0.95)) * 500:,} characters" in scored.out
    assert (config.optimizer, config.lr, config.grad_clip_value, config.epochs) == ("rmsprop", 0.01, 5.0, None)


def test_init_from_grows_the_vocabulary_and_names_what_is_new(charrnn: Charrnn, run: Run, tmp_path: Path) -> None:
    more = tmp_path / "more.txt"
    more.write_text("the cat sat on a ζ mat, and 7 dogs ran.\n" * 30)
    out = tmp_path / "run"
    outcome = charrnn("train", more, "--init-from", run.folder, "--steps", 3, "--batch-size", 4, "--out", out)
    assert outcome.code == 0
    assert "3 characters are new to the model" in outcome.out
    assert all(repr(c) in outcome.out for c in ",7ζ")
    old, new = load_checkpoint(run.best), load_checkpoint(out / "last.pt")
    assert new.vocabulary.symbols == (*old.vocabulary.symbols, ord(","), ord("7"), ord("ζ"))
    assert charrnn("sample", out, "--prompt", "ζ7", "--length", 10, "--seed", 1).code == 0
    assert charrnn("train", "--resume", "--out", out, "--steps", 5).code == 0

    other = charrnn("train", more, "--init-from", run.folder, "--hidden-size", 64, "--out", tmp_path / "no")
    assert other.code == 1
    assert "--hidden-size 64 (it has 32)" in other.err


@pytest.mark.parametrize("embedding_size", [0, 8])
def test_grown_weights_leave_known_characters_as_they_were(run: Run, embedding_size: int) -> None:
    checkpoint = load_checkpoint(run.best)
    config = ModelConfig(hidden_size=16, embedding_size=embedding_size)
    checkpoint.model_config = config
    known = checkpoint.vocabulary
    checkpoint.weights = CharRNN(config, len(known)).state_dict()
    grown = Vocabulary(symbols=(*known.symbols, 0x3B6))
    model = CharRNN(config, len(known) + 1)
    model.load_state_dict(grown_weights(checkpoint, grown))
    tokens = torch.arange(len(known)).unsqueeze(1)
    before = checkpoint.build_model().sequence_logits(tokens, model.initial_state(1))
    after = model.sequence_logits(tokens, model.initial_state(1))
    torch.testing.assert_close(after[:, :, :-1], before)


def test_metrics_drop_what_was_cut_and_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    with MetricsFile(tmp_path, 0) as metrics:
        for step in range(10, 60, 10):
            metrics.write(step=step, loss=1.0 / step)
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes() + b'{"step": 60, "lo')
    assert [line["step"] for line in read_metrics(tmp_path)] == [10, 20, 30, 40, 50]
    with MetricsFile(tmp_path, 30) as metrics:
        metrics.write(step=40, loss=2.0)
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)][-2:] == [(30, 1 / 30), (40, 2.0)]


def test_plot_draws_runs_and_refuses_what_it_cannot_draw(charrnn: Charrnn, run: Run, tmp_path: Path) -> None:
    for suffix, magic in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
        picture = tmp_path / f"loss{suffix}"
        assert charrnn("plot", run.folder, run.folder, "-o", picture, "--x", "step").code == 0
        assert picture.read_bytes().startswith(magic)
    assert charrnn("plot", run.folder, "-o", tmp_path / "loss.bmp").code == 2
    assert charrnn("plot", tmp_path, "-o", tmp_path / "loss.png").code == 2
    assert charrnn("plot", run.folder, "-o", tmp_path / "loss.png", "--x", "hours").code == 2


@given(st.lists(st.floats(), max_size=20))
def test_a_sparkline_has_a_character_for_each_value(values: list[float]) -> None:
    line = sparkline(values)
    assert len(line) == (len(values) if any(map(math.isfinite, values)) else 0)


def test_sparkline_and_advice() -> None:
    assert sparkline([3.0, 2.0, 1.0]) == "█▄▁"
    assert "overfitting" in loss_advice(train_loss=0.6, val_loss=1.6, best_val_loss=1.5, dropout=0.0)
    assert "overfitting" in loss_advice(train_loss=1.42, val_loss=1.472, best_val_loss=1.46, dropout=0.0)
    assert "underfitting" in loss_advice(train_loss=1.80, val_loss=1.82, best_val_loss=1.82, dropout=0.2)
    assert "healthy" in loss_advice(train_loss=1.3, val_loss=1.5, best_val_loss=1.5, dropout=0.2)
