"""Reads a text from its sources, once and a piece at a time, into token ids."""

from __future__ import annotations

import hashlib
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial

import numpy as np
from charrnn_runtime import UnknownCharacterError, Vocabulary
from charrnn_runtime.vocab import LABEL, NormalForm, Unknown, UnknownScore
from numpy.typing import NDArray

from charrnn.config import DataConfig
from charrnn.data import cache, finder, labels, text_report
from charrnn.data.encoder import CharEncoder
from charrnn.data.finder import FoundText, LeftOut
from charrnn.data.item_filter import item_hashes
from charrnn.data.items import Batch, ItemCounts, by_line, by_separator
from charrnn.data.normalize import LineEnds, line_ends, normalized
from charrnn.data.sources import Source, joined_pieces, stamp_now, text_pieces
from charrnn.data.tables import Column, by_column
from charrnn.data.token_buffer import Ids, TokenBuffer
from charrnn.errors import CorpusError
from charrnn.events import Listener, Reading

_REPORT_SECONDS = 0.1  # between two reports of progress


class TextReader:
    """Reads one text in one way.

    Args:
        found: the text.
        config: how the text becomes tokens.
        known, fixed: see ``corpus.read_corpus``.
        listener: receives the progress of the reading.
    """

    def __init__(
        self,
        found: FoundText,
        config: DataConfig,
        known: Vocabulary | None = None,
        fixed: Unknown | UnknownScore | None = None,
        listener: Listener | None = None,
    ) -> None:
        self.description = found.description
        self._found, self._config, self._known, self._fixed = found.sources, config, known, fixed
        self._listener = listener or Listener()
        self._done, self._total = 0, sum(source.size for source in found.sources)
        self._reported_at = time.monotonic()
        self.ends, self.counts, self.left_out = LineEnds(), ItemCounts(), LeftOut()

    def read(self, building: cache.Building, name: str) -> cache.Stored:
        """Reads everything into a place of the cache.

        Args:
            building: the place.
            name: a short name for the text, stored with it.

        Raises:
            CorpusError: the text cannot be read, or is not usable.
            UnknownCharacterError: the known vocabulary lacks a character, and ``fixed`` is "error".
            NoSpaceError: the ids cannot be written.
        """
        self._done, self.ends, self.counts, self.left_out = 0, LineEnds(), ItemCounts(), LeftOut()
        config, buffer = self._config, building.buffer
        encoder = CharEncoder(2 if config.has_items else 0, as_bytes=config.bytes)
        for ids, hashes in self._encoded_items(encoder) if config.has_items else self._encoded_text(encoder):
            buffer.append(ids)
            buffer.hashes.append(hashes)
            if buffer.too_large and (stored := building.move_to_disk()) is not None:
                return stored
        self._report(self._total)
        if not len(buffer) and self._fixed is None:
            raise CorpusError(f"{self.description}: there is no {'item' if config.has_items else 'text'} in it")
        vocabulary = self._vocabulary(encoder)
        charged = self._fixed == "charge" and "unknown" not in vocabulary.special
        size = len(vocabulary) + charged
        if config.label is not None:
            labels.check_labels(self.description, len(encoder.labels), self.counts.items)
        final_ids = _final_ids(encoder, vocabulary, len(vocabulary) if charged else -1)
        if self._fixed == "error":
            try:
                _check_known(buffer, encoder, final_ids)
            except UnknownCharacterError as error:
                raise self._located(error) from None
        kept = final_ids >= 0
        token_counts = np.bincount(final_ids[kept], encoder.counts[kept], minlength=size).astype(np.int64)
        if self._fixed is None:
            _check_distinct(self.description, encoder, vocabulary, token_counts)
        digest = corpus_digest(vocabulary)
        end = vocabulary.special["end"] if config.has_items else None
        buffer.renumber(final_ids, size=size, end=end, digest=digest)
        facts = {
            "name": name,
            "vocabulary": vocabulary.to_json(),
            "sha256": digest.hexdigest(),
            "counts": token_counts[: len(vocabulary)].tolist(),
            "notes": self.left_out.notes + text_report.text_notes(config, self.ends, self.counts, encoder),
            "items": asdict(self.counts),
        }
        return building.finish(facts, description=self.description, keep=self._unchanged())

    def located_batches(self) -> Iterator[tuple[str, int, Batch]]:
        """(source, number of the first item in it from 1, items), as they are divided and treated.

        ``ends`` and ``counts`` are counted along.

        Raises:
            CorpusError: the text cannot be read, an item is too long, or something cannot be a label.
        """
        config = self._config
        for source in self._sources():
            number = 1
            for items, found in self._divided(source):
                if found is not None:
                    where = partial(_place, source.name, number, ":" if config.lines else ": item ")
                    found = labels.cleaned(found, where)
                # Items are normalised one by one: the characters between them neither combine nor are combined with.
                items = _normal_items(items, config.normalize) if config.normalize else items
                yield source.name, number, Batch(items, found)
                number += len(items)
        ends = self.ends
        if config.lines and ends.cr and not (ends.lf or ends.crlf) and config.newlines == "keep":
            raise CorpusError(
                f"{self.description}: its lines end in carriage returns, as on the first Macintosh, so it is one "
                "item; --newlines lf makes them lines"
            )

    def _divided(self, source: Source) -> Iterator[Batch]:
        """The items of one source in batches, with line ends treated."""
        config = self._config
        fold = config.newlines == "lf"
        if source.items is not None:
            for batch in source.items:
                items = [item.encode().decode("latin-1") for item in batch.items] if config.bytes else batch.items
                yield Batch(self._folded(items) if fold else items, batch.labels)
            return
        if config.column is not None:
            column = Column(
                name=config.column,
                label=config.label,
                delimiter=config.delimiter,
                encoding=config.encoding,
                as_bytes=config.bytes,
                on_read=self._advance,
                counts=self.counts,
            )
            for items, found in by_column(source, column):
                yield Batch(self._folded(items) if fold else items, found)
            return
        pieces = text_pieces(source, encoding=config.encoding, as_bytes=config.bytes, on_read=self._advance)
        text = line_ends(pieces, self.ends, fold=fold)
        if config.separator is not None:
            separator = config.separator.encode().decode("latin-1") if config.bytes else config.separator
            batches = by_separator(text, separator, source.name)
        else:
            batches = by_line(text, source.name)
        for items in batches:
            yield Batch(items) if config.label is None else labels.labelled(items, config.label, source)

    def _folded(self, items: list[str]) -> list[str]:
        return ["".join(line_ends([item], self.ends, fold=True)) for item in items]

    def _sources(self) -> Iterator[Source]:
        """The sources in order, without files of folders that cannot be read as text to their end."""
        config = self._config
        for source in self._found:
            # The beginnings of files in folders have been checked when they were found.
            checked = not source.optional or (source.size <= finder.CHECKED and not source.compressed)
            if checked or self.left_out.check(source, encoding=config.encoding, as_bytes=config.bytes):
                yield source
            else:
                self._advance(source.size)

    def places(self, offsets: Sequence[int]) -> list[tuple[str, str]]:
        """Where characters of the running text are: (``file:line:column``, the character) for each offset.

        The text is read again.

        Args:
            offsets: in characters from the beginning of the text, in ascending order.

        Raises:
            CorpusError: the text cannot be read.
        """
        found: list[tuple[str, str]] = []
        config, wanted, offset = self._config, iter(offsets), 0
        next_one = next(wanted, None)
        for source in self._sources():
            line, column, last = 1, 1, "\n"
            for piece in self._text([source], LineEnds()):
                while next_one is not None and next_one < offset + len(piece):
                    before = piece[: next_one - offset]
                    at = before.rfind("\n")
                    where = (line + before.count("\n"), column + len(before) if at < 0 else len(before) - at)
                    found.append((f"{source.name}:{where[0]}:{where[1]}", piece[next_one - offset]))
                    next_one = next(wanted, None)
                if next_one is None:
                    return found
                at = piece.rfind("\n")
                line, column = line + piece.count("\n"), column + len(piece) if at < 0 else len(piece) - at
                offset, last = offset + len(piece), piece[-1]
            offset += last != "\n" and not config.bytes  # the newline that joined_pieces adds
        return found

    def _located(self, error: UnknownCharacterError) -> UnknownCharacterError:
        """The same error with file, line and column, if the text is a running one."""
        if self._config.has_items or not (places := self.places([error.position])):
            return error
        return UnknownCharacterError(error.character, error.position, error.total, place=places[0][0])

    def _encoded_items(self, encoder: CharEncoder) -> Iterator[tuple[Ids, bytes]]:
        """Provisional ids and hashes of batches of items, without the empty ones."""
        encoding = "latin-1" if self._config.bytes else "utf-8"
        for _, _, batch in self.located_batches():
            items = [item for item in batch.items if item]
            self.counts.items += len(items)
            self.counts.empty += len(batch.items) - len(items)
            found = batch.labels and [label for item, label in zip(batch.items, batch.labels, strict=True) if item]
            if items:
                yield encoder.encode_items(items, found), item_hashes(items, encoding)
            if len(encoder.labels) > labels.MAX_LABELS:
                labels.check_labels(self.description, len(encoder.labels), self.counts.items)
        if encoder.labels:
            self.counts.unlabelled = int(encoder.counts[0])

    def _encoded_text(self, encoder: CharEncoder) -> Iterator[tuple[Ids, bytes]]:
        """Provisional ids of pieces of running text; the hashes are empty."""
        for piece in self._text(self._sources(), self.ends):
            yield encoder.encode(piece), b""

    def _text(self, sources: Iterable[Source], ends: LineEnds) -> Iterator[str]:
        """Pieces of running text, none of them empty; line ends are counted into ``ends``."""
        config = self._config
        pieces = joined_pieces(sources, encoding=config.encoding, as_bytes=config.bytes, on_read=self._advance)
        text = line_ends(pieces, ends, fold=config.newlines == "lf")
        yield from filter(None, normalized(text, config.normalize) if config.normalize else text)

    def _vocabulary(self, encoder: CharEncoder) -> Vocabulary:
        """The vocabulary of the text, or the known one if that is fixed.

        Raises:
            CorpusError: the text consists of items, and the fixed vocabulary has no begin and end.
        """
        special = ["begin", "end"] if self._config.has_items else []
        if self._fixed is None:
            special += [LABEL + label for label in sorted(encoder.labels)]
            return _grown(self._known, self._config, encoder, special)
        assert self._known is not None
        if set(special) - set(self._known.special):
            raise CorpusError("the model was trained on plain text and knows no items: leave out --lines and the like")
        for label in encoder.labels:
            self._known.label_token(label)
        return self._known

    def _unchanged(self) -> bool:
        """Whether every source is a file that has not changed since, and whose next change would show in its times."""
        return all(
            source.stamp is not None and source.stamp == stamp_now(source) and not cache.young(source.stamp[1:])
            for source in self._found
        )

    def _advance(self, count: int) -> None:
        """Adds bytes that have been read, and reports from time to time."""
        self._done += count
        if time.monotonic() - self._reported_at > _REPORT_SECONDS:
            self._report(self._done)

    def _report(self, done: int) -> None:
        self._reported_at = time.monotonic()
        self._listener.on_read_progress(Reading(description=self.description, done=done, total=self._total))


