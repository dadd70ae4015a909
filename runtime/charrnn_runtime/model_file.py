"""Model-file format 1: reading, checking and describing it.

``runtime/README.md`` specifies the format; this is its one implementation. The
exporter writes files through ``ModelInfo.to_metadata`` and ``seal``, so that
reader and writer cannot drift apart.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charrnn_runtime.errors import ModelFileError, UsageError
from charrnn_runtime.onnx_structure import check_structure, metadata_entry, without_entry
from charrnn_runtime.vocab import Unknown, UnknownScore, Vocabulary

if TYPE_CHECKING:
    from charrnn_runtime.vocab import Ids

FORMAT = 1
PREFIX = "charrnn."
DIGEST_KEY = "charrnn.sha256"
GENERATOR_KEY = "charrnn.generator"  # only in generator files: see generator_graph.py
MAX_BYTES = 2**31 - 1  # protobuf's own limit for one message
_PIPE_BYTES = 16 << 20  # bytes read at once from a pipe or other special file


@dataclass(frozen=True, kw_only=True)
class StateSpec:
    """One state tensor of the cell: float32 ``[batch, size]``, zero at the beginning of a text."""

    input: str
    output: str
    size: int
    dtype: str = "float32"


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The metadata of a model file; ``runtime/README.md`` specifies each entry."""

    cell: str
    num_layers: int
    hidden_size: int
    vocabulary: Vocabulary
    states: tuple[StateSpec, ...]
    start_token: int
    format: int = FORMAT
    opset: int = 0
    dtype: str = "float32"
    weights_sha256: str = ""
    sha256: str = field(default="", compare=False)  # of the file, as its own metadata says
    training: Mapping[str, Any] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    quality: Mapping[str, Any] = field(default_factory=dict)
    producer: Mapping[str, str] = field(default_factory=dict)

    @property
    def verified(self) -> bool:
        """False for a file that was written although it failed its exporter's parity check."""
        return self.parity.get("verified") is not False

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that determines the logits: equal for a checkpoint and its export of the same dtype."""
        vocabulary, states = (self.to_metadata()[PREFIX + key] for key in ("vocab", "states"))
        parts = (self.weights_sha256 or self.sha256, self.dtype, self.cell, vocabulary, states)
        return hashlib.sha256(_dumps(parts).encode()).hexdigest()

    def first_token(self, label: str | None) -> int:
        """Id of the token that is fed before a text that begins here, with a label or without one.

        Raises:
            UsageError: the model has no such label.
        """
        return self.start_token if label is None else self.vocabulary.label_token(label)

    def encode(self, text: str | bytes, *, unknown: Unknown | UnknownScore = "error") -> Ids:
        """Token ids ``[n]`` of a prompt or of a text to score.

        This is ``Vocabulary.encode``, after line ends are made LF if they were in the training text.

        Raises:
            UnknownCharacterError, UsageError: as ``Vocabulary.encode``.
        """
        return self.vocabulary.encode(self._folded(text), unknown=unknown)

    def find_unknown(self, text: str | bytes) -> list[tuple[int, str]]:
        """(position, character) of each character of a text that is outside the vocabulary."""
        return self.vocabulary.find_unknown(self._folded(text))

    def _folded(self, text: str | bytes) -> str | bytes:
        if not self.folds_newlines or not isinstance(text, (str, bytes)):
            return text
        if isinstance(text, bytes):
            return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return text.replace("\r\n", "\n").replace("\r", "\n")

    @property
    def folds_newlines(self) -> bool:
        """Whether training made CRLF and CR line ends LF (``--newlines lf``)."""
        return self.training.get("newlines") == "lf"

    def to_metadata(self) -> dict[str, str]:
        """metadata_props of the file, without the digest that ``seal`` adds."""
        values = {
            "format": str(self.format),
            "cell": self.cell,
            "num_layers": str(self.num_layers),
            "hidden_size": str(self.hidden_size),
            "vocab": _dumps(self.vocabulary.to_json()),
            "states": _dumps(
                [
                    {"input": s.input, "output": s.output, "shape": ["batch", s.size], "dtype": s.dtype}
                    for s in self.states
                ]
            ),
            "start_token": str(self.start_token),
            "dtype": self.dtype,
            "weights_sha256": self.weights_sha256,
            "training": _dumps(self.training),
            "parity": _dumps(self.parity),
            "producer": _dumps(self.producer),
        }
        if self.quality:
            values["quality"] = _dumps(self.quality)
        return {PREFIX + key: value for key, value in values.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], *, opset: int = 0) -> ModelInfo:
        """Inverse of ``to_metadata``.

        Raises:
            ModelFileError: names the entry that is missing or wrong.
        """
        if PREFIX + "format" not in metadata:
            raise ModelFileError(
                "not a charrnn model: the ONNX file has no metadata 'charrnn.format'; "
                "write a model file with: charrnn export CHECKPOINT model.onnx"
            )
        file_format = _integer(metadata, "format", 1)
        if file_format > FORMAT:
            raise ModelFileError(
                f"model-file format {file_format} is newer than this runtime (format {FORMAT}); "
                "upgrade it: pip install -U charrnn-runtime"
            )
        try:
            vocabulary = Vocabulary.from_json(_json(metadata, "vocab"))
        except UsageError as error:
            raise ModelFileError(f"metadata 'charrnn.vocab': {error}") from error
        start_token = _integer(metadata, "start_token", 0)
        if start_token >= len(vocabulary):
            raise ModelFileError(f"metadata 'charrnn.start_token' {start_token} is not in the vocabulary")
        return cls(
            format=file_format,
            cell=_text(metadata, "cell"),
            num_layers=_integer(metadata, "num_layers", 1),
            hidden_size=_integer(metadata, "hidden_size", 1),
            vocabulary=vocabulary,
            states=_states(_json(metadata, "states")),
            start_token=start_token,
            opset=opset,
            dtype=metadata.get(PREFIX + "dtype", "float32"),
            weights_sha256=metadata.get(PREFIX + "weights_sha256", ""),
            sha256=metadata.get(DIGEST_KEY, ""),
            training=_object(metadata, "training"),
            parity=_object(metadata, "parity"),
            quality=_object(metadata, "quality"),
            producer=_object(metadata, "producer"),
        )


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A checked model file: its bytes, for ONNX Runtime, and its metadata."""

    data: bytes
    info: ModelInfo
    name: str


