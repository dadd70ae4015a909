"""Presets: the models and settings of char-rnn and torch-rnn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from charrnn.config import DataConfig, ModelConfig, TrainConfig
from charrnn.errors import ConfigError
from charrnn.model.char_rnn import CharRNN
from charrnn.runs.checkpoint import load_checkpoint
from charrnn.training.presets import preset, presets

if TYPE_CHECKING:
    from tests.conftest import Charrnn, Run


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
