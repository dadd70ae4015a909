"""Writes a static site that samples from a model file."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from charrnn_runtime import generator_file, read_model_file

from charrnn.errors import WriteError
from charrnn.files import write_atomically
from charrnn.version import __version__
from charrnn.web.onnxruntime import CDN, fetch_files, pin

MARK = "site.json"  # written last; marks a folder as a site that may be replaced


def check_site(folder: Path) -> None:
    """Checks before any work that a site may be written to the folder. Changes nothing.

    Raises:
        WriteError: it is a file, or a folder with files that are not a site's.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise WriteError(f"{folder}: is a file; --web wants a folder")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).is_file():
            raise WriteError(f"{folder}: holds other files already; name a new or an empty folder with --web")
    except OSError as error:
        raise WriteError(f"{folder}: cannot be read: {error.strerror or error}") from error


def write_site(model: bytes, folder: Path, *, cdn: bool = False) -> dict[str, int]:
    """Writes a site that samples from a model in the visitor's browser. An earlier site there is replaced.

    Args:
        model: the model file's bytes.
        folder: made if it does not exist.
        cdn: let visitors load ONNX Runtime from a public content delivery network instead
            of from the site; their browsers check the pinned digests.

    Returns:
        Names of the files → sizes in bytes.

    Raises:
        ModelFileError: these bytes are not a model file, or of an opset that is too old for a generator.
        DownloadError: ONNX Runtime for browsers cannot be fetched.
        WriteError: the folder has other files in it, or cannot be written.
    """
    generator = generator_file(read_model_file(model))
    check_site(folder)
    package = pin()
    description: dict[str, Any] = {"charrnn": __version__, "onnxruntime": package.version}
    description |= {"model": "model.onnx", "generator": "generator.onnx"}
    files: dict[str, bytes] = {}
    for part, name in (("module", package.module), ("wasm", package.wasm)):
        if cdn:
            description[part] = {"url": package.cdn_url(name), "integrity": package.files[name]}
            continue
        # Named .js: many servers send .mjs with another type than JavaScript's, and browsers refuse that.
        local = "onnxruntime/" + Path(name).name.replace(".mjs", ".js")
        files[local] = fetch_files()[name]
        description[part] = {"url": local}
    files |= _files(importlib.resources.files("charrnn.web").joinpath("static"))
    files |= _files(importlib.resources.files("charrnn.web.js"), "charrnn/", (".js", ".json"))
    index = files["index.html"].decode()
    index = index.replace("{connect}", f" {CDN}" if cdn else "").replace("{script}", " blob:" if cdn else "")
    files["index.html"] = index.encode()
    files |= {"model.onnx": model, "generator.onnx": generator}
    files[MARK] = json.dumps(description, indent=2).encode()
    for name, data in files.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"{path.parent}: cannot be made: {error.strerror or error}") from error
        write_atomically(path, data)
    return {name: len(data) for name, data in files.items()}


def _files(folder: Traversable, prefix: str = "", suffixes: tuple[str, ...] = ("",)) -> Iterator[tuple[str, bytes]]:
    """The files of a folder whose names have one of the suffixes: (name in the site, contents)."""
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if item.is_file() and item.name.endswith(suffixes):
            yield prefix + item.name, item.read_bytes()
