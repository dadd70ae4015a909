"""Pushing a model: the real client library with a local server, and the model card."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from charrnn_runtime import HubError, Sampler, UsageError, read_model_file

from charrnn.cli import app
from charrnn.inference.hub import model_card, push
from tests.conftest import Run
from tests.hub_server import TOKEN, Hub, hub


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub(monkeypatch, str(tmp_path / "home")) as made:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield made


def test_what_is_pushed_can_be_fetched(
    server: Hub, run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    app(["export", str(run.model), "--push", "user/cats", "--license", "mit"], standalone_mode=False)
    assert "user/cats/commit/" in capsys.readouterr().out
    (files,) = server.repositories["user/cats"]
    assert files["model.onnx"] == run.model.read_bytes()
    assert files["README.md"].decode() == model_card(read_model_file(run.model), "user/cats", license="mit")
    text = Sampler.from_hub("user/cats").sample("The ", length=30, seed=1)
    assert text == Sampler(run.model).sample("The ", length=30, seed=1)
    assert not server.private["user/cats"]


def test_a_card_that_is_there_is_not_overwritten(server: Hub, run: Run) -> None:
    file = read_model_file(run.model)
    push(file, "user/cats", private=True)
    assert server.private["user/cats"]
    server.repositories["user/cats"].append({"README.md": b"---\n---\nmy own words\n"})
    assert "is left as it is" in push(file, "user/cats")
    assert server.repositories["user/cats"][-1] == {
        "README.md": b"---\n---\nmy own words\n",
        "model.onnx": run.model.read_bytes(),
    }


def test_refusals_name_the_remedy(server: Hub, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    file = read_model_file(run.model)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match=r"user/cats: cannot be written: .*hf auth login"):
        push(file, "user/cats")
    with pytest.raises(UsageError, match="'a/b/c' is not the name of a repository"):
        app(["export", str(run.model), "--push", "a/b/c"], standalone_mode=False)
    assert not server.repositories
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(HubError, match="pip install"):
        push(file, "user/cats")


def test_the_card_says_what_the_file_says(run: Run) -> None:
    file = read_model_file(run.model)
    card = model_card(file, "user/cats")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "charrnn"
    assert front["tags"] == ["charrnn", "onnx", "character-level", "recurrent", file.info.cell]
    assert "license" not in front
    assert f"| Validation loss | {file.info.training['val_loss']:.4f} nats" in card
    assert f"{file.info.training['step']:,} steps" in card
    assert file.info.weights_sha256 in card
    assert "verified in float64" in card
    (example,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    compile(example, "card", "exec")


def test_names_from_the_file_cannot_write_the_card(run: Run) -> None:
    """A corpus may have any name: it stays text in its cell, and the front matter stays YAML."""
    file = read_model_file(run.model)
    wild = "a|b\n---\nlicense: x <script> `c` [d](e)"
    info = replace(file.info, cell='l: "s"\n- t', training={"corpus": wild, "val_loss": float("nan"), "step": "many"})
    card = model_card(replace(file, info=info), "user/cats")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["tags"][-1] == info.cell
    assert "license" not in front
    assert r"| Trained on | a\|b --- license: x \<script\> \`c\` \[d\]\(e\) |" in card.splitlines()
    assert "Validation loss" not in card
    assert "steps" not in card
    assert json.dumps("user/cats") in card
