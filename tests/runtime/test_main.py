"""The runtime's command line: ``python -m charrnn_runtime sample`` and ``score``."""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
from charrnn_runtime import Generation, Request, Sampler, SamplingOptions, Vocabulary
from charrnn_runtime.__main__ import main
from charrnn_runtime.options import cli_options
from charrnn_runtime.text_io import TextOutput, give_finished, read_lines
from hypothesis import given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from tests.runtime.conftest import TinyModel

COMMAND = [sys.executable, "-m", "charrnn_runtime"]


@pytest.fixture
def model(tiny: TinyModel, tmp_path: Path) -> str:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny.data())
    return str(path)


@pytest.fixture
def bytewise(tiny_of: Callable[[Vocabulary], TinyModel], tmp_path: Path) -> str:
    path = tmp_path / "bytes.onnx"
    path.write_bytes(tiny_of(Vocabulary.from_text("", kind="bytes")).data())
    return str(path)


@pytest.fixture
def items(tiny_of: Callable[[Vocabulary], TinyModel], tmp_path: Path) -> str:
    vocabulary = Vocabulary(symbols=(-1, -1, *map(ord, "\n abcdefghij")), special={"begin": 0, "end": 1})
    path = tmp_path / "items.onnx"
    path.write_bytes(tiny_of(vocabulary).data())
    return str(path)


