"""Devices: which of ONNX Runtime's execution providers is requested, and which one really computes."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charrnn_runtime.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

log = logging.getLogger("charrnn_runtime")

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
PROVIDERS = {
    "cpu": CPU,
    "cuda": CUDA,
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
}
_NAMES = {provider: name for name, provider in PROVIDERS.items()}
_NUMBERED = ("cuda", "directml", "migraphx", "rocm", "tensorrt")  # those with a device_id

# "auto" takes CUDA from this many bytes of weights × streams on. A step on a card costs what the start of its
# twenty-odd kernels costs, whatever their size: some 0.2 to 0.3 ms. One core does 64 MiB of weights × streams in
# 0.4 (many streams) to 0.8 ms (one). The core's figures are measured, the card's are estimated.
AUTO_CUDA_BYTES = 64 << 20

# Distributions that install the module onnxruntime; two of them overwrite each other's files.
_WHEELS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-rocm",
    "onnxruntime-migraphx",
    "onnxruntime-qnn",
    "onnxruntime-webgpu",
    "ort-nightly",
    "ort-nightly-gpu",
)


@dataclass(frozen=True)
class Device:
    """The device that a caller requested: its name or "auto", and its number among several."""

    name: str
    index: int = 0

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of it."""
        return PROVIDERS.get(self.name, self.name)


def parse_device(device: str) -> Device:
    """The device of this name: "auto", a key of ``PROVIDERS``, "cuda:N" and the like, or ONNX Runtime's own name.

    Raises:
        UsageError: no device has this name.
    """
    name, colon, number = device.partition(":") if isinstance(device, str) else ("", "", "")
    name = _NAMES.get(name, name)
    known = name == "auto" or name in PROVIDERS or (name.endswith("ExecutionProvider") and name.isidentifier())
    if known and not colon:
        return Device(name)
    if name in _NUMBERED and number.isascii() and number.isdigit() and len(number) < 4:
        return Device(name, int(number))
    raise UsageError(
        f"unknown device {device!r}; known: auto, {', '.join(sorted(PROVIDERS))}, "
        "with a number such as cuda:1, or ONNX Runtime's own name for a provider"
    )


def choose_providers(device: Device, ort: Any, work: int) -> list[Any]:
    """The list of providers for a session.

    Args:
        device: what was asked for.
        ort: the module onnxruntime.
        work: bytes of weights × streams expected at once, which decides "auto".

    Raises:
        DeviceError: this onnxruntime does not have the provider.
    """
    available = ort.get_available_providers()
    provider = device.provider
    if device.name == "auto":
        provider = CUDA if CUDA in available and work >= AUTO_CUDA_BYTES else CPU
    if provider not in available:
        remedy = " or install charrnn-runtime[gpu] in place of [cpu]" if provider == CUDA else ""
        raise DeviceError(
            f"device {device.name!r}: this onnxruntime has no {provider} (it has {', '.join(available)}); "
            f"use device='cpu'{',' if remedy else ', or an onnxruntime that is built with it'}{remedy}"
            f"{_conflict_hint()}"
        )
    if provider == CPU:
        return [CPU]
    if provider in (CUDA, PROVIDERS["tensorrt"]) and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # finds the CUDA libraries that pip or torch installed
    numbered = _NAMES.get(provider) in _NUMBERED
    return [(provider, {"device_id": str(device.index)}) if numbered else provider, CPU]


def check_provider(device: Device, providers: list[Any], session: InferenceSession) -> None:
    """Compares a session's provider with the requested one: ONNX Runtime falls back with only a log line.

    Raises:
        DeviceError: it fell back, and the device was asked for by name.
    """
    used = session.get_providers()[0]
    if device.name == "auto":
        log.info("device auto: %s", used)
        return
    asked = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if used != asked:
        cuda = "; CUDA or cuDNN cannot be loaded. Check the driver and the CUDA version that this onnxruntime-gpu wants"
        raise DeviceError(
            f"device {device.name!r}: ONNX Runtime fell back to {used}{cuda if asked == CUDA else ''}; "
            f"or use device='cpu'{_conflict_hint()}"
        )


def used_providers(session: InferenceSession, feeds: Mapping[str, Any]) -> tuple[str, ...]:
    """The providers that compute the operators of a session, the busiest first, from ONNX Runtime's own record.

    The session's list of providers only says who was offered the graph: each
    takes the operators it knows, and the CPU all others. The session was opened
    with ``profile_options``; it is run once, and its record ends here.
    """
    try:
        session.run(None, dict(feeds))
    finally:
        record = end_profile(session)
    events = json.loads(record)
    nodes = [e["args"]["provider"] for e in events if e.get("cat") == "Node" and "provider" in e.get("args", {})]
    return tuple(sorted(set(nodes), key=lambda provider: (-nodes.count(provider), provider)))


def profile_options(options: Any) -> None:
    """Makes a session record one run for ``used_providers``, in a file of the temporary folder."""
    options.enable_profiling = True
    options.profile_file_prefix = str(Path(tempfile.gettempdir()) / "charrnn-providers")


def end_profile(session: InferenceSession) -> bytes:
    """Ends the record that ``profile_options`` began, removes its file and returns what was in it."""
    path = Path(session.end_profiling())
    try:
        return path.read_bytes()
    finally:
        path.unlink(missing_ok=True)


def device_name(session: InferenceSession) -> str:
    """The session's first provider as we call it, such as "cpu", "cuda:0" or "coreml"."""
    provider: str = session.get_providers()[0]
    name = _NAMES.get(provider, provider)
    if name in _NUMBERED:
        name += f":{session.get_provider_options()[provider].get('device_id', '0')}"
    return name


def import_onnxruntime() -> Any:
    """The module onnxruntime, with its telemetry switched off.

    Otherwise ONNX Runtime writes a device id and a database of events below the user's cache folder and looks
    for a server. It reads the variable when it is imported; a value that the user has set is kept.

    Raises:
        DeviceError: it is not installed, or broken; the message says how to install it.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        if two := _conflict_hint():
            raise DeviceError(f"ONNX Runtime cannot be imported ({error}){two}") from error
        raise DeviceError(
            "ONNX Runtime is not installed; run: pip install 'charrnn-runtime[cpu]' (or [gpu] for CUDA)"
        ) from error
    return onnxruntime


def onnxruntime_version() -> str:
    """Version of the installed ONNX Runtime, or "none"; does not import it."""
    for name in _WHEELS:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "none"


def installed_wheels() -> list[str]:
    """Names of the installed distributions that own the module onnxruntime."""
    found = []
    for name in _WHEELS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append((name, importlib.metadata.distribution(name)))
    if len(found) < 2:  # reading the records of files takes milliseconds
        return [name for name, _ in found]
    # Some packagers leave the record out; then the name must be enough.
    return [n for n, d in found if d.files is None or any(file.parts[0] == "onnxruntime" for file in d.files)]


def warn_about_conflicting_wheels() -> None:
    """Logs a warning if several distributions share the module onnxruntime."""
    if two := _conflict_hint():
        log.warning("onnxruntime%s", two)


def _conflict_hint() -> str:
    """An explanation for the end of a message, empty with one distribution or none."""
    names = installed_wheels()
    if len(names) < 2:
        return ""
    return (
        f": {' and '.join(names)} are installed together, and each has overwritten the other's files. "
        f"Remove all of them and install the one you want: pip uninstall -y {' '.join(names)}; "
        "pip install 'charrnn-runtime[cpu]' (or [gpu])"
    )