def corpus_digest(vocabulary: Vocabulary) -> hashlib._Hash:
    """A SHA-256 that has been updated with a vocabulary; the ids of the text come next."""
    parts: tuple[object, ...] = (vocabulary.kind, vocabulary.symbols)
    if vocabulary.special:
        parts += (sorted(vocabulary.special.items()),)
    return hashlib.sha256(repr(parts).encode())


def _place(source: str, first: int, between: str, at: int) -> str:
    return f"{source}{between}{first + at:,}"


def _normal_items(items: list[str], form: NormalForm) -> list[str]:
    return [unicodedata.normalize(form, item) for item in items]


def _grown(
    known: Vocabulary | None, config: DataConfig, encoder: CharEncoder, special_tokens: Sequence[str]
) -> Vocabulary:
    """The known vocabulary, or an empty one, with what the text has beyond it.

    New characters are sorted by code point. Those that occur fewer than
    ``min_count`` times are left to an unknown token. Special tokens come last.
    """
    counts = {symbol: n for symbol, n in zip(encoder.symbols, encoder.counts.tolist(), strict=True) if symbol >= 0}
    symbols, special = (list(known.symbols), dict(known.special)) if known else ([], {})
    new = sorted(counts.keys() - set(symbols))
    min_count = 0 if config.bytes else config.min_count
    symbols += [symbol for symbol in new if counts[symbol] >= min_count]
    rare = any(counts[symbol] < min_count for symbol in new)
    for name in (*special_tokens, *["unknown"] * rare):
        if name not in special:
            special[name] = len(symbols)
            symbols.append(-1)
    base = known or Vocabulary(kind="bytes" if config.bytes else "characters", symbols=(0,), normalize=config.normalize)
    return replace(base, symbols=tuple(symbols), special=special)


