"""A stand-in for the Hugging Face Hub: the endpoints that huggingface_hub uses for a repository.

Written after the client, which is the real one in the tests. The service itself may differ.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from charrnn_runtime.hub import import_hub

TOKEN = "hf_stand_in"


class Hub(ThreadingHTTPServer):
    """Repositories by name: each a list of commits, and each commit files by path.

    ``asked`` holds each request as (method, path, user agent).
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, list[dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, str]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


def commit_id(repo_id: str, number: int) -> str:
    """The commit's hash."""
    return hashlib.sha1(f"{repo_id} {number}".encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, status: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _json(self, value: object, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), Content_Type="application/json")

    def _read(self) -> bytes:
        self.server.asked.append((self.command, self.path, self.headers.get("User-Agent", "")))
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    @property
    def _logged_in(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_GET(self) -> None:
        self._read()
        found = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", self.path)
        assert found, self.path
        repo_id, revision, name = found.groups()
        commits = self.server.repositories.get(repo_id)
        if commits is None or (self.server.private.get(repo_id) and not self._logged_in):
            return self._answer(401, X_Error_Code="RepoNotFound")
        hashes = [commit_id(repo_id, number) for number in range(len(commits))]
        if revision != "main" and revision not in hashes:
            return self._answer(404, X_Error_Code="RevisionNotFound")
        number = hashes.index(revision) if revision in hashes else len(commits) - 1
        if number < 0 or name not in commits[number]:
            return self._answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=hashes[number] if hashes else "0" * 40)
        data = commits[number][name]
        etag = hashlib.sha256(data).hexdigest()
        return self._answer(200, data, X_Repo_Commit=hashes[number], ETag=f'"{etag}"')

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self._read()
        if self.path == "/api/validate-yaml":
            content = json.loads(body)["content"]
            return self._json(
                {"errors": [] if content.startswith("---\n") else [{"message": "no YAML"}], "warnings": []}
            )
        if not self._logged_in:
            return self._json({"error": "Invalid username or password."}, 401)
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            repo_id = f"{wanted['organization']}/{wanted['name']}"
            if repo_id in self.server.repositories:
                taken = {"error": "You already created this model repo", "url": f"{self.server.address}/{repo_id}"}
                return self._json(taken, 409)
            self.server.repositories[repo_id] = []
            self.server.private[repo_id] = wanted.get("visibility") == "private" or wanted.get("private") is True
            return self._json({"url": f"{self.server.address}/{repo_id}", "id": repo_id, "name": repo_id})
        if self.path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**wanted, "actions": {"upload": {"href": f"{self.server.address}/blob/{wanted['oid']}"}}}
                for wanted in json.loads(body)["objects"]
            ]
            return self._json({"transfer": "basic", "objects": objects})
        found = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/(preupload|commit)/main", self.path)
        assert found, self.path
        repo_id, action = found.groups()
        if action == "preupload":
            modes = [
                {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(".onnx") else "regular",
                 "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]  # fmt: skip
            return self._json({"files": modes})
        commits = self.server.repositories[repo_id]
        files = dict(commits[-1]) if commits else {}
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
        commits.append(files)
        made = commit_id(repo_id, len(commits) - 1)
        return self._json({"commitUrl": f"{self.server.address}/{repo_id}/commit/{made}", "commitOid": made})

    def do_PUT(self) -> None:
        data, oid = self._read(), self.path.removeprefix("/blob/")
        assert hashlib.sha256(data).hexdigest() == oid
        self.server.blobs[oid] = data
        self._answer(200)


@contextmanager
def hub(monkeypatch: pytest.MonkeyPatch, home: str) -> Iterator[Hub]:
    """A hub without repositories, which huggingface_hub takes for the only one; its files are below ``home``."""
    import_hub()  # it switches telemetry off, if it is the first to import the library
    constants = pytest.importorskip("huggingface_hub.constants")
    with Hub() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", f"{home}/hub")
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", f"{home}/token")
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # Xet is a protocol of its own; LFS does the same
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        try:
            yield server
        finally:
            server.shutdown()
