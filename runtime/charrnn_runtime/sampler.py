"""``Sampler``: text from a model, and how likely a model finds a text."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, Unpack

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.batching import generate_batch
from charrnn_runtime.conversation import Conversation, Snapshot
from charrnn_runtime.devices import log, warn_about_conflicting_wheels
from charrnn_runtime.errors import ModelFileError, UsageError
from charrnn_runtime.generation import Generation, Request, SequenceState, generate_one, start_sequence
from charrnn_runtime.model_file import ModelInfo, read_model_file
from charrnn_runtime.options import SamplingKwargs, SamplingOptions, check_count, new_seed
from charrnn_runtime.sampling import TokenSampler, UniformStream, log_softmax
from charrnn_runtime.scoring import score_many
from charrnn_runtime.sequence import SequenceGraph
from charrnn_runtime.sequence_graph import sequence_possible
from charrnn_runtime.session import (
    Cell,
    Logits,
    OnnxCell,
    SequenceRunner,
    State,
    StepSequenceRunner,
    Tokens,
    open_session,
)
from charrnn_runtime.vocab import Ids, Unknown, Vocabulary

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_SCORE_BLOCK = 256  # steps whose logits are turned into log-probabilities at once
_MAX_TOKEN_SAMPLERS = 1000  # sets of options whose tables generate_many keeps


@dataclass(frozen=True)
class Score:
    """How likely a model finds a text.

    Attributes:
        log_probs: natural log-probability of each token given all before it,
            float64 ``[n]``; the first one follows the model's start token.
    """

    log_probs: NDArray[np.float64]

    @property
    def nats_per_char(self) -> float:
        """Mean negative log-probability of a token (a byte, for byte models); NaN for an empty text."""
        return -float(self.log_probs.mean()) if len(self.log_probs) else math.nan

    @property
    def bits_per_char(self) -> float:
        """``nats_per_char`` in bits."""
        return self.nats_per_char / math.log(2)

    @property
    def perplexity(self) -> float:
        """exp of ``nats_per_char``: among how many equally likely characters the model wavers."""
        return math.exp(self.nats_per_char)


class Sampler:
    """Samples from one model file, scores texts with it, or steps it by hand.

    One sampler may be used from many threads.

    Args:
        model: path or bytes of a model file, or an ``onnxruntime.InferenceSession``
            made from one (then ``device`` and ``threads`` are the session's own).
        device: "cpu", "cuda", "cuda:N", "coreml", "directml", "migraphx", "openvino", "rocm",
            "tensorrt", "webgpu", ONNX Runtime's own name for a provider, or "auto": CUDA where
            it can be had and pays for this size and ``expected_batch`` (``devices.AUTO_CUDA_BYTES``).
        threads: threads inside an operator; more than one pays only for large batches.
        expected_batch: how many texts you mean to draw at once; only "auto" asks.

    Raises:
        ModelFileError: the file is not one of ours, or is damaged.
        DeviceError: the device cannot be used, or ONNX Runtime is missing.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes | InferenceSession,
        *,
        device: str = "cpu",
        threads: int = 1,
        expected_batch: int = 1,
    ) -> None:
        file = None
        if isinstance(model, (str, os.PathLike, bytes)):
            file = read_model_file(model)
            session = open_session(file.data, device=device, threads=threads, batch=expected_batch)
            info, name = file.info, file.name
        elif hasattr(model, "get_modelmeta"):
            session, name = model, "<session>"
            info = ModelInfo.from_metadata(session.get_modelmeta().custom_metadata_map)
        else:
            raise UsageError(f"a model is a path, bytes or an InferenceSession, not {type(model).__name__}")
        try:
            cell = OnnxCell(session, info)
        except ModelFileError as error:
            raise ModelFileError(f"{name}: {error}") from error
        if session is not model:
            cell.check_placement()
            warn_about_conflicting_wheels()
        # Elsewhere than on the CPU, and for a session of which nobody has the file, steps will do.
        if file is not None and cell.device == "cpu" and sequence_possible(info):
            cell.sequences = SequenceGraph(file.data, info, threads)
        self.cell: Cell = cell
        self.info = info
        if info.dtype == "float16" and self.device == "cpu":
            log.warning("%s: float16 weights are for CUDA; a CPU computes them slower than float32 ones", name)

    @classmethod
    def from_cell(cls, cell: Cell, info: ModelInfo) -> Self:
        """A sampler over another implementation of the step (the trainer's, in torch)."""
        sampler = cls.__new__(cls)
        sampler.cell = cell
        sampler.info = info
        return sampler

    @property
    def device(self) -> str:
        """The device that is really used, such as "cpu" or "cuda:0"."""
        return self.cell.device

    @property
    def providers(self) -> tuple[str, ...]:
        """ONNX Runtime's names of what computes the operators, the busiest first.

        Empty for a cell that is not ONNX Runtime's. For a session of your own,
        the providers it was made with: what they take of the graph it does not say.
        """
        return self.cell.providers if isinstance(self.cell, OnnxCell) else ()

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's tokens."""
        return self.info.vocabulary

    def sample(
        self,
        prompt: str | Sequence[int] = "",
        *,
        length: int,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        index: int = 0,
        unknown: Unknown = "error",
        **options: Unpack[SamplingKwargs],
    ) -> str:
        """Continues a prompt.

        Args:
            prompt: text to continue, or the ids of its tokens; empty to begin a text.
            length: how many tokens to generate at most, at least 1.
            stop: strings at which the text ends; they are not part of it.
            seed: 0 to 2**64 - 1; the same seed gives the same text. None chooses a new one
                (``generate`` reports it).
            index: which of the texts of this seed (item i of a batch is index i).
            unknown: "error", or "skip" to leave out prompt characters the model does not know.
            options: temperature, top_k, top_p and more: see ``SamplingOptions``.

        Returns:
            The continuation, without the prompt.

        Raises:
            UnknownCharacterError: the prompt has a character the model has never seen.
            UsageError: an argument has a wrong type or is out of range.
            ModelOutputError: the model computes NaN.
        """
        return "".join(
            self.stream(prompt, length=length, stop=stop, seed=seed, index=index, unknown=unknown, **options)
        )

    def stream(
        self,
        prompt: str | Sequence[int] = "",
        *,
        length: int,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        index: int = 0,
        unknown: Unknown = "error",
        **options: Unpack[SamplingKwargs],
    ) -> Iterator[str]:
        """Like ``sample``, but yields the text in pieces as they are generated.

        Arguments are checked at the call, before the first piece is asked for.
        """
        request = Request(
            prompt=prompt, length=length, stop=stop, seed=seed, index=index, unknown=unknown, options=options
        )
        return generate_one(self.cell, self._start_sequence(request))

    def generate(
        self,
        prompt: str | Sequence[int] = "",
        *,
        length: int,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        index: int = 0,
        unknown: Unknown = "error",
        log_probs: bool = False,
        **options: Unpack[SamplingKwargs],
    ) -> Generation:
        """Like ``sample``, and tells how the text came about: its seed, why it ended, its tokens.

        Args:
            log_probs: whether the result holds the log-probability of every token.
        """
        request = Request(
            prompt=prompt,
            length=length,
            stop=stop,
            seed=seed,
            index=index,
            unknown=unknown,
            log_probs=log_probs,
            options=options,
        )
        sequence = self._start_sequence(request)
        sequence.keeps_tokens = True
        return sequence.result(list(generate_one(self.cell, sequence)))

    def sample_batch(
        self,
        prompts: Sequence[str],
        *,
        length: int,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        unknown: Unknown = "error",
        batch: int = 64,
        **options: Unpack[SamplingKwargs],
    ) -> list[str]:
        """Continues several prompts at once, which is faster than one after the other.

        Item i is the text that ``sample(prompts[i], seed=seed, index=i)`` gives.
        At most ``batch`` of them are generated at a time. Arguments and errors are
        those of ``sample``.
        """
        if isinstance(prompts, str):
            raise UsageError("prompts is a list of texts; for one text use sample()")
        check_count("length", length, least=1)
        seed = new_seed() if seed is None else seed
        requests = [
            Request(prompt=prompt, length=length, stop=stop, seed=seed, index=i, unknown=unknown, options=options)
            for i, prompt in enumerate(prompts)
        ]
        # Every prompt is checked before anything is generated.
        SamplingOptions(**options)
        for prompt in prompts:
            self.vocabulary.encode(prompt, unknown=unknown)
        texts = [""] * len(prompts)
        for i, done in self.generate_many(requests, batch=batch):
            texts[i] = done.text
        return texts

    def generate_many(self, requests: Iterable[Request], *, batch: int = 64) -> Iterator[tuple[int, Generation]]:
        """Generates ``batch`` texts side by side, and takes a new request as soon as a text is finished.

        Requests are taken from the iterable only when there is room for them, so
        it may be endless, and may block. Each text is the one that ``generate``
        gives for its request alone.

        Yields:
            (number of the request, its text), in the order in which they finish.

        Raises:
            UsageError: a request cannot be served; the unfinished texts are lost.
        """
        check_count("batch", batch, least=1)
        token_samplers: dict[int, tuple[SamplingKwargs, TokenSampler]] = {}

        def sequences() -> Iterator[SequenceState]:
            for request in requests:
                # One sampler for all requests with one options object: its buffers and tables are made once,
                # and their tokens are sampled together. The object is kept, so that its id stays its own.
                key = id(request.options)
                if key not in token_samplers:
                    if len(token_samplers) > _MAX_TOKEN_SAMPLERS:
                        token_samplers.clear()
                    token_samplers[key] = (request.options, self._token_sampler(request.options))
                sequence = start_sequence(request, self.info, token_samplers[key][1])
                sequence.keeps_tokens = True
                yield sequence

        return generate_batch(self.cell, self.info, sequences(), batch)

    def start(
        self,
        prompt: str = "",
        *,
        seed: int | None = None,
        index: int = 0,
        unknown: Unknown = "error",
        **options: Unpack[SamplingKwargs],
    ) -> Conversation:
        """A text that is read and drawn by turns; see ``Conversation``. Arguments are those of ``sample``."""
        token_sampler = self._token_sampler(options)
        uniforms = UniformStream(new_seed() if seed is None else seed, index)
        conversation = Conversation(self.cell, self.info, token_sampler, uniforms)
        conversation.feed(prompt, unknown=unknown)
        return conversation

    def resume(self, data: bytes, **options: Unpack[SamplingKwargs]) -> Conversation:
        """The conversation that ``Conversation.to_bytes`` has saved.

        Options are not saved; give them again. Nothing in the data is executed.

        Raises:
            SnapshotError: the data is none, is damaged, or is of another model.
        """
        token_sampler = self._token_sampler(options)
        snapshot = Snapshot.from_bytes(data, self.info)
        conversation = Conversation(self.cell, self.info, token_sampler, UniformStream(snapshot.seed, snapshot.index))
        conversation.restore(snapshot)
        return conversation

    def score(self, text: str, *, unknown: Unknown = "error") -> Score:
        """How likely the model finds a text, the state carried from its beginning to its end.

        Raises:
            UnknownCharacterError: the text has a character the model has never seen.
        """
        targets = self.vocabulary.encode(text, unknown=unknown)
        return self.score_ids(targets)

    def score_ids(self, targets: Ids) -> Score:
        """``score`` for token ids ``[n]``."""
        return Score(self._score(self._sequence_runner(len(targets)), self.info.start_token, targets))

    def _sequence_runner(self, tokens: int | None) -> SequenceRunner:
        """What reads a text of so many tokens, or of nobody knows how many."""
        return self.cell.sequence_runner(tokens) or StepSequenceRunner(self.cell.runner(1), len(self.vocabulary))

    def _score(self, runner: SequenceRunner, before: int, targets: Ids) -> NDArray[np.float64]:
        """Log-probabilities ``[n]`` of tokens that follow what the runner has read and ``before``, not yet read."""
        inputs = np.concatenate([[before], targets[:-1]])
        log_probs = np.empty(len(targets))
        for begin in range(0, len(targets), _SCORE_BLOCK):
            here = targets[begin : begin + _SCORE_BLOCK]
            logits = runner.forward(inputs[begin : begin + len(here)])
            log_probs[begin : begin + len(here)] = log_softmax(logits)[np.arange(len(here)), here]
        return log_probs

    def score_stream(self, pieces: Iterable[str], *, unknown: Unknown = "error") -> Iterator[NDArray[np.float64]]:
        """``score`` in constant memory, for a text that comes in pieces.

        Yields the log-probabilities of the tokens of each piece, float64 ``[n]``.
        Pieces are encoded one by one: a character that a normal form would join
        must not be cut in two.
        """
        return self.score_blocks(self.vocabulary.encode(piece, unknown=unknown) for piece in pieces)

    def score_blocks(self, blocks: Iterable[Ids]) -> Iterator[NDArray[np.float64]]:
        """``score_stream`` for token ids, ``[n]`` each."""
        runner = self._sequence_runner(None)
        last = self.info.start_token
        for targets in blocks:
            yield self._score(runner, last, targets)
            last = int(targets[-1]) if len(targets) else last

    def score_batch(self, texts: Sequence[str], *, unknown: Unknown = "error", batch: int = 64) -> list[Score]:
        """``score`` for each of several texts, ``batch`` of them side by side."""
        check_count("batch", batch, least=1)
        if isinstance(texts, str):
            raise UsageError("texts is a list of texts; for one text use score()")
        targets = [self.vocabulary.encode(text, unknown=unknown) for text in texts]
        return [Score(log_probs) for log_probs in self.score_many(targets, batch=batch)]

    def score_many(self, targets: Sequence[Ids], *, batch: int = 64) -> list[NDArray[np.float64]]:
        """Log-probabilities of the tokens of each text of ids ``[n]``; an end token may be the last of them."""
        check_count("batch", batch, least=1)
        return score_many(self.cell, self.info.start_token, targets, batch)

    def score_windows(self, windows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Log-probabilities ``[windows, n - 1]`` of all but the first token of each window ``[windows, n]``.

        Every window starts from the zero state: what a model that sees only so far back would score.
        """
        runner = self.cell.runner(len(windows))
        rows = np.arange(len(windows))
        log_probs = np.empty((len(windows), windows.shape[1] - 1))
        for at in range(windows.shape[1] - 1):
            logits = runner.step(windows[:, at])
            log_probs[:, at] = log_softmax(logits)[rows, windows[:, at + 1]]
        return log_probs

    def initial_state(self, batch: int = 1) -> State:
        """The state before any text: zeros, one float32 ``[batch, size]`` for each state of the model."""
        check_count("batch", batch, least=1)
        return tuple(np.zeros((batch, s.size), np.float32) for s in self.info.states)

    def step(self, token_ids: Sequence[int] | Tokens, state: State) -> tuple[Logits, State]:
        """The raw cell: one token to each stream.

        Args:
            token_ids: ``[batch]``.
            state: as ``initial_state`` or an earlier ``step`` gave it; it is not changed.

        Returns:
            Logits float32 ``[batch, vocab]`` and the new state.

        Raises:
            UsageError: an id outside the vocabulary, or shapes that do not fit.
        """
        tokens = np.asarray(token_ids)
        if tokens.ndim != 1 or not len(tokens) or not np.issubdtype(tokens.dtype, np.integer):
            raise UsageError(f"token_ids must be whole numbers [batch], got {tokens.dtype} {list(tokens.shape)}")
        if tokens.min() < 0 or tokens.max() >= len(self.vocabulary):
            raise UsageError(f"token ids must be from 0 to {len(self.vocabulary) - 1}")
        expected = [(len(tokens), s.size) for s in self.info.states]
        if [np.shape(s) for s in state] != expected:
            raise UsageError(f"the state has the shapes {[np.shape(s) for s in state]}, expected {expected}")
        runner = self.cell.runner(len(tokens), state)
        return runner.step(tokens.astype(np.int64)).copy(), runner.state()

    def steps(self, token_ids: Ids) -> Iterator[tuple[Logits, State]]:
        """What the model computes along one text, from the zero state on.

        Args:
            token_ids: ``[n]``; the start token is not added.

        Yields:
            For each token the logits ``[vocab]`` for the one that follows, valid
            until the next step, and a copy of the states, each ``[size]``.

        Raises:
            UsageError: an id outside the vocabulary.
        """
        if len(token_ids) and not 0 <= token_ids.min() <= token_ids.max() < len(self.vocabulary):
            raise UsageError(f"token ids must be from 0 to {len(self.vocabulary) - 1}")
        runner = self.cell.runner(1)
        for token in token_ids:
            yield runner.step(token)[0], tuple(s[0] for s in runner.state())

    def _token_sampler(self, options: SamplingKwargs) -> TokenSampler:
        return TokenSampler(SamplingOptions(**options), self.vocabulary)

    def _start_sequence(self, request: Request) -> SequenceState:
        return start_sequence(request, self.info, self._token_sampler(request.options))
