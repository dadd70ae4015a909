"""The command line on items: train --lines, sample --unique --report, eval --lines and --per-line."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from charrnn.config import DataConfig
from charrnn.data.corpus import read_corpus
from charrnn.data.item_streams import Items
from charrnn.inference.models import export_checkpoint, open_sampler
from charrnn.runs.checkpoint import load_checkpoint
from charrnn.training.trainer import Trainer
from tests.conftest import tiny

if TYPE_CHECKING:
    from tests.conftest import Charrnn, Run

NAMES = ["anna", "annabel", "bella", "bob", "bobby", "clara", "dan", "dana", "ella", "elisa"]


@pytest.fixture(scope="session")
def names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder: a model trained on names, one a line."""
    folder = tmp_path_factory.mktemp("names")
    (folder / "names.txt").write_text("\n\n".join(NAMES * 30) + "\n")
    Trainer(**tiny(folder / "names.txt", lines=True, steps=120, val_frac=0.3), folder=folder).train()
    (folder / "model.onnx").write_bytes(export_checkpoint(load_checkpoint(folder / "best.pt"), parity_steps=50).data)
    return folder


def test_the_model_file_says_that_it_draws_items(names: Path) -> None:
    info = open_sampler(names / "model.onnx").info
    assert set(info.vocabulary.special) == {"begin", "end"}
    assert info.start_token == info.vocabulary.special["begin"]
    assert info.training["lines"] is True


def test_int8_is_measured_item_by_item(names: Path, tmp_path: Path) -> None:
    """On what validation in training was: every item from its beginning, its end included."""
    checkpoint = load_checkpoint(names / "last.pt")
    quality = export_checkpoint(checkpoint, parity_steps=5, dtype="int8", max_loss_increase=1).info.quality
    assert quality["float32"] == pytest.approx(checkpoint.progress["val_loss"], abs=0.01)
    assert 0 < abs(quality["int8"] - quality["float32"]) < 0.05
    text = tmp_path / "some.txt"
    text.write_text("anna\n\nbob\n" * 10)
    out = export_checkpoint(checkpoint, parity_steps=5, dtype="int8", text=[str(text)], max_loss_increase=1)
    assert out.info.quality["tokens"] == 10 * (5 + 4)
    vocabulary = checkpoint.vocabulary
    items = [np.append(vocabulary.encode(name), vocabulary.special["end"]) for name in ("anna", "bob")]
    expected = -np.concatenate(open_sampler(names / "last.pt").score_many(items)).mean()
    assert out.info.quality["float32"] == pytest.approx(expected, abs=1e-4)


def test_train_on_lines_from_the_command_line(charrnn: Charrnn, names: Path, tmp_path: Path) -> None:
    done = charrnn("train", names / "names.txt", "--lines", "--steps", 3, "--hidden-size", 16, "--out", tmp_path / "r")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "r" / "config.json").read_text())["data"]["lines"] is True
    assert len(list((tmp_path / "r").glob("items-*.npy"))) == 1


@pytest.mark.parametrize("model", [".", "best.pt", "model.onnx"])
def test_one_item_a_line_and_a_report(charrnn: Charrnn, names: Path, model: str) -> None:
    done = charrnn("sample", names / model, "--num", 300, "--seed", 1, "--length", 12, "--report", "--json")
    values = json.loads(done.out)
    texts, report = values["texts"], values["report"]
    assert len(texts) == report["sampled"] == 300
    assert report["empty"] == texts.count("")
    whole = {t for t in texts if t and len(t) < 12}
    assert whole <= {t for t in texts if t}
    config = DataConfig(lines=True, val_frac=0.3)
    trained = Items(read_corpus([str(names / "names.txt")], config), config)
    from charrnn.data.item_filter import item_hash

    known = {n for n in NAMES if item_hash(n) >= trained.split.val_below}
    assert report["known"] == len(known & set(texts)) > 0
    lines = charrnn("sample", names / model, "--num", 300, "--seed", 1, "--length", 12, "--report")
    assert lines.out == "".join(t + "\n" for t in texts)
    assert f"300 sampled: {report['distinct']} distinct" in lines.err
    assert "are in the training text" in lines.err


def test_cut_items_are_counted(charrnn: Charrnn, names: Path) -> None:
    done = charrnn("sample", names / "model.onnx", "--num", 50, "--seed", 1, "--length", 2, "--report", "--json")
    values = json.loads(done.out)
    # A model that has hardly learnt may draw the begin token, which is no character.
    assert 0 < sum(len(t) == 2 for t in values["texts"]) <= values["report"]["cut"] < 50


def test_unique_items_are_whole_and_the_same_whatever_is_asked_beside(charrnn: Charrnn, names: Path) -> None:
    done = charrnn("sample", names / "model.onnx", "--num", 40, "--unique", "--seed", 2, "--length", 30)
    items = done.out.splitlines()
    assert done.code == 0, done.err
    assert len(items) == len(set(items)) == 40
    assert "" not in items
    fewer = charrnn(
        "sample", names / "model.onnx", "--num", 10, "--unique", "--seed", 2, "--length", 30
    ).out.splitlines()
    assert fewer == items[:10]
    prompted = charrnn(
        "sample", names / "model.onnx", "--num", 5, "--unique", "--seed", 2, "--prompt", "b"
    ).out.splitlines()
    assert all(item.startswith("b") for item in prompted)


def test_a_model_that_cannot_give_so_many_says_so(charrnn: Charrnn, names: Path) -> None:
    done = charrnn("sample", names / "model.onnx", "--num", 10, "--unique", "--greedy", "--seed", 1)
    assert done.code == 1
    assert "1 distinct items in 2,000 sampled, not 10" in done.err
    assert len(done.out.splitlines()) == 1


