"""The estimate of a run's memory, against what training takes; and what is refused because of it."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charrnn.config import ModelConfig, TrainConfig
from charrnn.errors import ConfigError
from charrnn.training import memory
from charrnn.training.memory import available_bytes, check_memory, needed_bytes

if TYPE_CHECKING:
    from tests.conftest import Charrnn

CPU = torch.device("cpu")
# A few training steps, each case in a fork of one process; prints by how many bytes they raised the fork's peak.
PROGRAM = r"""
import json, os, re, sys
from pathlib import Path
import torch
from charrnn.config import ModelConfig, TrainConfig
from charrnn.model.char_rnn import CharRNN
from charrnn.training.optim import Optimizers
# Not ru_maxrss: that begins with the peak of the process that started this one.
peak = lambda: 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])
torch.set_num_threads(1)
for vocab_size, model, train in json.loads(sys.argv[1]):
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
        continue
    before = peak()
    model, train = ModelConfig(**model), TrainConfig(**train)
    net = CharRNN(model, vocab_size)
    optimizers = Optimizers(net, train)
    tokens = torch.randint(vocab_size, (train.seq_len, train.batch_size))
    for _ in range(2):
        logits, _ = net(tokens, net.initial_state(train.batch_size))
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
        optimizers.step(0.001)
    print(peak() - before, flush=True)
    os._exit(0)
"""
LARGE: list[tuple[int, dict[str, Any], dict[str, Any]]] = [
    (65, {"hidden_size": 1200}, {"batch_size": 1, "seq_len": 2, "optimizer": "adam"}),
    (65, {"hidden_size": 1200, "cell": "gru"}, {"batch_size": 1, "seq_len": 2, "optimizer": "rmsprop"}),
    (65, {"hidden_size": 64}, {"batch_size": 512, "seq_len": 64}),
    (65, {"hidden_size": 64, "cell": "rnn", "num_layers": 3}, {"batch_size": 512, "seq_len": 64}),
    (5000, {"hidden_size": 32}, {"batch_size": 64, "seq_len": 64}),
    (65, {"hidden_size": 32, "embedding_size": 2000}, {"batch_size": 64, "seq_len": 128}),
    (4000, {"hidden_size": 32, "embedding_size": 0}, {"batch_size": 1, "seq_len": 2}),
]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_the_estimate_is_low_but_not_by_much() -> None:
    command = [sys.executable, "-P", "-c", PROGRAM, json.dumps(LARGE)]
    output = subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout
    for case, taken in zip(LARGE, map(int, output.split()), strict=True):
        vocab_size, model, train = case
        estimate = needed_bytes(ModelConfig(**model), TrainConfig(**train), vocab_size)
        assert taken > 50e6, f"{case}: too little to measure"
        # Importing torch may have raised the peak already: some of what is taken then goes unseen.
        assert 0.2 * taken < estimate < 1.1 * taken + 30e6, (case, estimate / 1e6, taken / 1e6)


HUGE = {"hidden_size": 10_000_000, "num_layers": 10**9, "embedding_size": 10**12, "batch_size": 10**9, "seq_len": 10**9}


@pytest.mark.parametrize("value", [None, 10**18, 10**19, 10**40, 10**400])
@pytest.mark.parametrize("name", HUGE)
def test_a_size_that_cannot_fit_is_refused_with_one_that_does(name: str, value: int | None) -> None:
    changes: dict[str, Any] = {name: value or HUGE[name]}
    model, train = ModelConfig(), TrainConfig()
    if name in ModelConfig.__dataclass_fields__:
        model = replace(model, **changes)
    else:
        train = replace(train, **changes)
    with pytest.raises(ConfigError, match=r"need about .* of memory, and this machine has .* what fits is") as caught:
        check_memory(model, train, 65, CPU)
    option = f"--{name.replace('_', '-')}"
    found = re.search(rf"{option} (\d+)", str(caught.value))
    assert found
    fitting: dict[str, Any] = {name: int(found[1])}
    if name in ModelConfig.__dataclass_fields__:
        check_memory(replace(model, **fitting), train, 65, CPU)
    else:
        check_memory(model, replace(train, **fitting), 65, CPU)


def test_the_defaults_fit_everywhere_where_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda _: 100e6)
    check_memory(ModelConfig(), TrainConfig(), 200, CPU)


def test_two_sizes_that_must_both_be_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda _: 1e6)
    with pytest.raises(ConfigError, match="several of them must be smaller"):
        check_memory(ModelConfig(hidden_size=10**5), TrainConfig(batch_size=10**6), 65, CPU)


@given(st.sampled_from(["hidden_size", "num_layers", "embedding_size"]), st.integers(1, 10**6), st.integers(1, 10**6))
def test_more_needs_more(name: str, small: int, large: int) -> None:
    small, large = sorted((small, large))
    few: dict[str, Any] = {name: small}
    many: dict[str, Any] = {name: large}
    assert needed_bytes(ModelConfig(**few), TrainConfig(), 65) <= needed_bytes(ModelConfig(**many), TrainConfig(), 65)


def test_the_limit_of_a_container_and_of_the_process_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = available_bytes(CPU)
    assert 1e8 < machine < 1e15
    monkeypatch.setattr(memory, "CONTROL_GROUPS", (str(tmp_path / "none"), str(tmp_path / "memory.max")))
    (tmp_path / "memory.max").write_text("max\n")
    unlimited = available_bytes(CPU)
    (tmp_path / "memory.max").write_text("50000000\n")
    assert available_bytes(CPU) == 50e6 < unlimited
    monkeypatch.setattr(resource, "getrlimit", lambda _: (40_000_000, resource.RLIM_INFINITY))
    assert available_bytes(CPU) == 40e6


@pytest.mark.parametrize("options", [["--hidden-size", "10000000"], ["--num-layers", "1000000000"]])
def test_the_command_line_refuses_in_one_line_before_it_reads_the_text(
    tmp_path: Path, charrnn: Charrnn, options: list[str]
) -> None:
    outcome = charrnn("train", tmp_path / "no-such-text", *options, "--out", tmp_path / "run")
    assert outcome.code == 2
    assert "of memory, and this machine has" in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_batch_counts_as_it_is_for_the_text(tmp_path: Path, charrnn: Charrnn) -> None:
    text = tmp_path / "text"
    text.write_text("some words and more of them, " * 50)
    options = ["--batch-size", "1000000000", "--hidden-size", "8", "--steps", "2", "--out", tmp_path / "run"]
    assert charrnn("train", text, *options).code == 0
