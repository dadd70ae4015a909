"""The part of protobuf's wire format that is needed to read and write ONNX files without the onnx package.

Fields are decoded only on request. Every length is checked against the buffer,
so a malformed file leads to a ModelFileError at once.
Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from charrnn_runtime.errors import ModelFileError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """One field of a message: where it starts, and its payload as value or as slice bounds."""

    number: int
    wire_type: int
    offset: int  # of the tag
    start: int  # of the payload (BYTES: behind the length)
    end: int
    value: int  # VARINT only


def iter_fields(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Field]:
    """The fields of the message in ``data[start:end]``, in file order.

    Raises:
        ModelFileError: the bytes are not a protobuf message.
    """
    end = len(data) if end is None else end
    at = start
    while at < end:
        offset = at
        tag, at = _varint(data, at, end)
        number, wire_type = tag >> 3, tag & 7
        value = 0
        payload = at
        if wire_type == VARINT:
            value, at = _varint(data, at, end)
        elif wire_type == BYTES:
            length, payload = _varint(data, at, end)
            at = payload + length
        elif wire_type == FIXED64:
            at += 8
        elif wire_type == FIXED32:
            at += 4
        else:
            raise ModelFileError(f"not an ONNX file: wire type {wire_type} at byte {offset}")
        if number == 0 or at > end:
            raise ModelFileError(f"not an ONNX file, or cut short: field {number} at byte {offset} runs over the end")
        yield Field(number, wire_type, offset, payload, at, value)


def packed_varints(data: bytes, part: Field) -> list[int]:
    """The numbers of a packed field."""
    numbers, at = [], part.start
    while at < part.end:
        number, at = _varint(data, at, part.end)
        numbers.append(number)
    return numbers


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise ModelFileError(f"not an ONNX file, or cut short: it ends inside a number at byte {at}")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ModelFileError(f"not an ONNX file: overlong number at byte {at}")


def encode_field(number: int, value: int | bytes) -> bytes:
    """One field: a number of at least 0 as a varint, bytes (a message, a text) with their length before them."""
    if isinstance(value, int):
        return encode_varint(number << 3 | VARINT) + encode_varint(value)
    return encode_length(number, len(value)) + value


def encode_length(number: int, length: int) -> bytes:
    """What stands before the bytes of a field: its tag and their number."""
    return encode_varint(number << 3 | BYTES) + encode_varint(length)


def encode_string(number: int, value: str) -> bytes:
    """One field that holds a text."""
    return encode_field(number, value.encode())


def encode_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
