"""ONNX Runtime: a session for a model file, and the step with states fed back in place."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import DeviceError, ModelFileError, UsageError
from charrnn_runtime.model_file import ModelInfo
from charrnn_runtime.options import check_count

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

log = logging.getLogger("charrnn_runtime")

Logits = NDArray[np.float32]
Tokens = NDArray[np.int64]
State = tuple[NDArray[np.float32], ...]


class Runner(Protocol):
    """A cell in motion: it keeps its state between calls, for one fixed batch."""

    def step(self, tokens: Tokens | int) -> Logits:
        """Feeds one token to each stream, ``[batch]`` or one for all.

        Returns:
            Logits ``[batch, vocab]``, valid until the next call.
        """

    def state(self) -> State:
        """A copy of the states, each ``[batch, size]``."""


class Cell(Protocol):
    """What a sampler needs of a model; ONNX Runtime here, torch in the trainer."""

    device: str

    def runner(self, batch: int, state: State | None = None) -> Runner:
        """A runner for ``batch`` streams, from the given state or from zero."""


class OnnxCell:
    """The step of a model file in an ONNX Runtime session.

    Safe to use from many threads: each runner has buffers of its own.

    Raises:
        ModelFileError: the graph's inputs and outputs are not those that the metadata lists.
    """

    def __init__(self, session: InferenceSession, info: ModelInfo) -> None:
        self.session = session
        self.info = info
        provider = session.get_providers()[0]
        self.device = (
            "cpu" if provider == "CPUExecutionProvider" else provider.removesuffix("ExecutionProvider").lower()
        )
        if self.device == "cuda":
            self.device += ":" + session.get_provider_options()[provider].get("device_id", "0")
        self._check_graph()

    def runner(self, batch: int, state: State | None = None) -> OnnxRunner:
        """A runner for ``batch`` streams, from the given state or from zero."""
        return OnnxRunner(self, batch, state)

    def _check_graph(self) -> None:
        vocab = len(self.info.vocabulary)
        states = self.info.states
        for state in states:
            if state.dtype != "float32":
                raise ModelFileError(f"state {state.input!r} is {state.dtype}; this runtime feeds float32 states")
        expected_inputs: list[tuple[str, str, int, int | None]] = [("token", "tensor(int64)", 1, None)]
        expected_inputs += [(s.input, "tensor(float)", 2, s.size) for s in states]
        expected_outputs: list[tuple[str, str, int, int | None]] = [("logits", "tensor(float)", 2, vocab)]
        expected_outputs += [(s.output, "tensor(float)", 2, s.size) for s in states]
        for what, got, expected in (
            ("inputs", self.session.get_inputs(), expected_inputs),
            ("outputs", self.session.get_outputs(), expected_outputs),
        ):
            if [value.name for value in got] != [name for name, *_ in expected]:
                raise ModelFileError(
                    f"the graph's {what} are {', '.join(v.name for v in got)}; "
                    f"its metadata asks for {', '.join(name for name, *_ in expected)}"
                )
            for value, (name, dtype, rank, size) in zip(got, expected, strict=True):
                fixed = list(value.shape[1:])
                if value.type != dtype or len(value.shape) != rank or isinstance(value.shape[0], int):
                    raise ModelFileError(
                        f"{name!r} is {value.type} {value.shape}; the format asks for {dtype} with the batch first"
                    )
                if fixed != ([] if size is None else [size]):
                    raise ModelFileError(f"{name!r} has the shape {value.shape}; its metadata says [batch, {size}]")


class OnnxRunner:
    """Two IO bindings used in turn: the states that one run writes are what the next one reads, uncopied."""

    def __init__(self, cell: OnnxCell, batch: int, state: State | None) -> None:
        info = cell.info
        check_count("batch", batch, least=1)
        # CUDA keeps the states on the card; other providers are fed from the CPU.
        place, number = _parse_device(cell.device) if cell.device.startswith("cuda") else ("cpu", 0)
        zero = state or tuple(np.zeros((batch, s.size), np.float32) for s in info.states)
        # An OrtValue on the CPU shares the memory of its array, so all buffers here stay referenced.
        self._tokens = np.zeros(batch, np.int64)
        self._logits = np.zeros((batch, len(info.vocabulary)), np.float32)
        self._arrays = [
            [np.array(a, np.float32, order="C", copy=True) for a in zero],
            [np.zeros_like(a, np.float32, order="C") for a in zero],
        ]
        wrap = import_onnxruntime().OrtValue.ortvalue_from_numpy
        tokens, logits = wrap(self._tokens), wrap(self._logits)
        self._values = [[wrap(a, place, number) for a in arrays] for arrays in self._arrays]
        bindings = []
        for turn in (0, 1):
            binding = cell.session.io_binding()
            binding.bind_ortvalue_input("token", tokens)
            binding.bind_ortvalue_output("logits", logits)
            for spec, source, target in zip(info.states, self._values[turn], self._values[1 - turn], strict=True):
                binding.bind_ortvalue_input(spec.input, source)
                binding.bind_ortvalue_output(spec.output, target)
            bindings.append(binding)
        self._run, self._bound = _run_directly(cell.session, bindings)
        self._turn = 0

    def step(self, tokens: Tokens | int) -> Logits:
        """Feeds one token to each stream, ``[batch]`` or one for all; the logits are overwritten by the next call."""
        if tokens.__class__ is int:
            self._tokens.fill(tokens)
        else:
            self._tokens[:] = tokens
        turn = self._turn
        self._run(self._bound[turn], None)
        self._turn = 1 - turn
        return self._logits

    def state(self) -> State:
        """A copy of the states, each ``[batch, size]``."""
        return tuple(value.numpy().copy() for value in self._values[self._turn])


def _run_directly(session: InferenceSession, bindings: list[Any]) -> tuple[Callable[[Any, None], None], list[Any]]:
    """The session's run with IO bindings, and the bindings, without ONNX Runtime's Python shell where it can be had.

    The shell costs up to a microsecond a call. What it wraps is private, so its absence must be harmless.
    """
    try:
        return session._sess.run_with_iobinding, [binding._iobinding for binding in bindings]
    except AttributeError:
        return session.run_with_iobinding, bindings


def open_session(data: bytes, *, device: str, threads: int = 1) -> InferenceSession:
    """A session for a checked model file, on the device that was asked for and no other.

    Args:
        data: the file's bytes.
        device: "cpu", "cuda", "cuda:N", or "auto" (CUDA where it can be had, else CPU).
        threads: threads inside an operator. One is best for a single stream.

    Raises:
        DeviceError: no such device here, or ONNX Runtime is not installed.
        ModelFileError: ONNX Runtime cannot load the graph.
    """
    check_count("threads", threads, least=1)
    place, number = _parse_device(device)
    ort = import_onnxruntime()
    providers: list[Any] = ["CPUExecutionProvider"]
    available = ort.get_available_providers()
    if place == "cuda" and "CUDAExecutionProvider" not in available:
        raise DeviceError(
            f"device {device!r}: this onnxruntime has no CUDA (it has {', '.join(available)}); "
            "use device='cpu', or install charrnn-runtime[gpu] in place of [cpu]"
        )
    if place == "cuda" or (place == "auto" and "CUDAExecutionProvider" in available):
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # finds the CUDA libraries that pip or torch installed
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": str(number)}))
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors; its warnings are about its own choices
    try:
        session = ort.InferenceSession(data, options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions share no public base class
        raise ModelFileError(f"ONNX Runtime cannot load the model: {_first_line(error)}") from error
    used = session.get_providers()[0]
    # ONNX Runtime falls back to the CPU with no more than a log line.
    if place == "cuda" and used != "CUDAExecutionProvider":
        raise DeviceError(
            f"device {device!r}: ONNX Runtime fell back to {used}; CUDA or cuDNN cannot be loaded. "
            "Check the driver and the CUDA version that this onnxruntime-gpu wants, or use device='cpu'"
        )
    if place == "auto":
        log.info("device auto: %s", used)
    return session


def import_onnxruntime() -> Any:
    """The module onnxruntime, or an error that says how to get it.

    Raises:
        DeviceError: not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(
            "ONNX Runtime is not installed; run: pip install 'charrnn-runtime[cpu]' (or [gpu] for CUDA)"
        ) from error
    return onnxruntime


def onnxruntime_version() -> str:
    """Version of the installed ONNX Runtime, or "none"; does not import it."""
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "none"


def _parse_device(device: str) -> tuple[str, int]:
    place, colon, number = device.partition(":") if isinstance(device, str) else ("", "", "")
    if place in ("cpu", "auto") and not colon:
        return place, 0
    if place == "cuda" and (not colon or (number.isascii() and number.isdigit())):
        return place, int(number or 0)
    raise UsageError(f"unknown device {device!r}; known: cpu, cuda, cuda:N, auto")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
