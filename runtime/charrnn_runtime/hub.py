"""Fetches a model file from the Hugging Face Hub, with the package ``huggingface_hub`` (the extra ``hub``).

A repository there holds one model, as the file ``model.onnx``. Cache, login, proxies and offline use are
huggingface_hub's own: ``HF_HOME``, ``HF_TOKEN``, ``HF_HUB_OFFLINE`` and ``HF_ENDPOINT`` do what its documentation
says. Its telemetry is switched off before it is imported, unless ``HF_HUB_DISABLE_TELEMETRY`` is set.

Tested against the library's cache and a local server with the Hub's interface; not against the service itself.
"""

from __future__ import annotations

import os
from types import ModuleType

from charrnn_runtime.errors import HubError, UsageError

MODEL_NAME = "model.onnx"  # what a repository's model file is called


def import_hub() -> ModuleType:
    """The package ``huggingface_hub``.

    Raises:
        HubError: it is not installed.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import huggingface_hub.errors
    except ImportError as error:
        raise HubError(
            f"the Hugging Face Hub needs the package huggingface_hub ({error}); "
            "install it: pip install 'charrnn-runtime[hub]'"
        ) from error
    return huggingface_hub


def download(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> str:
    """Downloads a repository's model file, if the cache does not have it; returns its path. Arguments as ``from_hub``.

    Raises:
        HubError: the file cannot be had, or huggingface_hub is missing.
        UsageError: ``repo_id`` is not the name of a repository.
    """
    hub = import_hub()
    errors = hub.errors
    try:
        return str(
            hub.hf_hub_download(
                repo_id,
                MODEL_NAME,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            )
        )
    except errors.HFValidationError as error:
        raise UsageError(f"{repo_id!r} is not the name of a repository, such as 'user/model': {error}") from error
    except errors.RepositoryNotFoundError as error:  # also one that is gated
        raise HubError(
            f"{repo_id}: no such repository, or it is private and the token does not open it; "
            "see `hf auth login`, or pass token="
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{repo_id}: has no revision {revision!r}; a branch, a tag or a commit is one") from error
    except errors.LocalEntryNotFoundError as error:
        at = f" at revision {revision!r}" if revision else ""
        raise HubError(
            f"{repo_id}: {MODEL_NAME}{at} is not in the cache, and the Hub is not reached (offline, or "
            "local_files_only); fetch it once with a connection"
        ) from error
    except errors.EntryNotFoundError as error:
        raise HubError(
            f"{repo_id}: holds no {MODEL_NAME}, so it is not a charrnn model; `charrnn export --push` writes one"
        ) from error
    except OSError as error:  # every other error of HTTP and of the cache
        raise HubError(f"{repo_id}: {MODEL_NAME} cannot be downloaded: {error}") from error
