"""Text in, token ids out.

    sources ──▶ characters ──▶ line ends, normal form ──▶ items? ──▶ provisional ids ──▶ final ids, mapped
    sources.py                 normal.py                  items.py   token_buffer.py            cache.py

The text is read once, a megabyte at a time; see ``draft`` for how a vocabulary
that is known only at the end gets by without reading it twice, and ``cache``
for how the next run gets by without reading it at all.
"""

from __future__ import annotations

import hashlib
import re
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from charrnn_runtime import UnknownCharacterError, Vocabulary
from charrnn_runtime.vocab import NormalForm, Unknown
from numpy.typing import NDArray

from charrnn.config import DataConfig
from charrnn.data import cache, text_report, token_buffer
from charrnn.data.items import ItemCounts, by_column, by_line, by_separator
from charrnn.data.normalize import LineEnds, line_ends, normalized
from charrnn.data.sources import Source, find_sources, joined_pieces, stamp_now, text_pieces
from charrnn.data.token_buffer import Coder, Draft, NoRoom, item_hashes
from charrnn.errors import CorpusError
from charrnn.events import Listener, Reading

_Integer = TypeVar("_Integer", bound=np.integer)

STDLIB = "python-stdlib"
_TELL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A text as token ids.

    Attributes:
        name: short name, for the run folder and for the model's description.
        description: what was read, in words.
        arguments: what the user named, to read the same again.
        ids: token ids ``[n]``, in the smallest unsigned type that holds the
            vocabulary; mapped from a file where there are many.
        vocabulary: the tokens.
        items: where items begin and end in ``ids``, int64 ``[M + 1]``: item i is
            ``ids[items[i]:items[i + 1]]``, the begin token first, the end token
            last. None for plain text.
        hashes: BLAKE2b-64 of each item's text in UTF-8 (or of its bytes), without
            begin and end, uint64 ``[M]``. It does not depend on the vocabulary.
            None for plain text.
        digest: SHA-256 of vocabulary and ids, if it is known already.
        counts: how often each token occurs ``[V]``, if it is known.
        notes: what the user should know of the text.
    """

    name: str
    description: str
    arguments: tuple[str, ...]
    ids: NDArray[np.unsignedinteger]
    vocabulary: Vocabulary
    items: NDArray[np.int64] | None = None
    hashes: NDArray[np.uint64] | None = None
    digest: str | None = None
    counts: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Digest of the ids: whether two corpora are the same text under the same vocabulary."""
        if self.digest is not None:
            return self.digest
        sha = _digest(self.vocabulary)
        for at in range(0, len(self.ids), token_buffer.BLOCK):
            sha.update(np.ascontiguousarray(self.ids[at : at + token_buffer.BLOCK]).data)
        return sha.hexdigest()

    @property
    def report(self) -> str:
        """A line on the vocabulary, for the user."""
        return text_report.vocabulary_report(self.vocabulary, self.counts)

    def split(self, val_frac: float) -> tuple[NDArray[np.unsignedinteger], NDArray[np.unsignedinteger]]:
        """Training and validation ids: the last ``val_frac`` of the text is for validation."""
        return split_ids(self.ids, val_frac)


def split_ids(ids: NDArray[_Integer], val_frac: float) -> tuple[NDArray[_Integer], NDArray[_Integer]]:
    """Training and validation part of ``[n]``: the last ``val_frac``, at least one, is for validation."""
    n_val = max(1, int(len(ids) * val_frac))
    return ids[:-n_val], ids[-n_val:]


def read_items(arguments: Sequence[str], config: DataConfig) -> Iterator[str]:
    """The items of a text one by one, in bounded memory; empty ones are left out, as in training.

    Raises:
        CorpusError: something cannot be read, or is no UTF-8.
    """
    description, sources = find_sources(arguments)
    reader = _Reader(description, sources, config, None, None, Listener())
    for batch in reader.item_batches(LineEnds(), ItemCounts()):
        for item in filter(None, batch):
            yield _decoded(item, description) if config.bytes else item


