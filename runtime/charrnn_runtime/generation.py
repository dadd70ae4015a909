"""The state of one text while it is generated: its prompt, options, random numbers, and the text so far."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.blocks import (
    MAX_STEPS,
    MIN_STEPS,
    BlockSteps,
    Row,
    draw_block,
    matching_steps,
    note_length,
)
from charrnn_runtime.errors import UsageError
from charrnn_runtime.model_file import ModelInfo
from charrnn_runtime.options import SamplingKwargs, check_choice, check_count, new_seed
from charrnn_runtime.pattern import PatternState
from charrnn_runtime.sampling import DrawOptions, StopStrings, TokenSampler, UniformStream, log_softmax, unusable
from charrnn_runtime.session import BlockDrawer, Cell, Runner
from charrnn_runtime.vocab import DecodeErrors, Ids, Unknown, Vocabulary

_PREFILL_BLOCK = 256  # tokens of a long prompt that one call of a sequence runner reads

FinishReason = Literal["length", "stop", "end", "pattern"]
Prompt = str | bytes | Sequence[int]  # a text, bytes for a model of bytes, or token ids


@dataclass(frozen=True, kw_only=True)
class Request:
    """A text to generate: the arguments of ``Sampler.generate``. Share one ``options`` object between like requests.

    The prompt is a text (or bytes, for a model of bytes), or the ids of its tokens; ``unknown`` has no effect on ids.
    """

    prompt: Prompt = ""
    length: int
    stop: str | Sequence[str] = ()
    seed: int | None = None
    index: int = 0
    unknown: Unknown = "error"
    errors: DecodeErrors = "replace"
    log_probs: bool = False
    label: str | None = None
    options: SamplingKwargs = field(default_factory=SamplingKwargs)


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A generated text and how it came about.

    Attributes:
        text: the continuation, without the prompt and the stop string.
        finish_reason: "length", "stop" (a stop string), "end" (the model's end token) or "pattern" (the text
            matches, and the next character would not be part of the match).
        seed, index: with these the same text is generated again.
        tokens: ids of all sampled tokens, including those of a stop string, the end token and
            the one that ended a match.
        log_probs: the model's own log-probability of each of them, before penalties,
            temperature and filters; float64 ``[n]``. None unless asked for.
    """

    text: str
    finish_reason: FinishReason
    seed: int
    index: int
    tokens: tuple[int, ...] = field(repr=False)
    log_probs: NDArray[np.float64] | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON: text, finish_reason, seed, index and, if they were asked for, log_probs."""
        values = {"text": self.text, "finish_reason": self.finish_reason, "seed": self.seed, "index": self.index}
        return values if self.log_probs is None else {**values, "log_probs": self.log_probs.tolist()}


@dataclass(kw_only=True)
class SequenceState:
    """The state of one text while it is generated, apart from the states of the model.

    Attributes:
        prompt: token ids to feed before the first token is sampled ``[n]``, at least one.
        prompt_tokens: how many of them are the prompt's own; one less if the start token comes first.
        history: prompt (without a start token) and sampled tokens, if the options look at them; else empty.
        keeps_tokens: whether the result needs the sampled tokens. Without it a text of any length takes
            constant memory.
        num_generated: how many tokens have been sampled.
        finish_reason: set by the token that ends the text; None before.
    """

    prompt: Ids
    prompt_tokens: int
    history: list[int]
    vocabulary: Vocabulary
    token_sampler: TokenSampler
    uniforms: UniformStream
    stop: StopStrings
    length: int
    pattern: PatternState | None = None
    errors: DecodeErrors = "replace"
    keeps_tokens: bool = False
    wants_log_probs: bool = False

    def __post_init__(self) -> None:
        self._decoder = self.vocabulary.decoder(self.errors)
        self.end = self.vocabulary.special.get("end")
        self.num_generated = 0
        self.tokens: list[int] = []
        self.log_probs: list[float] = []
        self.finish_reason: FinishReason | None = None

    @property
    def particles(self) -> int:
        """How many copies of the text are sampled."""
        return self.token_sampler.options.particles

    def copy(self) -> SequenceState:
        """A copy that goes on by itself; uniform numbers and the token sampler are shared."""
        copied = copy.copy(self)
        copied.stop = copy.copy(self.stop)
        copied.pattern = None if self.pattern is None else self.pattern.copy()
        copied.history, copied.tokens, copied.log_probs = self.history[:], self.tokens[:], self.log_probs[:]
        copied._decoder = self.vocabulary.decoder(self.errors)
        copied._decoder.partial = self._decoder.partial
        return copied

    def sample(self, logits: NDArray[np.float32]) -> int:
        """Samples the next token from the logits ``[vocab]``."""
        token = self.token_sampler.sample(logits, self.uniforms.next(), self.history, self.num_generated, self.pattern)
        if self.wants_log_probs:
            self.log_probs.append(float(log_softmax(logits)[token]))
        return token

    def append(self, token: int) -> str:
        """Adds a sampled token.

        Returns:
            The text that is now certain, which may be empty: a part of a character and the beginning of a
            stop string are held back. The last call, which sets ``finish_reason``, returns all that is left.
        """
        self.num_generated += 1
        if self.keeps_tokens:
            self.tokens.append(token)
        options = self.token_sampler.options
        if self.token_sampler.needs_history:
            self.history.append(token)
            if options.logits_processor is None and len(self.history) > 2 * options.penalty_window:
                del self.history[: -options.penalty_window]
        if token == self.end:
            self.finish_reason = "end"
            return self._rest()
        if self.pattern is not None and not self.pattern.advance(token):
            self.finish_reason = "pattern"
            return self._rest()
        piece = self._decoder.decode(token)
        if self.num_generated > options.min_length:
            piece = self.stop.feed(piece)
            if self.stop.stopped:
                self.finish_reason = "stop"
                return piece
        if self.num_generated == self.length:
            self.finish_reason = "length"
            return piece + self._rest()
        if self.pattern is not None and self.pattern.complete:
            self.finish_reason = "pattern"
            return piece + self._rest()
        return piece

    def most_steps(self, drawer: BlockDrawer, rows: int) -> int:
        """The largest number of steps that a block of so many texts should have; below ``MIN_STEPS`` none pays."""
        if self.pattern is not None:
            return matching_steps(self.pattern, self.num_generated, rows)
        return BlockSteps(drawer, self.can_end).most

    @property
    def can_end(self) -> bool:
        """Whether the text may end before its greatest length, a pattern aside."""
        return self.end is not None or bool(self.stop.strings)

    @property
    def draw_options(self) -> DrawOptions | None:
        """What a graph needs to draw this text, or None if it cannot."""
        return None if self.wants_log_probs else self.token_sampler.draw_options

    def extend(self, tokens: list[int]) -> str:
        """``append`` for tokens that were drawn in a block, up to the one that ends the text.

        The random numbers of these are taken here.

        Raises:
            ModelOutputError: a token could not be drawn: it is -1.
        """
        del tokens[self.length - self.num_generated :]
        if self.end is not None and self.end in tokens:
            del tokens[tokens.index(self.end) + 1 :]
        if self.pattern is not None:
            # Stop strings make ``append`` advance the pattern, token by token.
            pattern = self.pattern.copy() if self.stop.strings else self.pattern
            del tokens[pattern.follow(tokens) :]
        if -1 in tokens:
            raise unusable("NaN or infinite values")
        before = self.num_generated
        if self.stop.strings:
            pieces = []
            for token in tokens:
                pieces.append(self.append(token))
                if self.finish_reason:
                    break
        else:
            if self.keeps_tokens:
                self.tokens += tokens[:-1]
            self.num_generated += len(tokens) - 1
            pieces = [*map(self._decoder.decode, tokens[:-1]), self.append(tokens[-1])]
        self.uniforms.skip(self.num_generated - before)
        return "".join(pieces)

    def _rest(self) -> str:
        last = self.stop.feed(self._decoder.flush())
        if self.stop.stopped:
            self.finish_reason = "stop"
            return last
        return last + self.stop.flush()

    def result(self, pieces: Iterable[str]) -> Generation:
        """The finished text."""
        assert self.finish_reason is not None
        return Generation(
            text="".join(pieces),
            finish_reason=self.finish_reason,
            seed=self.uniforms.seed,
            index=self.uniforms.index,
            tokens=tuple(self.tokens),
            log_probs=np.array(self.log_probs) if self.wants_log_probs else None,
        )


def check_request(request: Request) -> None:
    """Does nothing for a ``Request``.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(request, Request):
        raise UsageError(f"expected a Request, got {type(request).__name__}")


