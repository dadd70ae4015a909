"""``charrnn export --web``: what is written where, and what is refused. No network."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from charrnn.errors import DownloadError
from charrnn.web import onnxruntime
from charrnn.web.onnxruntime import Pin, fetch_files, pin

if TYPE_CHECKING:
    from tests.conftest import Charrnn, Run

MODULE, WASM = b"export const env = {};", b"\0asm"


def test_a_site_around_a_model_file(run: Run, charrnn: Charrnn, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "site"
    for _ in range(2):  # the second one replaces the first
        done = charrnn("export", run.model, "--web", folder, "--cdn")
        assert done.code == 0, done.err
        assert str(folder) in done.out
    assert (folder / "model.onnx").read_bytes() == run.model.read_bytes()
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"index.html", "style.css", "app.js", "worker.js", "site.json", "charrnn/sampler.js"} <= written
    page = (folder / "index.html").read_text("utf-8")
    assert not re.search(r"\{\w*[a-z]\w*\}", page), "nothing is left to fill in"
    site = json.loads((folder / "site.json").read_text())
    assert site["wasm"] == {
        "url": f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{pin().version}/{pin().wasm}",
        "integrity": pin().files[pin().wasm],
    }


def test_a_checkpoint_becomes_a_model_file_and_a_site(run: Run, charrnn: Charrnn, tmp_path: Path) -> None:
    done = charrnn("export", run.folder, tmp_path / "m.onnx", "--web", tmp_path / "site", "--cdn")
    assert done.code == 0, done.err
    assert (tmp_path / "m.onnx").read_bytes() == (tmp_path / "site" / "model.onnx").read_bytes()


def test_other_files_are_not_mixed_with_a_site(run: Run, charrnn: Charrnn, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine")
    for target, part in (("mine", "holds other files"), ("mine/index.html", "is a file")):
        done = charrnn("export", run.model, "--web", tmp_path / target, "--cdn")
        assert (done.code, done.out) == (1, "")
        assert part in done.err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["index.html"]


def test_usage(run: Run, charrnn: Charrnn, tmp_path: Path) -> None:
    assert charrnn("export", run.folder).code == 2
    assert charrnn("export", run.folder, tmp_path / "m.onnx", "--cdn").code == 2
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    done = charrnn("export", tmp_path / "bad.onnx", "--web", tmp_path / "site", "--cdn")
    assert done.code == 1
    assert "not an ONNX" in done.err
    assert not (tmp_path / "site").exists()


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
