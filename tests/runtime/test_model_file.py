"""Model files: what is read is what was written; every damage is refused."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnxruntime
import pytest
from charrnn_runtime import ModelFileError, ModelInfo, Sampler, read_model_file
from charrnn_runtime.model_file import digest, seal
from hypothesis import settings

if TYPE_CHECKING:
    from tests.runtime.conftest import TinyModel

steady = settings(derandomize=True, deadline=None, max_examples=300)


def test_reads_what_was_written(tiny: TinyModel, tmp_path: Path) -> None:
    data = tiny.data()
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    file = read_model_file(path)
    assert file.data == data
    assert file.name == str(path)
    assert file.info == ModelInfo.from_metadata(tiny.info().to_metadata(), opset=18)
    assert file.info.vocabulary == tiny.vocabulary
    assert read_model_file(str(path)).info == read_model_file(data).info


def test_digest_is_the_sha256_of_everything_before_it(tiny: TinyModel) -> None:
    unsealed = tiny.proto().SerializeToString()
    sealed = seal(unsealed)
    assert sealed.startswith(unsealed)
    assert digest(sealed) == hashlib.sha256(unsealed).hexdigest()
    # The rule is about fields, not about the place of the entry.
    moved = sealed[len(unsealed) :] + unsealed
    assert read_model_file(moved).info == read_model_file(sealed).info
    with pytest.raises(ModelFileError, match="already"):
        seal(sealed)


def test_truncated_anywhere(tiny: TinyModel) -> None:
    data = tiny.data()
    for size in range(len(data)):
        with pytest.raises(ModelFileError):
            read_model_file(data[:size])


def test_any_flipped_byte(tiny: TinyModel) -> None:
    """Structure, names, weights, metadata, digest: every byte of the file, one bit or all of them."""
    data = bytearray(tiny.data())
    for at in range(len(data)):
        for mask in (1 << (at % 8), 0xFF):
            data[at] ^= mask
            with pytest.raises(ModelFileError):
                read_model_file(bytes(data))
            data[at] ^= mask


@pytest.mark.parametrize("key", ["format", "cell", "num_layers", "hidden_size", "vocab", "states", "start_token"])
def test_missing_metadata_is_named(tiny: TinyModel, key: str) -> None:
    with pytest.raises(ModelFileError, match=f"charrnn.{key}"):
        read_model_file(tiny.data({f"charrnn.{key}": None}))


def test_missing_digest(tiny: TinyModel) -> None:
    with pytest.raises(ModelFileError, match="sha256' is missing"):
        read_model_file(tiny.proto().SerializeToString())


_STATE = {"input": "h", "output": "next_h", "shape": ["batch", 8], "dtype": "float32"}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "2", "newer than this runtime"),
        ("format", "0", "format"),
        ("format", "1.0", "format"),
        ("format", "١", "format"),
        ("num_layers", "-1", "num_layers"),
        ("hidden_size", "0", "hidden_size"),
        ("hidden_size", "9" * 5000, "hidden_size"),
        ("start_token", "1000", "not in the vocabulary"),
        ("vocab", "{", "is not JSON"),
        ("vocab", "[" * 100_000, "is not JSON"),
        ("vocab", "[]", "charrnn.vocab"),
        ("states", "{}", "names no states"),
        ("states", "[]", "names no states"),
        ("states", "[1]", "not a state"),
        ("states", json.dumps([_STATE, _STATE]), "a name twice"),
        ("states", json.dumps([{**_STATE, "shape": [1, 8]}]), "not a state"),
        ("states", json.dumps([{**_STATE, "shape": ["batch", 0]}]), "not a state"),
        ("states", json.dumps([{**_STATE, "output": "h"}]), "not a state"),
        ("training", "[]", "not a JSON object"),
        ("parity", "x", "is not JSON"),
        ("producer", "1", "not a JSON object"),
    ],
)
def test_wrong_metadata_is_named(tiny: TinyModel, key: str, value: str, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        read_model_file(tiny.data({f"charrnn.{key}": value}))


def test_optional_and_foreign_metadata(tiny: TinyModel) -> None:
    optional = ("dtype", "weights_sha256", "training", "parity", "producer")
    data = tiny.data({**{f"charrnn.{key}": None for key in optional}, "someone.else": "x", "charrnn.future": "y"})
    info = read_model_file(data).info
    assert (info.dtype, info.training, info.parity) == ("float32", {}, {})


def _states(*items: tuple[str, int, str]) -> str:
    return json.dumps(
        [{"input": n, "output": f"next_{n}", "shape": ["batch", size], "dtype": t} for n, size, t in items]
    )


def _fixed_batch(model: onnx.ModelProto) -> None:
    model.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 1


@pytest.mark.parametrize(
    ("metadata", "change", "message"),
    [
        ({"states": _states(("h_0", 8, "float32"), ("h_1", 7, "float32"))}, None, r"metadata says \[batch, 7\]"),
        ({"states": _states(("h_0", 8, "float32"))}, None, "the graph's inputs are"),
        ({"states": _states(("h_1", 6, "float32"), ("h_0", 8, "float32"))}, None, "the graph's inputs are"),
        ({"states": _states(("h_0", 8, "float16"), ("h_1", 6, "float32"))}, None, "float16"),
        ({"vocab": '{"kind":"characters","tokens":["a","\\n"]}'}, None, r"metadata says \[batch, 2\]"),
        ({}, _fixed_batch, "batch first"),
    ],
)
def test_metadata_that_lies_about_the_graph(
    tiny: TinyModel, metadata: dict[str, str], change: Callable[[onnx.ModelProto], None] | None, message: str
) -> None:
    named = {f"charrnn.{key}": value for key, value in metadata.items()}
    if "vocab" in metadata:
        named["charrnn.start_token"] = "1"
    with pytest.raises(ModelFileError, match=message):
        Sampler(tiny.data(named, change))


def test_a_sound_file_whose_graph_onnxruntime_cannot_load(tiny: TinyModel) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[1].op_type = "NoSuchOperator"

    with pytest.raises(ModelFileError, match="ONNX Runtime cannot load"):
        Sampler(tiny.data(change=change))


def test_somebody_elses_onnx_file(tiny: TinyModel) -> None:
    model = tiny.proto()
    del model.metadata_props[:]
    with pytest.raises(ModelFileError, match=r"not a charrnn model.*charrnn export"):
        read_model_file(model.SerializeToString())
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with pytest.raises(ModelFileError, match="not a charrnn model"):
        Sampler(session)


@pytest.mark.parametrize("data", [bytes(1000), b"\x89PNG\r\n\x1a\n", b"\x08\x08\x12"])
def test_bytes_that_are_no_onnx(data: bytes) -> None:
    with pytest.raises(ModelFileError, match="not an ONNX"):
        read_model_file(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "Git LFS pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html>\n<title>Sign in</title>", "HTML or XML page.*download the file itself"),
        (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "HTML or XML page"),
        (b'{"error": "not found"}', "JSON text"),
        (b"PK\x03\x04\x14", "zip archive.*charrnn export"),
        (gzip.compress(b"x", mtime=0), "compressed with gzip.*gunzip"),
        (bz2.compress(b"x"), "bunzip2"),
        (lzma.compress(b"x"), "unxz"),
        (b"\x28\xb5\x2f\xfd\x04", "unzstd"),
        (b"hello, world\n", "a text file"),
        (("漢字" * 3000).encode()[:-1], "a text file"),
    ],
)
def test_other_kinds_of_file_are_recognised(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(ModelFileError, match=rf"m\.onnx: is .*{message}|m\.onnx: {message}"):
        read_model_file(tmp_path / "m.onnx")


def test_a_pipe_is_read_once_to_its_end(tiny: TinyModel, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    data = tiny.data()
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(data,))
    writer.start()
    assert read_model_file(tmp_path / "pipe").data == data
    writer.join()


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such file"):
        read_model_file(tmp_path / "none.onnx")
    with pytest.raises(ModelFileError, match="is a folder"):
        read_model_file(tmp_path)
    (tmp_path / "a.onnx").write_bytes(b"\0no")
    with pytest.raises(ModelFileError, match=r"a\.onnx: not an ONNX"):
        read_model_file(tmp_path / "a.onnx")
    with (tmp_path / "big.onnx").open("wb") as file:
        file.truncate(2**31)  # sparse: takes no space
    with pytest.raises(ModelFileError, match="larger than an ONNX file can be"):
        read_model_file(tmp_path / "big.onnx")