def _decoded(item: str, description: str) -> str:
    """Text of an item of bytes, which is read as one character a byte."""
    try:
        return item.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{description}: an item is no UTF-8 ({error.reason}); only text can be scored") from error


def corpus_name(arguments: Sequence[str]) -> str:
    """A short name for what was named, fit for a folder."""
    if not arguments:
        return STDLIB
    first = "stdin" if arguments[0] == "-" else Path(arguments[0]).absolute().name.removesuffix(".gz")
    return re.sub(r"[^\w.-]+", "", Path(first).stem).strip(".-")[:60] or "text"


def read_corpus(
    arguments: Sequence[str],
    config: DataConfig,
    known: Vocabulary | None = None,
    *,
    fixed: Unknown | None = None,
    listener: Listener | None = None,
) -> Corpus:
    """Reads all that was named, or the standard library's source if nothing was.

    Args:
        arguments: files, folders, globs, known names, ``-``.
        config: how the text becomes tokens.
        known: a vocabulary to keep; characters that it lacks come after it.
        fixed: ``known`` is kept without growing. Other characters become its
            unknown token, or where it has none are an error ("error") or left
            out ("skip"). Then a text of one character, or of none, is no error.
        listener: hears how far the reading is, and what the user should know.

    Raises:
        CorpusError: something cannot be read, is no UTF-8, or holds too little.
        UnknownCharacterError: a character that ``known`` lacks, and ``fixed`` is "error".
    """
    listener = listener or Listener()
    description, sources = find_sources(arguments)
    if known is not None:
        config = replace(config, bytes=known.kind == "bytes", normalize=known.normalize)
    reader = _Reader(description, sources, config, known, fixed, listener)
    key = _key(sources, config, known, fixed)
    stored = _cached(sources, config, known, key, listener) if key else None
    if stored is None:
        stored = _read(reader, key, corpus_name(arguments), listener)
    facts = stored.facts
    return Corpus(
        name=corpus_name(arguments),
        description=description,
        arguments=tuple(arguments),
        ids=stored.ids,
        vocabulary=Vocabulary.from_json(facts["vocabulary"]),
        items=stored.items,
        hashes=stored.hashes,
        digest=facts["sha256"],
        counts=tuple(facts["counts"]),
        notes=tuple(facts["notes"]),
    )


def _key(sources: Sequence[Source], config: DataConfig, known: Vocabulary | None, fixed: str | None) -> str | None:
    """What the cache may know this text by; None for one that comes through a pipe or is too short to be there."""
    # How large a .gz is inside cannot be seen from outside.
    small = sum(s.size for s in sources) <= token_buffer.IN_MEMORY // 4 and not any(
        s.name.endswith(".gz") for s in sources
    )
    if small or any(source.stamp is None for source in sources):
        return None
    stamps = [(str(source.path and source.path.absolute()), source.stamp) for source in sources]
    names = ("bytes", "normalize", "newlines", "min_count", "lines", "separator", "column")
    options = {name: getattr(config, name) for name in names}
    return cache.key_of(stamps, [options, known and known.to_json(), fixed])


def _cached(
    sources: Sequence[Source], config: DataConfig, known: Vocabulary | None, key: str, listener: Listener
) -> cache.Stored | None:
    """What the cache has of this text."""
    if known is not None and (own := _key(sources, config, None, None)):
        # A resumed run, or the evaluation of a model on its text: the vocabulary that is to be kept is the text's own.
        stored = cache.find(own, listener.on_notice)
        if stored is not None and Vocabulary.from_json(stored.facts["vocabulary"]) == known:
            return stored
    return cache.find(key, listener.on_notice)


