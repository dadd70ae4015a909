"""ONNX Runtime: a session for a model file, and the step with states fed back in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.devices import (
    PROVIDERS,
    check_provider,
    choose_providers,
    device_name,
    end_profile,
    import_onnxruntime,
    parse_device,
    profile_options,
    used_providers,
)
from charrnn_runtime.errors import DeviceError, ModelFileError, UsageError
from charrnn_runtime.forking import PerProcess, reset_after_fork
from charrnn_runtime.model_file import ModelInfo
from charrnn_runtime.onnx_structure import Value, read_values
from charrnn_runtime.options import check_count
from charrnn_runtime.sampling import DrawOptions
from charrnn_runtime.threads import bounded_threads

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

MIN_SEQUENCE_TOKENS = 512  # shorter texts are fed step by step: that takes less time than making the sequence graph

Logits = NDArray[np.float32]
Tokens = NDArray[np.int64]
State = tuple[NDArray[np.float32], ...]


class Runner(Protocol):
    """The step of a model for a fixed number of streams. It keeps their states between calls."""

    def step(self, tokens: Tokens | int) -> Logits:
        """Feeds one token to each stream, ``[batch]`` or one for all.

        Returns:
            Logits ``[batch, vocab]``, valid until the next call.
        """

    def state(self) -> State:
        """A copy of the states, each ``[batch, size]``."""


class SequenceRunner(Protocol):
    """Feeds many tokens of one stream in a call. It keeps the state between calls."""

    def forward(self, tokens: Tokens) -> Logits:
        """Feeds tokens ``[n]``; the logits ``[n, vocab]`` after each of them."""

    def state(self) -> State:
        """The states, each ``[1, size]``."""


class Places(NamedTuple):
    """Where texts stand in their patterns, and what there is to know of these.

    Attributes:
        first: the tokens to feed in the first step, int64 ``[batch]``.
        row: the row of each text in the tables, int64 ``[batch]``.
        needed, following: the tables, see ``pattern_tables.py``.
        left: how many tokens each text may still have before each step, int32 ``[n, batch]``.
    """

    first: Tokens
    row: Tokens
    needed: NDArray[np.int32]
    following: NDArray[np.int64]
    left: NDArray[np.int32]


class BlockDrawer(Protocol):
    """Draws several tokens of each stream in a call."""

    mean_length: float

    def draw(
        self, known: Tokens, uniforms: NDArray[np.float64], options: Sequence[DrawOptions], state: State
    ) -> tuple[Tokens, State]:
        """Feeds tokens, and draws one after each.

        Args:
            known: ``[n, batch]``; -1 for the token that was drawn in the step before.
            uniforms: numbers in [0, 1), float64 ``[n, batch]``.
            options: of each stream.
            state: each ``[batch, size]``.

        Returns:
            The drawn tokens ``[n, batch]``, -1 where the logits hold NaN or infinity, and the new states.
        """

    def draw_matching(
        self, places: Places, uniforms: NDArray[np.float64], options: Sequence[DrawOptions], state: State
    ) -> tuple[Tokens, Tokens, State]:
        """Feeds a token to each stream, draws one, feeds that, and so on, as the patterns allow.

        Returns:
            The drawn tokens ``[n, batch]``, -1 where nothing can be drawn from the logits; the rows after each
            of them ``[n, batch]``; and the new states.
        """


class Cell(Protocol):
    """The interface of a model for a sampler: ONNX Runtime implements it here, torch in the trainer.

    Attributes:
        device: where the model is computed.
        blocks: draws several tokens in a call, if the cell can do that.
    """

    device: str
    blocks: BlockDrawer | None

    def runner(self, batch: int, state: State | None = None) -> Runner:
        """A runner for ``batch`` streams, from the given state or from zero."""

    def sequence_runner(self, tokens: int | None, state: State | None = None, /) -> SequenceRunner | None:
        """A runner that is faster than steps for a text of this many tokens (None: of unknown length), or None."""


class SequenceRunnerFactory(Protocol):
    """Makes sequence runners."""

    def sequence_runner(self, state: State | None = None) -> SequenceRunner:
        """A runner from the given state, each ``[1, size]``, or from zero."""


class StepSequenceRunner:
    """A sequence runner that feeds token by token."""

    def __init__(self, runner: Runner, vocab: int) -> None:
        self._runner = runner
        self._vocab = vocab

    def forward(self, tokens: Tokens) -> Logits:
        """Feeds tokens ``[n]``; the logits ``[n, vocab]`` after each of them."""
        logits = np.empty((len(tokens), self._vocab), np.float32)
        for row, token in enumerate(tokens.tolist()):
            logits[row] = self._runner.step(token)[0]
        return logits

    def state(self) -> State:
        """The states, each ``[1, size]``."""
        return self._runner.state()


class OnnxCell:
    """The step of a model file in an ONNX Runtime session.

    Safe to use from many threads: each runner has buffers of its own. In a forked child the session is opened anew.

    Args:
        session: of a model file; or the bytes of a checked one, whose session is then opened on the CPU by
            ``reopen`` when it is first needed.
        info: the file's metadata.
        reopen: opens such a session in a forked child; None if it cannot be done.

    Attributes:
        sequences: makes runners for long texts, if the model file and the device allow it.
        blocks: draws several tokens in a call, if the model file and the device allow it.

    Raises:
        ModelFileError: the graph's inputs and outputs are not those that the metadata lists.
    """

    def __init__(
        self,
        session: InferenceSession | bytes,
        info: ModelInfo,
        reopen: Callable[[], InferenceSession] | None = None,
    ) -> None:
        self.info = info
        self.sequences: SequenceRunnerFactory | None = None
        self.blocks: BlockDrawer | None = None
        self.device = "cpu"
        self.providers: tuple[str, ...] = (PROVIDERS["cpu"],)
        if isinstance(session, bytes):
            inputs, outputs = read_values(session)
        else:
            self.device, self.providers = device_name(session), tuple(session.get_providers())
            inputs, outputs = session.get_inputs(), session.get_outputs()
        self._session: PerProcess[InferenceSession] = PerProcess(
            reopen or partial(_cannot_reopen, self.device), None if isinstance(session, bytes) else session
        )
        self._check_graph(inputs, outputs)

    @property
    def session(self) -> InferenceSession:
        """The session of this process.

        Raises:
            UsageError: this is a forked child, and the session cannot be opened anew.
        """
        return self._session.get()

    def runner(self, batch: int, state: State | None = None) -> OnnxRunner:
        """A runner for ``batch`` streams, from the given state or from zero."""
        return OnnxRunner(self, batch, state)

    def sequence_runner(self, tokens: int | None, state: State | None = None, /) -> SequenceRunner | None:
        """A runner that is faster than steps for a text of this many tokens (None: of unknown length), or None."""
        if self.sequences is None or (tokens is not None and tokens < MIN_SEQUENCE_TOKENS):
            return None
        return self.sequences.sequence_runner(state)

    def check_placement(self) -> None:
        """Runs a step and replaces ``providers`` by those that computed it; for a session of ``open_session``.

        Raises:
            DeviceError: the device computes none of the operators.
        """
        if self.device == "cpu":
            return
        feeds: dict[str, NDArray[np.generic]] = {"token": np.zeros(1, np.int64)}
        feeds |= {s.input: np.zeros((1, s.size), np.float32) for s in self.info.states}
        asked = self.providers[0]
        self.providers = used_providers(self.session, feeds)
        if asked not in self.providers:
            raise DeviceError(
                f"device {self.device!r}: ONNX Runtime gives it none of this model's operators and would compute "
                f"with {', '.join(self.providers)}; use device='cpu'"
            )

    def _check_graph(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> None:
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
            ("inputs", inputs, expected_inputs),
            ("outputs", outputs, expected_outputs),
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
    """Two IO bindings used in turn: the states that one run writes are what the next run reads, without a copy.

    They are made for the first step.
    """

    def __init__(self, cell: OnnxCell, batch: int, state: State | None) -> None:
        check_count("batch", batch, least=1)
        self._cell = cell
        self._batch = batch
        self._start = state or tuple(np.zeros((batch, s.size), np.float32) for s in cell.info.states)
        self._turn = -1  # before the first step

    def _prepare(self) -> None:
        cell, batch = self._cell, self._batch
        # CUDA keeps the states on the card; other providers are fed from the CPU.
        place, number = "cpu", 0
        if cell.device.startswith("cuda"):
            place, number = "cuda", parse_device(cell.device).index
        # An OrtValue on the CPU shares the memory of its array, so all buffers here stay referenced.
        self._tokens = np.zeros(batch, np.int64)
        self._logits = np.zeros((batch, len(cell.info.vocabulary)), np.float32)
        self._arrays = [
            [np.array(a, np.float32, order="C", copy=True) for a in self._start],
            [np.zeros_like(a, np.float32, order="C") for a in self._start],
        ]
        wrap = import_onnxruntime().OrtValue.ortvalue_from_numpy
        self._ends = wrap(self._tokens), wrap(self._logits)
        self._values = [[wrap(a, place, number) for a in arrays] for arrays in self._arrays]
        self._bind()
        self._turn = 0
        reset_after_fork(self)

    def _bind(self) -> None:
        session, states = self._cell.session, self._cell.info.states
        tokens, logits = self._ends
        bindings = []
        for turn in (0, 1):
            binding = session.io_binding()
            binding.bind_ortvalue_input("token", tokens)
            binding.bind_ortvalue_output("logits", logits)
            for spec, source, target in zip(states, self._values[turn], self._values[1 - turn], strict=True):
                binding.bind_ortvalue_input(spec.input, source)
                binding.bind_ortvalue_output(spec.output, target)
            bindings.append(binding)
        self._run, self._bound = _run_directly(session, bindings)

    def after_fork(self) -> None:
        """In a forked child: the next step binds the child's copies of the buffers to its own session."""

        def run(_binding: Any, options: None) -> None:
            self._bind()
            self._run(self._bound[self._turn], options)

        self._run = run

    def step(self, tokens: Tokens | int) -> Logits:
        """Feeds one token to each stream, ``[batch]`` or one for all; the logits are overwritten by the next call."""
        if self._turn < 0:
            self._prepare()
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
        if self._turn < 0:
            return tuple(a.copy() for a in self._start)
        return tuple(value.numpy().copy() for value in self._values[self._turn])


