"""Text in, token ids out."""

from __future__ import annotations

import glob
import gzip
import hashlib
import re
import sys
import sysconfig
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import numpy as np
from charrnn_runtime import Vocabulary
from numpy.typing import NDArray

from charrnn.config import DataConfig
from charrnn.errors import CorpusError

_Integer = TypeVar("_Integer", bound=np.integer)

STDLIB = "python-stdlib"
_BOM = b"\xef\xbb\xbf"
_HEAD = 8192  # bytes looked at to tell text from binary


@dataclass(frozen=True, kw_only=True)
class Source:
    """One piece of text as it was found: where, and its bytes."""

    name: str
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A text as token ids.

    Attributes:
        name: short name, for the run folder and for the model's description.
        description: what was read, in words.
        arguments: what the user named, to read the same again.
        ids: token ids ``[n]``, in the smallest unsigned type that holds the vocabulary.
        vocabulary: the tokens.
    """

    name: str
    description: str
    arguments: tuple[str, ...]
    ids: NDArray[np.unsignedinteger]
    vocabulary: Vocabulary
    items: NDArray[np.int64] | None = None
    hashes: NDArray[np.uint64] | None = None

    @cached_property
    def sha256(self) -> str:
        """Digest of the ids: whether two corpora are the same text under the same vocabulary."""
        sha = hashlib.sha256(repr((self.vocabulary.kind, self.vocabulary.symbols)).encode())
        sha.update(np.ascontiguousarray(self.ids).data)
        return sha.hexdigest()

    def split(self, val_frac: float) -> tuple[NDArray[np.unsignedinteger], NDArray[np.unsignedinteger]]:
        """Training and validation ids: the last ``val_frac`` of the text is for validation."""
        return split_ids(self.ids, val_frac)


def split_ids(ids: NDArray[_Integer], val_frac: float) -> tuple[NDArray[_Integer], NDArray[_Integer]]:
    """Training and validation part of ``[n]``: the last ``val_frac``, at least one, is for validation."""
    n_val = max(1, int(len(ids) * val_frac))
    return ids[:-n_val], ids[-n_val:]


def read_corpus(arguments: Sequence[str], config: DataConfig, known: Vocabulary | None = None) -> Corpus:
    """Reads all that was named, or the standard library's source if nothing was.

    Args:
        arguments: files, folders, globs, known names, ``-``.
        config: how the text becomes tokens.
        known: a vocabulary to keep; characters that it lacks come after it.

    Raises:
        CorpusError: something cannot be read, is no UTF-8, or holds too little.
    """
    description, sources = read_sources(arguments)
    if config.has_items:
        return _read_items(arguments, config, known, description, sources)
    if config.bytes:
        vocabulary = Vocabulary.of_text("", kind="bytes")
        data = join_bytes(sources)
        ids: NDArray[np.unsignedinteger] = np.frombuffer(data, dtype=np.uint8)
    else:
        text = join_text(sources)
        vocabulary = Vocabulary.of_text(text, normalize=config.normalize) if text else _no_text(description)
        if known is not None:
            old = set(known.symbols)
            new = [s for s in vocabulary.symbols if s not in old]
            vocabulary = replace(known, symbols=(*known.symbols, *new))
        wide = vocabulary.encode(text)
        ids = wide.astype(np.min_scalar_type(len(vocabulary) - 1))
    if not len(ids):
        _no_text(description)
    if ids.min() == ids.max():
        raise CorpusError(
            f"{description}: the text holds one distinct character only; there is nothing to learn from it"
        )
    return Corpus(
        name=corpus_name(arguments), description=description, arguments=tuple(arguments), ids=ids, vocabulary=vocabulary
    )


def _read_items(
    arguments: Sequence[str], config: DataConfig, known: Vocabulary | None, description: str, sources: Sequence[Source]
) -> Corpus:
    items = [item for item in item_texts(sources, config) if item]
    if not items:
        _no_text(description)
    vocabulary = known or Vocabulary.of_text("".join(items))
    if "end" not in vocabulary.special:
        n = len(vocabulary)
        vocabulary = replace(vocabulary, symbols=(*vocabulary.symbols, -1, -1), special={"begin": n, "end": n + 1})
    begin, end = vocabulary.special["begin"], vocabulary.special["end"]
    ids = [np.concatenate([[begin], vocabulary.encode(item), [end]]) for item in items]
    hashes = [blake2b(item.encode(), digest_size=8).digest() for item in items]
    return Corpus(
        name=corpus_name(arguments),
        description=description,
        arguments=tuple(arguments),
        ids=np.concatenate(ids).astype(np.min_scalar_type(len(vocabulary) - 1)),
        vocabulary=vocabulary,
        items=np.cumsum([0, *map(len, ids)]),
        hashes=np.frombuffer(b"".join(hashes), "<u8"),
    )


def item_texts(sources: Sequence[Source], config: DataConfig) -> list[str]:
    """The items of some sources."""
    return [line.removesuffix("\r") for line in join_text(sources).split(config.separator or "\n")]


def corpus_name(arguments: Sequence[str]) -> str:
    """A short name for what was named, fit for a folder."""
    if not arguments:
        return STDLIB
    first = "stdin" if arguments[0] == "-" else Path(arguments[0]).absolute().name.removesuffix(".gz")
    return re.sub(r"[^\w.-]+", "", Path(first).stem).strip(".-")[:60] or "text"


def read_sources(arguments: Sequence[str]) -> tuple[str, list[Source]]:
    """Description and contents of what was named: files, folders, globs, known names, ``-``.

    Raises:
        CorpusError: something cannot be found or read.
    """
    if not arguments:
        files = _standard_library()
        description = f"the Python {sys.version_info.major}.{sys.version_info.minor} standard library's own source"
        return f"{description} ({len(files)} files)", [_read(f) for f in files]
    sources = [source for argument in arguments for source in _expand(argument)]
    described = arguments[0] if len(arguments) == 1 else f"{arguments[0]} and {len(arguments) - 1} more"
    if len(sources) > 1:
        described += f" ({len(sources)} files)"
    return described, sources


def join_bytes(sources: Sequence[Source]) -> bytes:
    """All sources as they are, one after the other."""
    return b"".join(source.data for source in sources)


def join_text(sources: Sequence[Source]) -> str:
    """All sources as strict UTF-8; a byte-order mark is dropped, and each but the last ends with a newline.

    Raises:
        CorpusError: a byte is no UTF-8; names file and offset.
    """
    texts: list[str] = []
    for source in sources:
        skip = len(_BOM) if source.data.startswith(_BOM) else 0
        try:
            text = source.data[skip:].decode("utf-8")
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"{source.name}: no UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start + skip:,}; "
                "convert the file (iconv -f LATIN1 -t UTF-8), or train on bytes: --bytes"
            ) from error
        if texts and texts[-1] and not texts[-1].endswith("\n"):
            texts.append("\n")
        texts.append(text)
    return "".join(texts)


def _no_text(description: str) -> Vocabulary:
    raise CorpusError(f"{description}: there is no text in it")


def _standard_library() -> list[Path]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(folder.glob("*.py"))
    if not files:
        raise CorpusError(f"this Python has no source of its own in {folder}; name a text: charrnn train FILE")
    return files


def _expand(argument: str) -> list[Source]:
    if argument == "-":
        return [Source(name="standard input", data=sys.stdin.buffer.read())]
    path = Path(argument)
    try:
        path.exists()
    except OSError as error:  # a text in the place of its name is too long for one
        raise CorpusError(f"{argument[:60]}…: cannot be read: {error.strerror or error}; name a file") from error
    if path.is_dir():
        found = [source for source in map(_read, _files_below(path)) if _is_text(source.data)]
        if not found:
            raise CorpusError(f"{argument}: a folder without text files")
        return found
    if path.exists():
        return [_read(path)]
    if glob.has_magic(argument):
        matches = [Path(m) for m in sorted(glob.glob(argument, recursive=True))]  # noqa: PTH207  # Path.glob takes no absolute pattern
        files = [m for m in matches if m.is_file()]
        if not files:
            raise CorpusError(f"{argument}: no file has a name like this")
        return [_read(f) for f in files]
    # Importing pooch costs, and most texts are files.
    from charrnn import catalogue

    if argument in catalogue.names():
        return [_read(catalogue.fetch(argument))]
    raise CorpusError(
        f"{argument}: no such file or folder, and no known corpus of this name (known: {', '.join(catalogue.names())})"
    )


def _files_below(folder: Path) -> list[Path]:
    """All files below a folder in a fixed order, without hidden files and folders."""
    files = [
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    return sorted(files)


def _is_text(data: bytes) -> bool:
    return b"\0" not in data[:_HEAD]


def _read(path: Path) -> Source:
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise CorpusError(f"{path}: damaged gzip file: {error}") from error
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror or error}") from error
    return Source(name=str(path), data=data)
