"""Which device and precision are taken, with the hardware played by patches."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from charrnn.errors import ConfigError
from charrnn.training.device import choose_device, choose_precision


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(
    "name",
    ["", "gpu", "CPU", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "cuda:1 ", "cuda:٣", "cuda:" + "9" * 30, "tpu", "a\nb"],
)
@pytest.mark.usefixtures("gpus")
def test_nonsense(name: str) -> None:
    with pytest.raises(ConfigError, match="known: auto, cpu, cuda, cuda:N, mps"):
        choose_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:999", "mps"])
@pytest.mark.usefixtures("no_gpu")
def test_a_device_that_is_not_there_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match=f"--device {name}: .*; use --device cpu or auto"):
        choose_device(name)


@pytest.mark.usefixtures("no_gpu")
def test_auto_without_a_gpu_is_the_cpu() -> None:
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")


@pytest.mark.usefixtures("gpus")
def test_with_gpus() -> None:
    assert choose_device("auto") == torch.device("cuda", 1)
    assert choose_device("cuda") == torch.device("cuda", 1)  # the current one
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="only 2 CUDA devices, cuda:0 to cuda:1"):
        choose_device("cuda:2")


def test_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert choose_precision("fp32", cpu) == "fp32"
    for can in (True, False):
        monkeypatch.setattr("charrnn.training.device.cpu_can_bf16", lambda can=can: can)
        if can:
            assert choose_precision("bf16", cpu) == "bf16"
        else:
            with pytest.raises(ConfigError, match="no bf16 kernels for this processor; use --precision fp32 or auto"):
                choose_precision("bf16", cpu)
    assert choose_precision("auto", torch.device("mps")) == "fp32"
    for has, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
        assert choose_precision("auto", cpu) == expected


FAULTS = """
import resource, sys, torch
from charrnn.training.device import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()

def use():
    for _ in range(5):
        blocks = [torch.ones(1 << 20) for _ in range(8)]

use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")
def test_kept_memory_is_not_faulted_in_again() -> None:
    def faults(what: str) -> int:
        command = [sys.executable, "-c", FAULTS, what]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    left = faults("leave")
    if left == 0:
        pytest.skip("this kernel counts no page faults")
    # Where the heap lies is up to chance, and rarely a block finds no room in it and is mapped after all.
    assert any(faults("keep") < left / 2 for _ in range(3))
