"""Known corpora: the catalogue itself, and fetching from a server on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from charrnn import catalogue
from charrnn.config import DataConfig
from charrnn.corpus import read_corpus
from charrnn.errors import DownloadError

TEXT = b"a text from afar\n" * 20


class _Server(ThreadingHTTPServer):
    requests = 0


class _Handler(BaseHTTPRequestHandler):
    """``/good.txt`` is the text, ``/short.txt`` breaks off in the middle, the rest is not there."""

    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        self.server.requests += 1
        found = self.path in ("/good.txt", "/short.txt")
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(TEXT)) if found else "0")
        self.end_headers()
        if found:
            self.wfile.write(TEXT if self.path == "/good.txt" else TEXT[:100])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHARRNN_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


def known(monkeypatch: pytest.MonkeyPatch, url: str, data: bytes = TEXT) -> None:
    """Makes ``afar`` a known corpus."""
    entry = catalogue.Entry(
        name="afar", url=url, size=len(data), sha256=hashlib.sha256(data).hexdigest(), licence="", description=""
    )
    monkeypatch.setattr(catalogue, "entries", lambda: {"afar": entry})


def test_every_entry_is_complete() -> None:
    assert "tinyshakespeare" in catalogue.names()
    assert catalogue.names() == sorted(catalogue.names())
    for name, entry in catalogue.entries().items():
        assert entry == replace(entry, name=name)
        assert name.isidentifier(), "a name must not look like a path or a glob"
        assert entry.url.startswith("https://")
        assert int(entry.sha256, 16) >= 0
        assert len(entry.sha256) == 64
        assert entry.size > 100_000
        assert entry.licence
        assert entry.description


def test_fetched_once_and_then_from_the_cache(server: _Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, f"http://127.0.0.1:{server.server_port}/good.txt")
    corpus = read_corpus(["afar"], DataConfig())
    assert corpus.vocabulary.decode(corpus.ids.tolist()).encode() == TEXT
    assert corpus.name == "afar"
    assert [path.name for path in cache.iterdir()] == ["afar.txt"]
    read_corpus(["afar"], DataConfig())
    assert server.requests == 1


def test_a_damaged_copy_in_the_cache_is_fetched_anew(
    server: _Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, f"http://127.0.0.1:{server.server_port}/good.txt")
    cache.mkdir()
    (cache / "afar.txt").write_bytes(TEXT[:-1])
    assert catalogue.fetch("afar").read_bytes() == TEXT
    assert server.requests == 1


def test_a_wrong_checksum_is_refused_and_nothing_stays(
    server: _Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, f"http://127.0.0.1:{server.server_port}/good.txt", data=b"another text")
    with pytest.raises(DownloadError, match="SHA-256 is wrong"):
        catalogue.fetch("afar")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("path", ["missing.txt", "short.txt"])
def test_a_failed_download_leaves_nothing(
    server: _Server, cache: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    known(monkeypatch, f"http://127.0.0.1:{server.server_port}/{path}")
    with pytest.raises(DownloadError, match="afar: cannot be downloaded"):
        catalogue.fetch("afar")
    assert list(cache.iterdir()) == []


def test_without_a_network_the_error_says_what_to_do(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, "http://127.0.0.1:1/good.txt")  # nobody listens there
    with pytest.raises(
        DownloadError, match=r"fetch http://127.0.0.1:1/good.txt on another machine .*charrnn train afar.txt"
    ):
        catalogue.fetch("afar")


def test_a_file_of_that_name_goes_before_the_known_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tinyshakespeare").write_text("mine")
    corpus = read_corpus(["tinyshakespeare"], DataConfig())
    assert corpus.vocabulary.decode(corpus.ids.tolist()) == "mine"
