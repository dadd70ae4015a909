"""The JavaScript sampler under Node: Python writes models and the texts it draws from them, Node must draw the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import pytest
from charrnn_export import export_model
from charrnn_runtime import Sampler, Vocabulary, generator_file, read_model_file
from charrnn_runtime.classifying import Prior
from charrnn_runtime.model_file import seal

if TYPE_CHECKING:
    from tests.conftest import Run

HERE = Path(__file__).parent
BIG = 2**64 - 1
TEXTS: list[tuple[str, dict[str, Any]]] = [
    ("The cat", {"length": 2000, "seed": 7}),
    ("", {"length": 300, "seed": BIG, "index": BIG, "temperature": 1.7}),
    ("The ", {"length": 200, "seed": 1, "temperature": 0}),
    ("The ", {"length": 300, "seed": 2, "top_k": 4, "temperature": 1.3}),
    ("The ", {"length": 300, "seed": 3, "typical_p": 0.7, "min_p": 0.02}),
    ("The ", {"length": 300, "seed": 4, "top_p": 0.9, "min_p": 0.01}),
    ("The ", {"length": 300, "seed": 5, "repetition_penalty": 1.2, "frequency_penalty": 0.1, "penalty_window": 20}),
    ("The ", {"length": 300, "seed": 6, "presence_penalty": 0.5, "logit_bias": {"e": -1.0, "s": 0.75}}),
    ("The ", {"length": 100, "seed": 6, "allowed": "aeiou st\n"}),
    ("The X cat", {"length": 400, "seed": 8, "stop": ["dogs", "\nThe"], "unknown": "skip", "min_length": 30}),
]
# Texts that match a pattern, from the models of characters, of items that end, and of bytes.
PATTERNS: list[dict[str, Any]] = [
    {"length": 40, "seed": 1, "pattern": r"[a-e]{2,} (?:\w+ ){2,3}cat"},
    {"length": 60, "seed": 2, "pattern": r"[^\n]+\.?", "temperature": 1.4},
    {"length": 12, "seed": 3, "pattern": r"(the|a) \S*", "top_p": 0.9},
    {"length": 30, "seed": 4, "pattern": r"\W*\w{3,}\s", "min_length": 9, "frequency_penalty": 0.2},
    {"length": 30, "seed": 5, "fill": "? cat ?.", "temperature": 0.7},
    {"length": 25, "seed": 6, "pattern": r".*a.{5}", "allowed": "aeiou t\n"},
    {"length": 20, "seed": 7, "pattern": "[^aeiou]+|[aeiou]{3}", "temperature": 0},
    {"length": 25, "seed": 8, "pattern": ".*a.{5}", "particles": 7},
    {
        "length": 30,
        "seed": 9,
        "fill": "? cat ?.",
        "particles": 16,
        "temperature": 0.8,
        "frequency_penalty": 0.1,
        "stop": "tat",
    },
]
# The texts of a model; the others have two of the general ones.
CHOSEN: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "lstm.onnx": TEXTS,
    "ends.onnx": [],
    "counted.onnx": [],
    "labels.onnx": [
        ("The cat", {"length": 50, "seed": 1, "label": "Café"}),
        ("", {"length": 40, "seed": 3, "label": "Café", "pattern": r"\w+ (?:\w+ ?)+\."}),
        ("The", {"length": 30, "seed": 4, "label": "Café", "fill": "? cat ?", "particles": 8}),
        ("", {"length": 50, "seed": 2, "label": " Cafe\u0301"}),
        ("", {"length": 50, "seed": 2}),
    ],
    "folded.onnx": [("The cat\r\nThe\r", {"length": 200, "seed": 9})],
}


def with_metadata(data: bytes, **changes: str | None) -> bytes:
    """The model file with other metadata, sealed anew."""
    model = onnx.load_from_string(data)
    entries = {e.key: e.value for e in model.metadata_props if e.key != "charrnn.sha256"}
    entries |= {f"charrnn.{key}": value for key, value in changes.items() if value is not None}
    for key in (key for key, value in changes.items() if value is None):
        del entries[f"charrnn.{key}"]
    del model.metadata_props[:]
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)
    return seal(model.SerializeToString())


def random_bytes_model() -> bytes:
    """An untrained model of bytes: most of what it draws is broken UTF-8."""
    import torch

    from charrnn.config import ModelConfig
    from charrnn.model.char_rnn import CharRNN

    torch.manual_seed(3)
    model = CharRNN(ModelConfig(cell="gru", num_layers=2, hidden_size=16, embedding_size=8), 256)
    vocabulary = Vocabulary.from_text("", kind="bytes")
    weights = model.export_weights()
    return export_model(weights, vocabulary, model.sequence_forward(), training={}, producer={}, parity_steps=10).data


@pytest.fixture(scope="module")
def vectors(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from charrnn.inference.models import export_checkpoint
    from charrnn.runs.checkpoint import load_checkpoint

    folder = tmp_path_factory.mktemp("vectors")
    lstm = run.model.read_bytes()
    states = json.loads(next(e.value for e in onnx.load_from_string(lstm).metadata_props if e.key == "charrnn.states"))
    # The last character of the vocabulary in another part: the end of a text.
    tokens = json.loads(json.dumps(Sampler(lstm).vocabulary.to_json()))
    tokens["special"] = {"end": tokens["tokens"].index("s")}
    labelled = tokens | {"special": {"end": tokens["tokens"].index("s"), "label:Café": tokens["tokens"].index("d")}}
    several = json.loads(json.dumps(labelled))
    several["special"] |= {"label:b": tokens["tokens"].index("b"), "label:c": tokens["tokens"].index("e")}
    models = {
        "lstm.onnx": lstm,
        "labels.onnx": with_metadata(lstm, vocab=json.dumps(labelled)),
        "counted.onnx": with_metadata(
            lstm, vocab=json.dumps(several), training=json.dumps({"labels": {"Café": 30, "b": 10, "c": 0}})
        ),
        "int8.onnx": export_checkpoint(
            load_checkpoint(run.best), parity_steps=20, dtype="int8", max_loss_increase=1.0
        ).data,
        "ends.onnx": with_metadata(lstm, vocab=json.dumps(tokens)),
        "bytes.onnx": random_bytes_model(),
        "folded.onnx": with_metadata(lstm, training=json.dumps({**Sampler(lstm).info.training, "newlines": "lf"})),
    }
    cases: list[dict[str, Any]] = []
    for name, data in models.items():
        (folder / name).write_bytes(data)
        sampler = Sampler(data)
        for prompt, options in CHOSEN.get(name, TEXTS[3:5]):
            cases.append(case(sampler, name, prompt, options))
        if name in ("lstm.onnx", "ends.onnx", "bytes.onnx"):
            cases += [case(sampler, name, "The ", options) for options in PATTERNS]
        if name == "ends.onnx":
            cases += [case(sampler, name, "The ", {"length": 90, "seed": s, "min_length": 20 * s}) for s in range(3)]
    # Generators draw the texts whose options they know.
    for name, number in (("lstm.onnx", 4), ("ends.onnx", 1), ("bytes.onnx", 1), ("labels.onnx", 3)):
        file = read_model_file(folder / name)
        (folder / f"generator-{name}").write_bytes(generator_file(file, log_probs=name == "bytes.onnx"))
        others = [case(Sampler(file), f"generator-{name}", "The ", {"length": 700, "seed": s}) for s in range(2)]
        known = {"length", "seed", "index", "temperature", "top_k", "top_p", "min_p", "stop", "unknown", "label"}
        covered = [c for c in cases if c["model"] == name and c["options"].keys() <= known][:number]
        cases += others + [{**c, "model": f"generator-{name}"} for c in covered]
    assert {c["finish_reason"] for c in cases} == {"length", "stop", "end", "pattern"}
    (folder / "texts.json").write_text(json.dumps(cases))
    (folder / "probabilities.json").write_text(json.dumps(list(probabilities(folder))))
    (folder / "unverified.bin").write_bytes(with_metadata(lstm, parity='{"verified":false}'))
    wider = [{**state, "shape": ["batch", 33]} for state in states]
    wrong = {
        "no model": (b"<!doctype html>", "not an ONNX"),
        "another model": (with_metadata(lstm, format=None), "not a charrnn model"),
        "newer": (with_metadata(lstm, format="2"), "format 2 is newer"),
        "no vocabulary": (with_metadata(lstm, vocab="{}"), "charrnn.vocab"),
        "start": (with_metadata(lstm, start_token="999"), "start_token.*not in the vocabulary"),
        "states": (with_metadata(lstm, states="[]"), "names no states"),
        "sizes": (with_metadata(lstm, states=json.dumps(wider)), r"its metadata asks for float32 \[batch, 33\]"),
        "order": (with_metadata(lstm, states=json.dumps(states[::-1])), "inputs are token"),
    }
    for name, (data, _) in wrong.items():
        (folder / f"{name}.bad").write_bytes(data)
    listed = [{"model": f"{name}.bad", "message": message} for name, (_, message) in wrong.items()]
    (folder / "wrong.json").write_text(json.dumps(listed))
    return folder


def probabilities(folder: Path) -> Iterator[dict[str, Any]]:
    """What ``complete``, ``next`` and ``classify`` give."""
    asked: tuple[tuple[str, list[dict[str, Any]]], ...] = (
        ("lstm.onnx", [{}, {"n": 30, "until": "", "max_length": 4, "width": 8}, {"n": 3, "until": "t.漢", "width": 1}]),
        ("ends.onnx", [{"n": 10}, {"until": "", "max_length": 30, "n": 20}]),
        ("bytes.onnx", [{"n": 4, "max_length": 3, "until": "a"}]),
        ("labels.onnx", [{"label": "Café", "n": 3}]),
        ("folded.onnx", [{}]),
    )
    for model, options in asked:
        sampler = Sampler(folder / model)
        for prompt in ("The c\r\nX", ""):
            for own in options:
                found = sampler.complete(prompt, unknown="skip", **own)
                items = [asdict(item) for item in found]
                yield {
                    "model": model,
                    "method": "complete",
                    "text": prompt,
                    "options": {**own, "unknown": "skip"},
                    "result": {"items": items, "exact": found.exact, "width": found.width},
                }
            label = {"label": "Café"} if model == "labels.onnx" else {}
            following = sampler.next(prompt, unknown="skip", label=label.get("label")).items()
            result = [[key[0] if isinstance(key, bytes) and key else str(key or ""), value] for key, value in following]
            yield {
                "model": model,
                "method": "next",
                "text": prompt,
                "options": {**label, "unknown": "skip"},
                "result": result,
            }
    for model in ("labels.onnx", "counted.onnx"):
        sampler = Sampler(folder / model)
        priors: tuple[Prior, ...] = ("training", "uniform")
        for text in ("The cat", "", "X", "caXXt漢"):
            for prior in priors:
                result = [list(item) for item in sampler.classify(text, prior=prior).items()]
                yield {
                    "model": model,
                    "method": "classify",
                    "text": text,
                    "options": {"prior": prior},
                    "result": result,
                }


def case(sampler: Sampler, model: str, prompt: str, options: dict[str, Any]) -> dict[str, Any]:
    done = asdict(sampler.generate(prompt, **options))
    numbers = {name: str(options.get(name, 0)) for name in ("seed", "index")}
    kept = {name: done[name] for name in ("text", "finish_reason", "tokens")}
    return {"model": model, "prompt": prompt, "options": {**options, **numbers}, **kept}


@pytest.fixture(scope="module")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("no node")
    if not (HERE / "node_modules" / "onnxruntime-node").exists():
        pytest.skip("no onnxruntime-node; make web-test installs it")
    return found


def test_node_draws_what_python_draws(node: str, vectors: Path) -> None:
    done = subprocess.run(
        [node, "--test", "--test-reporter", "tap"],
        cwd=HERE,
        env={**os.environ, "CHARRNN_VECTORS": str(vectors)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "# skipped 0" in done.stdout
    count = len(json.loads((vectors / "texts.json").read_text()))
    asked = len(json.loads((vectors / "probabilities.json").read_text()))
    assert f"# tests {11 + count + asked + 8}" in done.stdout


@pytest.mark.parametrize(("name", "prompt"), [("lstm-text", "The c"), ("lstm-text", ""), ("gru-items", "")])
def test_the_example_of_a_generator(node: str, tmp_path: Path, name: str, prompt: str) -> None:
    shutil.copytree(HERE.parents[1] / "examples" / "generator", tmp_path / "example")
    (tmp_path / "example" / "node_modules").symlink_to(HERE / "node_modules")
    file = read_model_file(HERE.parent / "fixtures" / "0.1" / f"{name}.onnx")
    (tmp_path / "model-generator.onnx").write_bytes(generator_file(file))
    command = [node, str(tmp_path / "example" / "node.mjs"), str(tmp_path / "model-generator.onnx")]
    done = subprocess.run([*command, prompt, "150", str(BIG)], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode() == prompt + Sampler(file).sample(prompt, length=150, seed=BIG) + "\n"
