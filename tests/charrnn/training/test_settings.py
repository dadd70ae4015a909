"""How the settings of a run come together: defaults, presets, given values, earlier runs and other models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from charrnn.config import DataConfig, ModelConfig, TrainConfig
from charrnn.errors import CheckpointError, ConfigError
from charrnn.runs.checkpoint import Checkpoint, load_checkpoint
from charrnn.training.presets import preset
from charrnn.training.settings import Settings
from tests.conftest import Run


@pytest.fixture
def origin(run: Run) -> Checkpoint:
    return load_checkpoint(run.best)


def test_defaults_then_the_preset_then_what_is_given() -> None:
    assert Settings.from_options({"lr": None}).train == TrainConfig()
    options = preset("char-rnn").options
    settings = Settings.from_options({"hidden_size": 7, "lr": 0.5}, preset="char-rnn")
    assert (settings.model.hidden_size, settings.train.lr) == (7, 0.5)
    assert settings.model.num_layers == options.get("num_layers", ModelConfig().num_layers)
    assert settings.data.split == options["split"] == "streams"
    assert settings.given.keys() == options.keys() | {"hidden_size", "lr"}


def test_a_given_budget_replaces_the_preset_s() -> None:
    train = Settings.from_options({"time": "2m"}, preset="char-rnn").train
    assert (train.time, train.epochs, train.steps) == (120, None, None)


def test_names_that_do_not_exist() -> None:
    with pytest.raises(ConfigError, match="did you mean hidden_size"):
        Settings.from_options({"hiden_size": 5})


def test_a_resumed_run_keeps_its_settings_but_for_budget_and_rates(origin: Checkpoint) -> None:
    settings = Settings.from_options({"steps": 500, "lr": 0.5, "seed": origin.train_config.seed}).resuming(origin)
    assert settings.train == replace(origin.train_config, steps=500, lr=0.5)
    assert (settings.model, settings.data) == (origin.model_config, origin.data_config)
    assert settings.vocabulary == origin.vocabulary


@pytest.mark.parametrize("given", [{"hidden_size": 64}, {"optimizer": "adam"}, {"lines": True}, {"batch_size": 9}])
def test_a_resumed_run_refuses_what_cannot_change(origin: Checkpoint, given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(CheckpointError, match=f"resumed as it was begun; leave out --{name.replace('_', '-')} "):
        Settings.from_options(given).resuming(origin)


def test_another_model_s_weights_come_with_its_kind_of_tokens_and_of_text(origin: Checkpoint) -> None:
    data = DataConfig(lines=True, normalize="NFC", newlines="lf", min_count=3, test_frac=0.2)
    items = replace(origin, data_config=data)
    assert Settings.from_options({"dropout": 0.3}).starting_from(items).data == data
    given = Settings.from_options({"separator": "--", "min_count": 1, "test_frac": 0.0}).starting_from(items)
    assert given.data == DataConfig(separator="--", normalize="NFC", newlines="lf", min_count=1)
    assert given.model == origin.model_config
    assert Settings.from_options({"dropout": 0.3}).starting_from(items).model.dropout == 0.3


@pytest.mark.parametrize("given", [{"num_layers": 2}, {"bytes": True}, {"normalize": "NFD"}])
def test_another_model_s_weights_fit_no_other_model(origin: Checkpoint, given: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="--init-from"):
        Settings.from_options(given).starting_from(origin)
