"""``Sampler``: text from a model, and how likely a model finds a text."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import ModelFileError, UsageError
from charrnn_runtime.model_file import ModelInfo, read_model_file
from charrnn_runtime.sampling import (
    SamplingOptions,
    StopStrings,
    UniformStream,
    check_count,
    draw,
    log_softmax,
    new_seed,
)
from charrnn_runtime.session import Cell, Logits, OnnxCell, Runner, State, Tokens, open_session
from charrnn_runtime.vocab import Decoder, Ids, Unknown, Vocabulary

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_SCORE_BLOCK = 256  # steps whose logits are turned into log-probabilities at once


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
        device: "cpu", "cuda", "cuda:N", or "auto".
        threads: threads inside an operator; more than one pays only for large batches.

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
    ) -> None:
        if isinstance(model, (str, os.PathLike, bytes)):
            file = read_model_file(model)
            session = open_session(file.data, device=device, threads=threads)
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
        self._cell: Cell = cell
        self.info = info

    @classmethod
    def from_cell(cls, cell: Cell, info: ModelInfo) -> Self:
        """A sampler over another implementation of the step (the trainer's, in torch)."""
        sampler = cls.__new__(cls)
        sampler._cell = cell
        sampler.info = info
        return sampler

    @property
    def device(self) -> str:
        """The device that is really used, such as "cpu" or "cuda:0"."""
        return self._cell.device

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's tokens."""
        return self.info.vocabulary

    def sample(
        self,
        prompt: str = "",
        *,
        length: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        index: int = 0,
        unknown: Unknown = "error",
    ) -> str:
        """Continues a prompt.

        Args:
            prompt: text to continue; empty to begin a text.
            length: how many tokens to draw at most, at least 1.
            temperature, top_k, top_p, min_p: see ``SamplingOptions``.
            stop: strings at which the text ends; they are not part of it.
            seed: 0 to 2**64 - 1; the same seed gives the same text. None draws one.
            index: which of the texts of this seed (item i of a batch is index i).
            unknown: "error", or "skip" to leave out prompt characters the model does not know.

        Returns:
            The continuation, without the prompt.

        Raises:
            UnknownCharacterError: the prompt has a character the model has never seen.
            UsageError: an argument is out of range.
            ModelOutputError: the model computes NaN.
        """
        return "".join(
            self.stream(
                prompt,
                length=length,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                stop=stop,
                seed=seed,
                index=index,
                unknown=unknown,
            )
        )

    def stream(
        self,
        prompt: str = "",
        *,
        length: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        index: int = 0,
        unknown: Unknown = "error",
    ) -> Iterator[str]:
        """Like ``sample``, but yields the text in pieces as they are drawn.

        Arguments are checked at the call, before the first piece is asked for.
        """
        options = SamplingOptions(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        check_count("length", length, least=1)
        tokens = self._prompt_tokens(prompt, unknown)
        text = _Text(self.vocabulary, StopStrings(stop), new_seed() if seed is None else seed, index)
        return self._stream(tokens, length, options, text)

    def _stream(self, tokens: Ids, length: int, options: SamplingOptions, text: _Text) -> Iterator[str]:
        runner = self._cell.runner(1)
        logits = _feed(runner, tokens)[0]
        fed = np.zeros(1, np.int64)
        for remaining in range(length - 1, -1, -1):
            token = draw(logits, options, text.uniforms.next())
            if piece := text.add(token):
                yield piece
            if text.ended:
                break
            if remaining:
                fed[0] = token
                logits = runner.step(fed)[0]
        if rest := text.finish():
            yield rest

    def sample_batch(
        self,
        prompts: Sequence[str],
        *,
        length: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        unknown: Unknown = "error",
    ) -> list[str]:
        """Continues several prompts at once, which is faster than one after the other.

        Item i is the text that ``sample(prompts[i], seed=seed, index=i)`` gives.
        Arguments and errors are those of ``sample``.
        """
        options = SamplingOptions(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        check_count("length", length, least=1)
        if isinstance(prompts, str):
            raise UsageError("prompts is a list of texts; for one text use sample()")
        if not prompts:
            return []
        seed = new_seed() if seed is None else seed
        fed = [self._prompt_tokens(prompt, unknown) for prompt in prompts]
        texts = [_Text(self.vocabulary, StopStrings(stop), seed, i) for i in range(len(prompts))]
        drawn = [0] * len(prompts)
        pieces: list[list[str]] = [[] for _ in prompts]
        runner = self._cell.runner(len(prompts))
        tokens = np.zeros(len(prompts), np.int64)
        active = list(range(len(prompts)))
        at = 0
        while active:
            # A stream still in its prompt is fed from it; the others are fed what they drew.
            for i in active:
                if at < len(fed[i]):
                    tokens[i] = fed[i][at]
            logits = runner.step(tokens)
            at += 1
            for i in tuple(active):
                if at < len(fed[i]):
                    continue
                token = draw(logits[i], options, texts[i].uniforms.next())
                tokens[i] = token
                pieces[i].append(texts[i].add(token))
                drawn[i] += 1
                if texts[i].ended or drawn[i] == length:
                    pieces[i].append(texts[i].finish())
                    active.remove(i)
        return ["".join(p) for p in pieces]

    def score(self, text: str, *, unknown: Unknown = "error") -> Score:
        """How likely the model finds a text, the state carried from its beginning to its end.

        Raises:
            UnknownCharacterError: the text has a character the model has never seen.
        """
        targets = self.vocabulary.encode(text, unknown=unknown)
        return self.score_ids(targets)

    def score_ids(self, targets: Ids) -> Score:
        """``score`` for token ids ``[n]``."""
        inputs = np.concatenate([[self.info.start_token], targets[:-1]])
        log_probs = np.empty(len(targets))
        if not len(targets):
            return Score(log_probs)
        runner = self._cell.runner(1)
        block = np.empty((_SCORE_BLOCK, len(self.vocabulary)), np.float32)
        for begin in range(0, len(targets), _SCORE_BLOCK):
            here = targets[begin : begin + _SCORE_BLOCK]
            for row, token in enumerate(inputs[begin : begin + len(here)]):
                block[row] = runner.step(token)[0]
            rows = np.arange(len(here))
            log_probs[begin : begin + len(here)] = log_softmax(block[: len(here)])[rows, here]
        return Score(log_probs)

    def score_windows(self, windows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Log-probabilities ``[windows, n - 1]`` of all but the first token of each window ``[windows, n]``.

        Every window starts from the zero state: what a model that sees only so far back would score.
        """
        runner = self._cell.runner(len(windows))
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
        runner = self._cell.runner(len(tokens), state)
        return runner.step(tokens.astype(np.int64)).copy(), runner.state()

    def _prompt_tokens(self, prompt: str, unknown: Unknown) -> Ids:
        tokens = self.vocabulary.encode(prompt, unknown=unknown)
        begins = "begin" in self.vocabulary.special
        return tokens if len(tokens) and not begins else np.concatenate([[self.info.start_token], tokens])


class _Text:
    """One text being drawn: its random numbers, its decoder and its stop strings."""

    def __init__(self, vocabulary: Vocabulary, stop: StopStrings, seed: int, index: int) -> None:
        self.uniforms = UniformStream(seed, index)
        self._decoder: Decoder = vocabulary.decoder()
        self._stop = stop
        self._end = vocabulary.special.get("end")
        self.ended = False

    def add(self, token: int) -> str:
        """The text that is now ready to be given out; sets ``ended`` at an end token or a stop string."""
        if token == self._end:
            self.ended = True
            return ""
        piece = self._stop.feed(self._decoder.piece(token))
        self.ended = self._stop.stopped
        return piece

    def finish(self) -> str:
        """What was held back, once no more tokens come."""
        if self._stop.stopped:
            return ""
        last = self._stop.feed(self._decoder.flush())
        return last if self._stop.stopped else last + self._stop.flush()


def _feed(runner: Runner, tokens: Ids) -> Logits:
    """Feeds a prompt ``[n]``, n at least 1; the logits ``[1, vocab]`` after its last token."""
    for token in tokens[:-1]:
        runner.step(token)
    return runner.step(tokens[-1])