def run(*arguments: str | bytes, input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """A command in a process of its own, with bytes in and out."""
    environment = {**os.environ, "PYTHONUTF8": "1"}
    return subprocess.run([*COMMAND, *arguments], input=input, capture_output=True, env=environment, timeout=60)


def test_command_prints_the_prompt_and_its_continuation(model: str) -> None:
    command = [
        sys.executable,
        "-m",
        "charrnn_runtime",
        "sample",
        model,
        "--prompt",
        "ab",
        "--length",
        "60",
        "--seed",
        "7",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", env={**os.environ, "PYTHONUTF8": "1"}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "ab" + Sampler(model).sample("ab", length=60, seed=7) + "\n"


def test_command_reports_the_seed_it_chose(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", model, "--length", "50"]) == 0
    first = capsys.readouterr()
    seed = first.err.removeprefix("seed ").strip()
    assert main(["sample", model, "--length", "50", "--seed", seed]) == 0
    assert capsys.readouterr() == (first.out, "")


def test_command_passes_its_options_on(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    drawing = ["--temperature", "0.8", "--top-k", "9", "--top-p", "0.9", "--min-p", "0.01"]
    ending = ["--stop", "ab", "--stop", "cd", "--seed", "3", "--length", "90"]
    assert main(["sample", model, *drawing, *ending, "--prompt", "aXb", "--unknown", "skip", "--device", "auto"]) == 0
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
    assert main(["sample", model, "--prompt", "ab", *arguments]) == 0
    assert capsys.readouterr().out == f"ab{expected.text}\n"
    assert main(["sample", model, "--prompt", "ab", *arguments, "--json"]) == 0
    reason = expected.finish_reason
    want = {"seed": 3, "prompt": "ab", "texts": [expected.text], "finish_reasons": [reason]}
    assert json.loads(capsys.readouterr().out) == want
    assert main(["sample", model, "--prompt", "ab", *arguments, "--logprobs"]) == 0
    assert expected.log_probs is not None
    assert json.loads(capsys.readouterr().out) == {**want, "log_probs": [expected.log_probs.tolist()]}


def test_the_command_has_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert {option.name for option in cli_options()} == set(SamplingOptions.names()) - {"logits_processor"}
    assert main(["sample", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(option.flag in shown for option in cli_options())


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
    assert main(["sample", model, "--seed", "1", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == "", "nothing is printed before the arguments are known to be good"
    assert err.startswith("error: ")
    assert message in err


def test_command_with_a_file_that_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.onnx").write_bytes(b"\0no model")
    for name, message in (("x.onnx", "not an ONNX"), ("none.onnx", "no such file")):
        assert main(["sample", str(tmp_path / name), "--seed", "1"]) == 1
        assert message in capsys.readouterr().err


def test_command_with_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        [],
        ["sample"],
        ["sample", "m.onnx", "--length", "many"],
        ["score", "m.onnx", "--nonsense"],
        ["m.onnx"],
    ):
        assert main(arguments) == 2
    assert "usage" in capsys.readouterr().err


def test_a_closed_pipe_is_no_error(model: str) -> None:
    command = [sys.executable, "-m", "charrnn_runtime", "sample", model, "--length", "200000", "--seed", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (0, b"")


def test_several_texts_in_their_order(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    sampler = Sampler(model)
    texts = [sampler.sample("ab", length=30, seed=5, index=i, stop="c") for i in range(5)]
    arguments = ["sample", model, "--prompt", "ab", "--length", "30", "--seed", "5", "--num", "5", "--stop", "c"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == "----\n".join(f"ab{text}\n" for text in texts)
    assert main([*arguments, "--quiet"]) == 0
    assert capsys.readouterr().out == "----\n".join(f"{text}\n" for text in texts)
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["texts"] == texts


def test_an_interrupt_gives_out_what_is_finished(sampler: Sampler) -> None:
    """Texts 0, 3 and 2 have ended, in this order, when the interrupt comes."""

    class Interrupted(Sampler):
        def __init__(self) -> None:
            pass

        def generate_groups(
            self, requests: Iterable[Request], *, batch: int = 64
        ) -> Iterator[list[tuple[int, Generation]]]:
            done = [sampler.generate(length=3, seed=1, index=i) for i in range(5)]
            yield [(0, done[0])]
            yield [(3, done[3]), (2, done[2])]
            raise KeyboardInterrupt

    texts: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        give_finished(Interrupted(), Request(length=3, seed=1), 5, lambda done: texts.append(done.index))
    assert texts == [0, 2, 3]


@pytest.mark.parametrize("output", [[], ["--json"]])
def test_ctrl_c_keeps_what_is_finished(model: str, output: list[str]) -> None:
    arguments = ["sample", model, "--num", "1000000", "--length", "300", "--seed", "1", *output]
    # bufsize: communicate() reads past what a buffer of Python's holds.
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    assert process.stdout is not None
    first = b"" if output else process.stdout.read(1000)  # the first texts are there while others are generated
    if output:
        time.sleep(3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, b"")
    sampler = Sampler(model)
    printed = (first + out).decode()
    texts = json.loads(printed)["texts"] if output else printed.removesuffix("\n").split("\n----\n")
    assert len(texts) >= 3
    assert texts[:3] == [sampler.sample(length=300, seed=1, index=i) for i in range(3)]
    assert len(texts[-1]) == 300


def test_bytes_in_bytes_out(bytewise: str, tmp_path: Path) -> None:
    sampler = Sampler(bytewise)
    expected = sampler.sample(b"caf\xe9", length=50, seed=2, errors="surrogateescape").encode(
        "utf-8", "surrogateescape"
    )
    assert len(expected) == 50
    with pytest.raises(UnicodeDecodeError):
        expected.decode()
    whole = b"caf\xe9" + expected + b"\n"
    same = ["--length", "50", "--seed", "2"]
    assert run("sample", bytewise, "--prompt", b"caf\xe9", *same).stdout == whole
    (tmp_path / "prompt").write_bytes(b"caf\xe9")
    assert run("sample", bytewise, "--prompt-file", str(tmp_path / "prompt"), *same).stdout == whole
    assert run("sample", bytewise, "--prompt-file", "-", *same, input=b"caf\xe9").stdout == whole
    assert run("sample", bytewise, "--prompt-file", "-", *same, "--num", "2", input=b"caf\xe9").stdout.startswith(whole)
    done = run("sample", bytewise, "--prompt", b"caf\xe9", *same, "--json")
    assert json.loads(done.stdout.decode("ascii"))["texts"] == [sampler.sample(b"caf\xe9", length=50, seed=2)]
    stdout = io.StringIO()  # of a host program, without a buffer of bytes
    with redirected(stdout):
        assert main(["sample", bytewise, "--prompt", "ab", *same]) == 0
    assert stdout.getvalue().startswith("ab")


@contextmanager
def redirected(stdout: io.StringIO) -> Iterator[None]:
    real, sys.stdout = sys.stdout, stdout
    try:
        yield
    finally:
        sys.stdout = real


def test_prompts_that_are_not_utf8_are_refused_by_a_model_of_characters(model: str, tmp_path: Path) -> None:
    done = run("sample", model, "--prompt", b"ab\xe9", "--seed", "1")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"error: the prompt is not valid UTF-8: byte 0xE9 at position 2\n"
    (tmp_path / "prompt").write_bytes(b"ab\xe9")
    done = run("sample", model, "--prompt-file", str(tmp_path / "prompt"), "--seed", "1")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"prompt: is not UTF-8 (byte 0xE9 at byte 2)" in done.stderr
    done = run("sample", model, "--prompt-file", str(tmp_path / "none"), "--seed", "1")
    assert done.stderr.endswith(b"none: cannot be read: No such file or directory\n")
    (tmp_path / "prompt").write_bytes(b"\xef\xbb\xbfab")  # a byte order mark
    done = run("sample", model, "--prompt-file", str(tmp_path / "prompt"), "--seed", "1", "--length", "3")
    assert done.stdout.decode() == f"ab{Sampler(model).sample('ab', length=3, seed=1)}\n"


def test_line_ends_are_folded_if_they_were_in_training(tiny: TinyModel, tmp_path: Path) -> None:
    path = tmp_path / "folded.onnx"
    path.write_bytes(tiny.data({"charrnn.training": '{"newlines":"lf"}'}))
    sampler = Sampler(path)
    assert sampler.sample("ab\r\ncd\re", length=20, seed=1) == sampler.sample("ab\ncd\ne", length=20, seed=1)
    assert sampler.score("ab\r\ncd\re").nats == sampler.score("ab\ncd\ne").nats
    done = run("sample", str(path), "--prompt-file", "-", "--seed", "1", "--length", "5", "--quiet", input=b"ab\r\nc")
    assert done.stdout.decode() == sampler.sample("ab\nc", length=5, seed=1) + "\n"
    assert b"note" not in run("score", str(path), input=b"ab\r\nc\r\n").stderr


def figures(out: str) -> dict[str, float]:
    """The figures of a line such as ``1.2 nats/char   2.3 bits/char``."""
    words = out.replace(",", "").split()
    return {name: float(value) for value, name in itertools.pairwise(words) if name.endswith("/char")}


def test_scores_of_texts_files_and_input(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sampler, text = Sampler(model), "bad face,\njade\n" * 300
    file = tmp_path / "text"
    file.write_text(text, "utf-8")
    expected = sampler.score(text)
    assert main(["score", model, str(file)]) == 0
    got = figures(capsys.readouterr().out)
    assert got == pytest.approx({"nats/char": expected.nats_per_char, "bits/char": expected.bits_per_char}, abs=1e-4)
    assert figures(run("score", model, input=text.encode()).stdout.decode()) == got
    assert main(["score", model, "--text", "bad", "--text", "face X", str(file), "--json"]) == 0
    out, err = capsys.readouterr()
    values = [json.loads(line) for line in out.splitlines()]
    assert [value["name"] for value in values] == ["text", "text", str(file)]
    assert [value["characters"] for value in values] == [3, 6, len(text)]
    assert [value["unknown"] for value in values] == [0, 1, 0]
    assert values[1]["perplexity"] == pytest.approx(sampler.score("face X").perplexity)
    assert err == "note: 1 character that the model has never seen: text:1:6 'X' (U+0058)\n"


def test_scores_of_lines(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"\xef\xbb\xbfbad face\n\n a\xff\xe2\x98\x83\r\nXY\rabc")
    sampler = Sampler(model)
    expected = [sampler.score(f"{line}\n") for line in ("bad face", " a\ufffd☃", "XY", "abc")]
    assert main(["score", model, str(file), "--per-line"]) == 0
    out, err = capsys.readouterr()
    assert out == "".join(
        f"{score.bits:.3f}\t{score.bits_per_char:.4f}\t{line}\n"
        for score, line in zip(expected, ("bad face", " a\ufffd☃", "XY", "abc"), strict=True)
    )
    first, note = err.splitlines()
    assert "4 items   17 characters" in first
    assert (
        note
        == f"note: 4 characters that the model has never seen: {file}:3:3 '\ufffd' (U+FFFD), {file}:4:1 'X' (U+0058)"
    )
    assert main(["score", model, str(file), "--per-line", "--json"]) == 0
    out, err = capsys.readouterr()
    values = [json.loads(line) for line in out.encode("ascii").splitlines()]
    assert [value["unknown"] for value in values] == [0, 2, 2, 0]
    assert [value["bits"] for value in values] == pytest.approx([score.bits for score in expected], rel=1e-6)
    assert json.loads(err.splitlines()[0])["unknown"] == 4
    assert main(["score", model, str(file), "--per-line", "--unknown", "error"]) == 2
    out, err = capsys.readouterr()
    assert f"error: {file}:3:3: the model has never seen '\ufffd' (U+FFFD)" in err


def test_a_model_of_items_is_scored_by_item(items: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "names"
    file.write_text("abba\nfee\n", "utf-8")
    sampler = Sampler(items)
    targets = [[*sampler.vocabulary.encode(item), 1] for item in ("abba", "fee")]
    nats = -sum(log_probs.sum() for log_probs in sampler.score_many(targets))  # type: ignore[arg-type]
    assert main(["score", items, str(file), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["bits_per_item"] == pytest.approx(nats / 2 / math.log(2))
    assert (values["items"], values["characters"]) == (2, 7)


def test_bytes_are_scored_as_they_are(bytewise: str, tmp_path: Path) -> None:
    file = tmp_path / "binary"
    data = bytes(range(256)).replace(b"\t", b"") * 3
    file.write_bytes(data)
    done = run("score", bytewise, str(file), "--per-line")
    lines = [line for line in data.splitlines() if line]
    sampler = Sampler(bytewise)
    expected = [sampler.score(line + b"\n") for line in lines]
    assert (done.returncode, done.stdout) == (
        0,
        b"".join(
            f"{score.bits:.3f}\t{score.bits_per_char:.4f}\t".encode() + line + b"\n"
            for score, line in zip(expected, lines, strict=True)
        ),
    )
    assert run("score", bytewise, "--text", b"caf\xe9", "--json").stdout.startswith(b'{"nats_per_char": ')


def test_nothing_to_score(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--text", ""], ["--text", "\n", "--per-line"], ["/no/such/file"]):
        assert main(["score", model, *arguments]) == 1
        out, err = capsys.readouterr()
        assert (out, err[:7]) == ("", "error: ")


def test_a_line_is_scored_when_it_has_come(model: str) -> None:
    process = subprocess.Popen(
        [*COMMAND, "score", model, "--per-line"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    times = []
    for line in (b"bad face\n", b"jade\n", b"a\r\n", b"face\n" * 3, b"abc" * 30 + b"\n"):
        begin = time.monotonic()
        process.stdin.write(line)
        process.stdin.flush()
        got = [process.stdout.readline() for _ in line.splitlines()]
        times.append(time.monotonic() - begin)
        assert [text.split(b"\t")[2].rstrip() for text in got] == [text.rstrip() for text in line.splitlines()]
    process.stdin.write(b"the last line has no end"[:3])
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert sorted(times[1:])[1] < 0.05, "seconds from a line to its score"  # the first waits for the imports


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.text("ab\r\n漢", max_size=6), max_size=6))
def test_lines_come_whole_however_the_input_is_cut(chunks: list[str]) -> None:
    parts = [chunk.encode() for chunk in chunks]

    class Pieces(io.RawIOBase):
        def __init__(self) -> None:
            self.left = [part for part in parts if part]

        def read1(self, _: int) -> bytes:
            return self.left.pop(0) if self.left else b""

    got = [line for lines in read_lines(Pieces()) for line in lines]  # type: ignore[arg-type]
    assert got == b"".join(parts).splitlines(keepends=True)


def test_a_line_without_end_is_cut(tmp_path: Path) -> None:
    file = tmp_path / "long"
    file.write_bytes(b"a" * (3 << 20))
    with file.open("rb") as stream:
        got = [line for lines in read_lines(stream) for line in lines]
    assert sum(map(len, got)) == 3 << 20
    assert len(got) >= 2


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("kind", ["characters", "bytes"])
def test_control_characters_of_a_text_do_not_reach_a_terminal(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, kind: Literal["characters", "bytes"]
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stdout", stream)
    output = TextOutput(Vocabulary.from_text("a", kind=kind))
    text = "a\x1b[2J\x07é\x7f\t"
    output.write_given(text.encode() if kind == "bytes" else text)
    output.flush()
    expected = "a␛[2J␇é␡␉" if terminal else text
    assert stream.buffer.getvalue().decode() == expected
