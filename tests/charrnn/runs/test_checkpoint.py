"""Checkpoints: what goes in comes out, and nothing else does any harm."""

from __future__ import annotations

import io
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn import __version__
from charrnn.config import DataConfig, ModelConfig, TrainConfig
from charrnn.errors import CheckpointError, WriteError
from charrnn.runs.checkpoint import Checkpoint, load_checkpoint, on_cpu

if TYPE_CHECKING:
    from tests.conftest import Charrnn, Run

Payload = dict[str, Any]


def payload_of(path: Path) -> Payload:
    payload: Payload = torch.load(path, weights_only=True)
    return payload


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def test_round_trip(run: Run, tmp_path: Path) -> None:
    first = load_checkpoint(run.best)
    first.save(tmp_path / "a.pt", tmp_path / "b.pt")
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    second = load_checkpoint(tmp_path / "a.pt")
    for name in Checkpoint.__dataclass_fields__:
        assert same(getattr(first, name), getattr(second, name)), name


def test_everything_that_resuming_needs_is_inside(run: Run) -> None:
    checkpoint = load_checkpoint(run.best)
    assert checkpoint.progress.keys() >= {"step", "epoch", "position", "elapsed", "val_loss", "best_val_loss"}
    assert checkpoint.progress["step"] == 100
    assert checkpoint.resume.keys() == {"optimizers", "state", "losses", "rng", "rng_of_others", "row_state"}
    assert checkpoint.corpus["arguments"] == [str(run.text)]
    # Each tenth of the budget, and the end of the first pass over the text.
    assert [entry["step"] for entry in checkpoint.history] == sorted({*range(10, 101, 10), 87})
    assert checkpoint.history[-1].keys() == {"step", "epoch", "elapsed", "train_loss", "val_loss", "val_error"}


def test_plain_torch_reads_it_with_weights_only(run: Run) -> None:
    payload = payload_of(run.best)
    assert payload["charrnn_checkpoint"] == 1
    assert isinstance(payload["weights"]["head.weight"], torch.Tensor)


def test_a_checkpoint_is_a_copy_of_the_run() -> None:
    weight = torch.ones(3, requires_grad=True)
    copied = on_cpu({"a": [weight, {"b": (weight,)}], "c": 1})
    with torch.no_grad():
        weight.zero_()
    for tensor in (copied["a"][0], copied["a"][1]["b"][0]):
        assert torch.equal(tensor, torch.ones(3))
        assert not tensor.requires_grad


def test_tensors_saved_on_another_device_load_on_the_cpu(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
        torch.save(payload_of(run.best), tmp_path / "gpu.pt")
    with zipfile.ZipFile(tmp_path / "gpu.pt") as file:
        assert b"cuda:0" in file.read(next(n for n in file.namelist() if n.endswith("data.pkl")))
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(tmp_path / "gpu.pt", weights_only=True)
    checkpoint = load_checkpoint(tmp_path / "gpu.pt")
    assert {w.device.type for w in checkpoint.weights.values()} == {"cpu"}
    assert same(checkpoint.weights, load_checkpoint(run.best).weights)
    assert checkpoint.build_model().device.type == "cpu"


class Payloads:
    """Objects that do something when a pickle that holds them is loaded."""

    class System:
        def __init__(self, marker: Path) -> None:
            self.marker = marker

        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return os.system, (f"touch '{self.marker}'",)

    class Open(System):
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return open, (str(self.marker), "w")

    class Eval(System):
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return eval, (f"open({str(self.marker)!r}, 'w')",)


@pytest.mark.parametrize("kind", [Payloads.System, Payloads.Open, Payloads.Eval])
@pytest.mark.parametrize("place", ["weights", "resume", "version"])
def test_a_payload_is_refused_and_not_executed(
    run: Run, tmp_path: Path, charrnn: Charrnn, kind: type[Payloads.System], place: str
) -> None:
    marker = tmp_path / "executed"
    payload = payload_of(run.best)
    payload[place] = kind(marker)
    torch.save(payload, tmp_path / "evil.pt")
    pickle.loads(pickle.dumps(kind(marker)))
    assert marker.exists(), "the payload would work"
    marker.unlink()
    with pytest.raises(CheckpointError, match=r"refused: .* nothing in it was executed"):
        load_checkpoint(tmp_path / "evil.pt")
    for command, *text in (("inspect",), ("sample",), ("eval", run.text)):
        assert charrnn(command, tmp_path / "evil.pt", *text).code == 1
    assert charrnn("export", tmp_path / "evil.pt", tmp_path / "model.onnx").code == 1
    assert not (tmp_path / "model.onnx").exists()
    assert not marker.exists()


def test_a_bare_pickle_is_not_even_opened(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Payloads.Open(marker)))
    torch.save({"x": Payloads.Open(marker)}, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    for name in ("a.pt", "b.pt"):
        with pytest.raises(CheckpointError, match="not a charrnn checkpoint"):
            load_checkpoint(tmp_path / name)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a charrnn checkpoint"),
        (b"some text", "not a charrnn checkpoint"),
        (b"PK\x03\x04", "cut short or damaged"),
        (b"PK\x03\x04" + bytes(1000), "cut short or damaged"),
    ],
)
def test_files_that_are_none(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"a\.pt: {message}"):
        load_checkpoint(tmp_path / "a.pt")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path, why in (
        (tmp_path / "no.pt", "No such file"),
        (tmp_path, "Is a directory"),
        (Path("x" * 300), "too long"),
    ):
        with pytest.raises(CheckpointError, match=f"cannot be read: .*{why}"):
            load_checkpoint(path)


