"""Devices and ONNX Runtime's own ways: fallback in silence, two wheels in one place, operators on another provider."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
from charrnn_runtime import DeviceError, Sampler, UsageError
from charrnn_runtime.devices import (
    AUTO_CUDA_BYTES,
    CPU,
    CUDA,
    PROVIDERS,
    Device,
    check_provider,
    choose_providers,
    installed_wheels,
    onnxruntime_version,
    parse_device,
)

if TYPE_CHECKING:
    from tests.runtime.conftest import TinyModel

AZURE = "AzureExecutionProvider"  # computes nothing of ours: operators of its own are all it has


@pytest.mark.parametrize(
    ("text", "device", "provider"),
    [
        ("cpu", Device("cpu"), CPU),
        ("cuda", Device("cuda"), CUDA),
        ("cuda:2", Device("cuda", 2), CUDA),
        ("directml:1", Device("directml", 1), "DmlExecutionProvider"),
        ("coreml", Device("coreml"), "CoreMLExecutionProvider"),
        ("CUDAExecutionProvider:1", Device("cuda", 1), CUDA),
        ("QNNExecutionProvider", Device("QNNExecutionProvider"), "QNNExecutionProvider"),
    ],
)
def test_names(text: str, device: Device, provider: str) -> None:
    assert parse_device(text) == device
    assert device.provider == provider


@pytest.mark.parametrize(
    "text", ["auto:1", "coreml:1", "openvino:GPU", "cuda:-1", "cuda:1:1", "cuda:²", "my Execution"]
)
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="unknown device"):
        parse_device(text)


def test_our_names_are_those_of_onnxruntime() -> None:
    known = {*onnxruntime.get_all_providers(), "ROCMExecutionProvider"}  # left ONNX Runtime with 1.23
    assert set(PROVIDERS.values()) <= known


@pytest.mark.parametrize("device", sorted(set(PROVIDERS) - {"cpu"}))
def test_what_this_onnxruntime_lacks_is_named(tiny: TinyModel, device: str) -> None:
    if PROVIDERS[device] in onnxruntime.get_available_providers():
        pytest.skip("it has it")
    with pytest.raises(DeviceError, match=rf"no {PROVIDERS[device]} \(it has .*CPUExecutionProvider\)"):
        Sampler(tiny.data(), device=device)


def test_auto_goes_by_weights_times_streams() -> None:
    class Both:
        preloaded = 0

        def get_available_providers(self) -> list[str]:
            return [CUDA, CPU]

        def preload_dlls(self) -> None:
            self.preloaded += 1

    both = Both()
    auto = Device("auto")
    assert choose_providers(auto, both, AUTO_CUDA_BYTES - 1) == [CPU]
    assert both.preloaded == 0, "nothing of CUDA is touched for the CPU"
    assert choose_providers(auto, both, AUTO_CUDA_BYTES) == [(CUDA, {"device_id": "0"}), CPU]
    assert choose_providers(Device("cuda", 3), both, 1) == [(CUDA, {"device_id": "3"}), CPU]
    assert both.preloaded == 2
    # 2×512 with 65 characters is 13 MB: alone it stays on the CPU, 64 streams do not.
    assert 13_000_000 < AUTO_CUDA_BYTES < 64 * 13_000_000


def test_cpu_is_what_is_used_and_said(tiny: TinyModel, sampler: Sampler) -> None:
    assert (sampler.device, sampler.providers) == ("cpu", (CPU,))
    small = Sampler(tiny.data(), device="auto", expected_batch=64)
    assert (small.device, small.providers) == ("cpu", (CPU,))
    session = onnxruntime.InferenceSession(tiny.data(), providers=[CPU])
    assert Sampler(session).providers == (CPU,)
    with pytest.raises(UsageError, match="batch"):
        Sampler(tiny.data(), expected_batch=0)


@pytest.fixture
def broken_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ONNX Runtime says that it has CUDA, and falls back. Returns the folder of temporary files."""
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("CUDA is there")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_auto_falls_back_and_records_no_runs(tiny: TinyModel, broken_cuda: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("charrnn_runtime.devices.AUTO_CUDA_BYTES", 0)
    with pytest.warns(UserWarning, match="not in available provider names"):
        sampler = Sampler(tiny.data(), device="auto")
    assert (sampler.device, sampler.providers) == ("cpu", (CPU,))
    sampler.sample(length=10, seed=1)
    assert not list(broken_cuda.iterdir())


@pytest.mark.usefixtures("broken_cuda")
def test_a_fallback_in_silence_is_an_error(tiny: TinyModel, tmp_path: Path) -> None:
    with (
        pytest.warns(UserWarning, match="not in available provider names"),  # all that ONNX Runtime does
        pytest.raises(DeviceError, match="fell back to CPUExecutionProvider; CUDA or cuDNN"),
    ):
        Sampler(tiny.data(), device="cuda")
    assert not list(tmp_path.iterdir()), "the record is cleared away"
    session = onnxruntime.InferenceSession(tiny.data(), providers=[CPU])
    with pytest.raises(DeviceError, match="'coreml': ONNX Runtime fell back"):
        check_provider(Device("coreml"), [PROVIDERS["coreml"], CPU], session)
    check_provider(Device("auto"), [(CUDA, {}), CPU], session)


@pytest.mark.skipif(AZURE not in onnxruntime.get_available_providers(), reason="no second provider in this wheel")
def test_a_provider_that_computes_nothing_is_refused(tiny: TinyModel, tmp_path: Path, monkeypatch: Any) -> None:
    """ONNX Runtime lists it first and computes everything on the CPU."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(DeviceError, match=r"none of this model's operators.*CPUExecutionProvider"):
        Sampler(tiny.data(), device=AZURE)
    assert not list(tmp_path.iterdir()), "the record is cleared away"


def fake_wheel(site: Path, name: str, *, owns: bool = True) -> None:
    info = site / f"{name.replace('-', '_')}-1.99.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.99.0\n")
    owned = site / ("onnxruntime" if owns else name) / f"of-{name}.txt"
    owned.parent.mkdir()
    owned.touch()  # Python 3.13 leaves out files that do not exist
    (info / "RECORD").write_text(
        f"{owned.relative_to(site).as_posix()},,\n{info.name}/METADATA,,\n{info.name}/RECORD,,\n"
    )


def test_two_wheels_are_noticed_and_explained(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = installed_wheels()
    assert len(real) == 1, "the tests run with one of them"
    Sampler(tiny.data())
    assert not caplog.records
    other = "onnxruntime-gpu" if real == ["onnxruntime"] else "onnxruntime"
    fake_wheel(tmp_path, "onnxruntime-qnn", owns=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert installed_wheels() == real, "what owns another module does no harm"
    fake_wheel(tmp_path, other)
    assert set(installed_wheels()) == {*real, other}
    with caplog.at_level(logging.WARNING):
        Sampler(tiny.data())
    assert f"pip uninstall -y {' '.join(installed_wheels())}" in caplog.text
    with pytest.raises(DeviceError, match=r"no CoreML.*are installed together.*pip uninstall"):
        Sampler(tiny.data(), device="coreml")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DeviceError, match=r"cannot be imported.*are installed together"):
        Sampler(tiny.data())


def test_the_version_is_found_whatever_the_wheel_is_called() -> None:
    assert onnxruntime_version() == onnxruntime.__version__


def test_states_stay_float32(sampler: Sampler) -> None:
    assert {s.dtype for s in sampler.initial_state(2)} == {np.dtype(np.float32)}
