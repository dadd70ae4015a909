"""Files are the old one or the new one, whatever happens in between."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from charrnn.errors import WriteError
from charrnn.files import check_writable, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    for data in (b"old", b"new"):
        write_atomically(path, data)
        assert path.read_bytes() == data
    assert names(tmp_path) == ["a.pt"]


def test_a_new_file_has_the_permissions_that_any_other_would_have(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", b"")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("broken", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("error", "raised"),
    [(OSError(errno.ENOSPC, "No space left on device"), WriteError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_a_failure_in_the_middle_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, error: BaseException, raised: type[BaseException]
) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"old")

    def fail(*_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(os if broken == "fsync" else Path, broken, fail)
    with pytest.raises(raised) as caught:
        write_atomically(path, b"new")
    if raised is WriteError:
        assert str(caught.value) == f"{path}: cannot be written: No space left on device"
    assert names(tmp_path) == ["a.pt"]
    assert path.read_bytes() == b"old"


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file" / "x", tmp_path / "missing" / "x", Path("/dev/null/x"), tmp_path / ("x" * 300)):
        with pytest.raises(WriteError, match="cannot be written"):
            write_atomically(path, b"")
    for path in (tmp_path / "file" / "x", tmp_path / "missing" / "x"):
        with pytest.raises(WriteError, match="cannot be written"):
            check_writable(path)
    with pytest.raises(WriteError, match="is a folder"):
        check_writable(tmp_path)
    check_writable(tmp_path / "new")
    check_writable(tmp_path / "file")
    assert names(tmp_path) == ["file"]