def test_other_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("hello.txt", "hello")
    with pytest.raises(CheckpointError, match=r"a\.zip: "):
        load_checkpoint(tmp_path / "a.zip")
    for i, value in enumerate(({"weights": torch.ones(2)}, torch.ones(2), [1])):
        torch.save(value, tmp_path / f"{i}.pt")
        with pytest.raises(CheckpointError, match="a PyTorch file, but not a charrnn checkpoint"):
            load_checkpoint(tmp_path / f"{i}.pt")


@settings(max_examples=40)
@given(st.data())
def test_a_file_cut_short_anywhere_is_refused(run: Run, data: st.DataObject) -> None:
    whole = run.best.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    path = run.folder.parent / "cut.pt"
    path.write_bytes(whole[:at])
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


@settings(max_examples=60)
@given(st.data())
def test_flipped_bits_are_refused_or_harmless(run: Run, data: st.DataObject) -> None:
    whole = bytearray(run.best.read_bytes())
    with zipfile.ZipFile(io.BytesIO(whole)) as file:
        pickled = next(i for i in file.infolist() if i.filename.endswith("data.pkl"))
    # half of them where the structure is, the others anywhere
    near = st.integers(pickled.header_offset, pickled.header_offset + pickled.file_size)
    at = data.draw(near | st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    path = run.folder.parent / "flipped.pt"
    path.write_bytes(whole)
    try:
        load_checkpoint(path).build_model()
    except CheckpointError:
        return
    # a byte that only names or aligns something


def _set(*path: str, to: Any) -> Callable[[Payload], None]:
    def change(payload: Payload) -> None:
        *inner, last = path
        for key in inner:
            payload = payload[key]
        payload[last] = to

    return change


def _without(key: str) -> Callable[[Payload], None]:
    def change(payload: Payload) -> None:
        del payload[key]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("charrnn_checkpoint", to="x"), "format x is newer"),
        *((_without(key), f"lacks something or is damaged: '{key}'") for key in
          ("model_config", "vocabulary", "weights", "progress", "history", "resume", "version")),
        (_set("model_config", to=None), "damaged"),
        (_set("model_config", "cell", to="transformer"), "unknown cell"),
        (_set("model_config", "hidden_size", to="many"), "hidden_size"),
        (_set("model_config", "wings", to=2), "unknown settings: wings; this version wrote it .* damaged"),
        (_set("wings", to=2), "unknown parts: wings"),
        (_set("train_config", "lr", to="fast"), "damaged"),
        (_set("vocabulary", to=7), "vocabulary"),
        (_set("vocabulary", "tokens", to=["a", "a"]), "each token only once"),
        (_set("weights", to={"head.weight": "heavy"}), "not a tensor"),
        (_set("history", to=[{"step": 1}]), "damaged"),
        (_set("history", to=[7]), "damaged"),
        (_set("progress", to={}), "damaged"),
        (_set("progress", "step", to="first"), "step is not a number"),
        (_set("corpus", to={}), "damaged"),
        (_set("corpus", "arguments", to=[7]), "the text's names"),
        (_set("resume", to=[1]), "damaged"),
    ],
)  # fmt: skip
def test_contents_that_do_not_fit_the_format(
    run: Run, tmp_path: Path, charrnn: Charrnn, change: Callable[[Payload], None], message: str
) -> None:
    payload = payload_of(run.best)
    change(payload)
    torch.save(payload, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "a.pt")
    outcome = charrnn("inspect", tmp_path / "a.pt")
    assert outcome.code == 1
    assert outcome.err.startswith(f"error: {tmp_path / 'a.pt'}: ")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_set("charrnn_checkpoint", to=2), "checkpoint format 2 is newer than format 1"),
        (_set("wings", to=2), "unknown parts: wings"),
        (_set("model_config", "wings", to=2), "unknown settings: wings"),
        (_set("train_config", "optimizer", to="wings"), "unknown optimizer 'wings'; known: .*"),
        (_set("model_config", "cell", to="wings"), "unknown cell 'wings'; known: .*"),
    ],
)
@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        ("9.1.2", r"charrnn 9\.1\.2 wrote it, and this is {}: pip install charrnn==9\.1\.2"),
        ("9\x1b[31m", "this is charrnn {}, a later version may read it: pip install -U charrnn"),
        (None, "this is charrnn {}, a later version may read it: pip install -U charrnn"),
    ],
)
def test_what_another_version_wrote_names_that_version(
    run: Run, tmp_path: Path, change: Callable[[Payload], None], what: str, version: str | None, remedy: str
) -> None:
    payload = payload_of(run.best)
    payload["version"] = version
    change(payload)
    torch.save(payload, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=rf"a\.pt: {what}; {remedy.format(re.escape(__version__))}$"):
        load_checkpoint(tmp_path / "a.pt")


