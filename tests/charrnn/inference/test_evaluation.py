"""The loss on a part of a text is that of training, and reads what training read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from charrnn.inference.evaluation import evaluate_text
from charrnn.runs.checkpoint import load_checkpoint
from tests.charrnn.inference.helpers import trained

if TYPE_CHECKING:
    from tests.conftest import Charrnn, MakeTrainer, Run


@pytest.mark.parametrize("test_frac", [0.0, 0.2])
def test_streams_are_evaluated_as_training_validated_them(
    make_trainer: MakeTrainer, run: Run, test_frac: float
) -> None:
    folder, sampler = trained(make_trainer, split="streams", val_frac=0.2, test_frac=test_frac, steps=20)
    checkpoint = load_checkpoint(folder / "last.pt")
    text = [str(run.text)]
    nats, count, _ = evaluate_text(sampler, text, split="val")
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
    assert [score.characters for score in scores.values()] == [len(text) - n_val - n_test, n_val, n_test]
    assert scores["val"][0] == pytest.approx(one.progress["val_loss"], abs=1e-4)
    assert scores["test"][0] == pytest.approx(-sampler.score(text[-n_test:]).log_probs.mean(), abs=1e-6)


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