def read_model_file(source: str | os.PathLike[str] | bytes, *, name: str | None = None) -> ModelFile:
    """Reads and checks a model file; nothing in it is executed.

    Args:
        source: path, or the bytes of the file.
        name: of the file in messages, if the source is bytes.

    Raises:
        ModelFileError: there is no such file, it is not a model file, it is damaged, or it holds
            what the format forbids (external data, foreign operators, control flow, functions).
        UsageError: the source is not a path or bytes.
    """
    if isinstance(source, bytes):
        data, name = source, name or "<bytes>"
    elif isinstance(source, (str, os.PathLike)):
        name = os.fsdecode(source)
        data = read_bytes(Path(name))
    else:
        raise UsageError(f"a model file is a path or bytes, not {type(source).__name__}")
    try:
        metadata, opset = check_structure(data)
        info = ModelInfo.from_metadata(metadata, opset=opset)
        stored = metadata.get(DIGEST_KEY)
        if stored is None:
            raise ModelFileError(f"metadata '{DIGEST_KEY}' is missing")
        if stored != digest(data):
            raise ModelFileError(
                "the file was damaged or changed after export (its SHA-256 does not match); copy or export it again"
            )
    except ModelFileError as error:
        if GENERATOR_KEY.encode() in data:
            raise ModelFileError(
                f"{name}: is a generator, for programs without this runtime; name the model file that it was made from"
            ) from error
        if kind := other_kind(data):
            raise ModelFileError(f"{name}: is {kind}") from error
        raise ModelFileError(f"{name}: {error}") from error
    return ModelFile(data=data, info=info, name=name)


def digest(data: bytes) -> str:
    """SHA-256 (hex) of an ONNX file's bytes without the metadata entry that holds the digest itself."""
    sha = hashlib.sha256()
    for part in without_entry(data, DIGEST_KEY):
        sha.update(part)
    return sha.hexdigest()