def test_a_setting_that_a_checkpoint_lacks_takes_its_default(run: Run, tmp_path: Path) -> None:
    payload = payload_of(run.best)
    kept = load_checkpoint(run.best)
    configs = {"model_config": ModelConfig(), "data_config": DataConfig(), "train_config": TrainConfig()}
    for name, default in configs.items():
        for setting, value in default.to_json().items():
            if getattr(getattr(kept, name), setting) == value:  # one that this run did not change
                del payload[name][setting]
    assert "dropout" not in payload["model_config"]
    assert "hidden_size" in payload["model_config"]
    torch.save(payload, tmp_path / "a.pt")
    read = load_checkpoint(tmp_path / "a.pt")
    assert all(getattr(read, name) == getattr(kept, name) for name in configs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("model_config", "hidden_size", to=33), r"head\.weight is \(.*32\), expected \(.*33\)"),
        (_set("model_config", "hidden_size", to=10**6), "expected .*1000000"),
        (_set("model_config", "hidden_size", to=10**9), "overflow"),
        (_set("model_config", "num_layers", to=2), r"layers\.1\..* is None, expected"),
        (_set("model_config", "num_layers", to=10**12), "too few for 1000000000000 layers"),
        (_set("model_config", "cell", to="gru"), "layers.0"),
        (_set("weights", "extra", to=torch.ones(1)), r"extra is \(1,\), expected None"),
        (_set("weights", "head.weight", to=torch.ones(2, 2)), "head.weight"),
        (_set("vocabulary", "tokens", to=["a", "b"]), "embedding.weight"),
    ],
)
def test_weights_that_do_not_fit(
    run: Run, tmp_path: Path, charrnn: Charrnn, change: Callable[[Payload], None], message: str
) -> None:
    payload = payload_of(run.best)
    change(payload)
    torch.save(payload, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=f"weights do not fit its configuration: .*{message}"):
        load_checkpoint(tmp_path / "a.pt").build_model()
    assert charrnn("sample", tmp_path / "a.pt", "--length", 5).code == 1


def test_a_failed_save_leaves_the_earlier_checkpoint(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load_checkpoint(run.best)
    checkpoint.save(tmp_path / "last.pt")
    before = (tmp_path / "last.pt").read_bytes()
    checkpoint.progress["step"] = 7

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"last\.pt: cannot be written: No space left on device"):
        checkpoint.save(tmp_path / "last.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
    assert (tmp_path / "last.pt").read_bytes() == before
