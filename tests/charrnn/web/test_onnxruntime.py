"""The pinned npm package: fetched once, checked, or refused. The registry is a folder on this machine."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from charrnn.errors import DownloadError
from charrnn.web import onnxruntime
from charrnn.web.onnxruntime import Pin, fetch_files

MODULE, WASM = b"export const env = {};", b"\0asm"


def integrity(data: bytes) -> str:
    return "sha384-" + base64.b64encode(hashlib.sha384(data).digest()).decode()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of two small files, pinned, in a folder that stands for a registry; the path of its tarball."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in (("package/dist/m.mjs", MODULE), ("package/dist/w.wasm", WASM)):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    files = {"dist/m.mjs": integrity(MODULE), "dist/w.wasm": integrity(WASM)}
    digest = hashlib.sha512(buffer.getvalue()).hexdigest()
    chosen = Pin(package="small", version="1.2.3", sha512=digest, files=files)
    monkeypatch.setattr(onnxruntime, "pin", lambda: chosen)
    monkeypatch.setenv("CHARRNN_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "registry" / "small" / "-" / "small-1.2.3.tgz"
    path.parent.mkdir(parents=True)
    path.write_bytes(buffer.getvalue())
    return path


@pytest.fixture
def served(registry: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with a server before it and npm's variable pointing there."""
    import functools
    import http.server
    import threading

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(registry.parents[2]))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{server.server_port}")
    return registry


def test_the_package_is_fetched_once_and_a_damaged_cache_is_mended(served: Path) -> None:
    expected = {"dist/m.mjs": MODULE, "dist/w.wasm": WASM}
    assert fetch_files() == expected
    tarball = served.read_bytes()
    served.unlink()
    assert fetch_files() == expected, "from the cache"
    served.write_bytes(tarball)
    (served.parents[3] / "cache" / "small-1.2.3" / "w.wasm").write_bytes(b"other")
    assert fetch_files() == expected


def test_what_is_not_the_pinned_package_is_refused(served: Path) -> None:
    served.write_bytes(served.read_bytes() + b"x")
    with pytest.raises(DownloadError, match="wrong SHA-512"):
        fetch_files()
    assert not (served.parents[3] / "cache").exists()


def test_without_a_network(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9/")
    with pytest.raises(DownloadError, match=r"cannot be downloaded.*NPM_CONFIG_REGISTRY.*--cdn"):
        fetch_files()


@pytest.mark.parametrize("folder", [None, "/proc/charrnn"])
def test_without_a_cache_the_files_are_used_all_the_same(
    served: Path, monkeypatch: pytest.MonkeyPatch, folder: str | None
) -> None:
    monkeypatch.setattr(onnxruntime, "cache_folder", lambda: folder and Path(folder))
    notes: list[str] = []
    assert fetch_files(notes.append) == {"dist/m.mjs": MODULE, "dist/w.wasm": WASM}
    (note,) = notes
    assert note.startswith("small is not kept, and will be downloaded again for the next site: ")