def _read(reader: _Reader, key: str | None, name: str, listener: Listener) -> cache.Stored:
    """Reads the text into the cache, or where that cannot be written into the system's temporary folder."""
    for at in (key, None) if key else (None,):
        try:
            with cache.Building(at, listener.on_notice) as building:
                facts = reader.read(building.draft())
                return building.finish({"name": name, **facts}, description=reader.description, keep=reader.unchanged())
        except cache.AlreadyThere as done:
            return done.stored
        except NoRoom as error:
            cause = error.__cause__
            reason = (isinstance(cause, OSError) and cause.strerror) or cause
            if at is None:
                import tempfile

                raise CorpusError(
                    f"{reader.description}: its token ids cannot be kept in {tempfile.gettempdir()}: {reason}; let "
                    "CHARRNN_CACHE name a folder with room for as many bytes as the text has (TMPDIR, for a pipe)"
                ) from error
            listener.on_notice(
                f"the cache {cache.folder()} cannot be written ({reason}): the text is read into the temporary "
                "folder, and again by the next run; let CHARRNN_CACHE name another folder"
            )
    raise AssertionError


class _Reader:
    """One way of reading one text."""

    def __init__(
        self,
        description: str,
        sources: Sequence[Source],
        config: DataConfig,
        known: Vocabulary | None,
        fixed: Unknown | None,
        listener: Listener,
    ) -> None:
        self.description = description
        self._sources, self._config, self._known, self._fixed = sources, config, known, fixed
        self._listener = listener
        self._total = sum(source.size for source in sources)
        self._told_at = time.monotonic()

    def read(self, into: Draft) -> dict[str, Any]:
        """Fills a draft; returns what is to be known of it."""
        config, description = self._config, self.description
        coder = Coder(2 if config.has_items else 0, as_bytes=config.bytes)
        ends, counts = LineEnds(), ItemCounts()
        if config.has_items:
            encoding = "latin-1" if config.bytes else "utf-8"
            for batch in self.item_batches(ends, counts):
                items = [item for item in batch if item]
                counts.items += len(items)
                counts.empty += len(batch) - len(items)
                if items:
                    into.hashes.append(item_hashes(items, encoding))
                    into.append(coder.encode_items(items))
        else:
            pieces = joined_pieces(self._sources, as_bytes=config.bytes, told=self._told)
            for piece in self._treated(pieces, ends):
                if piece:
                    into.append(coder.encode(piece))
        self._tell(self._total)
        if not len(into) and self._fixed is None:
            raise CorpusError(f"{description}: there is no {'item' if config.has_items else 'text'} in it")
        vocabulary, new = _final(coder, config, self._known, self._fixed)
        if self._fixed == "error" and (new < 0).any():
            self._refuse(into, coder, new)
        token_counts = np.bincount(new[new >= 0], coder.counts[new >= 0], minlength=len(vocabulary)).astype(np.int64)
        if self._fixed is None:
            _check_distinct(description, coder, vocabulary, token_counts)
        sha = _digest(vocabulary)
        end = vocabulary.special["end"] if config.has_items else None
        into.renumber(new, size=len(vocabulary), end=end, digest=sha)
        return {
            "vocabulary": vocabulary.to_json(),
            "sha256": sha.hexdigest(),
            "counts": token_counts.tolist(),
            "notes": text_report.text_notes(config, ends, counts, coder),
            "items": asdict(counts),
        }

    def unchanged(self) -> bool:
        """Whether every source is a file that is still as it was found, and could not change unseen from now on."""
        return all(
            source.stamp is not None and source.stamp == stamp_now(source) and not cache.young(source.stamp[1:])
            for source in self._sources
        )

    def _treated(self, pieces: Iterator[str], ends: LineEnds) -> Iterator[str]:
        """Line ends counted, and folded on request; then the normal form."""
        config = self._config
        text = line_ends(pieces, ends, fold=config.newlines == "lf")
        return normalized(text, config.normalize) if config.normalize else text

    def item_batches(self, ends: LineEnds, counts: ItemCounts) -> Iterator[list[str]]:
        config, done = self._config, 0
        for source in self._sources:
            pieces = text_pieces(source, as_bytes=config.bytes, told=_after(self._told, done))
            # Nothing that divides joins with what stands before or behind it, so items can be normalised one by one.
            text = line_ends(pieces, ends, fold=config.newlines == "lf")
            if config.column is not None:
                batches = by_column(text, self._as_read(config.column), source.name, counts)
            elif config.separator is not None:
                batches = by_separator(text, self._as_read(config.separator), source.name)
            else:
                batches = by_line(text, source.name)
            for batch in batches:
                yield _normal_items(batch, config.normalize) if config.normalize else batch
            done += source.size

    def _as_read(self, text: str) -> str:
        """What the user gave, in the characters that the text is read in."""
        return text.encode().decode("latin-1") if self._config.bytes else text

    def _told(self, done: int) -> None:
        if time.monotonic() - self._told_at > _TELL_SECONDS:
            self._tell(done)

    def _tell(self, done: int) -> None:
        self._told_at = time.monotonic()
        self._listener.on_read_progress(Reading(description=self.description, done=done, total=self._total))

    def _refuse(self, into: Draft, coder: Coder, new: NDArray[np.int64]) -> None:
        """Raises an error that names the first character outside the vocabulary."""
        unknown = (new < 0) & (coder.counts > 0)
        if not unknown.any():
            return
        at = 0
        for block in into.blocks():
            found = unknown[block]
            if found.any():
                first = int(np.argmax(found))
                symbol = coder.symbols[int(block[first])]
                raise UnknownCharacterError(chr(symbol), at + first, int(coder.counts[unknown].sum()))
            at += len(block)


