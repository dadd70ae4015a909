"""``charrnn sample`` on both kinds of model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import refused

if TYPE_CHECKING:
    from tests.conftest import Charrnn, Outcome, Run


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
    (tmp_path / "wide.txt").write_text("The cat", encoding="utf-16")
    wide = ("sample", run.model, "--prompt-file", tmp_path / "wide.txt", "--length", 20, "--encoding")
    assert charrnn(*wide, "utf-16", "--seed", 1).out.startswith("The cat")
    refused(charrnn(*wide, "klingon"), 2, "unknown encoding 'klingon'")


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