def _final_ids(encoder: CharEncoder, vocabulary: Vocabulary, unknown: int) -> NDArray[np.int64]:
    """The id in the vocabulary by provisional id; ``unknown`` for characters that it cannot represent."""
    id_of = {symbol: i for i, symbol in enumerate(vocabulary.symbols) if symbol >= 0}
    unknown = vocabulary.special.get("unknown", unknown)
    ids = np.array([id_of.get(symbol, unknown) for symbol in encoder.symbols], np.int64)
    for i, name in enumerate(("begin", "end")[: encoder.num_special]):
        ids[i] = vocabulary.special[name]
    for label, i in encoder.labels.items():
        ids[i] = vocabulary.label_token(label)
    return ids


def _check_known(buffer: TokenBuffer, encoder: CharEncoder, final_ids: NDArray[np.int64]) -> None:
    """Raises UnknownCharacterError for the first character of the text that has no final id."""
    unknown = (final_ids < 0) & (encoder.counts > 0)
    if not unknown.any():
        return
    at = 0
    for block in buffer.blocks():
        found = unknown[block]
        if found.any():
            first = int(np.argmax(found))
            symbol = encoder.symbols[int(block[first])]
            raise UnknownCharacterError(chr(symbol), at + first, int(encoder.counts[unknown].sum()))
        at += len(block)


def _check_distinct(description: str, encoder: CharEncoder, vocabulary: Vocabulary, counts: NDArray[np.int64]) -> None:
    """Raises CorpusError for a text with fewer than two distinct characters."""
    if np.count_nonzero(encoder.counts[np.array(encoder.symbols) >= 0]) < 2:
        raise CorpusError(
            f"{description}: the text holds one distinct character only; there is nothing to learn from it"
        )
    plain = [int(n) for i, n in enumerate(counts) if i not in vocabulary.special.values()]
    if np.count_nonzero(plain) < 2:
        raise CorpusError(f"{description}: --min-count leaves fewer than two distinct characters; give a lower one")
