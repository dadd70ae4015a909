"""Conversations: a text that is read and drawn by turns, and can be saved in between."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from charrnn_runtime.errors import SnapshotError, UsageError
from charrnn_runtime.generation import prefill, with_start_token
from charrnn_runtime.model_file import ModelInfo
from charrnn_runtime.options import check_count
from charrnn_runtime.sampling import StopStrings, TokenSampler, UniformStream
from charrnn_runtime.session import Cell, Logits, State
from charrnn_runtime.vocab import Unknown

_MAGIC = b"charrnn-conversation 1\n"
_SHA_BYTES = 32
_HISTORY = 4096  # tokens that a conversation remembers for penalties and processors


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A conversation at one moment. It holds copies: what happens afterwards does not change it."""

    model: str  # ModelInfo.fingerprint
    state: State  # [1, size] each
    pending: int | None  # the token that the model has not read yet; None at the very beginning
    history: tuple[int, ...]
    num_generated: int
    seed: int
    index: int
    position: int  # of the uniform numbers
    partial: bytes  # bytes of an unfinished character

    def to_bytes(self) -> bytes:
        """Magic line, length of the JSON header, header, states as little-endian float32, SHA-256 of it all."""
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
            SnapshotError: not a conversation, damaged, or of another model.
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
    """One text that grows by ``feed`` (yours) and ``sample`` (the model's); not for two threads at once.

    ``start(prompt, seed=s).draw(n)`` is ``sample(prompt, length=n, seed=s)``, and
    drawing twice 100 tokens is drawing 200. Made by ``Sampler.start`` and
    ``Sampler.resume``.

    Attributes:
        finish_reason: why the last ``sample`` ended: "length", "stop" or "end"; None before the first.
    """

    def __init__(self, cell: Cell, info: ModelInfo, token_sampler: TokenSampler, uniforms: UniformStream) -> None:
        self._cell = cell
        self._info = info
        self._token_sampler = token_sampler
        self._uniforms = uniforms
        self._runner = cell.runner(1)
        self._pending: int | None = None
        self._logits: Logits | None = None  # after the pending token, where a draw from them has failed
        self._history: list[int] = []
        self._num_generated = 0  # since something was last fed
        self._decoder = info.vocabulary.decoder()
        self.finish_reason: str | None = None

    @property
    def seed(self) -> int:
        """The seed, drawn or given."""
        return self._uniforms.seed

    def feed(self, text: str, *, unknown: Unknown = "error") -> None:
        """Reads more text.

        Raises:
            UnknownCharacterError: it has a character the model has never seen; nothing was read.
        """
        ids = self._info.vocabulary.encode(text, unknown=unknown)
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
        """Draws up to ``length`` tokens. A stop string ends the turn: it is part of the text, but is not returned."""
        return "".join(self.stream(length, stop=stop))

    def stream(self, length: int, *, stop: str | Sequence[str] = ()) -> Iterator[str]:
        """``sample``, in pieces as they are drawn. Given up half way, the text ends with the last drawn token."""
        check_count("length", length, least=1)
        return self._stream(length, StopStrings(stop))

    def _stream(self, length: int, stop: StopStrings) -> Iterator[str]:
        end = self._info.vocabulary.special.get("end")
        self.finish_reason = "length"
        for _ in range(length):
            if self._pending is None:
                self._pending = self._info.start_token
            logits = self._runner.step(self._pending) if self._logits is None else self._logits
            position = self._uniforms.position
            try:
                token = self._token_sampler.sample(logits[0], self._uniforms.next(), self._history, self._num_generated)
            except BaseException:
                # A processor raised. The model has read the token: the next draw begins where this one stood.
                self._logits = logits.copy()
                self._uniforms = UniformStream(self._uniforms.seed, self._uniforms.index, position)
                raise
            self._logits = None
            self._pending = token
            self._num_generated += 1
            self._history.append(token)
            if len(self._history) > 2 * _HISTORY:
                del self._history[:-_HISTORY]
            if token == end:
                self.finish_reason = "end"
                break
            piece = self._decoder.decode(token)
            if self._num_generated > self._token_sampler.options.min_length:
                piece = stop.feed(piece)
            if piece:
                yield piece
            if stop.stopped:
                self.finish_reason = "stop"
                return
        if rest := stop.flush():
            yield rest

    def snapshot(self) -> Snapshot:
        """The conversation as it stands.

        Raises:
            UsageError: the last draw failed; draw or feed first.
        """
        if self._logits is not None:
            raise UsageError("the last draw failed half way; draw or feed again before a snapshot")
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
        """Goes back (or over) to a snapshot of the same model, as often as one likes.

        Raises:
            SnapshotError: the snapshot is another model's.
        """
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
        """The conversation for a file or a database; ``Sampler.resume`` takes it back. No pickle."""
        return self.snapshot().to_bytes()
