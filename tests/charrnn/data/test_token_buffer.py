"""Ids in memory and in files: the same after widening, renumbering and moving."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.data import token_buffer
from charrnn.data.token_buffer import NoSpaceError, Tape, TokenBuffer

PARTS = st.lists(
    st.lists(st.integers(0, 70_000), max_size=12).map(
        lambda ids: np.array(ids, np.min_scalar_type(max([0, *ids])).newbyteorder("<"))
    ),
    max_size=5,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("buffers")


@given(PARTS, st.integers(0, 5), st.integers(1, 7))
def test_ids_are_kept_while_they_widen_and_move(
    folder: Path, parts: list[np.ndarray[tuple[int], np.dtype[np.unsignedinteger]]], moved: int, block: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_buffer, "BLOCK", block)
        buffer = TokenBuffer()
        for number, part in enumerate(parts):
            if number == moved:
                buffer.move_to(folder)
            buffer.append(part)
        expected = [token for part in parts for token in part.tolist()]
        assert [token for ids in buffer.blocks() for token in ids.tolist()] == expected
        assert len(buffer) == len(expected)
        assert buffer.width == max([1, *(part.itemsize for part in parts)])
        for tape in (buffer.ids, buffer.items, buffer.hashes):
            tape.close()


@given(st.lists(st.tuples(st.integers(0, 30), st.binary(max_size=9)), max_size=8), st.booleans())
def test_a_tape_is_a_growing_array_of_bytes(folder: Path, writes: list[tuple[int, bytes]], in_file: bool) -> None:
    tape, expected = Tape(), bytearray()
    if in_file:
        tape.move_to(folder / "tape")
    for at, data in writes:
        tape.write(at, data)
        if data:
            expected.extend(bytes(max(0, at - len(expected))))
            expected[at : at + len(data)] = data
    size = tape.size
    assert bytes(tape.read(0, 1000))[: len(expected)] == expected
    tape.truncate(size // 2)
    assert bytes(tape.read(0, 1000)) == bytes(expected[: size // 2]).ljust(size // 2, b"\0")
    tape.close()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    buffer = TokenBuffer()
    with pytest.raises(NoSpaceError) as caught:
        buffer.move_to(tmp_path / "missing")
    assert isinstance(caught.value.__cause__, OSError)


@given(st.lists(st.integers(0, 299), max_size=30), st.integers(1, 7), st.sampled_from([2, 257, 65_537]), st.randoms())
def test_renumbered_ids(ids: list[int], block: int, size: int, draw: random.Random) -> None:
    new = np.array([draw.choice([-1, draw.randrange(size)]) for _ in range(300)], np.int64)
    expected = [new[i] for i in ids if new[i] >= 0]
    digest = hashlib.sha256()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_buffer, "BLOCK", block)
        buffer = TokenBuffer()
        buffer.append(np.array(ids, "<u2"))
        buffer.renumber(new, size=size, end=1, digest=digest)
    final = buffer.ids.array(buffer.dtype)
    assert buffer.width == np.min_scalar_type(size - 1).itemsize
    assert final.tolist() == expected
    assert digest.digest() == hashlib.sha256(final.tobytes()).digest()
    ends = [at + 1 for at, token in enumerate(expected) if token == 1]
    assert buffer.items.array("<i8").tolist() == [0, *ends]