def start_sequence(
    request: Request, info: ModelInfo, token_sampler: TokenSampler, *, min_length: int = 1
) -> SequenceState:
    """The state of a request's text before its first token.

    Args:
        request: its ``options`` are those that ``token_sampler`` was made from.
        info: the model.
        token_sampler: may be shared by many sequences that advance on one thread.
        min_length: the smallest ``request.length`` that makes sense to the caller.

    Raises:
        UsageError: an argument of the request has a wrong type or is out of range.
        UnknownCharacterError: the prompt has a character the model has never seen.
    """
    ids = encode_prompt(request.prompt, info, request.unknown)
    length = check_count("length", request.length, least=min_length)
    return SequenceState(
        prompt=with_start_token(ids, info, request.label),
        prompt_tokens=len(ids),
        history=ids.tolist() if token_sampler.needs_history else [],
        vocabulary=info.vocabulary,
        token_sampler=token_sampler,
        uniforms=UniformStream(new_seed() if request.seed is None else request.seed, request.index),
        stop=StopStrings(request.stop),
        length=length,
        pattern=token_sampler.start_pattern(length) if length else None,
        errors=request.errors,
        wants_log_probs=request.log_probs,
    )


def encode_prompt(prompt: Prompt, info: ModelInfo, unknown: Unknown) -> Ids:
    """Token ids of a prompt ``[n]``.

    Raises:
        UsageError: an argument has a wrong type or value.
        UnknownCharacterError: ``unknown`` is "error", and the prompt has a character the model has never seen.
    """
    check_choice("unknown", unknown, "error", "skip")
    if isinstance(prompt, (str, bytes)):
        return info.encode(prompt, unknown=unknown)
    return info.vocabulary.check_ids(prompt)