def _cannot_reopen(device: str) -> InferenceSession:
    raise UsageError(
        f"this process was forked after the ONNX Runtime session was made, and on {device} the session cannot be "
        "used or opened again here. Make the Sampler in the child, from the model's path or bytes; "
        "with multiprocessing use the start method 'spawn' or 'forkserver'"
    )


def _run_directly(session: InferenceSession, bindings: list[Any]) -> tuple[Callable[[Any, None], None], list[Any]]:
    """The session's function that runs with IO bindings, and the bindings, without ONNX Runtime's Python wrapper.

    The wrapper costs up to a microsecond a call. The wrapped functions are private; if they change, it is used.
    """
    try:
        return session._sess.run_with_iobinding, [binding._iobinding for binding in bindings]
    except AttributeError:
        return session.run_with_iobinding, bindings


def open_session(
    data: bytes, *, device: str, threads: int = 1, batch: int = 1, spinning: bool = False
) -> InferenceSession:
    """A session for a checked model file, on exactly the requested device.

    Args:
        data: the file's bytes.
        device: see ``parse_device``; "auto" is CUDA if it is available and faster, else CPU.
        threads: threads inside an operator, bounded by ``usable_cpus``. One is best for a single stream.
        batch: streams expected at once, which decides "auto".
        spinning: whether threads wait for each other with a busy loop during a call, which pays where a call
            has thousands of operators. They sleep as soon as it ends.

    Raises:
        DeviceError: no such device here, or ONNX Runtime is not installed.
        ModelFileError: ONNX Runtime cannot load the graph.
    """
    threads = bounded_threads(threads)
    check_count("batch", batch, least=1)
    wanted = parse_device(device)
    ort = import_onnxruntime()
    providers = choose_providers(wanted, ort, len(data) * batch)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads > 1:
        # Work is divided into small parts as it is done: a thread whose core another program takes holds up less.
        options.add_session_config_entry("session.dynamic_block_base", "4")
    options.log_severity_level = 3  # errors only; its warnings are about its own optimisations
    if len(providers) > 1:
        profile_options(options)
        if wanted.provider == PROVIDERS["directml"]:
            options.enable_mem_pattern = False  # DirectML requires it
    try:
        session = ort.InferenceSession(data, options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions share no public base class
        if len(providers) > 1:
            raise DeviceError(
                f"ONNX Runtime cannot load the model on device {device!r}: {_first_line(error)}; "
                "if device='cpu' loads it, the device or its driver is at fault"
            ) from error
        raise ModelFileError(f"ONNX Runtime cannot load the model: {_first_line(error)}") from error
    if len(providers) > 1 and session.get_providers()[0] == PROVIDERS["cpu"]:
        end_profile(session)  # it fell back to the CPU, and would write down each run of this process
    check_provider(wanted, providers, session)
    return session


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
