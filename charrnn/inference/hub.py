"""Writes a model file and its model card to the Hugging Face Hub; ``Sampler.from_hub`` of the runtime reads it there.

Tested against a local server with the Hub's interface; not against the service itself.
"""

from __future__ import annotations

import importlib
import json
import math
import re
from typing import TYPE_CHECKING, Any, TypeGuard

from charrnn_runtime import HubError, ModelFile, UsageError
from charrnn_runtime.hub import MODEL_NAME, import_hub

if TYPE_CHECKING:
    from collections.abc import Iterator

CARD_NAME = "README.md"


def check_repository(repo_id: str) -> None:
    """Fails at once where ``push`` could only fail later.

    Raises:
        HubError: huggingface_hub is missing.
        UsageError: this is not the name of a repository.
    """
    hub = import_hub()
    validate_repo_id = importlib.import_module("huggingface_hub.utils").validate_repo_id
    try:
        validate_repo_id(repo_id)
    except hub.errors.HFValidationError as error:
        raise UsageError(f"{repo_id!r} is not the name of a repository, such as 'user/model': {error}") from error


def push(file: ModelFile, repo_id: str, *, license: str | None = None, private: bool = False) -> str:
    """Writes a model file to a repository, with a model card if it has none yet, in one commit.

    Args:
        file: the model file.
        repo_id: name of the repository, such as "user/model"; it is made if it does not exist.
        license: the model's licence, by the Hub's identifiers, such as "mit"; None to state none.
        private: whether a repository that is made is private.

    Returns:
        What was written where, in words.

    Raises:
        HubError: the Hub refuses it or cannot be reached, or huggingface_hub is missing.
        UsageError: ``repo_id`` is not the name of a repository.
    """
    hub = import_hub()
    check_repository(repo_id)
    api = hub.HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        files = {MODEL_NAME: file.data}
        if not api.file_exists(repo_id, CARD_NAME):  # somebody's own words are not overwritten
            files[CARD_NAME] = model_card(file, repo_id, license=license).encode()
        commit = api.create_commit(
            repo_id,
            [hub.CommitOperationAdd(name, data) for name, data in files.items()],
            commit_message="Upload a charrnn model",
        )
    except Exception as error:  # huggingface_hub lets errors of its HTTP library through, and these differ by version
        reason = " ".join(str(error).split()) or type(error).__name__
        raise HubError(
            f"{repo_id}: cannot be written: {reason}; see `hf auth login` for a token that may write there"
        ) from error
    kept = "" if CARD_NAME in files else f"; its {CARD_NAME} was there already and is left as it is"
    return f"{commit.commit_url}: {' and '.join(files)}{kept}"


def model_card(file: ModelFile, repo_id: str, *, license: str | None = None) -> str:
    """A model card in Markdown, made from what the model file says about itself; what it does not say is left out."""
    info = file.info
    head = {"library_name": "charrnn", "pipeline_tag": "text-generation"}
    if license is not None:
        head["license"] = license
    tags = ["charrnn", "onnx", "character-level", "recurrent", info.cell]
    front = [*(f"{key}: {json.dumps(value)}" for key, value in head.items()), f"tags: {json.dumps(tags)}"]
    rows = [f"| {name} | {value} |" for name, value in _rows(file)]
    example = 'sampler.sample("", length=200, temperature=0.8, seed=7)'
    if info.vocabulary.labels:
        label = json.dumps(next(iter(info.vocabulary.labels)), ensure_ascii=False)
        example = f"sampler.sample(length=200, temperature=0.8, seed=7, label={label})"
    return "\n".join(
        [
            "---", *front, "---", "",
            f"# {repo_id.split('/')[-1]}", "",
            f"A character-level recurrent language model, trained with charrnn; one ONNX file, `{MODEL_NAME}`.", "",
            "| | |", "|---|---|", *rows, "",
            "## Use", "",
            "```sh", "pip install 'charrnn-runtime[cpu,hub]'", "```", "",
            "```python",
            "from charrnn_runtime import Sampler", "",
            f"sampler = Sampler.from_hub({json.dumps(repo_id)})",
            f"print({example})",
            "```", "",
        ]
    )  # fmt: skip


def _rows(file: ModelFile) -> Iterator[tuple[str, str]]:
    """The table's rows."""
    info, training = file.info, file.info.training
    layers = "1 layer" if info.num_layers == 1 else f"{info.num_layers} layers"
    yield "Cell", f"{_plain(info.cell)}, {layers} of {info.hidden_size:,} units"
    yield "Weights", f"{info.dtype}; the file has {len(file.data):,} bytes"
    size = (
        "bytes" if info.vocabulary.kind == "bytes" else f"{len(info.vocabulary):,} tokens, of which most are characters"
    )
    yield "Vocabulary", size
    if info.vocabulary.labels:
        yield "Labels", ", ".join(map(_plain, info.vocabulary.labels))
    if training.get("corpus"):
        length = f", {training['characters']:,} characters" if _is_number(training.get("characters")) else ""
        yield "Trained on", f"{_plain(training['corpus'])}{length}"
    if _is_number(training.get("step")) and _is_number(training.get("epochs")):
        yield "Training", f"{training['step']:,} steps, {training['epochs']:.3g} epochs"
    if _is_number(loss := training.get("val_loss")):
        yield "Validation loss", f"{loss:.4f} nats ({loss / math.log(2):.4f} bits) a character"
    whole, own = info.quality.get("float32"), info.quality.get(info.dtype)
    if info.dtype != "float32" and _is_number(whole) and _is_number(own):
        yield f"Cost of {info.dtype}", f"{own - whole:+.4f} nats a character"
    if not info.verified:
        yield (
            "Compared with the trained model",
            "**not verified**: when it was exported, it did not compute what was trained",
        )
    elif _is_number(info.parity.get("one_step")):
        yield (
            "Compared with the trained model",
            f"verified in float64: one step is within {info.parity['one_step']:.1e}",
        )
    for name, version in info.producer.items():
        yield f"Made with {_plain(name)}", _plain(version)
    if info.weights_sha256:
        yield "SHA-256 of the weights", f"`{info.weights_sha256}`"


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _plain(text: object) -> str:
    """A text from the file as one line of Markdown that shows it as it is: it may be somebody else's."""
    return re.sub(r"([^\w\s.,:/-])", r"\\\1", " ".join(str(text).split()))
