"""Evaluation divides a text exactly as training did, for each kind of text, and for files that say less or nonsense."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from charrnn_runtime import ModelFileError, ModelInfo, Sampler

from charrnn.config import DataConfig
from charrnn.data.item_filter import item_hash
from charrnn.errors import ConfigError
from charrnn.inference.evaluation import evaluate_text
from charrnn.inference.models import export_checkpoint
from charrnn.inference.training_summary import data_config, item_config, item_split, text_split, training_summary
from charrnn.runs.checkpoint import load_checkpoint
from tests.charrnn.inference.helpers import NAMES, scored, trained

if TYPE_CHECKING:
    from tests.conftest import Charrnn, MakeTrainer, Run


def test_the_limits_are_stored_only_where_the_fractions_do_not_tell_them(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    many = tmp_path / "many.txt"
    many.write_text("".join(f"{i:04d}\n" for i in range(400)))
    _, sampler = trained(make_trainer, text=many, lines=True, steps=1)
    assert not {"item_split", "streams", "test_frac"} & set(sampler.info.training)
    hashes = np.array([item_hash(f"{i:04d}") for i in range(400)], np.uint64)
    expected = [f"{i:04d}" for i in np.flatnonzero(hashes < np.uint64(int(0.1 * 2**64)))]
    assert scored(sampler, many, "val", item_config(sampler.info)) == expected


def test_the_command_line_scores_the_test_part(charrnn: Charrnn, run: Run, tmp_path: Path) -> None:
    options = ("--hidden-size", 16, "--steps", 3, "--device", "cpu", "--precision", "fp32", "--out", tmp_path / "run")
    assert charrnn("train", run.text, "--test-frac", 0.25, *options).code == 0
    done = charrnn("eval", tmp_path / "run", run.text, "--split", "test")
    assert f"{int(len(run.text.read_text()) * 0.25):,} characters" in done.out


def test_what_was_read_is_what_was_written(run: Run) -> None:
    checkpoint = load_checkpoint(run.best)
    for data in (
        DataConfig(val_frac=0.2, test_frac=0.3, newlines="lf"),
        DataConfig(split="streams"),
        DataConfig(separator="--"),
        DataConfig(column="name", delimiter=";"),
        DataConfig(lines=True),
    ):
        info = replace(Sampler(run.model).info, training=training_summary(replace(checkpoint, data_config=data)))
        assert data_config(info) == data


def info_with(run: Run, **training: Any) -> ModelInfo:
    return replace(Sampler(run.model).info, training=training)


def test_a_file_that_says_nothing_of_its_training_is_taken_for_the_default(run: Run) -> None:
    info = info_with(run)
    assert data_config(info) == DataConfig()
    assert item_config(info) == DataConfig(lines=True)
    assert text_split(info, 1000, "val").val.starts_P.tolist() == [900]
    assert item_split(info, "val").val_below == int(0.1 * 2**64)


@pytest.mark.parametrize(
    "training",
    [
        {"val_frac": "much"}, {"val_frac": 2}, {"split": "middle"}, {"separator": 3, "lines": True}, {"newlines": 1},
        {"test_frac": [0.1]}, {"split": "streams", "streams": 3}, {"split": "streams", "streams": [0, 5]},
        {"split": "streams", "streams": ["a", "b"]}, {"item_split": 5}, {"item_split": {"val_below": "x"}},
    ],
)  # fmt: skip
def test_a_damaged_description_is_refused(run: Run, training: dict[str, Any]) -> None:
    info = info_with(run, **training)
    with pytest.raises(ModelFileError, match=r"metadata 'charrnn.training': .*export the model's checkpoint again"):
        text_split(info, 10_000, "val"), item_split(info, "val")


def test_parts_that_do_not_exist(run: Run, make_trainer: MakeTrainer, tmp_path: Path) -> None:
    for split in (lambda i: text_split(i, 1000, "test"), lambda i: item_split(i, "test")):
        with pytest.raises(ConfigError, match="train with --test-frac"):
            split(info_with(run))
    with pytest.raises(ConfigError, match="does not say how"):
        text_split(info_with(run, split="streams"), 1000, "val")
    path = tmp_path / "names.txt"
    path.write_text("\n".join(NAMES * 20) + "\n")
    folder, sampler = trained(make_trainer, text=path, lines=True, steps=1)
    with pytest.raises(ConfigError, match="trained on items"):
        evaluate_text(sampler, [str(path)], split="val", window=5)
    assert export_checkpoint(load_checkpoint(folder / "last.pt"), parity_steps=5).info.training["item_split"]
