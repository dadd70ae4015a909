"""The package from outside: what it exports, what it imports, and its command."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import charrnn_runtime
import pytest
from charrnn_runtime import CharrnnError, Sampler, SamplingOptions
from charrnn_runtime.__main__ import _parser, main

if TYPE_CHECKING:
    from tests.runtime.conftest import TinyModel


@pytest.fixture
def model(tiny: TinyModel, tmp_path: Path) -> str:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny.data())
    return str(path)


def python(code: str, *arguments: str) -> str:
    """Standard output of a fresh interpreter; fails with its error output."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_public_names() -> None:
    assert charrnn_runtime.__all__ == sorted(charrnn_runtime.__all__)
    for name in charrnn_runtime.__all__:
        assert getattr(charrnn_runtime, name) is not None
        assert name in dir(charrnn_runtime)
    with pytest.raises(AttributeError, match="nonsense"):
        charrnn_runtime.nonsense  # noqa: B018


def test_every_error_has_one_root_and_an_exit_code() -> None:
    errors = [e for e in vars(charrnn_runtime).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(errors) >= 6
    for error in errors:
        assert issubclass(error, CharrnnError)
        assert error.exit_code == (2 if issubclass(error, ValueError) else 1)


def test_nothing_is_imported_before_it_is_needed() -> None:
    out = python(
        "import sys, charrnn_runtime\n"
        "heavy = ('numpy', 'onnxruntime', 'torch', 'onnx')\n"
        "print([m for m in heavy if m in sys.modules])\n"
        "charrnn_runtime.Sampler\n"
        "print([m for m in heavy if m in sys.modules])\n"
    )
    assert out.splitlines() == ["[]", "['numpy']"]


def test_sampling_needs_numpy_and_onnxruntime_alone(model: str) -> None:
    out = python(
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'onnx', 'charrnn', 'charrnn_export', 'typer', 'rich'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from charrnn_runtime import Sampler\n"
        "sampler = Sampler(sys.argv[1])\n"
        "print(len(sampler.sample('ab', length=20, seed=1)), sampler.score('ab').nats_per_char > 0)\n",
        model,
    )
    assert out.split() == ["20", "True"]


def test_missing_onnxruntime_says_what_to_install(model: str) -> None:
    out = python(
        "import sys\n"
        "sys.modules['onnxruntime'] = None\n"
        "from charrnn_runtime import DeviceError, Sampler\n"
        "try:\n"
        "    Sampler(sys.argv[1])\n"
        "except DeviceError as error:\n"
        "    print(error)\n",
        model,
    )
    assert "pip install 'charrnn-runtime[cpu]'" in out


def test_command_prints_the_prompt_and_its_continuation(model: str) -> None:
    command = [sys.executable, "-m", "charrnn_runtime", model, "--prompt", "ab", "--length", "60", "--seed", "7"]
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", env={**os.environ, "PYTHONUTF8": "1"}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "ab" + Sampler(model).sample("ab", length=60, seed=7) + "\n"


def test_command_reports_the_seed_it_chose(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([model, "--length", "50"]) == 0
    first = capsys.readouterr()
    seed = first.err.removeprefix("seed ").strip()
    assert main([model, "--length", "50", "--seed", seed]) == 0
    assert capsys.readouterr() == (first.out, "")


def test_command_passes_its_options_on(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    drawing = ["--temperature", "0.8", "--top-k", "9", "--top-p", "0.9", "--min-p", "0.01"]
    ending = ["--stop", "ab", "--stop", "cd", "--seed", "3", "--length", "90"]
    assert main([model, *drawing, *ending, "--prompt", "aXb", "--unknown", "skip", "--device", "auto"]) == 0
    expected = Sampler(model).sample(
        "ab", length=90, temperature=0.8, top_k=9, top_p=0.9, min_p=0.01, stop=["ab", "cd"], seed=3
    )
    out, err = capsys.readouterr()
    assert out == f"aXb{expected}\n"
    assert err.startswith("device ")


def test_command_takes_every_option_of_drawing(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, object] = {
        "typical_p": 0.9,
        "repetition_penalty": 1.2,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.2,
        "penalty_window": 9,
        "allowed": "abcd",
        "min_length": 12,
    }
    arguments = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    arguments += ["--logit-bias", "a=-inf", "--logit-bias", "b=1.5", "--stop", "d", "--seed", "3", "--length", "90"]
    expected = Sampler(model).generate(
        "ab",
        length=90,
        seed=3,
        stop="d",
        log_probs=True,
        logit_bias={"a": -math.inf, "b": 1.5},
        **options,  # type: ignore[arg-type]
    )
    assert main([model, "--prompt", "ab", *arguments]) == 0
    assert capsys.readouterr().out == f"ab{expected.text}\n"
    assert main([model, "--prompt", "ab", *arguments, "--json"]) == 0
    reason = expected.finish_reason
    want = {"prompt": "ab", "text": expected.text, "finish_reason": reason, "seed": 3, "index": 0}
    assert json.loads(capsys.readouterr().out) == want
    assert main([model, "--prompt", "ab", *arguments, "--logprobs"]) == 0
    assert expected.log_probs is not None
    assert json.loads(capsys.readouterr().out) == {**want, "log_probs": expected.log_probs.tolist()}


def test_the_command_has_all_options() -> None:
    known = {action.dest for action in _parser()._actions}
    assert set(SamplingOptions.names()) - {"logits_processor"} <= known


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--prompt", "aXb"], 2, "has never seen 'X' (U+0058) at position 1"),
        (["--length", "0"], 2, "length"),
        (["--temperature", "-1"], 2, "temperature"),
        (["--temperature", "nan"], 2, "temperature"),
        (["--top-p", "2"], 2, "top_p"),
        (["--stop", ""], 2, "stop string"),
        (["--seed", "-1"], 2, "seed"),
        (["--device", "tpu"], 2, "unknown device"),
        (["--typical-p", "0"], 2, "typical_p"),
        (["--repetition-penalty", "0"], 2, "repetition_penalty"),
        (["--frequency-penalty", "nan"], 2, "frequency_penalty"),
        (["--presence-penalty", "inf"], 2, "presence_penalty"),
        (["--penalty-window", "0"], 2, "penalty_window"),
        (["--logit-bias", "ab=1"], 2, "write CHARACTER=NUMBER"),
        (["--logit-bias", "a=x"], 2, "write CHARACTER=NUMBER"),
        (["--logit-bias", ""], 2, "write CHARACTER=NUMBER"),
        (["--logit-bias", "a=1", "--logit-bias", "a=2"], 2, "given twice"),
        (["--logit-bias", "a=nan"], 2, "logit_bias['a']"),
        (["--logit-bias", "X=1"], 2, "has never seen 'X'"),
        (["--allowed", ""], 2, "allowed"),
        (["--allowed", "X"], 2, "has never seen 'X'"),
        (["--min-length", "-1"], 2, "min_length"),
    ],
)
def test_command_refuses(
    model: str, arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([model, "--seed", "1", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == "", "nothing is printed before the arguments are known to be good"
    assert err.startswith("error: ")
    assert message in err


def test_command_with_a_file_that_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no model")
    for name, message in (("x.onnx", "not an ONNX"), ("none.onnx", "no such file")):
        assert main([str(tmp_path / name), "--seed", "1"]) == 1
        assert message in capsys.readouterr().err


def test_command_with_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["m.onnx", "--length", "many"], ["m.onnx", "--nonsense"]):
        assert main(arguments) == 2
    assert "usage" in capsys.readouterr().err


def test_a_closed_pipe_is_no_error(model: str) -> None:
    command = [sys.executable, "-m", "charrnn_runtime", model, "--length", "200000", "--seed", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (0, b"")
