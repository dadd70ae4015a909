"""Text in, token ids out.

    sources ──▶ characters ──▶ line ends, normal form ──▶ items? ──▶ provisional ids ──▶ final ids, mapped
    sources.py                 normalize.py               items.py   encoder.py          token_buffer.py, cache.py

The text is read once, a megabyte at a time (see ``reader``). The vocabulary is
known only at its end; ``token_buffer`` explains why the text need not be read
twice, and ``cache`` why the next run need not read it at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from charrnn_runtime import Vocabulary
from charrnn_runtime.text_scores import Line
from charrnn_runtime.vocab import Unknown, UnknownScore
from numpy.typing import NDArray

from charrnn.config import DataConfig
from charrnn.data import cache, text_report, token_buffer
from charrnn.data.containers import SUFFIXES
from charrnn.data.finder import absolute, find_sources
from charrnn.data.in_memory import InMemory
from charrnn.data.reader import TextReader, corpus_digest
from charrnn.data.sources import Source
from charrnn.data.token_buffer import NoSpaceError
from charrnn.errors import CorpusError
from charrnn.events import Listener
from charrnn.files import NO_CACHE, temporary_folder

_Integer = TypeVar("_Integer", bound=np.integer)

STDLIB = "python-stdlib"


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A text as token ids.

    Attributes:
        name: short name, for the run folder and for the model's description.
        description: what was read, in words.
        arguments: what the user named; with them the same text can be read again.
        ids: token ids ``[n]``, in the smallest unsigned type that holds the
            vocabulary; mapped from a file where there are many.
        vocabulary: the tokens.
        items: where items begin and end in ``ids``, int64 ``[M + 1]``: item i is
            ``ids[items[i]:items[i + 1]]``, the begin token first, the end token
            last. None for plain text.
        hashes: BLAKE2b-64 of each item's text in UTF-8 (or of its bytes), without
            begin and end, uint64 ``[M]``. It does not depend on the vocabulary.
            None for plain text.
        digest: SHA-256 of vocabulary and ids; None if it has not been computed.
        counts: how often each token occurs ``[V]``; empty if unknown.
        notes: sentences about the text for the user.
        in_memory: "text" or "items" if a program gave the text, and it was not read from files or a pipe.
        places: where characters at given offsets are, see ``TextReader.places``; only with ``fixed="charge"``.
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
    in_memory: Literal["text", "items"] | None = None
    places: Callable[[Sequence[int]], list[tuple[str, str]]] | None = field(default=None, repr=False, compare=False)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of vocabulary and ids: equal for the same text under the same vocabulary."""
        if self.digest is not None:
            return self.digest
        sha = corpus_digest(self.vocabulary)
        for at in range(0, len(self.ids), token_buffer.BLOCK):
            sha.update(np.ascontiguousarray(self.ids[at : at + token_buffer.BLOCK]).data)
        return sha.hexdigest()

    @property
    def labels(self) -> dict[str, int]:
        """How many items have each label, in id order; empty if the text has no labels."""
        return {label: self.counts[i] if self.counts else 0 for label, i in self.vocabulary.labels.items()}

    @property
    def report(self) -> str:
        """A line on the vocabulary, for the user."""
        return text_report.vocabulary_report(self.vocabulary, self.counts)


def read_items(arguments: Sequence[str], config: DataConfig) -> Iterator[str | bytes]:
    """The items of a text one by one, in bounded memory; empty ones are left out, as in training.

    With ``config.bytes`` they are bytes.

    Raises:
        CorpusError: the text cannot be read, or is not UTF-8.
    """
    for lines in read_item_lines(arguments, config):
        for line in lines:
            yield line.text


def read_item_lines(arguments: Sequence[str], config: DataConfig) -> Iterator[list[Line]]:
    """``read_items`` with the place of each item, in lists of those that have arrived.

    Standard input is read as it arrives, unless it is a table.

    Raises:
        CorpusError: as ``read_items``.
    """
    found = find_sources(arguments, encoding=config.encoding, as_bytes=config.bytes, live=config.column is None)
    between = ":" if config.lines else ": item "
    for source, first, batch in TextReader(found, config).located_batches():
        yield [
            Line(item.encode("latin-1") if config.bytes else item, f"{source}{between}{number}", label)
            for number, (item, label) in enumerate(zip(batch.items, batch.labels or repeat(""), strict=False), first)
            if item
        ]


def corpus_name(arguments: Sequence[str]) -> str:
    """A short name for the text that the arguments name, valid as a folder name."""
    if not arguments:
        return STDLIB
    path = Path("stdin") if arguments[0] == "-" else Path(Path(arguments[0]).absolute().name)
    if path.suffix.lower() in SUFFIXES:
        path = path.with_suffix("")
    return re.sub(r"[^\w.-]+", "", path.stem).strip(".-")[:60] or "text"


def remembered_arguments(summary: Mapping[str, Any], remedy: str) -> list[str]:
    """The arguments that a checkpoint remembers, to read the text of the run again.

    Args:
        summary: what the checkpoint says about the text.
        remedy: what the user can do if the text did not come from files.

    Raises:
        CorpusError: the text came through standard input, or from the memory of a program.
    """
    arguments = list(summary["arguments"])
    kind = summary.get("in_memory")
    if kind or "-" in arguments:
        origin = f"was given by a program ({kind}=…)" if kind else "came through standard input"
        raise CorpusError(f"the text of the run {origin} and cannot be read again; {remedy}")
    return arguments


