"""``charrnn data cache`` and ``clear``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from charrnn.config import DataConfig
from charrnn.data import cache, token_buffer
from charrnn.data.corpus import read_corpus

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Charrnn


def test_what_is_kept_is_shown_and_removed(charrnn: Charrnn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARRNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(token_buffer, "IN_MEMORY", 10)
    monkeypatch.setattr(cache, "YOUNG", 0.0)
    (tmp_path / "book.txt").write_text("a text that is long enough to be kept")
    read_corpus([str(tmp_path / "book.txt")], DataConfig())
    (kept,) = json.loads(charrnn("data", "cache", "--json").out)["texts"]
    assert kept["tokens"] == 37
    assert "book.txt" in kept["description"]
    line, total = charrnn("data", "cache").out.splitlines()
    assert line.startswith(f"{kept['name']}: 37 tokens, ")
    assert ": 1 texts, " in total
    assert ": 1 texts removed, " in charrnn("data", "clear").out
    assert json.loads(charrnn("data", "cache", "--json").out)["texts"] == []
    assert (tmp_path / "book.txt").exists()
