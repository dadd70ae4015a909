"""Options of a command that are made from the fields of a configuration."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from charrnn.cli.config_options import with_options
from charrnn.config import DataConfig, TrainConfig, options


def command(*configs: Any, only: set[str] | None = None) -> tuple[typer.Typer, list[dict[str, Any]]]:
    app, calls = typer.Typer(), []

    @app.command()
    @with_options(*configs, only=only)
    def run(name: str, **given: Any) -> None:
        calls.append({"name": name, **given})

    return app, calls


def test_each_field_is_an_option_and_what_is_not_given_is_none() -> None:
    app, calls = command(DataConfig, TrainConfig)
    assert CliRunner().invoke(app, ["x", "--bytes", "--time", "2m", "--val-frac", "0.2"]).exit_code == 0
    (call,) = calls
    fields = {option.name for config in (DataConfig, TrainConfig) for option in options(config)}
    assert call.keys() == {"name", *fields}
    given = {name: value for name, value in call.items() if value is not None}
    # A duration stays a string: the configuration reads it.
    assert given == {"name": "x", "bytes": True, "time": "2m", "val_frac": 0.2}


def test_only_some_fields() -> None:
    app, calls = command(DataConfig, only={"encoding"})
    assert CliRunner().invoke(app, ["x", "--encoding", "cp1252"]).exit_code == 0
    assert calls == [{"name": "x", "encoding": "cp1252"}]
    assert CliRunner().invoke(app, ["x", "--bytes"]).exit_code == 2


@pytest.mark.parametrize("arguments", [["--split", "middle"], ["--val-frac", "much"]])
def test_values_of_another_kind(arguments: list[str]) -> None:
    app, calls = command(DataConfig)
    assert CliRunner().invoke(app, ["x", *arguments]).exit_code == 2
    assert not calls


def test_the_help_has_descriptions_and_defaults() -> None:
    app, _ = command(DataConfig, only={"val_frac"})
    text = " ".join(CliRunner().invoke(app, ["--help"]).output.replace("│", "").split())
    (option,) = (option for option in options(DataConfig) if option.name == "val_frac")
    assert option.help[:20] in text
    assert f"[default: ({option.default})]" in text
