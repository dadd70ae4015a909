"""Training that begins with another model's weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from charrnn_runtime import Vocabulary

from charrnn.config import ModelConfig
from charrnn.model.char_rnn import CharRNN
from charrnn.runs.checkpoint import load_checkpoint
from charrnn.training.finetune import grown_weights

if TYPE_CHECKING:
    from tests.conftest import Charrnn, Run


def test_init_from_grows_the_vocabulary_and_names_what_is_new(charrnn: Charrnn, run: Run, tmp_path: Path) -> None:
    more = tmp_path / "more.txt"
    more.write_text("the cat sat on a ζ mat, and 7 dogs ran.\n" * 30)
    out = tmp_path / "run"
    outcome = charrnn("train", more, "--init-from", run.folder, "--steps", 3, "--batch-size", 4, "--out", out)
    assert outcome.code == 0
    assert "3 characters are new to the model" in outcome.out
    assert all(repr(c) in outcome.out for c in ",7ζ")
    old, new = load_checkpoint(run.best), load_checkpoint(out / "last.pt")
    assert new.vocabulary.symbols == (*old.vocabulary.symbols, ord(","), ord("7"), ord("ζ"))
    assert charrnn("sample", out, "--prompt", "ζ7", "--length", 10, "--seed", 1).code == 0
    assert charrnn("train", "--resume", "--out", out, "--steps", 5).code == 0

    other = charrnn("train", more, "--init-from", run.folder, "--hidden-size", 64, "--out", tmp_path / "no")
    assert other.code == 1
    assert "--hidden-size 64 (it has 32)" in other.err


@pytest.mark.parametrize("embedding_size", [0, 8])
def test_grown_weights_leave_known_characters_as_they_were(run: Run, embedding_size: int) -> None:
    checkpoint = load_checkpoint(run.best)
    config = ModelConfig(hidden_size=16, embedding_size=embedding_size)
    checkpoint.model_config = config
    known = checkpoint.vocabulary
    checkpoint.weights = CharRNN(config, len(known)).state_dict()
    grown = Vocabulary(symbols=(*known.symbols, 0x3B6))
    model = CharRNN(config, len(known) + 1)
    model.load_state_dict(grown_weights(checkpoint, grown))
    tokens = torch.arange(len(known)).unsqueeze(1)
    before = checkpoint.build_model().sequence_forward()(tokens, model.initial_state(1))[0]
    after = model.sequence_forward()(tokens, model.initial_state(1))[0]
    torch.testing.assert_close(after[:, :, :-1], before)


def test_replay_mixes_an_earlier_text_into_the_batches(
    charrnn: Charrnn, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more, old, out = tmp_path / "more.txt", tmp_path / "old.txt", tmp_path / "run"
    more.write_text("the cat sat on a mat\n" * 60)
    old.write_text("the dogs ran: Ω\n" * 60)  # the model has no Ω
    monkeypatch.chdir(tmp_path)
    begun = charrnn(
        "train", more, "--init-from", run.folder, "--replay", "old.txt:0.25",
        "--steps", 3, "--batch-size", 4, "--out", out,
    )  # fmt: skip
    assert begun.code == 0, begun.err
    assert "25% of each batch is read from" in begun.out
    settings = load_checkpoint(out / "last.pt").train_config
    assert settings.replay == f"{old}:0.25"
    monkeypatch.chdir("/")  # the resumed run still finds it
    assert charrnn("train", "--resume", "--out", out, "--steps", 5).code == 0
    assert load_checkpoint(out / "last.pt").progress["step"] == 5
    for wrong in ("old.txt:1.5", "old.txt:0", ":0.2", "nothing.txt:0.5"):
        failed = charrnn("train", more, "--replay", wrong, "--steps", 1, "--out", tmp_path / "no")
        assert failed.code in (1, 2)
        assert "--replay" in failed.err or "nothing.txt" in failed.err
