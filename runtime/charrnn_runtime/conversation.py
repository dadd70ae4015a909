"""Conversations: a text to which the caller and the model add in turn, and which can be saved in between."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from charrnn_runtime.blocks import MIN_STEPS, BlockSteps, Row, draw_block, feed_block, matching_steps
from charrnn_runtime.errors import SnapshotError, UsageError
from charrnn_runtime.generation import Prompt, encode_prompt, prefill, with_start_token
from charrnn_runtime.model_file import ModelInfo
from charrnn_runtime.options import check_count
from charrnn_runtime.pattern import PatternState
from charrnn_runtime.sampling import StopStrings, TokenSampler, UniformStream, unusable
from charrnn_runtime.session import Cell, Logits, State
from charrnn_runtime.vocab import Unknown

_MAGIC = b"charrnn-conversation 1\n"
_SHA_BYTES = 32
_HISTORY = 4096  # tokens that a conversation keeps for penalties and logits processors


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A conversation at one moment. It holds copies, so it does not change when the conversation goes on."""

    model: str  # ModelInfo.fingerprint
    state: State  # [1, size] each
    pending: int | None  # the last token, which has not been fed yet; None before the first one
    history: tuple[int, ...]
    num_generated: int
    seed: int
    index: int
    position: int  # of the uniform numbers
    partial: bytes  # bytes of an unfinished character

    def to_bytes(self) -> bytes:
        """Magic line, length of the JSON header, header, states as little-endian float32, SHA-256 of all these."""
        header = {
            "model": self.model,
            "pending": self.pending,
            "history": list(self.history),
            "num_generated": self.num_generated,
            "seed": self.seed,
            "index": self.index,
            "position": self.position,
            "partial": self.partial.hex(),
        }
        text = json.dumps(header).encode()
        body = _MAGIC + len(text).to_bytes(4, "little") + text
        body += b"".join(s.astype("<f4").tobytes() for s in self.state)
        return body + hashlib.sha256(body).digest()

    @classmethod
    def from_bytes(cls, data: bytes, info: ModelInfo) -> Snapshot:
        """Inverse of ``to_bytes``, for the same model.

        Raises:
            SnapshotError: the data is not a saved conversation, is damaged, or is of another model.
        """
        if not isinstance(data, (bytes, bytearray)) or not data.startswith(_MAGIC):
            raise SnapshotError("not a saved conversation (or one of a newer version)")
        body, sha = data[:-_SHA_BYTES], data[-_SHA_BYTES:]
        if hashlib.sha256(body).digest() != sha:
            raise SnapshotError("the saved conversation is cut short or damaged (its SHA-256 does not match)")
        at = len(_MAGIC) + 4
        end = at + int.from_bytes(body[at - 4 : at], "little")
        try:
            header: dict[str, Any] = json.loads(body[at:end])
            if header["model"] != info.fingerprint:
                raise SnapshotError("the conversation was saved with another model")
            values = np.frombuffer(body[end:], "<f4").astype(np.float32)
            sizes = [s.size for s in info.states]
            if len(values) != sum(sizes):
                raise SnapshotError("the saved conversation does not hold the model's states")
            tokens = [*header["history"], *([] if header["pending"] is None else [header["pending"]])]
            if not all(type(t) is int and 0 <= t < len(info.vocabulary) for t in tokens):
                raise SnapshotError("the saved conversation holds tokens outside the vocabulary")
            return cls(
                model=header["model"],
                state=tuple(part[None].copy() for part in np.split(values, np.cumsum(sizes)[:-1])),
                pending=header["pending"],
                history=tuple(header["history"]),
                num_generated=check_count("num_generated", header["num_generated"], least=0),
                seed=header["seed"],
                index=header["index"],
                position=check_count("position", header["position"], least=0),
                partial=bytes.fromhex(header["partial"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SnapshotError(f"not a saved conversation: {error}") from error


class Conversation:
    """One text that grows by ``feed`` (the caller's part) and ``sample`` (the model's part). For one thread at a time.

    ``start(prompt, seed=s).sample(n)`` is ``Sampler.sample(prompt, length=n, seed=s)``, and
    sampling 100 tokens twice is sampling 200. With a pattern, what each ``sample`` returns matches it.
    Made by ``Sampler.start`` and ``Sampler.resume``.

    Attributes:
        finish_reason: why the last ``sample`` ended: "length", "stop", "end" or "pattern"; None before the first.
    """

    def __init__(
        self,
        cell: Cell,
        info: ModelInfo,
        token_sampler: TokenSampler,
        uniforms: UniformStream,
        *,
        label: str | None = None,
    ) -> None:
        if token_sampler.options.particles > 1:
            raise UsageError(
                "particles are for sample() and generate(), which know how long the text is; leave them out"
            )
        self._cell = cell
        self._info = info
        self._token_sampler = token_sampler
        self._uniforms = uniforms
        self._runner = cell.runner(1)
        self._pending: int | None = None if label is None else info.vocabulary.label_token(label)
        self._logits: Logits | None = None  # those after the pending token, if sampling from them has failed
        self._before: tuple[int, State] | None = None  # the pending token and the states before a block
        self._history: list[int] = []
        self._num_generated = 0  # since text was last fed
        self._decoder = info.vocabulary.decoder()
        self.finish_reason: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Refuses to be pickled or copied.

        Raises:
            UsageError: always; it names ``to_bytes`` and ``snapshot``.
        """
        raise UsageError(
            "a Conversation cannot be pickled or copied; save it with to_bytes() and continue with Sampler.resume(), "
            "or go back to a snapshot()"
        )

    @property
    def seed(self) -> int:
        """The seed that was given or chosen."""
        return self._uniforms.seed

    def feed(self, text: Prompt, *, unknown: Unknown = "error") -> None:
        """Adds text, as if the model had sampled it.

        Raises:
            UnknownCharacterError: it has a character the model has never seen; nothing was added.
            UsageError: an argument has a wrong type or value.
        """
        ids = encode_prompt(text, self._info, unknown)
        self._history += ids.tolist()
        del self._history[:-_HISTORY]
        if len(ids):
            self._num_generated = 0
            self._decoder = self._info.vocabulary.decoder()  # an unfinished character stays unfinished
            if self._pending is not None and self._logits is None:
                self._runner.step(self._pending)
            self._logits = None
            tokens = ids if self._pending is not None else with_start_token(ids, self._info)
            self._runner = prefill(self._cell, self._runner, tokens[:-1])
            self._pending = int(tokens[-1])

    def sample(self, length: int, *, stop: str | Sequence[str] = ()) -> str:
        """Samples up to ``length`` tokens. A stop string ends the turn: it is part of the text, but not returned."""
        return "".join(self.stream(length, stop=stop))

    def stream(self, length: int, *, stop: str | Sequence[str] = ()) -> Iterator[str]:
        """``sample``, in pieces. If the iterator is given up, the text ends with the last sampled token."""
        check_count("length", length, least=1)
        return self._stream(length, StopStrings(stop), self._token_sampler.start_pattern(length))

    def _stream(self, length: int, stop: StopStrings, pattern: PatternState | None) -> Iterator[str]:
        end = self._info.vocabulary.special.get("end")
        self.finish_reason = "length"
        left = length
        blocks = None
        if self._cell.blocks and self._token_sampler.draw_options:
            blocks = BlockSteps(self._cell.blocks, pattern is None and (end is not None or bool(stop.strings)))
        while left and self.finish_reason == "length":
            if self._pending is None:
                self._pending = self._info.start_token
            tokens = self._draw(blocks, length, left, pattern) if blocks and self._logits is None else []
            if not tokens:
                sampled = self._sample(pattern)
                tokens = [] if sampled is None else [sampled]
            pieces, used = [], 0
            for token in tokens:
                if pattern is not None and self._before and token != end and not pattern.advance(token):
                    self.finish_reason = "pattern"
                    self._uniforms.skip(1)
                    break
                used += 1
                self._append(token)
                if token == end:
                    self.finish_reason = "end"
                    break
                piece = self._decoder.decode(token)
                if self._num_generated > self._token_sampler.options.min_length:
                    piece = stop.feed(piece)
                pieces.append(piece)
                if stop.stopped:
                    self.finish_reason = "stop"
                    break
                if pattern is not None and pattern.complete and used < left:
                    self.finish_reason = "pattern"
                    break
            left -= used
            self._cut(tokens, used)
            if pattern is not None and (not left or self.finish_reason != "length"):
                pattern.automaton.note_text(length - left, length)
            if text := "".join(pieces):
                yield text
            if self.finish_reason == "stop":
                return
        if rest := stop.flush():
            yield rest

    def _sample(self, pattern: PatternState | None) -> int | None:
        """Feeds the pending token and samples the next one; None if the pattern ends the text here."""
        assert self._pending is not None
        # The next token may end the text without being part of it; the pending one is then fed again.
        before = self._runner.state() if pattern is not None and pattern.open and self._logits is None else None
        logits = self._runner.step(self._pending) if self._logits is None else self._logits
        position = self._uniforms.position
        try:
            token = self._token_sampler.sample(
                logits[0], self._uniforms.next(), self._history, self._num_generated, pattern
            )
        except BaseException:
            # A logits processor raised. The pending token has been fed: the next call starts from its logits.
            self._logits = logits.copy()
            self._uniforms = UniformStream(self._uniforms.seed, self._uniforms.index, position)
            raise
        self._logits = None
        if pattern is not None and token != self._info.vocabulary.special.get("end") and not pattern.advance(token):
            self.finish_reason = "pattern"
            if before is None:
                self._logits = logits.copy()
            else:
                self._runner = self._cell.runner(1, before)
            return None
        return token

    def _draw(self, blocks: BlockSteps, length: int, left: int, pattern: PatternState | None) -> list[int]:
        """Feeds the pending token and draws some of the tokens that are left, in one call; see ``_cut``.

        None of them where blocks do not pay. A pattern is not advanced.
        """
        drawer, options = self._cell.blocks, self._token_sampler.draw_options
        assert drawer
        assert options
        assert self._pending is not None
        most = blocks.most if pattern is None else matching_steps(pattern, length - left, 1)
        if most < MIN_STEPS:
            return []
        before = self._pending, self._runner.state()
        steps = min(blocks.begin(), most, left)
        block = draw_block(drawer, [Row([self._pending], self._uniforms, options, pattern)], steps, before[1])
        blocks.end(steps)
        if block is None:
            return []
        (tokens,), state = block
        if pattern is None and -1 in tokens:
            raise unusable("NaN or infinite values")
        self._before = before
        self._runner = self._cell.runner(1, state)
        return tokens

    def _cut(self, tokens: list[int], number: int) -> None:
        """Goes back to the first ``number`` tokens of a block, and takes their random numbers."""
        if self._before is None:
            return
        (pending, state), self._before = self._before, None
        self._uniforms.skip(number)
        if number < len(tokens):
            assert self._cell.blocks
            if number:
                state = feed_block(self._cell.blocks, [pending, *tokens[: number - 1]], state)
            self._runner = self._cell.runner(1, state)

    def _append(self, token: int) -> None:
        self._pending = token
        self._num_generated += 1
        self._history.append(token)
        if len(self._history) > 2 * _HISTORY:
            del self._history[:-_HISTORY]

    def snapshot(self) -> Snapshot:
        """The conversation at this moment.

        Raises:
            UsageError: the last ``sample`` failed; sample again or feed first.
        """
        if self._logits is not None:
            raise UsageError("the last sample() failed; sample or feed again before a snapshot")
        return Snapshot(
            model=self._info.fingerprint,
            state=self._runner.state(),
            pending=self._pending,
            history=tuple(self._history[-_HISTORY:]),
            num_generated=self._num_generated,
            seed=self._uniforms.seed,
            index=self._uniforms.index,
            position=self._uniforms.position,
            partial=self._decoder.partial,
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to a snapshot, also of another conversation with the same model. It can be used again.

        Raises:
            SnapshotError: the snapshot is of another model.
            UsageError: it is not a ``Snapshot``.
        """
        if not isinstance(snapshot, Snapshot):
            raise UsageError(
                f"restore() takes a Snapshot, not {type(snapshot).__name__}; for bytes use Sampler.resume()"
            )
        if snapshot.model != self._info.fingerprint:
            raise SnapshotError("the snapshot is of another model")
        self._uniforms = UniformStream(snapshot.seed, snapshot.index, snapshot.position)
        self._runner = self._cell.runner(1, snapshot.state)
        self._pending, self._logits = snapshot.pending, None
        self._history = list(snapshot.history)
        self._num_generated = snapshot.num_generated
        self._decoder = self._info.vocabulary.decoder()
        self._decoder.partial = snapshot.partial

    def to_bytes(self) -> bytes:
        """The conversation as bytes, for a file or a database; ``Sampler.resume`` continues it."""
        return self.snapshot().to_bytes()