def test_against_another_text(charrnn: Charrnn, names: Path, tmp_path: Path) -> None:
    common = ("sample", names / "model.onnx", "--num", 200, "--seed", 1, "--report", "--json")
    (tmp_path / "none.txt").write_text("zzz\n")
    assert json.loads(charrnn(*common, "--against", tmp_path / "none.txt").out)["report"]["known"] == 0
    (tmp_path / "all.txt").write_text("\n".join(json.loads(charrnn(*common).out)["texts"]))
    report = json.loads(charrnn(*common, "--against", tmp_path / "all.txt").out)["report"]
    assert report["known"] == report["distinct"] > 0
    copy = tmp_path / "copy.onnx"
    copy.write_bytes((names / "model.onnx").read_bytes())
    done = charrnn("sample", copy, "--num", 5, "--seed", 1, "--report")
    assert "not known (name it: --against FILE)" in done.err


@pytest.mark.parametrize("option", ["--unique", "--report"])
def test_a_model_of_running_text_has_no_items(charrnn: Charrnn, run: Run, option: str) -> None:
    done = charrnn("sample", run.model, "--num", 5, option, "--seed", 1)
    assert done.code == 2
    assert "does not end its texts" in done.err


def test_bits_per_item(charrnn: Charrnn, names: Path) -> None:
    values = json.loads(charrnn("eval", "--lines", names / "model.onnx", names / "names.txt", "--json").out)
    model = load_checkpoint(names / "best.pt").build_model()
    vocabulary = open_sampler(names).vocabulary
    bits = []
    for name in NAMES:
        begin, end = vocabulary.special["begin"], vocabulary.special["end"]
        ids = torch.from_numpy(np.concatenate([[begin], vocabulary.encode(name), [end]])).unsqueeze(1)
        logits = model.sequence_forward()(ids[:-1], model.initial_state(1))[0]
        bits.append(float(F.cross_entropy(logits.flatten(0, 1), ids[1:, 0], reduction="sum")) / math.log(2))
    assert values["items"] == 300
    assert values["characters"] == 30 * sum(map(len, NAMES))
    assert values["bits_per_item"] == pytest.approx(np.mean(bits), abs=1e-4)
    assert values["bits_per_char"] == pytest.approx(sum(bits) / sum(len(n) + 1 for n in NAMES), abs=1e-5)
    parts = [
        json.loads(charrnn("eval", names / "model.onnx", names / "names.txt", "--split", s, "--json").out)
        for s in ("train", "val")
    ]
    assert sum(part["items"] for part in parts) == 300


def test_the_strangest_lines_come_first(charrnn: Charrnn, names: Path, tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("\r\n".join(["anna", "", "lllnnn", "bob", "anna"]))
    done = charrnn("eval", names / "model.onnx", path, "--per-line")
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert [row[2] for row in rows] == ["anna", "lllnnn", "bob", "anna"]  # empty lines are no items
    assert rows[0] == rows[3]
    assert float(rows[0][0]) == pytest.approx(5 * float(rows[0][1]), rel=1e-2)
    assert "4 items" in done.err
    strange = [line.split("\t") for line in charrnn("eval", names / "model.onnx", path, "--sort").out.splitlines()]
    assert strange[0][2] == "lllnnn"
    assert sorted(strange) == sorted(rows)
    values = [
        json.loads(line) for line in charrnn("eval", names / "model.onnx", path, "--sort", "--json").out.splitlines()
    ]
    assert [v["text"] for v in values] == [row[2] for row in strange]


def test_lines_for_a_model_of_running_text(charrnn: Charrnn, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("The cat sat.\nTtttt\n")
    rows = [line.split("\t") for line in charrnn("eval", run.model, path, "--per-line").out.splitlines()]
    score = open_sampler(run.model).score("Ttttt\n")
    assert float(rows[1][1]) == pytest.approx(score.bits_per_char, abs=1e-4)
    refused = charrnn("eval", "--lines", run.model, path)
    assert refused.code == 2
    assert "knows no items" in refused.err
    assert "--per-line" in refused.err
    assert charrnn("eval", run.model, path, "--per-line", "--split", "val").code == 2


def test_a_line_is_scored_when_it_has_come(run: Run) -> None:
    command = [sys.executable, "-m", "charrnn", "eval", str(run.model), "-", "--per-line"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        times = []
        for line in (b"The cat", b"sat", b"the", b"cat sat", "snow ☃".encode(), b"the end"):
            begin = time.monotonic()
            process.stdin.write(line + b"\n")
            process.stdin.flush()
            assert process.stdout.readline().rstrip(b"\n").split(b"\t")[2] == line
            times.append(time.monotonic() - begin)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "standard input:5:6 '☃'" in err.decode()
    # The first line waits for the imports; a busy machine delays one or two more.
    assert sorted(times[1:])[2] < 0.05, times


def test_bad_options(charrnn: Charrnn, names: Path, tmp_path: Path) -> None:
    assert charrnn("eval", names / "model.onnx", names / "names.txt", "--lines", "--window", 5).code == 2
    (tmp_path / "empty").write_text("\n\n\n")
    done = charrnn("eval", names / "model.onnx", "-", "--per-line", stdin=b"\n")
    assert (done.code, done.err) == (1, "error: standard input: there is nothing to score in it\n")
    done = charrnn("eval", names / "model.onnx", tmp_path / "empty", "--lines")
    assert done.code == 1
    assert "nothing to score" in done.err
    (tmp_path / "same").write_text("abc\n" * 1000)
    done = charrnn("train", tmp_path / "same", "--lines", "--steps", 2, "--hidden-size", 16, "--out", tmp_path / "r")
    assert done.code == 1
    assert "all 1,000 items are equal" in done.err