def with_start_token(prompt: Ids, info: ModelInfo, label: str | None = None) -> Ids:
    """The tokens to feed for a prompt ``[n]``: with the start token first if the model or an empty prompt needs it.

    Args:
        prompt: its own tokens.
        info: the model.
        label: its token takes the place of the start token.

    Raises:
        UsageError: the model has no such label.
    """
    vocabulary = info.vocabulary
    begin = vocabulary.special.get("begin")
    begins = len(prompt) > 0 and prompt[0] in {begin, *vocabulary.labels.values()}
    if label is not None:
        return np.concatenate([[vocabulary.label_token(label)], prompt[1:] if begins else prompt])
    complete = begins or (begin is None and len(prompt) > 0)
    return prompt if complete else np.concatenate([[info.start_token], prompt])


def generate_alone(cell: Cell, sequence: SequenceState) -> Iterator[str]:
    """Generates one text, without particles; yields its pieces."""
    if cell.blocks is None or sequence.draw_options is None:
        yield from _by_steps(cell, sequence)
        return
    if sequence.pattern is not None:
        yield from _matching(cell, sequence)
    else:
        blocks = BlockSteps(cell.blocks, sequence.can_end)
        yield from _by_blocks(cell, sequence, blocks) if blocks.pay else _by_steps(cell, sequence)
    note_end(cell, sequence)


def note_end(cell: Cell, sequence: SequenceState) -> None:
    """Tells the cell, or the pattern, how long a finished text was."""
    if sequence.pattern is not None:
        sequence.pattern.automaton.note_text(sequence.num_generated, sequence.length)
    elif cell.blocks and sequence.finish_reason != "length":
        note_length(cell.blocks, sequence.num_generated)


def _by_steps(cell: Cell, sequence: SequenceState) -> Iterator[str]:
    runner = prefill(cell, cell.runner(1), sequence.prompt[:-1])
    step, sample, append = runner.step, sequence.sample, sequence.append
    logits = step(int(sequence.prompt[-1]))[0]
    while True:
        token = sample(logits)
        if piece := append(token):
            yield piece
        if sequence.finish_reason:
            return
        logits = step(token)[0]


def _by_blocks(cell: Cell, sequence: SequenceState, blocks: BlockSteps) -> Iterator[str]:
    drawer, options = cell.blocks, sequence.draw_options
    assert drawer
    assert options
    feed = sequence.prompt.tolist()
    runner = _read(cell, cell.runner(1), sequence.prompt[:-1])
    if runner:
        del feed[:-1]
    state = (runner or cell.runner(1)).state()
    while not sequence.finish_reason:
        left = sequence.length - sequence.num_generated
        steps = min(len(feed) - 1 + min(blocks.begin(), left), MAX_STEPS)
        block = draw_block(drawer, [Row(feed, sequence.uniforms, options)], steps, state)
        blocks.end(steps)
        assert block
        (tokens,), state = block
        feed = tokens[-1:] or feed[steps:]
        if tokens and (piece := sequence.extend(tokens)):
            yield piece


def _matching(cell: Cell, sequence: SequenceState) -> Iterator[str]:
    """Generates a text with a pattern: in blocks, and in single steps where these do not pay."""
    drawer, options, pattern = cell.blocks, sequence.draw_options, sequence.pattern
    assert drawer
    assert options
    blocks = BlockSteps(drawer, can_end=False)
    runner = prefill(cell, cell.runner(1), sequence.prompt[:-1])
    token = int(sequence.prompt[-1])
    while not sequence.finish_reason:
        block, most = None, sequence.most_steps(drawer, 1)
        if most >= MIN_STEPS:
            steps = min(blocks.begin(), most, sequence.length - sequence.num_generated)
            block = draw_block(drawer, [Row([token], sequence.uniforms, options, pattern)], steps, runner.state())
            blocks.end(steps)
        if block:
            (tokens,), state = block
            runner = cell.runner(1, state)
            piece = sequence.extend(tokens)
            token = tokens[-1]
        else:
            token = sequence.sample(runner.step(token)[0])
            piece = sequence.append(token)
        if piece:
            yield piece


def prefill(cell: Cell, runner: Runner, tokens: Ids) -> Runner:
    """Feeds tokens ``[n]`` to a single stream, for its state alone; returns the runner that holds the new state."""
    if ahead := _read(cell, runner, tokens):
        return ahead
    for token in tokens.tolist():
        runner.step(token)
    return runner


def _read(cell: Cell, runner: Runner, tokens: Ids) -> Runner | None:
    """Feeds tokens ``[n]`` with a sequence runner; None if there are too few of them for one."""
    sequence_runner = cell.sequence_runner(len(tokens), runner.state()) if len(tokens) else None
    if sequence_runner is None:
        return None
    for begin in range(0, len(tokens), _PREFILL_BLOCK):
        sequence_runner.forward(tokens[begin : begin + _PREFILL_BLOCK])
    return cell.runner(1, sequence_runner.state())
