"""The loops in C: values and gradients against PyTorch's modules in float64, and machines without a compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from charrnn.cells import cell_layer, native

COMPILED = native.library() is not None
CELLS = ["gru", "rnn", *(["lstm"] if native.has_tiles() else [])]
needs_compiler = pytest.mark.skipif(not COMPILED, reason="no C compiler, or not Linux")
needs_tiles = pytest.mark.skipif(not native.has_tiles(), reason="no matrix instructions")


def _results(
    cell: str, shape: tuple[int, int, int], dtype: torch.dtype, *, resets: bool, bf16: bool = False
) -> list[Tensor]:
    """Outputs, last states and all gradients of a layer with the same random numbers each time."""
    steps, batch, hidden = shape
    random = torch.Generator().manual_seed(hidden)
    torch.manual_seed(steps)
    layer = cell_layer(cell)(5, hidden).to(dtype)
    x = torch.randn(steps, batch, 5, generator=random).to(dtype).requires_grad_()
    count = len(layer.step.states)
    state = tuple(torch.randn(batch, hidden, generator=random).tanh().to(dtype).requires_grad_() for _ in range(count))
    direction = torch.randn(steps, batch, hidden, generator=random).to(dtype)
    resets_TB = torch.rand(steps, batch, generator=random) < 0.2 if resets else None
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y, last = layer(x, state, resets_TB)
    loss = (y.to(dtype) * direction).sum() + sum(s.square().sum() for s in last)
    return [y.detach(), *(s.detach() for s in last), *torch.autograd.grad(loss, (x, *state, *layer.parameters()))]


SHAPES = [(1, 1, 1), (2, 3, 33), (7, 13, 12), (5, 40, 64), (9, 25, 100)]


def _check_against_float64(cell: str, shape: tuple[int, int, int], resets: bool) -> None:
    own = _results(cell, shape, torch.float32, resets=resets)
    for a, b in zip(own, _results(cell, shape, torch.float64, resets=resets), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=2e-6 * max(1.0, b.abs().max().item()))


@needs_compiler
@pytest.mark.parametrize("cell", ["gru", "rnn"])
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_float64_s(cell: str, resets: bool, shape: tuple[int, int, int]) -> None:
    _check_against_float64(cell, shape, resets)


@pytest.mark.parametrize("tiles", [False, pytest.param(True, marks=needs_tiles)])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("shape", [*SHAPES, (4, 33, 32), (3, 17, 65)])
def test_bfloat16_stays_near_float64(
    monkeypatch: pytest.MonkeyPatch, tiles: bool, cell: str, resets: bool, shape: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(native, "has_tiles", lambda: tiles)
    own = _results(cell, shape, torch.float32, resets=resets, bf16=True)
    for a, b in zip(own, _results(cell, shape, torch.float64, resets=resets), strict=True):
        # Half a unit in the last place is 2**-9; a sum of few numbers may have a larger relative error.
        assert (a.double() - b).norm() <= 0.015 * b.norm() + (0.01 if min(shape) < 3 else 0)


@needs_tiles
def test_the_lstm_s_loop_is_used_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    called, run = [], native.run

    def recorded(name: str, *arrays: Any) -> None:
        called.append(name)
        run(name, *arrays)

    monkeypatch.setattr(native, "run", recorded)
    for bf16 in (False, True):
        _results("lstm", (2, 2, 2), torch.float32, resets=False, bf16=bf16)
    assert called == ["lstm_forward", "lstm_backward"]


@needs_compiler
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_results_do_not_depend_on_the_number_of_threads(cell: str, bf16: bool) -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(_results(cell, (6, 44, 20), torch.float32, resets=True, bf16=bf16)[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("cell", ["gru", "rnn"])
@pytest.mark.parametrize("resets", [False, True])
def test_without_a_compiler_the_values_are_the_same(monkeypatch: pytest.MonkeyPatch, cell: str, resets: bool) -> None:
    monkeypatch.setattr(native, "library", lambda: None)
    _check_against_float64(cell, (9, 25, 100), resets)


PROGRAM = "from charrnn.cells import native; print(native.library() is not None)"


def _found(tmp_path: Path, **environment: str) -> bool:
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "CHARRNN_CACHE": str(tmp_path / "cache"), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not process.stderr
    return process.stdout == "True\n"


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler", "sh -c 'sleep", "true"])
def test_without_a_working_compiler_the_loops_are_left_out(tmp_path: Path, compiler: str) -> None:
    assert not _found(tmp_path, CC=compiler)


@needs_compiler
def test_the_library_is_compiled_once(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    wrapper = tmp_path / "cc"
    wrapper.write_text(f'#!/bin/sh\necho >> "{calls}"\nexec {os.environ.get("CC") or "cc"} "$@"\n', "utf-8")
    wrapper.chmod(0o755)
    assert _found(tmp_path, CC=str(wrapper))
    assert _found(tmp_path, CC=str(wrapper))
    assert calls.read_text("utf-8") == "\n"
    assert [p.suffix for p in (tmp_path / "cache" / "native").iterdir()] == [".so"]


@needs_compiler
def test_a_cache_that_cannot_be_written_is_not_needed(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"")
    assert _found(tmp_path)


@needs_compiler
def test_nothing_is_loaded_from_a_folder_that_others_can_write(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "native"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert _found(tmp_path)
    assert not list(folder.iterdir())


FORKED = """
import os, torch
from charrnn.cells import cell_layer

torch.set_num_threads(2)
layer = cell_layer("gru")(4, 8)
with torch.no_grad():
    y, _ = layer(torch.ones(2, 2, 4), (torch.zeros(2, 8),))
    if (child := os.fork()) == 0:
        z, _ = layer(torch.ones(2, 2, 4), (torch.zeros(2, 8),))
        os._exit(0 if torch.equal(y, z) else 1)
print(os.waitpid(child, 0)[1])
"""


@needs_compiler
def test_a_forked_process_has_threads_of_its_own() -> None:
    process = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60)
    assert process.stdout == "0\n"


@needs_compiler
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bf16", [False, True])
def test_nan_stays_nan(cell: str, bf16: bool) -> None:
    # A run that explodes is recognised by it.
    torch.manual_seed(0)
    layer = cell_layer(cell)(5, 20)
    x = torch.randn(6, 3, 5)
    x[2, 1] = float("nan")
    x = x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y, _ = layer(x, (torch.zeros(3, 20),) * len(layer.step.states))
    y.sum().backward()
    assert x.grad is not None
    assert y[2:, 1].isnan().all()
    assert x.grad[:, 1].isnan().all()
    if not bf16:  # PyTorch's product in bfloat16 spreads it to other texts
        for finite in (y[:2], y[:, [0, 2]], x.grad[:, [0, 2]]):
            assert finite.isfinite().all()


@needs_compiler
@pytest.mark.parametrize("cell", CELLS)
def test_sums_of_any_size_give_the_limits_of_the_functions(cell: str) -> None:
    layer = cell_layer(cell)(5, 20)
    for size in (1e2, 1e10, 3e38):
        with torch.autocast("cpu", torch.bfloat16, enabled=cell == "lstm"):
            y, _ = layer(torch.full((4, 2, 5), size), (torch.zeros(2, 20),) * len(layer.step.states))
        assert y.isfinite().all()
        assert (y.abs() <= 1).all()
