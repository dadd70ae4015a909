"""samples.txt: read back as written, in step with the checkpoints, whole after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.runs.checkpoint import load_checkpoint
from charrnn.runs.samples import NAME, Sample, append_sample, drop_samples_after, read_samples

if TYPE_CHECKING:
    from tests.conftest import MakeTrainer


def entry(step: int, text: str) -> Sample:
    return Sample(step=step, epoch=step / 100, train_loss=1.5, val_loss=2.25, text=text)


@given(st.lists(st.text(st.characters(categories=["L", "N", "P", "Z"], include_characters="\n")), min_size=1))
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("samples")
    for i, text in enumerate(texts):
        append_sample(folder, entry(i, text))
    read = read_samples(folder)
    assert [s.step for s in read] == list(range(len(texts)))
    for sample, text in zip(read, texts, strict=True):
        assert sample.text == "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def test_a_sample_cannot_pretend_to_be_an_entry(tmp_path: Path) -> None:
    append_sample(tmp_path, entry(1, "a\n" + entry(9, "forged").to_text()))
    assert [s.step for s in read_samples(tmp_path)] == [1]


def test_control_characters_do_not_reach_a_terminal(tmp_path: Path) -> None:
    append_sample(tmp_path, entry(1, "\x1b[2J\x07red\r"))
    assert not set((tmp_path / NAME).read_text("utf-8")) & set("\x1b\x07\r")


def test_dropping_takes_later_and_cut_entries(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        append_sample(tmp_path, entry(step, f"sample\nof {step}"))
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole[: whole.rindex(b"of 30") - 3])
    drop_samples_after(tmp_path, 20)
    assert read_samples(tmp_path) == [entry(10, "sample\nof 10"), entry(20, "sample\nof 20")]
    drop_samples_after(tmp_path, 0)
    assert (tmp_path / NAME).read_bytes() == b""


def test_a_resumed_run_writes_what_an_unbroken_one_writes(make_trainer: MakeTrainer) -> None:
    whole = make_trainer("whole", steps=12, eval_steps=4)
    whole.train()
    broken = make_trainer("broken", steps=12, eval_steps=4)
    broken.train(stop=lambda: broken.run.counters.step >= 8)
    # Written behind the checkpoint by a run that was then killed.
    append_sample(broken.folder, entry(11, "lost"))
    make_trainer("broken", steps=12, eval_steps=4, checkpoint=load_checkpoint(broken.folder / "last.pt")).train()
    samples = read_samples(broken.folder)
    assert [s.step for s in samples] == [4, 8, 12]
    assert [(s.step, s.text) for s in samples] == [(s.step, s.text) for s in read_samples(whole.folder)]
    assert all(len(s.text) > 10 for s in samples)
