"""``charrnn data``: known corpora, and texts that are kept as token ids. Downloads: test_catalogue.py."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from charrnn.data import catalogue

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Charrnn


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHARRNN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_list_has_every_known_corpus(charrnn: Charrnn) -> None:
    lines = [json.loads(line) for line in charrnn("data", "list", "--json").out.splitlines()]
    assert [line["name"] for line in lines] == list(catalogue.names())
    assert all(line["licence"] and line["url"].startswith("https://") and not line["here"] for line in lines)
    shown = charrnn("data", "list").out
    assert all(line["name"] in shown and line["url"] in shown for line in lines)


def test_a_corpus_that_is_not_there_and_one_that_is_unknown(charrnn: Charrnn) -> None:
    absent = charrnn("data", "path", "tinyshakespeare")
    assert (absent.code, absent.out) == (1, "")
    assert "charrnn data fetch tinyshakespeare" in absent.err
    unknown = charrnn("data", "fetch", "tinyshakespear")
    assert unknown.code != 0
    assert "tinyshakespeare" in unknown.err
