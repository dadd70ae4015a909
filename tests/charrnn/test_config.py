"""Settings: every field documented, every value checked, durations parsed."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.config import DataConfig, ModelConfig, Option, TrainConfig, format_duration, options, parse_duration
from charrnn.errors import ConfigError

if TYPE_CHECKING:
    from tests.conftest import Charrnn

CONFIGS = (ModelConfig, DataConfig, TrainConfig)
NAN, INF = math.nan, math.inf
OPTIONS = [option for config in CONFIGS for option in options(config)]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90), ("10m", 600), ("1.5h", 5400), ("1h30m", 5400), ("1d", 86400), ("45", 45), ("0.5", 0.5),
        (" 2 H 5 M ", 7500), ("1h 0m 1s", 3601),
    ],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", " ", "soon", "10x", "m", "1h30", "-5m", "0", "0s", "0h0m", "nan", "inf", "1e3s", "1,5h", "1.h", ".5h", "1:30",
     "10m!", "--time", "9" * 400, "9" * 400 + "d", "１０ｍ\n\n!", "10 minutes"],
)  # fmt: skip
def test_nonsense_durations(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_duration(text)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from("smhd")), min_size=1, max_size=5))
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[int, str]]) -> None:
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    total = sum(n * unit[u] for n, u in parts)
    text = "".join(f"{n}{u}" for n, u in parts)
    if total:
        assert parse_duration(text) == total
    else:
        with pytest.raises(ConfigError):
            parse_duration(text)


@given(st.text(max_size=12))
def test_any_text_is_a_duration_above_0_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert 0 < parse_duration(text) < INF


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (570, "9 min 30 s"), (7500, "2 h 05 min"), (INF, "?")],
)
def test_durations_as_people_write_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("config", "name", "values"),
    [
        (ModelConfig, "cell", ["LSTM", "", "transformer"]),
        (ModelConfig, "hidden_size", [0, -1, 2.5, True, "8", None]),
        (ModelConfig, "num_layers", [0, -3]),
        (ModelConfig, "embedding_size", [-1]),
        (ModelConfig, "dropout", [-0.1, 1.0, 2, NAN, "0.1", False, 10**400]),
        (DataConfig, "lines", [1, "yes", None]),
        (DataConfig, "separator", [1, b";"]),
        (DataConfig, "normalize", ["nfc", "NFX", ""]),
        (DataConfig, "val_frac", [0, 1, -0.1, 1.5, NAN]),
        (DataConfig, "test_frac", [1, -0.1, 1.5, NAN, 0.9]),
        (TrainConfig, "time", [0, -1, NAN, INF, "soon"]),
        (TrainConfig, "device", [0, None]),
        (TrainConfig, "epochs", [0, -1.0, NAN, INF]),
        (TrainConfig, "steps", [0, -1, 1.5]),
        (TrainConfig, "batch_size", [0, -1]),
        (TrainConfig, "seq_len", [0]),
        (TrainConfig, "optimizer", ["sgd"]),
        (TrainConfig, "lr", [0, -1, NAN, INF]),
        (TrainConfig, "weight_decay", [-1, NAN, INF]),
        (TrainConfig, "grad_clip", [-1, NAN, INF]),
        (TrainConfig, "warmup_steps", [-1, 0.5]),
        (TrainConfig, "lr_boost", [0.5, NAN, INF]),
        (TrainConfig, "eval_steps", [0, -1]),
        (TrainConfig, "seed", [-1, 2**63]),
        (TrainConfig, "precision", ["fp16", "FP32"]),
    ],
)
def test_values_that_cannot_be_used_are_refused_by_name(config: type, name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ConfigError, match=rf"\b{name}\b|{value}") as error:
            config(**{name: value})
        assert str(value) in str(error.value)


def test_the_limits_themselves_can_be_used() -> None:
    ModelConfig(hidden_size=1, num_layers=1, embedding_size=1, dropout=0.999)
    TrainConfig(steps=1, batch_size=1, seq_len=1, warmup_steps=0, weight_decay=0, grad_clip=0, seed=2**63 - 1)


def test_values_of_other_number_types_become_the_field_s_own() -> None:
    config = ModelConfig(hidden_size=np.int64(7), dropout=np.float32(0.5))  # type: ignore[arg-type]
    assert (type(config.hidden_size), config.hidden_size) == (int, 7)
    assert (type(config.dropout), config.dropout) == (float, 0.5)
    assert type(TrainConfig(epochs=3).epochs) is float


def test_a_time_may_be_a_duration() -> None:
    assert TrainConfig(time="1m30s") == TrainConfig(time=90)  # type: ignore[arg-type]


def test_bytes_and_normal_form_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="--bytes"):
        DataConfig(bytes=True, normalize="NFC")


def test_one_budget_only_and_ten_minutes_if_none() -> None:
    with pytest.raises(ConfigError, match="--time and --steps"):
        TrainConfig(time=1, steps=1)
    assert TrainConfig().with_budget().time == 600
    assert TrainConfig(epochs=2).with_budget() == TrainConfig(epochs=2)


@pytest.mark.parametrize("config", CONFIGS)
def test_json_and_back(config: type[ModelConfig | DataConfig | TrainConfig]) -> None:
    value = {
        ModelConfig: ModelConfig(cell="gru"),
        DataConfig: DataConfig(val_frac=0.2),
        TrainConfig: TrainConfig(epochs=3.0),
    }[config]
    assert config.from_json(value.to_json()) == value
    older = value.to_json()
    for name in config.__dataclass_fields__:  # a field that a file written before it does not have
        del older[name]
        assert getattr(config.from_json(older), name) == getattr(config(), name)
    with pytest.raises(ConfigError, match="unknown settings: wings"):
        config.from_json({"wings": 2})


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_field_has_an_option_with_its_text_default_and_choices(option: Option, train_help: str) -> None:
    assert f" --{option.name.replace('_', '-')} " in train_help
    assert len(option.help) > 10
    text = " ".join(option.help.split())
    if option.default not in (None, False):
        text += f" [default: ({option.default})]"
    assert text in train_help
    assert f" <{'|'.join(option.choices)}> " in train_help or not option.choices


def test_no_two_fields_have_the_same_name() -> None:
    assert len({option.name for option in OPTIONS}) == len(OPTIONS)


@pytest.fixture
def train_help(charrnn: Charrnn) -> str:
    """The help in one line, without the frames that rich draws and wraps in."""
    outcome = charrnn("train", "--help")
    assert outcome.code == 0
    return " ".join(outcome.out.replace("│", " ").split())
