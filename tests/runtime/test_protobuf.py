"""The protobuf walker: agrees with the protobuf library, ends on any bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import pytest
from charrnn_runtime import ModelFileError
from charrnn_runtime._protobuf import BYTES, VARINT, iter_fields
from hypothesis import given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from tests.runtime.conftest import TinyModel


steady = settings(derandomize=True, deadline=None, max_examples=300)


def test_walker_agrees_with_protobuf(tiny: TinyModel) -> None:
    data = tiny.data()
    model = onnx.ModelProto.FromString(data)
    parts = list(iter_fields(data))
    assert b"".join(data[p.offset : p.end] for p in parts) == data
    assert [p.value for p in parts if p.number == 1] == [model.ir_version]
    (graph,) = (p for p in parts if p.number == 7)
    assert data[graph.start : graph.end] == model.graph.SerializeToString()
    inner = list(iter_fields(data, graph.start, graph.end))
    assert sum(p.number == 1 and p.wire_type == BYTES for p in inner) == len(model.graph.node)
    assert sum(p.number == 5 for p in inner) == len(model.graph.initializer)


@steady
@given(st.binary(max_size=80))
def test_walker_ends_on_any_bytes(data: bytes) -> None:
    try:
        parts = list(iter_fields(data))
    except ModelFileError:
        return
    assert b"".join(data[p.offset : p.end] for p in parts) == data


@pytest.mark.parametrize(
    "data", [b"\x0b", b"\x08", b"\x08\x80", b"\x08" + b"\xff" * 11, b"\x0a\x05ab", b"\x00\x01", b"\x09abc", b"\x0dab"]
)
def test_walker_refuses_what_is_no_message(data: bytes) -> None:
    with pytest.raises(ModelFileError, match="not an ONNX file"):
        list(iter_fields(data))


def test_walker_reads_fixed_width_fields_and_long_varints() -> None:
    data = b"\x08\x96\x01" + b"\x11" + b"8bytes!!" + b"\x1d" + b"four"
    assert [(p.number, p.wire_type, p.value) for p in iter_fields(data)] == [(1, VARINT, 150), (2, 1, 0), (3, 5, 0)]
