"""The kinds of text behind one interface: each process reads its rows, and a position can be restored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from charrnn.config import DataConfig, TrainConfig
from charrnn.data.corpus import Corpus, read_corpus
from charrnn.data.item_filter import Membership, item_hash
from charrnn.errors import ConfigError
from charrnn.training.distributed import Processes
from charrnn.training.texts import ItemText, RunningText, StreamText, TrainingText, replay_rows, training_text

if TYPE_CHECKING:
    from tests.conftest import Run

KINDS: dict[str, tuple[type[TrainingText], dict[str, Any]]] = {
    "running text": (RunningText, {}),
    "streams": (StreamText, {"split": "streams"}),
    "lines": (ItemText, {"lines": True}),
    "a separator": (ItemText, {"separator": " "}),
}
TRAIN = TrainConfig(batch_size=6, seq_len=16, steps=1)


def read(run: Run, kind: str) -> tuple[Corpus, DataConfig]:
    data = DataConfig(**KINDS[kind][1])
    return read_corpus([str(run.text)], data), data


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_configuration_chooses_the_kind(run: Run, kind: str) -> None:
    text = training_text(*read(run, kind), TRAIN)
    assert type(text) is KINDS[kind][0]
    assert (text.batches is not None) == (kind == "streams")
    assert 0 < text.characters < len(run.text.read_text())


def test_the_rows_of_all_processes_are_the_whole_batch(run: Run, kind: str) -> None:
    corpus, data = read(run, kind)
    whole = training_text(corpus, data, TRAIN)
    parts = [training_text(corpus, data, TRAIN, Processes(rank, 4)) for rank in range(4)]
    for _ in range(20):
        x, y = whole.next(16)
        own = [part.next(16) for part in parts]
        assert np.array_equal(np.concatenate([x for x, _ in own], axis=1), x)
        assert np.array_equal(np.concatenate([y for _, y in own], axis=1), y)
        assert {part.epoch for part in parts} == {whole.epoch}
        assert {part.position for part in parts} == {whole.position}


def test_one_epoch_reads_as_many_characters_as_there_are(run: Run, kind: str) -> None:
    text = training_text(*read(run, kind), TRAIN)
    steps = 0
    while text.epoch < 1:
        text.next(16)
        steps += 1
    begins = len(text.items.train_hashes().__next__()) if isinstance(text, ItemText) else 0
    assert 0 <= steps * 6 * 16 - (text.characters + begins) < 6 * 16


def test_a_position_is_restored_by_any_number_of_processes(run: Run, kind: str) -> None:
    corpus, data = read(run, kind)
    before = [training_text(corpus, data, TRAIN, Processes(rank, 2)) for rank in range(2)]
    for text in before:
        for _ in range(37):
            text.next(11)
    rows = [torch.cat(parts) for parts in zip(*(text.row_state() for text in before), strict=True)]
    after = training_text(corpus, data, TRAIN)
    after.load_state(before[0].position, rows)
    assert after.epoch == before[0].epoch
    for _ in range(30):
        ours, theirs = after.next(16)[0], np.concatenate([text.next(16)[0] for text in before], axis=1)
        assert np.array_equal(ours, theirs)


def test_the_position_of_another_kind_is_refused(run: Run) -> None:
    plain, items = (training_text(*read(run, kind), TRAIN) for kind in ("running text", "lines"))
    for text, other in ((plain, items), (items, plain)):
        with pytest.raises(ValueError, match="position"):
            text.load_state(5, other.row_state())


def test_the_loss_is_the_mean_over_targets_and_the_state_is_reset_behind_each_item(run: Run, kind: str) -> None:
    text = training_text(*read(run, kind), TRAIN)
    x, y = (torch.from_numpy(ids) for ids in text.next(64))
    logits = torch.randn(64, 6, int(max(x.max(), y.max())) + 1, generator=torch.Generator().manual_seed(1))
    loss, count = text.loss(logits, y)
    known = y >= 0
    assert int(count) == int(known.sum())
    assert float(loss) == pytest.approx(float(F.cross_entropy(logits[known].double(), y[known])), abs=1e-6)
    if isinstance(text, ItemText):
        assert torch.equal(text.resets(x), ~known)
        assert not known.all()
    else:
        assert text.resets(x) is None
        assert known.all()


def test_a_process_without_a_target_has_no_loss_and_no_gradient(run: Run) -> None:
    text = training_text(*read(run, "lines"), TRAIN)
    logits = torch.randn(3, 2, 5, requires_grad=True)
    loss, count = text.loss(logits, torch.full((3, 2), -100))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (float(loss.detach()), int(count), bool(gradient.any())) == (0.0, 0, False)


def test_items_leave_the_filter_of_what_they_train_on(run: Run, kind: str, tmp_path: Path) -> None:
    text = training_text(*read(run, kind), TRAIN)
    text.save_files(tmp_path)
    files = list(tmp_path.iterdir())
    if not isinstance(text, ItemText):
        assert not files
        return
    known = Membership.load(files[0])
    separator = "\n" if kind == "lines" else " "
    for item in set(run.text.read_text().split(separator)):
        assert (item in known) == (item_hash(item) >= text.items.split.val_below)


def test_a_short_sequence_of_items_still_has_a_target(tmp_path: Path) -> None:
    assert ItemText.min_seq_len == 2
    path = tmp_path / "letters.txt"
    path.write_text("\n".join("abcdefghijklmnop"))
    data = DataConfig(lines=True)
    text = training_text(read_corpus([str(path)], data), data, TrainConfig(batch_size=1, seq_len=2, steps=1))
    for _ in range(50):
        assert (text.next(2)[1] >= 0).any()


@pytest.mark.parametrize("kind", ["running text", "lines"])
def test_some_rows_are_read_from_a_second_text(run: Run, kind: str, tmp_path: Path) -> None:
    corpus, data = read(run, kind)
    (tmp_path / "old.txt").write_text("".join(f"an older text, line {i}\n" for i in range(50)))
    old = read_corpus([str(tmp_path / "old.txt")], data, corpus.vocabulary, fixed="skip")
    train = replace(TRAIN, replay=f"{tmp_path / 'old.txt'}:0.3")
    assert replay_rows(train) == 2
    text = training_text(corpus, data, train, replay=old)
    alone = training_text(corpus, data, replace(train, batch_size=4))
    other = training_text(old, data, replace(train, batch_size=2))
    state: tuple[int, Any] = (0, ())
    for step in range(9):
        if step == 4:
            state = (text.position, text.row_state())
        if step == 6:  # as a resumed run does
            text = training_text(corpus, data, train, replay=old)
            text.load_state(*state)
            for _ in range(2):
                text.next(16)
        for own, first, second in zip(text.next(16), alone.next(16), other.next(16), strict=True):
            np.testing.assert_array_equal(own, np.concatenate([first, second], axis=1))
        assert text.epoch == pytest.approx(alone.epoch)


@pytest.mark.parametrize(("share", "rows"), [(0.01, 1), (0.5, 3), (0.99, 5)])
def test_each_text_has_a_row_at_least(share: float, rows: int) -> None:
    assert replay_rows(replace(TRAIN, replay=f"old.txt:{share}")) == rows
    with pytest.raises(ConfigError, match="batch-size"):
        replay_rows(replace(TRAIN, replay="old.txt", batch_size=1))
