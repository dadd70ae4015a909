"""Items in streams: every item once an epoch, whole, in an order that can be resumed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from charrnn.config import DataConfig, ModelConfig
from charrnn.data.corpus import Corpus, read_corpus
from charrnn.data.item_filter import item_hash
from charrnn.data.item_streams import NO_TARGET, Items, ItemStreams, packed
from charrnn.data.permutation import shuffled
from charrnn.errors import ConfigError, CorpusError
from charrnn.model.char_rnn import CharRNN
from charrnn.runs.checkpoint import load_checkpoint
from charrnn.training.validation import items_loss

if TYPE_CHECKING:
    from tests.conftest import MakeTrainer

LINES = [f"{'abcdefghij'[n % 10] * (n % 7 + 1)}{n}" for n in range(300)]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(LINES) + "\n")
    return path


def corpus_of(path: Path, texts: list[str]) -> Corpus:
    path.write_text("\n".join(texts) + "\n")
    return read_corpus([str(path)], DataConfig(lines=True))


def read_items(streams: ItemStreams, tokens: int, seq_len: int) -> list[list[tuple[int, ...]]]:
    """The whole items that each reader reads in so many tokens; checks that targets belong to inputs."""
    pairs = [streams.next(seq_len) for _ in range(tokens // seq_len)]
    x_NB, y_NB = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    end = streams.items.end
    assert np.array_equal(y_NB == NO_TARGET, x_NB == end)
    follows = y_NB[:-1] != NO_TARGET
    assert np.array_equal(y_NB[:-1][follows], x_NB[1:][follows])
    found: list[list[tuple[int, ...]]] = []
    for column in x_NB.T.tolist():
        items, item = [], []
        for token in column:
            item.append(token)
            if token == end:
                items.append(tuple(item))
                item = []
        found.append(items)
    return found


@pytest.mark.parametrize("seq_len", [1, 7, 64])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_an_epoch_is_every_training_item_once_whole_in_a_new_order(lines: Path, batch: int, seq_len: int) -> None:
    corpus = read_corpus([str(lines)], DataConfig(lines=True))
    items = Items(corpus, DataConfig(lines=True, val_frac=0.2))
    assert corpus.items is not None
    expected = {
        tuple(corpus.ids[a:b].tolist())
        for a, b, h in zip(corpus.items[:-1], corpus.items[1:], items.hashes, strict=True)
        if h >= items.split.val_below
    }
    assert items.train_items == len(expected)
    assert 0.1 < 1 - len(expected) / len(LINES) < 0.3
    readers = read_items(items.streams(batch, seed=5), 3 * items.train_tokens // batch, seq_len)
    # Reader b has items b, b + B, …; those for validation are passed over, so readers differ in how many they have.
    numbers = shuffled(np.arange(len(LINES)), len(LINES), 5, np.zeros(len(LINES), np.int64))
    first: list[tuple[int, ...]] = []
    for b, reader in enumerate(readers):
        mine = [tuple(corpus.ids[slice(*corpus.items[n : n + 2])].tolist()) for n in numbers[b::batch]]
        mine = [item for item in mine if item in expected]
        if len(LINES) % batch == 0:
            assert reader[: len(mine)] == mine
        first += reader[: len(mine)]
        assert set(reader) <= expected
    assert sorted(first) == sorted(expected)
    if batch == 1:
        second = readers[0][len(expected) : 2 * len(expected)]
        assert sorted(second) == sorted(expected)
        assert second != first


def test_equal_items_are_on_one_side(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "t", [f"x{n % 50}y" for n in range(1000)])
    items = Items(corpus, DataConfig(lines=True, val_frac=0.3))
    assert corpus.items is not None
    sides: dict[bytes, set[bool]] = {}
    for a, b, h in zip(corpus.items[:-1], corpus.items[1:], items.hashes, strict=True):
        sides.setdefault(corpus.ids[a:b].tobytes(), set()).add(bool(h < items.split.val_below))
    assert all(len(side) == 1 for side in sides.values())
    assert {True, False} == set().union(*sides.values())
    assert 0 < items.val_tokens < items.train_tokens


@pytest.mark.parametrize("val_frac", [0.001, 0.5, 0.999])
def test_two_distinct_items_are_one_for_each_side(tmp_path: Path, val_frac: float) -> None:
    items = Items(corpus_of(tmp_path / "t", ["abc", "abd"]), DataConfig(lines=True, val_frac=val_frac))
    assert items.train_items == 1
    assert len(items.validation_items()) == 1
    x, y = items.streams(3, 1).next(50)
    assert x.shape == y.shape == (50, 3)


def hash_side(folder: Path, most: str, few: str) -> str:
    """Whether a thousand equal items and another one can be trained on."""
    try:
        Items(corpus_of(folder / "t", [most] * 1000 + [few]), DataConfig(lines=True, val_frac=0.1))
    except CorpusError as error:
        return "refused" if "sort -u" in str(error) else str(error)
    return "trained"


def test_items_that_cannot_be_divided(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="all 1,000 items are equal"):
        Items(corpus_of(tmp_path / "t", ["ab"] * 1000), DataConfig(lines=True, val_frac=0.1))
    with pytest.raises(ConfigError, match="leave out --split streams"):
        DataConfig(lines=True, split="streams")
    # Whichever of the two falls to validation, one of these lots has next to nothing left to train on.
    kept = {hash_side(tmp_path, most, few) for most, few in (("ab", "ac"), ("ac", "ab"))}
    assert kept == {"trained", "refused"}


@pytest.mark.parametrize(("before", "first", "then"), [(0, 7, 7), (5, 7, 7), (40, 3, 50), (200, 16, 9)])
def test_places_can_be_taken_up_again(lines: Path, before: int, first: int, then: int) -> None:
    items = Items(read_corpus([str(lines)], DataConfig(lines=True)), DataConfig(lines=True, val_frac=0.2))
    straight = items.streams(4, 1)
    for _ in range(before):
        straight.next(first)
    resumed = items.streams(4, 1)
    resumed.load_state(straight.position, straight.row_state())
    assert resumed.epoch == straight.epoch
    for _ in range(30):
        for ours, theirs in zip(straight.next(then), resumed.next(then), strict=True):
            assert np.array_equal(ours, theirs)
    for bad in ((), (torch.zeros(3, 2, dtype=torch.int64),), (torch.zeros(4, 2),), (-torch.ones(4, 2).long(),)):
        with pytest.raises(ValueError, match="positions of 4 streams"):
            resumed.load_state(0, bad)


def test_readers_divided_among_processes_are_the_same_readers(lines: Path) -> None:
    items = Items(read_corpus([str(lines)], DataConfig(lines=True)), DataConfig(lines=True, val_frac=0.2))
    whole, parts = items.streams(6, 1), [items.streams(6, 1, rows) for rows in (range(4), range(4, 6))]
    for _ in range(50):
        x = np.concatenate([part.next(11)[0] for part in parts], axis=1)
        assert np.array_equal(whole.next(11)[0], x)
    assert whole.epoch == parts[0].epoch == parts[1].epoch


def test_an_item_far_longer_than_a_batch(tmp_path: Path) -> None:
    texts = ["ab" * 50_000, *(f"c{n}" for n in range(40))]
    streams = Items(corpus_of(tmp_path / "t", texts), DataConfig(lines=True, val_frac=0.05)).streams(2, 1)
    for _ in range(3000):
        streams.next(64)
    assert len(streams._buffer_NB) * 2 < 200_000
    assert streams.epoch > 3


def test_validation_is_the_mean_over_items_scored_alone(lines: Path) -> None:
    corpus = read_corpus([str(lines)], DataConfig(lines=True))
    items = Items(corpus, DataConfig(lines=True, val_frac=0.3))
    torch.manual_seed(1)
    model = CharRNN(ModelConfig(hidden_size=16, embedding_size=8), len(corpus.vocabulary))
    assert corpus.items is not None
    total, count = 0.0, 0
    for n in items.validation_items():
        ids = torch.from_numpy(corpus.ids[slice(*corpus.items[n : n + 2])].astype(np.int64)).unsqueeze(1)
        with model.evaluating():
            logits = model(ids[:-1], model.initial_state(1))[0]
        total += float(F.cross_entropy(logits.flatten(0, 1), ids[1:, 0], reduction="sum"))
        count += len(ids) - 1
    assert items_loss(model, items).mean == pytest.approx(total / count, abs=1e-6)
    fewer = items.validation_items(items.val_tokens // 3)
    assert 0 < len(fewer) < len(items.validation_items())
    assert set(fewer) <= set(items.validation_items())


def test_a_long_item_is_validated_on_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charrnn.data.item_streams.MAX_VALIDATED_ITEM", 20)
    items = Items(corpus_of(tmp_path / "t", ["ab" * 500, "cab", "bc"]), DataConfig(lines=True, val_frac=0.1))
    batches = list(packed(items, np.arange(3), 1, 32))
    x, y = (torch.cat(parts)[:, 0] for parts in zip(*batches, strict=True))
    ends: NDArray[np.int64] = np.flatnonzero(x.numpy() == items.end)[:3]
    assert ends.tolist() == [19, 24, 28]
    assert int((y != NO_TARGET).sum()) == 19 + 4 + 3


@pytest.mark.parametrize("cell", ["lstm", "rnn"])
def test_a_run_on_items_resumes_bit_by_bit_in_the_middle_of_an_epoch(
    make_trainer: MakeTrainer, lines: Path, cell: str
) -> None:
    settings: dict[str, Any] = {"text": lines, "lines": True, "cell": cell, "steps": 30, "eval_steps": 10, "seq_len": 9}
    straight = make_trainer("straight", **settings)
    straight.train()
    first = make_trainer("first", **settings)
    first.train(lambda: first.run.counters.step >= 13)
    assert 0 < first.run.text.epoch % 1 < 1
    second = make_trainer("first", checkpoint=load_checkpoint(first.folder / "last.pt"), **settings)
    second.train()
    for name, weight in straight.run.model.state_dict().items():
        assert torch.equal(weight, second.run.model.state_dict()[name]), name
    for _ in range(9):
        for ours, theirs in zip(straight.run.text.next(9), second.run.text.next(9), strict=True):
            assert np.array_equal(ours, theirs)
    assert straight.run.history[-1]["val_loss"] == second.run.history[-1]["val_loss"]


def test_training_on_items_learns_them(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_text("\n".join(["hello", "help", "world", "word"] * 100))
    trainer = make_trainer(text=path, lines=True, steps=150, val_frac=0.3, patience=0)
    assert trainer.train().train_loss < 0.6
    texts = [text for text in ("hello", "help", "world", "word") if item_hash(text) >= int(0.3 * 2**64)]
    assert trainer.run.text.characters == 100 * sum(len(text) + 1 for text in texts)