def read_corpus(
    texts: Sequence[str] | InMemory,
    config: DataConfig,
    known: Vocabulary | None = None,
    *,
    fixed: Unknown | UnknownScore | None = None,
    listener: Listener | None = None,
) -> Corpus:
    """Reads a text; without any name of one, the source of Python's standard library.

    Args:
        texts: files, folders, globs, names of known corpora, ``-`` for standard input; or a text in memory.
        config: how the text becomes tokens.
        known: a vocabulary to keep; characters that it lacks get new ids after its own.
        fixed: if given, ``known`` does not grow. Other characters become its
            unknown token. If it has none, they are an error ("error") or are
            left out ("skip"), or get the id behind the last one of the vocabulary
            ("charge"), to be scored. With ``fixed``, a text with fewer than two
            distinct characters is accepted.
        listener: receives the progress of the reading, and notices for the user.

    Raises:
        CorpusError: the text cannot be read, is not UTF-8, or has fewer than two distinct characters.
        UnknownCharacterError: ``known`` lacks a character, and ``fixed`` is "error".
    """
    listener = listener or Listener()
    if known is not None:
        config = replace(config, bytes=known.kind == "bytes", normalize=known.normalize)
    arguments: Sequence[str] = ()
    name: str
    if isinstance(texts, InMemory):
        found, name = texts.find(config), texts.kind
    else:
        arguments, name = texts, corpus_name(texts)
        found = find_sources(arguments, encoding=config.encoding, as_bytes=config.bytes)
    reader = TextReader(found, config, known, fixed, listener)
    key = _key(found.sources, config, known, fixed)
    stored = _cached(found.sources, config, known, key, listener) if key else None
    if stored is None:
        stored = _read(reader, key, name, listener)
    facts = stored.facts
    return Corpus(
        name=name,
        description=found.description,
        arguments=tuple(map(absolute, arguments)),
        ids=stored.ids,
        vocabulary=Vocabulary.from_json(facts["vocabulary"]),
        items=stored.items,
        hashes=stored.hashes,
        digest=facts["sha256"],
        counts=tuple(facts["counts"]),
        notes=(*found.left_out.notes, *facts["notes"]),
        in_memory=texts.kind if isinstance(texts, InMemory) else None,
        places=reader.places if fixed == "charge" else None,
    )


def _key(sources: Sequence[Source], config: DataConfig, known: Vocabulary | None, fixed: str | None) -> str | None:
    """The cache's key of this text; None if it came through a pipe or is too short to be stored."""
    # The size of a compressed text is unknown until it has been read.
    small = sum(s.size for s in sources) <= token_buffer.IN_MEMORY // 4
    if any(source.stamp is None for source in sources) or (small and not any(s.compressed for s in sources)):
        return None
    stamps = [(str(source.path and source.path.absolute()), source.stamp) for source in sources]
    names = ["bytes", "encoding", "normalize", "newlines", "min_count", "lines", "separator", "column", "delimiter"]
    options = {name: getattr(config, name) for name in (*names, *["label"] * (config.label is not None))}
    return cache.key_of(stamps, [options, known and known.to_json(), fixed])


def _cached(
    sources: Sequence[Source], config: DataConfig, known: Vocabulary | None, key: str, listener: Listener
) -> cache.Stored | None:
    """The text from the cache, or None."""
    if known is not None and (own := _key(sources, config, None, None)):
        # A resumed run, or the evaluation of a model on its own text: the known vocabulary may be that of the text.
        stored = cache.find(own, listener.on_notice)
        if stored is not None and Vocabulary.from_json(stored.facts["vocabulary"]) == known:
            return stored
    return cache.find(key, listener.on_notice)


def _read(reader: TextReader, key: str | None, name: str, listener: Listener) -> cache.Stored:
    """Reads the text into the cache, or if that cannot be written, into the system's temporary folder."""
    if key is not None:
        try:
            return _read_into(key, reader, name, listener)
        except NoSpaceError as error:
            folder = cache.folder()
            listener.on_notice(
                "the text is read into the temporary folder, and again by the next run: "
                + (
                    f"the cache {folder} cannot be written ({_reason(error)}); set CHARRNN_CACHE to another folder"
                    if folder
                    else NO_CACHE
                )
            )
    try:
        return _read_into(None, reader, name, listener)
    except NoSpaceError as error:
        raise CorpusError(
            f"{reader.description}: its token ids cannot be kept in {temporary_folder()}: {_reason(error)}; set "
            "CHARRNN_CACHE to a folder with room for as many bytes as the text has (TMPDIR, for a pipe)"
        ) from error


def _read_into(key: str | None, reader: TextReader, name: str, listener: Listener) -> cache.Stored:
    with cache.Building(key, listener.on_notice) as building:
        return reader.read(building, name)


def _reason(error: NoSpaceError) -> str:
    cause = error.__cause__
    return (isinstance(cause, OSError) and cause.strerror) or str(cause)