def seal(data: bytes) -> bytes:
    """The same ONNX file with its digest appended; the last thing an exporter does.

    Raises:
        ModelFileError: not an ONNX file, or already sealed.
    """
    if sum(map(len, without_entry(data, DIGEST_KEY))) != len(data):
        raise ModelFileError(f"the file already has a '{DIGEST_KEY}'")
    return data + metadata_entry(DIGEST_KEY, digest(data))


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, or of a pipe, which is read once.

    Raises:
        ModelFileError: there is no such file, it is a folder, it is too large or cannot be read.
    """
    try:
        if path.is_dir():
            raise ModelFileError(f"{path}: is a folder; name the .onnx file in it")
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            parts, size = [], status.st_size
            while size <= MAX_BYTES and (part := file.read(-1 if stat.S_ISREG(status.st_mode) else _PIPE_BYTES)):
                parts.append(part)
                size = max(size, sum(map(len, parts)))
    except FileNotFoundError as error:
        raise ModelFileError(f"{path}: no such file") from error
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from error
    except (MemoryError, ValueError) as error:  # ValueError: a path with a null character
        raise ModelFileError(f"{path}: cannot be read: {error or 'there is not enough memory'}") from error
    if size > MAX_BYTES:
        raise ModelFileError(f"{path}: is larger than an ONNX file can be (2 GiB)")
    return parts[0] if len(parts) == 1 else b"".join(parts)


# How files that are mistaken for model files begin, and the message for each.
_OTHER_KINDS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file that it stands for; fetch that with: git lfs pull"),
    (
        b"PK\x03\x04",
        "a zip archive; if it is a checkpoint, export it first: charrnn export CHECKPOINT model.onnx",
    ),
    (b"\x1f\x8b", "compressed with gzip; decompress it first: gunzip"),
    (b"BZh", "compressed with bzip2; decompress it first: bunzip2"),
    (b"\xfd7zXZ", "compressed with xz; decompress it first: unxz"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard; decompress it first: unzstd"),
    (b"<", "an HTML or XML page, perhaps a download page instead of the file; download the file itself"),
    (b"{", "a JSON text, not an ONNX file"),
)


def other_kind(data: bytes) -> str | None:
    """What a file that is not a model file seems to be, and the remedy; None if its beginning does not tell."""
    if not data:
        return "empty"
    beginning = data[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
    for prefix, kind in _OTHER_KINDS:
        if beginning.startswith(prefix):
            return kind
    try:
        text = data[:4096].decode()
    except UnicodeDecodeError as error:
        text = data[: error.start].decode() if error.start > 4000 else "\0"  # cut inside a character
    return "a text file, not an ONNX file" if all(c.isprintable() or c.isspace() for c in text) else None


def _dumps(value: object) -> str:
    # ASCII escapes keep lone surrogates and make the file's bytes independent of any locale.
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def _text(metadata: Mapping[str, str], key: str) -> str:
    try:
        return metadata[PREFIX + key]
    except KeyError:
        raise ModelFileError(f"metadata 'charrnn.{key}' is missing") from None


def _integer(metadata: Mapping[str, str], key: str, least: int) -> int:
    text = _text(metadata, key)
    # isascii: int() would also take other scripts' digits
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
        raise ModelFileError(f"metadata 'charrnn.{key}' is {text[:40]!r}, not a whole number of at least {least}")
    return int(text)


def _json(metadata: Mapping[str, str], key: str) -> Any:
    try:
        return json.loads(_text(metadata, key))
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"metadata 'charrnn.{key}' is not JSON: {error}") from error


def _object(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    if PREFIX + key not in metadata:
        return {}
    value = _json(metadata, key)
    if not isinstance(value, dict):
        raise ModelFileError(f"metadata 'charrnn.{key}' is not a JSON object")
    return value


def _states(value: Any) -> tuple[StateSpec, ...]:
    states = []
    for item in value if isinstance(value, list) else ():
        match item:
            case {"input": str(source), "output": str(target), "shape": ["batch", int(size)], "dtype": str(dtype)} if (
                size > 0 and source != target
            ):
                states.append(StateSpec(input=source, output=target, size=size, dtype=dtype))
            case _:
                raise ModelFileError(f"metadata 'charrnn.states' holds something that is not a state: {item!r:.80}")
    names = [name for s in states for name in (s.input, s.output)]
    if not states or len(set(names)) != len(names):
        raise ModelFileError("metadata 'charrnn.states' names no states, or a name twice")
    return tuple(states)
