"""The command line on labels: train --label, sample --label, classify, eval by label."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

import charrnn as library
from charrnn.inference.models import export_checkpoint
from charrnn.runs.checkpoint import load_checkpoint
from tests.conftest import Charrnn, refused


def items(count: int, seed: int) -> list[tuple[str | None, str]]:
    """Numbers of digits, words of letters, and a few of either without a label."""
    rng, made = random.Random(seed), list[tuple[str | None, str]]()
    for i in range(count):
        kind, letters = ("number", "0123") if i % 4 else ("word", "abcd")
        text = "".join(rng.choices(letters, k=rng.randint(3, 6)))
        made.append((kind if i % 25 else None, text))
    return made


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on labelled items, its model file, and other items in a file."""
    folder = tmp_path_factory.mktemp("labelled")
    run = library.train(
        items=items(800, 1), out=folder / "run", steps=150, hidden_size=16, batch_size=16, seq_len=24, progress=False
    )
    data = export_checkpoint(load_checkpoint(run.folder / "best.pt"), parity_steps=20).data
    (folder / "model.onnx").write_bytes(data)
    rows = "".join(f"{label}\t{text}\n" if label else f"{text}\n" for label, text in items(200, 2))
    (folder / "more.txt").write_text(rows)
    return folder


def test_texts_have_the_form_of_their_label(labelled: Path, charrnn: Charrnn) -> None:
    model = labelled / "model.onnx"
    texts = {}
    for label, letters in {"number": "0123", "word": "abcd"}.items():
        done = charrnn("sample", model, "--label", label, "--num", 100, "--seed", 1, "--length", 20)
        texts[label] = done.out.splitlines()
        assert sum(set(text) <= set(letters) for text in texts[label]) > 80
    sampler = library.load(model)
    assert sampler.sample_batch([""] * 100, label="word", seed=1, length=20) == texts["word"]
    bare = sampler.sample_batch([""] * 300, seed=1, length=20)
    assert 0.6 < sum(text[:1].isdigit() for text in bare) / 300 < 0.9  # three of four are numbers
    refused(charrnn("sample", model, "--label", "numbr"), 2, "no label 'numbr'; did you mean 'number'?")
    checkpoint = charrnn("sample", labelled / "run", "--label", "word", "--seed", 3, "--length", 20, "--quiet")
    assert checkpoint.out == sampler.sample(label="word", seed=3, length=20) + "\n"


def test_classify(labelled: Path, charrnn: Charrnn, tmp_path: Path) -> None:
    model, sampler = labelled / "model.onnx", library.load(labelled / "model.onnx")
    done = charrnn("classify", model, "0123", "abca", "-", stdin=b"22\n\nbb\r\n")
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert [row[0] for row in rows] == ["number", "word", "number", "word"]
    assert [row[2] for row in rows] == ["0123", "abca", "22", "bb"]
    done = charrnn("classify", model, labelled / "more.txt", "--json", "--prior", "uniform")
    first = json.loads(done.out.splitlines()[0])
    assert first["probabilities"] == pytest.approx(sampler.classify(first["text"], prior="uniform"), abs=1e-6)
    assert first["label"] == max(first["probabilities"], key=first["probabilities"].get)
    # What is unlike both kinds is decided by what is known beforehand: three of four are numbers.
    shares = sampler.info.training["labels"]
    assert 2.5 < shares["number"] / shares["word"] < 3.5
    ratio = {p: sampler.classify("zz", prior=p) for p in ("training", "uniform")}
    odds = {p: found["number"] / found["word"] for p, found in ratio.items()}
    assert odds["training"] / odds["uniform"] == pytest.approx(shares["number"] / shares["word"], rel=1e-6)


def test_eval_by_label(labelled: Path, charrnn: Charrnn) -> None:
    model, more = labelled / "model.onnx", labelled / "more.txt"
    done = charrnn("eval", model, more, "--lines", "--label", "tab", "--json")
    found = json.loads(done.out)
    counts = Counter(label for label, _ in items(200, 2) if label)
    assert {label: row["items"] for label, row in found["labels"].items()} == counts
    assert found["items"] == 200
    assert found["accuracy"] > 0.98
    sampler = library.load(model)
    losses = [-sampler.classify_logs([text])[0][label] for label, text in items(200, 2) if label]
    assert found["log_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4, abs=1e-6)
    shown = charrnn("eval", model, more, "--lines", "--label", "tab").out
    assert "accuracy" in shown
    assert shown.splitlines()[-1].startswith("  word ")
    each = charrnn("eval", model, more, "--lines", "--label", "tab", "--per-line", "--sort", "--json")
    rows = [json.loads(line) for line in each.out.splitlines()]
    assert {(row.get("label"), row["text"]) for row in rows} == set(items(200, 2))
    (labelled / "wrong.txt").write_text("wrd\tabc\n")
    refused(charrnn("eval", model, labelled / "wrong.txt", "--lines", "--label", "tab"), 2, "did you mean 'word'?")


def test_a_table_before_training_and_the_description_of_the_file(charrnn: Charrnn, tmp_path: Path) -> None:
    table = "genre,title\n" + "".join(f"{label or ''},{text}\n" for label, text in items(100, 3))
    (tmp_path / "titles.csv").write_text(table)
    options = ["--column", "title", "--label", "genre", "--steps", 2, "--hidden-size", 8, "--out", tmp_path / "run"]
    done = charrnn("train", tmp_path / "titles.csv", *options)
    assert "100 items; 4 have no label" in done.out + done.err
    assert "2 labels:" in done.out + done.err
    assert "  number  72  75.0 %" in done.out + done.err
    training = library.load(tmp_path / "run").info.training
    assert training["label"] == "genre"
    assert set(training["labels"]) == {"number", "word"}
    wrong = ["--lines", "--label", "genre", "--steps", 2, "--out", tmp_path / "other"]
    refused(charrnn("train", tmp_path / "titles.csv", *wrong), 2, "tab, folder or file")


def test_models_without_labels(charrnn: Charrnn, tmp_path: Path) -> None:
    run = library.train(items=["anna", "bob", "eve"] * 20, out=tmp_path / "run", steps=1, hidden_size=8, progress=False)
    model = tmp_path / "model.onnx"
    model.write_bytes(export_checkpoint(load_checkpoint(run.folder / "best.pt"), parity_steps=5).data)
    refused(charrnn("sample", model, "--label", "x"), 2, "trained without labels")
    refused(charrnn("classify", model, "anna"), 2, "trained without labels")
