"""Evaluation divides a text exactly as training did, for each kind of text, and for files that say less or nonsense."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from charrnn_runtime import ModelFileError, ModelInfo, Sampler

from charrnn.config import DataConfig
from charrnn.data.item_filter import Membership, item_hash
from charrnn.errors import ConfigError
from charrnn.inference.evaluation import evaluate_text
from charrnn.inference.item_scores import score_items
from charrnn.inference.models import export_checkpoint, open_sampler
from charrnn.inference.training_summary import data_config, item_config, item_split, text_split, training_summary
from charrnn.runs.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from tests.conftest import Charrnn, MakeTrainer, Run

NAMES = ["anna", "bella", "clara", "dana", "ella"]


def trained(make_trainer: MakeTrainer, name: str = "made", **settings: Any) -> tuple[Path, Sampler]:
    trainer = make_trainer(name, **settings)
    trainer.train()
    return trainer.folder, open_sampler(trainer.folder / "last.pt")


def scored(sampler: Sampler, path: Path, part: Any, config: DataConfig) -> list[str]:
    return [score.text for score in score_items(sampler, [str(path)], config, split=part)]


@pytest.mark.parametrize("test_frac", [0.0, 0.1])
@pytest.mark.parametrize("val_frac", [0.01, 0.3])
def test_five_names_are_validated_on_the_items_that_training_took(
    make_trainer: MakeTrainer, tmp_path: Path, val_frac: float, test_frac: float
) -> None:
    """So few that the fractions alone would leave a part without any of them."""
    path = tmp_path / "names.txt"
    path.write_text("\n".join(NAMES * 20) + "\n")
    settings: dict[str, Any] = {"text": path, "lines": True, "val_frac": val_frac, "test_frac": test_frac, "steps": 3}
    folder, sampler = trained(make_trainer, **settings)
    by_hash = sorted(NAMES, key=item_hash)
    n_val = max(1, sum(item_hash(name) < int(val_frac * 2**64) for name in NAMES))
    expected = {"val": by_hash[:n_val], "train": by_hash[n_val : -1 if test_frac else None]}
    if test_frac:
        expected["test"] = by_hash[-1:]
    for part, names in expected.items():
        assert sorted(set(scored(sampler, path, part, item_config(sampler.info)))) == sorted(names), part
    known = Membership.load(next(folder.glob("items-*.npy")))
    assert {name for name in NAMES if name in known} == set(expected["train"])
    scores = list(score_items(sampler, [str(path)], item_config(sampler.info), split="val"))
    mean = sum(score.nats for score in scores) / sum(score.tokens for score in scores)
    assert mean == pytest.approx(load_checkpoint(folder / "last.pt").progress["val_loss"], abs=1e-4)


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


@pytest.mark.parametrize("test_frac", [0.0, 0.2])
def test_streams_are_evaluated_as_training_validated_them(
    make_trainer: MakeTrainer, run: Run, test_frac: float
) -> None:
    folder, sampler = trained(make_trainer, split="streams", val_frac=0.2, test_frac=test_frac, steps=20)
    checkpoint = load_checkpoint(folder / "last.pt")
    text = [str(run.text)]
    nats, count = evaluate_text(sampler, text, split="val")
    assert nats == pytest.approx(checkpoint.progress["val_loss"], abs=1e-4)
    counts = {part: evaluate_text(sampler, text, split=part)[1] for part in ("train", "val")}
    batches = checkpoint.corpus["characters"] // (8 * 16)
    train = math.floor(batches * (0.6 if test_frac else 0.8)) * 8 * 16
    assert counts["train"] == train
    if test_frac:
        assert count == math.floor(batches * 0.2) * 8 * 16
        assert evaluate_text(sampler, text, split="test")[1] == batches * 8 * 16 - train - count
    else:
        assert count == batches * 8 * 16 - train


def test_the_test_part_of_running_text_is_its_end_and_training_never_reads_it(
    make_trainer: MakeTrainer, run: Run, tmp_path: Path
) -> None:
    text = run.text.read_text()
    n_test = n_val = len(text) // 10
    folder, sampler = trained(make_trainer, "a", val_frac=0.1, test_frac=0.1, steps=20)
    # The same characters in another order, so that the vocabulary and its ids stay.
    other = tmp_path / "other.txt"
    other.write_text(text[:-n_test] + text[-n_test:][::-1])
    other_folder, _ = trained(make_trainer, "b", text=other, val_frac=0.1, test_frac=0.1, steps=20)
    one, two = (load_checkpoint(path / "last.pt") for path in (folder, other_folder))
    assert [e["val_loss"] for e in one.history] == [e["val_loss"] for e in two.history]
    assert all(w.equal(two.weights[name]) for name, w in one.weights.items())
    scores = {part: evaluate_text(sampler, [str(run.text)], split=part) for part in ("train", "val", "test")}
    assert [count for _, count in scores.values()] == [len(text) - n_val - n_test, n_val, n_test]
    assert scores["val"][0] == pytest.approx(one.progress["val_loss"], abs=1e-4)
    assert scores["test"][0] == pytest.approx(-sampler.score(text[-n_test:]).log_probs.mean(), abs=1e-6)


def test_the_command_line_scores_the_test_part(charrnn: Charrnn, run: Run, tmp_path: Path) -> None:
    options = ("--hidden-size", 16, "--steps", 3, "--device", "cpu", "--precision", "fp32", "--out", tmp_path / "run")
    assert charrnn("train", run.text, "--test-frac", 0.25, *options).code == 0
    done = charrnn("eval", tmp_path / "run", run.text, "--split", "test")
    assert f"{int(len(run.text.read_text()) * 0.25):,} characters" in done.out


def test_a_text_is_read_for_evaluation_as_for_training(charrnn: Charrnn, tmp_path: Path) -> None:
    names = [f"Zoë{i % 7}é" for i in range(60)]
    common = ("--hidden-size", 16, "--steps", 3, "--device", "cpu", "--precision", "fp32", "--val-frac", 0.4)
    text = tmp_path / "text.txt"
    text.write_text("\r\n".join(names), encoding="cp1252", newline="")
    made = charrnn("train", text, "--encoding", "cp1252", "--newlines", "lf", *common, "--out", tmp_path / "text")
    assert made.code == 0, made.err
    done = charrnn("eval", tmp_path / "text", text, "--encoding", "cp1252", "--split", "val", "--json")
    assert json.loads(done.out)["characters"] == int(len("\n".join(names)) * 0.4)
    assert "--encoding cp1252" in charrnn("eval", tmp_path / "text", text).err

    table = tmp_path / "table.txt"
    table.write_text("".join(f"{i}^{name}\n" for i, name in [("id", "name"), *enumerate(names)]), encoding="utf-8")
    options = ("--column", "name", "--delimiter", "^")
    made = charrnn("train", table, *options, *common, "--out", tmp_path / "table")
    assert made.code == 0, made.err
    values = json.loads(charrnn("eval", tmp_path / "table", table, "--json").out)
    assert (values["items"], values["characters"]) == (60, sum(map(len, names)))
    again = charrnn("eval", tmp_path / "table", table, *options, "--json")
    assert json.loads(again.out) == values


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
        evaluate_text(sampler, [str(path)], split="val", window=5, unknown="skip")
    assert export_checkpoint(load_checkpoint(folder / "last.pt"), parity_steps=5).info.training["item_split"]
