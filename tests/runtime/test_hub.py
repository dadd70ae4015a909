"""Models from the Hugging Face Hub: the real client library, with a cache laid out by hand and with a local server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from charrnn_runtime import HubError, ModelFileError, Sampler, UsageError
from charrnn_runtime.hub import import_hub

from tests.hub_server import TOKEN, Hub, commit_id, hub

if TYPE_CHECKING:
    from tests.runtime.conftest import TinyModel

NAME = "user/tiny"


@pytest.fixture
def server(tiny: TinyModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub with one model."""
    with hub(monkeypatch, str(tmp_path / "home")) as made:
        made.repositories[NAME] = [{"model.onnx": tiny.data(), "README.md": b"---\n---\n"}]
        yield made


def test_from_a_cache_without_any_connection(
    tiny: TinyModel, sampler: Sampler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The folders of huggingface_hub's documentation: refs, blobs, snapshots."""
    import_hub()
    constants = pytest.importorskip("huggingface_hub.constants")
    commit, folder = "f" * 40, tmp_path / "models--user--tiny"
    (folder / "refs").mkdir(parents=True)
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "blobs").mkdir()
    (folder / "blobs" / "abc").write_bytes(tiny.data())
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit / "model.onnx").symlink_to(Path("..", "..", "blobs", "abc"))
    text = sampler.sample("ab", length=20, seed=1)
    for options in ({"local_files_only": True}, {"local_files_only": True, "revision": commit}):
        assert Sampler.from_hub(NAME, cache_dir=tmp_path, **options).sample("ab", length=20, seed=1) == text
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert Sampler.from_hub(NAME, cache_dir=tmp_path).sample("ab", length=20, seed=1) == text
    with pytest.raises(HubError, match=r"user/other: model\.onnx is not in the cache"):
        Sampler.from_hub("user/other", cache_dir=tmp_path)
    with pytest.raises(HubError, match="at revision 'v2' is not in the cache"):
        Sampler.from_hub(NAME, cache_dir=tmp_path, revision="v2")


def test_it_is_fetched_once(server: Hub, tiny: TinyModel, sampler: Sampler) -> None:
    for _ in range(2):
        found = Sampler.from_hub(NAME, threads=1)
        assert found.sample("ab", length=20, seed=1) == sampler.sample("ab", length=20, seed=1)
    assert [method for method, _, _ in server.asked].count("GET") == 1
    # Telemetry is off: the client names itself and Python, and nothing of this program or of its packages.
    assert not [agent for _, _, agent in server.asked if "torch" in agent or "charrnn" in agent]
    assert all("/resolve/" in path for _, path, _ in server.asked)
    server.repositories[NAME].append({"model.onnx": b"a later one that is damaged"})
    assert Sampler.from_hub(NAME, revision=commit_id(NAME, 0)).info == found.info
    with pytest.raises(ModelFileError):
        Sampler.from_hub(NAME)


def test_a_private_model_needs_the_token(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.private[NAME] = True
    with pytest.raises(HubError, match=r"user/tiny: no such repository, or it is private.*token="):
        Sampler.from_hub(NAME)
    assert Sampler.from_hub(NAME, token=TOKEN).info.cell == "tiny"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert Sampler.from_hub(NAME).info.cell == "tiny"


@pytest.mark.parametrize(
    ("name", "revision", "error", "message"),
    [
        ("user/nothing", None, HubError, "no such repository"),
        (NAME, "v9", HubError, "has no revision 'v9'"),
        ("user/empty", None, HubError, "holds no model.onnx"),
        ("a/b/c", None, UsageError, "'a/b/c' is not the name of a repository"),
        ("../x", None, UsageError, "is not the name of a repository"),
        ("", None, UsageError, "is not the name of a repository"),
    ],
)
def test_what_cannot_be_fetched_is_named(
    server: Hub, name: str, revision: str | None, error: type[Exception], message: str
) -> None:
    server.repositories["user/empty"] = [{"README.md": b""}]
    with pytest.raises(error, match=message):
        Sampler.from_hub(name, revision=revision)


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(HubError, match=r"pip install 'charrnn-runtime\[hub\]'"):
        Sampler.from_hub(NAME)
