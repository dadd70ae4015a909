"""Known corpora: the catalogue itself, and fetching from a server on this machine."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from charrnn import download
from charrnn.config import DataConfig
from charrnn.data import catalogue
from charrnn.data.corpus import read_corpus
from charrnn.errors import DownloadError

if TYPE_CHECKING:
    from tests.conftest import Charrnn

TEXT = b"a text from afar\n" * 20


class _Server(ThreadingHTTPServer):
    requests = 0
    ranges: list[str]
    break_off = 0  # answers that end early, still to come
    tag = '"1"'
    data = TEXT
    ranged = True  # whether it knows Range


class _Handler(BaseHTTPRequestHandler):
    """``/good.txt`` and ``/good.zip`` are the data, the rest is not there."""

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        server.requests += 1
        if not self.path.startswith("/good."):
            self.send_error(404)
            return
        data, start = server.data, 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and server.ranged and self.headers.get("If-Range") == server.tag:
            server.ranges.append(wanted[0])
            start = int(wanted[1])
            if start >= len(data):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("ETag", server.tag)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if server.break_off:
            server.break_off -= 1
            self.wfile.write(data[start : start + 100])
        else:
            self.wfile.write(data[start:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.ranges = []
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


def known(monkeypatch: pytest.MonkeyPatch, url: str, data: bytes = TEXT, **changed: Any) -> None:
    """Makes ``afar`` a known corpus."""
    values: dict[str, Any] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    values |= {"licence": "free", "description": "from afar"} | changed
    entry = catalogue.Entry(name="afar", url=url, **values)
    monkeypatch.setattr(catalogue, "entries", lambda: {"afar": entry})


@pytest.fixture
def good(server: _Server, cache: Path) -> str:
    return f"http://127.0.0.1:{server.server_port}/good.txt"


def usable(cache: Path) -> list[str]:
    """What could be taken for a text."""
    return sorted(path.name for path in cache.iterdir() if not path.name.startswith("."))


def zipped(data: bytes, name: str = "afar8") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def test_every_entry_is_complete() -> None:
    assert "tinyshakespeare" in catalogue.names()
    assert catalogue.names() == sorted(catalogue.names())
    for name, entry in catalogue.entries().items():
        assert entry == replace(entry, name=name)
        assert name.isidentifier(), "a name must not look like a path or a glob"
        assert entry.url.startswith("https://")
        assert entry.sha256 == "" or re.fullmatch("[0-9a-f]{64}", entry.sha256)
        assert bool(entry.member) == bool(entry.unpacked) == entry.url.endswith(".zip")
        assert entry.size > 100_000
        assert entry.licence
        assert entry.description


def test_fetched_once_and_then_from_the_cache(server: _Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, f"http://127.0.0.1:{server.server_port}/good.txt")
    corpus = read_corpus(["afar"], DataConfig())
    assert corpus.vocabulary.decode(corpus.ids.tolist()).encode() == TEXT
    assert corpus.name == "afar"
    assert usable(cache) == ["afar.txt"]
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
    server: _Server, cache: Path, good: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, good, size=len(TEXT), sha256="0" * 64)
    with pytest.raises(DownloadError, match="SHA-256 is wrong"):
        catalogue.fetch("afar")
    assert [path.name for path in cache.iterdir()] == [".afar.txt.lock"]


def test_a_missing_page_leaves_nothing(server: _Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, f"http://127.0.0.1:{server.server_port}/missing.txt")
    with pytest.raises(DownloadError, match="afar: cannot be downloaded"):
        catalogue.fetch("afar")
    assert usable(cache) == []
    assert server.requests == 1


def test_a_download_that_breaks_off_goes_on_at_once(
    server: _Server, cache: Path, good: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, good)
    server.break_off = 2
    assert catalogue.fetch("afar").read_bytes() == TEXT
    assert server.ranges == ["bytes=100-", "bytes=200-"]


def test_one_that_goes_on_breaking_off_is_resumed_by_the_next_call(
    server: _Server, cache: Path, good: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, good)
    monkeypatch.setattr(download, "TRIES", 1)
    server.break_off = 1
    with pytest.raises(DownloadError, match="its beginning is kept, and the next attempt goes on"):
        catalogue.fetch("afar")
    assert usable(cache) == []
    assert catalogue.fetched("afar") is None
    assert catalogue.fetch("afar").read_bytes() == TEXT
    assert server.ranges == ["bytes=100-"]


@pytest.mark.parametrize("change", ["no ranges", "another version", "part is whole"])
def test_where_going_on_would_be_wrong_it_begins_anew(
    server: _Server, cache: Path, good: str, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    known(monkeypatch, good)
    monkeypatch.setattr(download, "TRIES", 1)
    server.break_off = 1
    with pytest.raises(DownloadError):
        catalogue.fetch("afar")
    if change == "no ranges":
        server.ranged = False
    elif change == "another version":
        server.data, server.tag = TEXT[::-1], '"2"'
        known(monkeypatch, good, server.data)
    else:
        (cache / ".afar.txt.part").write_bytes(TEXT + b"?")
    assert catalogue.fetch("afar").read_bytes() == server.data


def test_more_than_it_may_have_is_refused(
    server: _Server, cache: Path, good: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, good, size=len(TEXT) - 1)
    with pytest.raises(DownloadError, match="refused: larger than the limit of 339 bytes"):
        catalogue.fetch("afar")
    assert [path.name for path in cache.iterdir() if "part" in path.name] == []


def test_unverified_the_first_one_is_trusted_and_no_other_after_it(
    server: _Server, cache: Path, good: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, good, sha256="")
    notes: list[str] = []
    path = catalogue.fetch("afar", notes.append)
    assert hashlib.sha256(TEXT).hexdigest() in notes[0]
    assert catalogue.fetch("afar", notes.append) == path
    assert len(notes) == server.requests == 1
    path.unlink()
    server.data = TEXT[::-1]
    with pytest.raises(DownloadError, match="SHA-256 is wrong"):
        catalogue.fetch("afar", notes.append)
    assert usable(cache) == []


def test_a_member_of_an_archive_is_unpacked(
    server: _Server, cache: Path, good: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.data = zipped(TEXT)
    known(monkeypatch, good.replace("txt", "zip"), server.data, member="afar8", unpacked=len(TEXT))
    assert catalogue.fetch("afar").read_bytes() == TEXT
    assert usable(cache) == ["afar.txt"]
    assert not (cache / ".afar.zip").exists()
    catalogue.fetch("afar")
    assert server.requests == 1
    (cache / "afar.txt").write_bytes(TEXT[:-1])
    assert catalogue.fetch("afar").read_bytes() == TEXT
    assert server.requests == 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (TEXT, "not an archive"),
        (zipped(TEXT, "other"), "not an archive that contains 'afar8'"),
        (zipped(TEXT[:-1]), "does not have 340 bytes"),
        (zipped(bytes(10**6)), "does not have 340 bytes"),
    ],
    ids=["no archive", "another member", "too short", "a bomb"],
)
def test_an_archive_that_is_not_what_it_should_be(
    server: _Server, cache: Path, good: str, monkeypatch: pytest.MonkeyPatch, data: bytes, reason: str
) -> None:
    server.data = data
    known(monkeypatch, good.replace("txt", "zip"), data, member="afar8", unpacked=len(TEXT))
    with pytest.raises(DownloadError, match=reason):
        catalogue.fetch("afar")
    assert usable(cache) == []


@pytest.mark.parametrize("place", [None, "/proc/charrnn"])
def test_without_a_cache_a_known_corpus_is_read_once_with_a_note(
    server: _Server,
    tmp_path: Path,
    good: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: str | None,
) -> None:
    known(monkeypatch, good)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if place is None:
        monkeypatch.setattr(catalogue, "cache_folder", lambda: None)
    else:
        monkeypatch.setenv("CHARRNN_CACHE", place)
    corpus = read_corpus(["afar"], DataConfig())
    assert corpus.vocabulary.decode(corpus.ids.tolist()) == TEXT.decode()
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith("note   afar is downloaded for this run only: the")
    assert "set CHARRNN_CACHE to" in note
    assert catalogue.fetched("afar") is None
    with pytest.raises(DownloadError, match=r"afar: cannot be kept.*set CHARRNN_CACHE to"):
        catalogue.fetch("afar")  # to keep it is what the user asks for


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_text_is_read_from_a_cache_that_cannot_be_written(
    server: _Server, cache: Path, good: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, good)
    catalogue.fetch("afar")
    cache.chmod(0o555)
    assert catalogue.fetch_to_read("afar").read_bytes() == TEXT
    assert server.requests == 1


def test_a_full_disk_is_not_taken_for_a_network_error(
    server: _Server, cache: Path, good: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, good)

    def full(file: object, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_write_all", full)
    with pytest.raises(DownloadError, match=r"afar: cannot be kept in .*: No space left on device"):
        catalogue.fetch("afar")
    assert server.requests == 1


def test_two_at_once_download_it_once(server: _Server, cache: Path, good: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, good)
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(catalogue.fetch, ["afar"] * 4))) == 1
    assert server.requests == 1


def test_the_command_lists_fetches_and_says_where(
    server: _Server, cache: Path, good: str, monkeypatch: pytest.MonkeyPatch, charrnn: Charrnn
) -> None:
    known(monkeypatch, good, sha256="")
    assert "unverified" in charrnn("data", "list").out
    missing = charrnn("data", "path", "afar")
    assert missing.code == 1
    assert "charrnn data fetch afar" in missing.err
    outcome = charrnn("data", "fetch", "afar")
    assert outcome.code == 0
    assert "this first download is trusted" in outcome.err
    assert Path(charrnn("data", "path", "afar").out.strip()).read_bytes() == TEXT
    assert json.loads(charrnn("data", "list", "--json").out)["here"] is True
    unknown = charrnn("data", "fetch", "nowhere")
    assert unknown.code == 1
    assert "there is no known corpus 'nowhere'; known: afar" in unknown.err


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
