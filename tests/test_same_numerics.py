"""The script that compares two versions sees every kind of difference; the commands themselves are not run here."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import onnx
import pytest
import torch
from onnx import TensorProto, helper

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "same_numerics.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("same_numerics", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _write(folder: Path) -> Path:
    """Results as the commands leave them, small."""
    (folder / "run").mkdir(parents=True)
    checkpoint = {
        "weights": {"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(2)},
        "vocabulary": {"tokens": ["a", "b"]},
        "history": [{"step": 1, "epoch": 0.5, "elapsed": 3.0, "train_loss": 2.0, "val_loss": 2.5}],
        "resume": {"optimizers": [{"state": {0: {"momentum": torch.ones(3)}}, "lr": 0.1}], "rng": torch.ones(4).byte()},
    }
    torch.save(checkpoint, folder / "run" / "last.pt")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "step",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])],
    )
    model = helper.make_model(graph)
    helper.set_model_props(
        model, {"charrnn.cell": "rnn", "charrnn.producer": "{}", "charrnn.sha256": "0", "charrnn.parity": "{}"}
    )
    onnx.save(model, folder / "model-fp32.onnx")
    (folder / "sample.txt").write_text("abcdé" * 200, encoding="utf-8")
    return folder


def _checkpoint(change: Callable[[dict], object]) -> Callable[[Path], None]:  # type: ignore[type-arg]
    def apply(folder: Path) -> None:
        checkpoint = torch.load(folder / "run" / "last.pt", weights_only=True)
        change(checkpoint)
        torch.save(checkpoint, folder / "run" / "last.pt")

    return apply


def _model(change: Callable[[onnx.ModelProto], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        model = onnx.load(folder / "model-fp32.onnx")
        change(model)
        onnx.save(model, folder / "model-fp32.onnx")

    return apply


def _metadata(key: str) -> Callable[[Path], None]:
    def change(model: onnx.ModelProto) -> None:
        next(p for p in model.metadata_props if p.key == key).value = "other"

    return _model(change)


def _text(folder: Path) -> None:
    (folder / "sample.txt").write_text("abcdé" * 199 + "abcde", encoding="utf-8")


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("weights", _checkpoint(lambda c: c["weights"]["a"].view(torch.int32)[1, 2].add_(1))),  # one bit
        ("weights", _checkpoint(lambda c: c["weights"]["b"].neg_())),  # -0.0
        ("weights", _checkpoint(lambda c: c["weights"].pop("b"))),
        ("weights", _checkpoint(lambda c: c["weights"].update(a=torch.arange(6.0).view(3, 2)))),
        ("weights", _checkpoint(lambda c: c["weights"].update(b=torch.zeros(2).double()))),
        ("state", _checkpoint(lambda c: c["resume"]["optimizers"][0]["state"][0]["momentum"][1:].add_(1e-7))),
        ("state", _checkpoint(lambda c: c["resume"]["optimizers"][0].update(lr=0.2))),
        ("state", _checkpoint(lambda c: c["resume"].pop("rng"))),
        ("state", _checkpoint(lambda c: c["history"][0].update(val_loss=2.5000001))),
        ("state", _checkpoint(lambda c: c["vocabulary"].update(tokens=["b", "a"]))),
        ("model", _model(lambda m: m.graph.initializer[0].float_data.__setitem__(1, 2.5))),
        ("model", _model(lambda m: setattr(m.graph.node[0], "op_type", "Sub"))),
        ("model", _metadata("charrnn.cell")),
        ("model", _model(lambda m: m.metadata_props.add(key="charrnn.new", value="1"))),
        ("text", _text),
    ],
)  # fmt: skip
def test_each_difference_is_seen_in_its_part(
    script: ModuleType, tmp_path: Path, part: str, change: Callable[[Path], None]
) -> None:
    before, after = _write(tmp_path / "before"), _write(tmp_path / "after")
    case = script.Case(cell="rnn", kind="text", options=())
    assert not any(script.compare(case, before, after).values())
    change(after)
    found = script.compare(case, before, after)
    assert [name for name, lines in found.items() if lines] == [part]


@pytest.mark.parametrize(
    "change",
    [
        _metadata("charrnn.sha256"),
        _metadata("charrnn.producer"),
        _checkpoint(lambda c: c["history"][0].update(elapsed=4.0)),
        _checkpoint(lambda c: c["resume"].update(random_numbers=c["resume"].pop("rng"), more=1)),
    ],
)
def test_versions_times_and_names_are_not_compared(
    script: ModuleType, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    before, after = _write(tmp_path / "before"), _write(tmp_path / "after")
    change(after)
    assert not any(script.compare(script.Case(cell="rnn", kind="text", options=()), before, after).values())


def test_parity_figures_are_compared_if_strict(script: ModuleType, tmp_path: Path) -> None:
    before, after = _write(tmp_path / "before"), _write(tmp_path / "after")
    _metadata("charrnn.parity")(after)
    case = script.Case(cell="rnn", kind="text", options=())
    assert not any(script.compare(case, before, after).values())
    assert script.compare(case, before, after, strict=True)["model"]


def test_a_difference_and_a_failure_end_with_exit_code_1(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def produce(case: object, python: str, folder: Path) -> None:
        del case
        _write(folder)
        if python == "changed":
            _text(folder)

    kept = tmp_path / "kept"
    case = script.CASES[0]
    _write(kept / case.name)
    arguments = ["--against", str(kept), "--only", case.name, "--jobs", "1", "--after"]
    assert script.main([*arguments, sys.executable]) == 1
    assert "--save them again" in capsys.readouterr().err  # incomplete

    (kept / case.name / "text.txt").write_text(script.make_text(), encoding="utf-8", newline="")
    (kept / case.name / "commands.json").write_text(json.dumps(case.commands()))
    assert script.main([*arguments, str(tmp_path / "no-python")]) == 1
    assert "no-python" in capsys.readouterr().err

    monkeypatch.setattr(script, "produce", produce)
    assert script.main([*arguments, "same"]) == 0
    assert "no difference" in capsys.readouterr().out
    assert script.main([*arguments, "changed"]) == 1
    assert "text: differs from character 999" in capsys.readouterr().out


def test_the_nine_combinations_are_there(script: ModuleType) -> None:
    assert {(case.cell, case.kind) for case in script.CASES} == {
        (cell, kind) for cell in ("lstm", "gru", "rnn") for kind in ("text", "streams", "items")
    }
    assert any(case.resumed for case in script.CASES)
    assert 50_000 < len(script.make_text()) < 70_000
