"""onnxruntime-web for a site: two files of an npm package, downloaded once into the user's cache.

``onnxruntime.json`` pins the package's version, its digest and the digests of both
files. A download or a cached file with another digest is refused.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from charrnn.errors import DownloadError, WriteError
from charrnn.events import to_stderr
from charrnn.files import NO_CACHE, cache_folder, write_atomically

REGISTRY = "https://registry.npmjs.org/"
CDN = "https://cdn.jsdelivr.net"
_LIMIT = 256 << 20  # bytes; the package must not be larger


@dataclass(frozen=True, kw_only=True)
class Pin:
    """One version of the package.

    Attributes:
        package, version: as npm knows them.
        sha512: of the package's tarball, hexadecimal.
        files: path in the package → subresource integrity of the file, ``sha384-…``.
    """

    package: str
    version: str
    sha512: str
    files: dict[str, str]

    @property
    def module(self) -> str:
        """Path of the JavaScript module in the package."""
        return next(name for name in self.files if name.endswith(".mjs"))

    @property
    def wasm(self) -> str:
        """Path of the WebAssembly file in the package."""
        return next(name for name in self.files if name.endswith(".wasm"))

    def cdn_url(self, name: str) -> str:
        """URL of a file of the package on a public content delivery network."""
        return f"{CDN}/npm/{self.package}@{self.version}/{name}"


@functools.cache
def pin() -> Pin:
    """The version that sites use."""
    text = importlib.resources.files("charrnn.web").joinpath("onnxruntime.json").read_text("utf-8")
    return Pin(**json.loads(text))


def cached_files() -> dict[str, bytes] | None:
    """The package's files by path, from the cache; None if a file is missing there or damaged."""
    files, folder = {}, _folder()
    if folder is None:
        return None
    for name, integrity in pin().files.items():
        try:
            data = (folder / Path(name).name).read_bytes()
        except OSError:
            return None
        if _integrity(data) != integrity:
            return None
        files[name] = data
    return files


def fetch_files(notice: Callable[[str], None] = to_stderr) -> dict[str, bytes]:
    """The package's files by path, from the cache or else from the npm registry.

    Args:
        notice: called with a message if the files cannot be kept in the cache.

    Raises:
        DownloadError: the registry cannot be reached, or its package does not have the pinned digest.
    """
    if (files := cached_files()) is not None:
        return files
    from charrnn.download import download

    chosen = pin()
    name = f"{chosen.package}-{chosen.version}.tgz"
    url = f"{registry().rstrip('/')}/{chosen.package}/-/{name}"
    with tempfile.TemporaryDirectory() as temporary:
        try:
            path = Path(temporary) / name
            download(url, path, sha256=None, limit=_LIMIT)
        except DownloadError as error:
            raise DownloadError(
                f"{chosen.package} {chosen.version} cannot be downloaded from {url} ({error}). "
                "Set NPM_CONFIG_REGISTRY to a registry that can be reached, "
                "or write a site that loads it from a public network: --cdn"
            ) from error
        if hashlib.sha512(path.read_bytes()).hexdigest() != chosen.sha512:
            raise DownloadError(f"what {url} sent is not {chosen.package} {chosen.version}: wrong SHA-512")
        with tarfile.open(path) as archive:
            files = {name: _member(archive, f"package/{name}") for name in chosen.files}
    folder = _folder()
    try:
        if folder is None:
            raise WriteError(NO_CACHE)
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_atomically(folder / Path(name).name, data)
    except (OSError, WriteError) as error:
        notice(f"{chosen.package} is not kept, and will be downloaded again for the next site: {error}")
    return files


def registry() -> str:
    """URL of the npm registry: from npm's environment variable, else from npm's configuration, else the public one."""
    for name in ("NPM_CONFIG_REGISTRY", "npm_config_registry"):
        if value := os.environ.get(name):
            return value
    if npm := shutil.which("npm"):
        try:
            done = subprocess.run([npm, "config", "get", "registry"], capture_output=True, encoding="utf-8", timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return REGISTRY
        value = done.stdout.strip()
        if done.returncode == 0 and value.startswith(("https://", "http://")):
            return value
    return REGISTRY


def _folder() -> Path | None:
    """The folder of the cache for this version; None if there is no cache."""
    cache = cache_folder()
    return None if cache is None else cache / f"{pin().package}-{pin().version}"


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None  # the archive has the pinned digest, so the file is in it
    return file.read()


def _integrity(data: bytes) -> str:
    return "sha384-" + base64.b64encode(hashlib.sha384(data).digest()).decode()
