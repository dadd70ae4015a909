"""``charrnn sample``, ``eval``, ``inspect`` and ``export`` on both kinds of model."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from charrnn_runtime.text_scores import UnknownCharacters

from charrnn.inference.evaluation import TextScore
from charrnn.runs.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from tests.conftest import Charrnn, Outcome, Run


def refused(outcome: Outcome, code: int, *parts: str) -> None:
    assert outcome.code == code, outcome
    for part in parts:
        assert part in outcome.err
    assert outcome.out == ""


@pytest.mark.parametrize(
    "options",
    [
        ("--json", "--num", 3),
        ("--prompt", "The cat ", "--temperature", 0.5, "--top-k", 9, "--top-p", 0.9, "--min-p", 0.01, "--stop", "dogs"),
    ],
    ids=["plain", "with everything"],
)
def test_both_kinds_of_model_give_the_same_text(run: Run, charrnn: Charrnn, options: tuple[object, ...]) -> None:
    outcomes = [
        charrnn("sample", model, "--seed", 7, "--length", 300, *options) for model in (run.folder, run.best, run.model)
    ]
    assert {(outcome.code, outcome.err) for outcome in outcomes} == {(0, "")}
    assert len({outcome.out for outcome in outcomes}) == 1
    assert len(outcomes[0].out) > 20


def test_the_same_seed_gives_the_same_text_and_a_new_one_is_told(run: Run, charrnn: Charrnn) -> None:
    def out(*options: object) -> Outcome:
        return charrnn("sample", run.model, "--length", 100, *options)

    assert out("--seed", 7).out == out("--seed", 7).out != out("--seed", 8).out
    unseeded = out()
    seed = unseeded.err.split(",")[0].removeprefix("seed ")
    assert unseeded.err == f"seed {seed}, device cpu\n"
    assert out("--seed", seed).out == unseeded.out
    assert out("--quiet").err == ""


def test_greedy_is_temperature_0_whatever_the_seed(run: Run, charrnn: Charrnn) -> None:
    texts = {
        charrnn("sample", run.model, "--length", 100, *options).out
        for options in (("--greedy", "--seed", 1), ("--temperature", 0, "--seed", 2), ("--top-k", 1, "--seed", 3))
    }
    assert len(texts) == 1


def test_length_prompt_and_quiet(run: Run, charrnn: Charrnn) -> None:
    whole = charrnn("sample", run.model, "--prompt", "The cat", "--length", 50, "--seed", 1).out
    quiet = charrnn("sample", run.model, "--prompt", "The cat", "--length", 50, "--seed", 1, "--quiet").out
    assert whole == "The cat" + quiet
    assert len(quiet) == 50 + 1  # and a newline


def test_num_gives_separate_texts_and_the_first_is_the_single_one(run: Run, charrnn: Charrnn) -> None:
    single = charrnn("sample", run.model, "--length", 40, "--seed", 5).out
    texts = charrnn("sample", run.model, "--length", 40, "--seed", 5, "--num", 3).out.split("----\n")
    assert len(set(texts)) == 3
    assert texts[0] == single


def test_stop_ends_the_text_before_the_stop_string(run: Run, charrnn: Charrnn) -> None:
    whole = charrnn("sample", run.model, "--length", 500, "--seed", 5).out
    assert "." in whole[:-1]
    stopped = charrnn("sample", run.model, "--length", 500, "--seed", 5, "--stop", ".").out
    assert stopped == whole[: whole.index(".")] + "\n"


def test_json(run: Run, charrnn: Charrnn) -> None:
    options = ("--length", 30, "--num", 2, "--prompt", "The ", "--json")
    outcome = charrnn("sample", run.model, *options, "--seed", 5)
    values = json.loads(outcome.out)
    assert values.keys() == {"seed", "prompt", "texts", "finish_reasons"}
    assert (values["seed"], values["prompt"], len(values["texts"])) == (5, "The ", 2)
    assert all(len(text) == 30 for text in values["texts"])
    unseeded = charrnn("sample", run.model, *options)
    assert unseeded.err == ""
    assert isinstance(json.loads(unseeded.out)["seed"], int)


def test_prompt_file_and_standard_input(run: Run, charrnn: Charrnn, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_bytes(b"\xef\xbb\xbfThe cat\n")
    expected = charrnn("sample", run.model, "--prompt", "The cat\n", "--seed", 1, "--length", 20).out
    by_file = charrnn("sample", run.model, "--prompt-file", tmp_path / "prompt.txt", "--seed", 1, "--length", 20)
    by_pipe = charrnn("sample", run.model, "--prompt-file", "-", "--seed", 1, "--length", 20, stdin=b"The cat\n")
    assert by_file.out == by_pipe.out == expected
    refused(charrnn("sample", run.model, "--prompt-file", tmp_path / "none.txt"), 1, "none.txt")
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    refused(charrnn("sample", run.model, "--prompt-file", tmp_path / "bad.txt"), 1, "byte 0xe9 at offset 3")


def test_unknown_characters_are_named_with_their_position(run: Run, charrnn: Charrnn) -> None:
    model = run.model
    refused(charrnn("sample", run.best, "--prompt", "The Δ cat"), 2, "'Δ' (U+0394) at position 4")
    refused(charrnn("sample", model, "--prompt", "The Δ cat"), 2, "'Δ' (U+0394) at position 4", "--unknown skip")
    refused(charrnn("sample", model, "--prompt", "The cat", "--unknown", "maybe"), 2, "maybe", "skip")
    skipped = charrnn("sample", model, "--prompt", "Δ☃", "--unknown", "skip", "--seed", 1, "--quiet", "--length", 20)
    empty = charrnn("sample", model, "--seed", 1, "--quiet", "--length", 20)
    assert skipped.out == empty.out


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--temperature", "-1"], "temperature must be at least 0"),
        (["--temperature", "nan"], "temperature must be a finite number"),
        (["--temperature", "inf"], "temperature must be a finite number"),
        (["--temperature", "hot"], "--temperature"),
        (["--length", "0"], "length must be at least 1"),
        (["--length", "-1"], "length must be at least 1"),
        (["--length", "1.5"], "--length"),
        (["--num", "0"], "num must be at least 1"),
        (["--num", "-2"], "num must be at least 1"),
        (["--top-k", "-1"], "top_k"),
        (["--top-p", "0"], "top_p"),
        (["--top-p", "nan"], "top_p"),
        (["--min-p", "2"], "min_p"),
        (["--stop", ""], "stop string"),
        (["--seed", "-1"], "seed"),
        (["--seed", str(2**64)], "seed"),
    ],
)
def test_nonsense_is_told_before_a_model_is_loaded(charrnn: Charrnn, options: list[str], part: str) -> None:
    refused(charrnn("sample", "no-such-model.onnx", *options), 2, part)


@pytest.mark.parametrize("command", ["sample", "eval"])
@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:1", "cuda:99999999999999999999", ""])
def test_devices_that_are_not_there(
    run: Run, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch, command: str, device: str
) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    text = [run.text] if command == "eval" else []
    outcome = charrnn(command, run.model, *text, "--device", device)
    assert outcome.code in (1, 2)
    assert outcome.err.startswith("error: ")
    assert outcome.out == ""


@pytest.mark.parametrize("command", ["sample", "eval", "inspect"])
def test_files_that_are_no_models(run: Run, charrnn: Charrnn, tmp_path: Path, command: str) -> None:
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "cut.onnx").write_bytes(run.model.read_bytes()[:500])
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "cut.pt").write_bytes(run.best.read_bytes()[:5000])
    (tmp_path / "text.pt").write_text("not a model")
    (tmp_path / "folder").mkdir()
    text = [run.text] if command == "eval" else []
    for name in ("text.onnx", "cut.onnx", "empty.onnx", "cut.pt", "text.pt", "missing.onnx", "missing.pt", "folder"):
        refused(charrnn(command, tmp_path / name, *text), 1, "error: ", name)
    refused(charrnn(command, "x" * 300, *text), 1, "error: ")


def test_both_kinds_of_model_give_the_same_figure(run: Run, charrnn: Charrnn) -> None:
    outcomes = [charrnn("eval", model, run.text, "--split", "val") for model in (run.best, run.model)]
    assert {outcome.code for outcome in outcomes} == {0}
    assert outcomes[0].out == outcomes[1].out
    nats, _, bits, _, _, perplexity, characters, _ = outcomes[0].out.split()
    assert float(bits) == pytest.approx(float(nats) / math.log(2), abs=1e-3)
    assert float(perplexity) == pytest.approx(math.exp(float(nats)), rel=1e-3)
    assert int(characters.replace(",", "")) == int(len(run.text.read_text()) * 0.1)


def test_eval_refuses_nonsense(run: Run, charrnn: Charrnn, tmp_path: Path) -> None:
    refused(charrnn("eval", run.model, run.text, "--split", "dev"), 2, "known: all, train, val, test")
    refused(charrnn("eval", run.model, run.text, "--split", "test"), 2, "kept no text for a test", "--test-frac")
    refused(charrnn("eval", run.model, run.text, "--window", 0), 2, "window must be at least 1")
    refused(charrnn("eval", run.model, run.text, "--unknown", "skip"), 2, "'charge', 'error'")
    (tmp_path / "strange.txt").write_text("The Δ cat")
    refused(
        charrnn("eval", run.model, tmp_path / "strange.txt", "--unknown", "error"), 2, "'Δ' (U+0394)", "strange.txt"
    )
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "one.txt").write_text("a")
    for options in ((), ("--window", 5), ("--split", "val")):
        refused(charrnn("eval", run.model, tmp_path / "empty.txt", *options), 1, "nothing to score")
    refused(charrnn("eval", run.model, tmp_path / "one.txt", "--window", 5), 1, "nothing to score")
    refused(charrnn("eval", run.model, tmp_path / "one.txt", "--split", "train"), 1, "nothing to score")
    assert charrnn("eval", run.model, tmp_path / "one.txt").code == 0
    refused(charrnn("eval", run.model, tmp_path / "none.txt"), 1, "no such file")


def test_eval_of_a_hopeless_model_is_a_number_too(run: Run, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch) -> None:
    hopeless = TextScore(5000.0, 10, UnknownCharacters())
    monkeypatch.setattr("charrnn.inference.evaluation.evaluate_text", lambda *_, **__: hopeless)
    outcome = charrnn("eval", run.model, run.text, "--json")
    assert json.loads(outcome.out, parse_constant=_no_constant)["nats_per_char"] == 5000.0
    assert charrnn("eval", run.model, run.text).out.startswith("5000.0000 nats/char")


def _no_constant(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


def test_inspect_a_checkpoint(run: Run, charrnn: Charrnn) -> None:
    values = json.loads(charrnn("inspect", run.best, "--json").out, parse_constant=_no_constant)
    checkpoint = load_checkpoint(run.best)
    assert values["kind"].startswith("checkpoint")
    assert values["model"]["parameters"] == checkpoint.build_model().num_parameters()
    assert values["model"]["hidden_size"] == 32
    assert values["train"]["steps"] == 100
    assert values["progress"]["val_loss"] == checkpoint.progress["val_loss"]
    assert values["vocabulary"]["size"] == len(set(run.text.read_text()))
    assert len(values["history"]) == len(checkpoint.history)
    shown = charrnn("inspect", run.folder).out
    assert f"parameters: {values['model']['parameters']}" in shown
    assert f"step {checkpoint.progress['step']:>8,}   train" in shown


def test_inspect_a_model_file(run: Run, charrnn: Charrnn) -> None:
    values = json.loads(charrnn("inspect", run.model, "--json").out, parse_constant=_no_constant)
    checkpoint = load_checkpoint(run.best)
    assert values["kind"].startswith("model file (format 1, opset 18")
    assert values["model"]["cell"] == "lstm"
    assert values["parity"]["verified"] is True
    assert 0 < values["parity"]["one_step"] < 1e-5
    assert values["training"]["val_loss"] == pytest.approx(checkpoint.progress["val_loss"])
    of_checkpoint = json.loads(charrnn("inspect", run.best, "--json").out)
    for key in ("history", "vocabulary"):
        assert values[key] == of_checkpoint[key]
    shown = charrnn("inspect", run.model).out
    assert "parity:" in shown
    assert "history:\n  step " in shown


def test_export_writes_one_file_and_says_how_close_it_is(run: Run, charrnn: Charrnn, tmp_path: Path) -> None:
    outcome = charrnn("export", run.folder, tmp_path / "model.onnx")
    assert outcome.code == 0
    assert outcome.err == ""
    assert len(outcome.out.splitlines()) == 1
    size = (tmp_path / "model.onnx").stat().st_size
    for part in (f"{size:,} bytes", "opset 18", "verified: one step is within", "256 steps within"):
        assert part in outcome.out
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    texts = {charrnn("sample", model, "--seed", 1).out for model in (tmp_path / "model.onnx", run.model)}
    assert len(texts) == 1


def test_export_refuses_places_and_checkpoints_that_cannot_be(run: Run, charrnn: Charrnn, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    best = tmp_path / "run" / "best.pt"
    (tmp_path / "link.onnx").symlink_to(best)
    before = best.read_bytes()
    for target in (best, tmp_path / "link.onnx", tmp_path / "other.pt"):
        refused(charrnn("export", tmp_path / "run", target), 2, "this is a checkpoint, or named like one")
    assert best.read_bytes() == before
    refused(charrnn("export", best, tmp_path), 1, "is a folder")
    refused(charrnn("export", best, "/dev/null/model.onnx"), 1, "cannot be written")
    refused(charrnn("export", best, tmp_path / "missing" / "m.onnx"), 1, "cannot be written")
    refused(charrnn("export", run.model, tmp_path / "m.onnx"), 1, "not a charrnn checkpoint")
    refused(charrnn("export", tmp_path / "none.pt", tmp_path / "m.onnx"), 1, "cannot be read")
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_the_other_cells_go_the_whole_path(
    run: Run, charrnn: Charrnn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: str
) -> None:
    monkeypatch.chdir(tmp_path)
    size = (
        "--dropout",
        0,
        "--hidden-size",
        16,
        "--embedding-size",
        8,
        "--num-layers",
        2,
        "--batch-size",
        8,
        "--seq-len",
        16,
    )
    assert charrnn("train", run.text, "--out", "run", "--cell", cell, "--steps", 20, *size).code == 0
    assert charrnn("export", "run", "model.onnx").code == 0
    texts = {charrnn("sample", model, "--seed", 3, "--length", 200).out for model in ("run", "model.onnx")}
    assert len(texts) == 1
    assert len(texts.pop()) == 201
    figure = charrnn("eval", "model.onnx", run.text, "--split", "val").out
    val_loss = load_checkpoint(tmp_path / "run" / "best.pt").progress["val_loss"]
    assert float(figure.split()[0]) == pytest.approx(val_loss, abs=1e-3)


def test_a_byte_model_goes_the_whole_path(charrnn: Charrnn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("Käse und Brot, süß und grün.\n" * 60, encoding="utf-8")
    size = (
        "--dropout",
        0,
        "--hidden-size",
        16,
        "--embedding-size",
        8,
        "--batch-size",
        4,
        "--seq-len",
        16,
        "--lr",
        0.02,
    )
    assert charrnn("train", "text.txt", "--bytes", "--out", "run", "--steps", 20, *size).code == 0
    outcome = charrnn("sample", "run", "--prompt", "☃ Käse", "--seed", 1, "--length", 100)
    assert outcome.code == 0
    assert outcome.out.startswith("☃ Käse")
    assert len(outcome.out.encode("utf-8", "surrogateescape")) == len("☃ Käse".encode()) + 100 + 1
