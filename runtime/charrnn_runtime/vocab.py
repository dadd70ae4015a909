"""The one vocabulary: characters (or bytes) to token ids and back.

The trainer builds it, the model file stores it, every sampler reads it.
"""

from __future__ import annotations

import codecs
import difflib
import reprlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import UnknownCharacterError, UsageError
from charrnn_runtime.options import check_choice

TokenKind = Literal["characters", "bytes"]
Unknown = Literal["error", "skip"]  # prompts: what happens to characters outside the vocabulary
UnknownScore = Literal["charge", "error"]  # the same for texts to score: see scoring.py
DecodeErrors = Literal["replace", "surrogateescape"]
NormalForm = Literal["NFC", "NFD", "NFKC", "NFKD"]
Ids = NDArray[np.int64]

LABEL = "label:"  # the name of a label's special token begins with this
_SHOWN = 10  # labels that an error message lists
UNKNOWN = -1  # the id of a character outside the vocabulary, in a text to score
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Tokens in id order.

    Attributes:
        kind: "characters" (a token is one Unicode code point) or "bytes"
            (a token is one byte of the text's UTF-8 form).
        symbols: code points, or byte values, in id order; -1 for a special token.
        special: names of special tokens ("begin", "end", "unknown", "label:Fantasy") to ids.
        normalize: Unicode normal form applied to a text before it is encoded, or None.

    Raises:
        UsageError: there are no symbols, or one occurs twice or is out of range.
    """

    kind: TokenKind = "characters"
    symbols: tuple[int, ...]
    special: Mapping[str, int] = field(default_factory=dict)
    normalize: NormalForm | None = None

    def __post_init__(self) -> None:
        limit = 0x110000 if self.kind == "characters" else 0x100
        symbols = np.asarray(self.symbols, dtype=np.int64)
        if not len(symbols):
            raise UsageError("a vocabulary needs at least one token")
        if self.kind not in ("characters", "bytes"):
            raise UsageError(f"unknown kind of token {self.kind!r}; known: characters, bytes")
        if self.normalize not in (None, "NFC", "NFD", "NFKC", "NFKD"):
            raise UsageError(f"unknown Unicode normal form {self.normalize!r}; known: NFC, NFD, NFKC, NFKD")
        special_ids = set(self.special.values())
        if len(special_ids) != len(self.special) or not all(0 <= i < len(symbols) for i in special_ids):
            raise UsageError("special tokens need ids of their own inside the vocabulary")
        if {i for i, s in enumerate(self.symbols) if s < 0} != special_ids:
            raise UsageError("special tokens and tokens without a character do not match")
        plain = symbols[symbols >= 0]
        if plain.size and plain.max() >= limit:
            raise UsageError(f"{int(plain.max())} is not a {self.kind.removesuffix('s')}")
        order = np.argsort(symbols, kind="stable").astype(np.int64)
        in_order = symbols[order]
        if np.any((in_order[1:] == in_order[:-1]) & (in_order[1:] >= 0)):
            raise UsageError("a vocabulary must hold each token only once")
        object.__setattr__(self, "_order", order)
        object.__setattr__(self, "_sorted", in_order)

    _order: Ids = field(init=False, repr=False, compare=False)
    _sorted: Ids = field(init=False, repr=False, compare=False)

    @classmethod
    def from_text(cls, text: str, *, kind: TokenKind = "characters", normalize: NormalForm | None = None) -> Vocabulary:
        """The sorted vocabulary of a text; for bytes always all 256."""
        if kind == "bytes":
            return cls(kind="bytes", symbols=tuple(range(256)), normalize=normalize)
        if normalize:
            text = unicodedata.normalize(normalize, text)
        return cls(symbols=tuple(sorted(map(ord, set(text)))), normalize=normalize)

    def __len__(self) -> int:
        return len(self.symbols)

    def token(self, text: str) -> int | None:
        """Id of the token for one character, or None if the vocabulary has no such token."""
        symbol = ord(text)
        if self.kind == "bytes" and symbol > 127:
            return None
        at = int(np.searchsorted(self._sorted, symbol))
        if at < len(self) and self._sorted[at] == symbol:
            return int(self._order[at])
        return None

    @property
    def start_token(self) -> int:
        """The token that is fed before a text without a prompt.

        The begin token if the model has one, else the newline (after which
        texts begin), else the space, else token 0.
        """
        if "begin" in self.special:
            return self.special["begin"]
        for character in "\n ":
            if (token := self.token(character)) is not None:
                return token
        return 0

    @cached_property
    def labels(self) -> dict[str, int]:
        """The labels that a text can have, to the ids of their tokens, in id order."""
        in_order = sorted(self.special.items(), key=lambda named: named[1])
        return {name.removeprefix(LABEL): i for name, i in in_order if name.startswith(LABEL)}

    def label_token(self, label: str) -> int:
        """Id of the token that is fed before a text with this label, in place of the begin token.

        Raises:
            UsageError: the model has no such label; the message lists similar ones.
        """
        if not isinstance(label, str):
            raise UsageError(f"a label must be a string, got {label!r:.80}")
        if not self.labels:
            raise UsageError(f"label {label!r:.80}: the model was trained without labels; leave it out")
        token = self.labels.get(unicodedata.normalize("NFC", label).strip())
        if token is None:
            raise UsageError(f"the model has no label {label!r:.80}; {self._near_labels(label)}")
        return token

    def _near_labels(self, label: str) -> str:
        names = {name.casefold(): name for name in self.labels}
        if near := difflib.get_close_matches(label.casefold(), names, cutoff=0.6):
            return f"did you mean {' or '.join(repr(names[name]) for name in near)}?"
        shown = ", ".join(map(repr, list(self.labels)[:_SHOWN]))
        return f"its {len(self.labels)} labels are {shown}" + (" …" if len(self.labels) > _SHOWN else "")

    def encode(self, text: str | bytes, *, unknown: Unknown | UnknownScore = "error") -> Ids:
        """Token ids of a text, int64 ``[n]``.

        Args:
            text: a string; for a model of bytes also bytes, which are taken as they are.
            unknown: what happens to a character outside the vocabulary, if the model has no token for
                unknown characters, which otherwise stands for it: "error", "skip" to leave it out, or
                "charge" to keep its place as ``UNKNOWN`` (-1).

        Raises:
            UnknownCharacterError: names the first such character and its position.
            UsageError: an argument has a wrong type or value.
        """
        check_choice("unknown", unknown, "error", "skip", "charge")
        symbols = self.symbols_of(text)
        ids, known = self.lookup(symbols)
        if known.all():
            return ids
        if "unknown" in self.special:
            return np.where(known, ids, self.special["unknown"])
        if unknown == "skip":
            return ids[known]
        if unknown == "charge":
            return np.where(known, ids, UNKNOWN)
        position = int(np.argmin(known))
        raise UnknownCharacterError(chr(int(symbols[position])), position, int((~known).sum()))

    def check_ids(self, ids: Sequence[int] | Ids, *, least: int = 0) -> Ids:
        """Checks token ids that a caller gave; returns them as int64 ``[n]``.

        Args:
            ids: token ids ``[n]``.
            least: the smallest id: 0, or ``UNKNOWN`` (-1) in a text to score.

        Raises:
            UsageError: they are not a sequence of whole numbers, or the model has no such token.
        """
        try:
            array = np.asarray(ids if len(ids) else np.empty(0, np.int64))
        except (TypeError, ValueError):  # not a sequence; lists of several lengths
            array = np.empty(())
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise UsageError(f"expected a text or a sequence of token ids, got {reprlib.repr(ids)}")
        wrong = array[(array < least) | (array >= len(self))]
        if wrong.size:
            raise UsageError(f"the model has no token {wrong[0]}; its ids are 0 to {len(self) - 1}")
        return array.astype(np.int64)

    def find_unknown(self, text: str | bytes) -> list[tuple[int, str]]:
        """(position, character) of each character of a text that is outside the vocabulary."""
        symbols = self.symbols_of(text)
        _, known = self.lookup(symbols)
        return [(int(at), chr(int(symbols[at]))) for at in np.flatnonzero(~known)]

    def symbols_of(self, text: str | bytes) -> Ids:
        """The code points or byte values of a text, after normalisation, int64 ``[n]``.

        Raises:
            UsageError: the text is not a string (or, for a model of bytes, bytes).
        """
        if isinstance(text, (bytes, bytearray, memoryview)):
            if self.kind != "bytes":
                raise UsageError("a model of characters takes strings: decode the bytes first")
            return np.frombuffer(text, dtype=np.uint8).astype(np.int64)
        if not isinstance(text, str):
            raise UsageError(f"a text must be a string, got {text!r:.80}")
        if self.normalize:
            text = unicodedata.normalize(self.normalize, text)
        if self.kind == "bytes":
            raw = text.encode("utf-8", "surrogatepass")
            return np.frombuffer(raw, dtype=np.uint8).astype(np.int64)
        raw = text.encode("utf-32-le", "surrogatepass")
        return np.frombuffer(raw, dtype="<u4").astype(np.int64)

    def lookup(self, symbols: NDArray[np.integer]) -> tuple[Ids, NDArray[np.bool_]]:
        """Ids of code points or byte values, and which of them are in the vocabulary; both ``[n]``."""
        at = np.minimum(np.searchsorted(self._sorted, symbols), len(self) - 1)
        return self._order[at], self._sorted[at] == symbols

    def decode(self, ids: Iterable[int], *, errors: DecodeErrors = "replace") -> str:
        """The text of some ids. Special tokens give nothing, ``UNKNOWN`` gives U+FFFD; see ``decoder``."""
        decoder = self.decoder(errors)
        return "".join(map(decoder.decode, ids)) + decoder.flush()

    def decoder(self, errors: DecodeErrors = "replace") -> Decoder:
        """A decoder for one stream of tokens.

        Args:
            errors: what stands for bytes that are not UTF-8, in a model of bytes: "replace" is U+FFFD;
                "surrogateescape" is a lone surrogate for each, so that
                ``text.encode("utf-8", "surrogateescape")`` gives back the bytes.

        Raises:
            UsageError: ``errors`` has another value.
        """
        check_choice("errors", errors, "replace", "surrogateescape")
        return Decoder(self, errors)

    def to_json(self) -> dict[str, object]:
        """Plain values for a checkpoint or a model file; ``from_json`` takes them back."""
        names = {i: f"<{name}>" for name, i in self.special.items()}
        characters = self.kind == "characters"
        tokens = [names.get(i) or (chr(symbol) if characters else symbol) for i, symbol in enumerate(self.symbols)]
        return {
            "kind": self.kind,
            "tokens": tokens,
            "special": dict(self.special),
            "normalize": self.normalize,
        }

    @classmethod
    def from_json(cls, value: object) -> Vocabulary:
        """Inverse of ``to_json``.

        Raises:
            UsageError: the value does not describe a vocabulary.
        """
        if not isinstance(value, Mapping):
            raise UsageError("a vocabulary must be an object with kind, tokens, special and normalize")
        tokens, special = value.get("tokens"), value.get("special", {})
        if not isinstance(tokens, Sequence) or isinstance(tokens, str) or not isinstance(special, Mapping):
            raise UsageError("the vocabulary's tokens are not a list")
        if not all(type(i) is int for i in special.values()):
            raise UsageError("the vocabulary's special tokens do not map names to ids")
        characters = value.get("kind") == "characters"
        special_ids = set(special.values())
        symbols = []
        for i, token in enumerate(tokens):
            if i in special_ids:
                symbols.append(-1)
            elif characters and isinstance(token, str) and len(token) == 1:
                symbols.append(ord(token))
            elif not characters and type(token) is int and 0 <= token < 256:
                symbols.append(token)
            else:
                raise UsageError(f"token {i} of the vocabulary is neither a character nor a byte: {token!r}")
        return cls(
            kind=value.get("kind"),  # type: ignore[arg-type]  # checked in __post_init__
            symbols=tuple(symbols),
            special=dict(special),
            normalize=value.get("normalize"),
        )


class Decoder:
    """Turns one token at a time into text, and holds back the bytes of an unfinished character."""

    def __init__(self, vocabulary: Vocabulary, errors: DecodeErrors) -> None:
        # Both lists end with what UNKNOWN, -1, stands for.
        self._pieces: list[str] | None = None
        if vocabulary.kind == "characters":
            self._pieces = [*(chr(s) if s >= 0 else "" for s in vocabulary.symbols), _REPLACEMENT]
        else:
            self._bytes = [*(bytes([s]) if s >= 0 else b"" for s in vocabulary.symbols), _REPLACEMENT.encode()]
            self._utf8 = codecs.getincrementaldecoder("utf-8")(errors)

    def decode(self, token: int) -> str:
        """The text that this token completes; may be empty."""
        if self._pieces is not None:
            return self._pieces[token]
        return self._utf8.decode(self._bytes[token])

    @property
    def partial(self) -> bytes:
        """The bytes of an unfinished character; can be set, to continue from another decoder's position."""
        return b"" if self._pieces is not None else self._utf8.getstate()[0]

    @partial.setter
    def partial(self, value: bytes) -> None:
        if self._pieces is None:
            self._utf8.setstate((value, 0))

    def flush(self) -> str:
        """What is left at the end of the stream: an unfinished character, as ``errors`` says, or nothing."""
        return "" if self._pieces is not None else self._utf8.decode(b"", True)