def _after(told: Callable[[int], None], before: int) -> Callable[[int], None]:
    return lambda read: told(before + read)


def _normal_items(items: list[str], form: NormalForm) -> list[str]:
    return [unicodedata.normalize(form, item) for item in items]


def _final(
    coder: Coder, config: DataConfig, known: Vocabulary | None, fixed: Unknown | None
) -> tuple[Vocabulary, NDArray[np.int64]]:
    """The vocabulary, and the final id by provisional one; -1 for a character that is left out or an error.

    Raises:
        CorpusError: the fixed vocabulary has no begin and end, and the text is in items.
    """
    found = dict(zip(coder.symbols[coder.special :], coder.counts[coder.special :].tolist(), strict=True))
    wanted = ["begin", "end"] if config.has_items else []
    if fixed is not None:
        assert known is not None
        vocabulary = known
        if set(wanted) - set(known.special):
            raise CorpusError("the model was trained on plain text and knows no items: leave out --lines and the like")
    else:
        old = known or Vocabulary(
            kind="bytes" if config.bytes else "characters", symbols=(0,), normalize=config.normalize
        )
        symbols, special = (list(known.symbols), dict(known.special)) if known else ([], {})
        there = set(symbols)
        frequent = config.min_count if not config.bytes else 0
        new = sorted(s for s, n in found.items() if s not in there)
        symbols += [s for s in new if found[s] >= frequent]
        if any(found[s] < frequent for s in new):
            wanted.append("unknown")
        for name in wanted:
            if name not in special:
                special[name] = len(symbols)
                symbols.append(-1)
        vocabulary = replace(old, symbols=tuple(symbols), special=special)
    number = {symbol: i for i, symbol in enumerate(vocabulary.symbols) if symbol >= 0}
    rest = vocabulary.special.get("unknown", -1)
    final = [vocabulary.special[name] for name in ("begin", "end")[: coder.special]]
    final += [number.get(symbol, rest) for symbol in coder.symbols[coder.special :]]
    return vocabulary, np.array(final, np.int64)


def _check_distinct(description: str, coder: Coder, vocabulary: Vocabulary, counts: NDArray[np.int64]) -> None:
    """Raises CorpusError for a text that has nothing in it to tell apart."""
    if np.count_nonzero(coder.counts[coder.special :]) < 2:
        raise CorpusError(
            f"{description}: the text holds one distinct character only; there is nothing to learn from it"
        )
    plain = [int(n) for i, n in enumerate(counts) if i not in vocabulary.special.values()]
    if np.count_nonzero(plain) < 2:
        raise CorpusError(f"{description}: --min-count leaves fewer than two distinct characters; give a lower one")


def _digest(vocabulary: Vocabulary) -> hashlib._Hash:
    """SHA-256 that has read a vocabulary."""
    parts: tuple[object, ...] = (vocabulary.kind, vocabulary.symbols)
    if vocabulary.special:
        parts += (sorted(vocabulary.special.items()),)
    return hashlib.sha256(repr(parts).encode())
