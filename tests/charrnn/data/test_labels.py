"""Labels of items: where they are in a text, the tokens they become, what is refused, and what training reads."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from charrnn_runtime import UsageError

from charrnn.config import DataConfig
from charrnn.data import labels, token_buffer
from charrnn.data.corpus import Corpus, read_corpus, read_item_lines
from charrnn.data.in_memory import InMemory, Item
from charrnn.data.item_streams import Items
from charrnn.data.text_report import label_table
from charrnn.errors import ConfigError, CorpusError

PAIRS: list[tuple[str | None, str]] = [
    ("Polish", "Kowalski"),
    ("Irish", "O'Neill"),
    ("Polish", "Nowak"),
    (None, "Smith"),
    ("a", "aa"),
    ("end", "é"),
]


def pairs_of(corpus: Corpus) -> list[tuple[str | None, str]]:
    """(label, text) of each item, from the token ids."""
    assert corpus.items is not None
    names = {i: label for label, i in corpus.vocabulary.labels.items()} | {corpus.vocabulary.special["begin"]: None}
    bounds = corpus.items.tolist()
    parts = [corpus.ids[a:b].tolist() for a, b in itertools.pairwise(bounds)]
    assert all(part[-1] == corpus.vocabulary.special["end"] for part in parts)
    return [(names[part[0]], corpus.vocabulary.decode(part[1:])) for part in parts]


def in_memory(items: Sequence[Item], **config: object) -> Corpus:
    return read_corpus(InMemory(items=items), DataConfig(lines=True, **config))  # type: ignore[arg-type]


def write(folder: Path, place: str) -> tuple[list[str], DataConfig]:
    """The pairs in a file, as each place has them."""
    rows = [(label or "", text) for label, text in PAIRS]
    if place == "tab":
        (folder / "names.txt").write_text("".join(f"{a}\t{b}\n" if a else f"{b}\n" for a, b in rows), "utf-8")
        return [str(folder / "names.txt")], DataConfig(lines=True, label="tab")
    if place == "csv":
        (folder / "names.csv").write_text("kind, name\n" + "".join(f"{a}, {b}\n" for a, b in rows), "utf-8")
        return [str(folder / "names.csv")], DataConfig(column="name", label="kind")
    if place == "json":
        lines = [json.dumps({"name": b} | ({"kind": a} if a else {})) + "\n" for a, b in rows]
        (folder / "names.jsonl").write_text("".join(lines))
        return [str(folder / "names.jsonl")], DataConfig(column="name", label="kind")
    files = []
    for number, (a, b) in enumerate(rows):
        file = folder / (a or "x") / f"{number}.txt" if place == "folder" else folder / str(number) / f"{a or 'x'}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text(b + "\n", "utf-8")
        files.append(str(file))
    return files, DataConfig(lines=True, label=place)


@pytest.mark.parametrize("place", ["tab", "csv", "json", "folder", "file"])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_places(tmp_path: Path, place: str, as_bytes: bool) -> None:
    files, config = write(tmp_path, place)
    config = DataConfig(**{**config.to_json(), "bytes": as_bytes})
    corpus = read_corpus(files, config)
    expected = [(label or ("x" if place in ("folder", "file") else None), text) for label, text in PAIRS]
    assert pairs_of(corpus) == expected
    assert corpus.labels == dict(sorted(Counter(label for label, _ in expected if label).items()))
    assert any("1 have no label" in note for note in corpus.notes) == (place not in ("folder", "file"))
    lines = [line for batch in read_item_lines(files, config) for line in batch]
    assert [line.label for line in lines] == [label or "" for label, _ in expected]


def test_pairs_of_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = in_memory(PAIRS)
    assert pairs_of(corpus) == PAIRS
    assert list(corpus.labels.items()) == [("Irish", 1), ("Polish", 2), ("a", 1), ("end", 1)]
    # The label "end" is another token than the end of an item, and "a" another one than the character.
    special = corpus.vocabulary.special
    assert special["label:end"] != special["end"]
    assert special["label:a"] != corpus.vocabulary.token("a")
    assert corpus.hashes is not None
    plain = in_memory([text for _, text in PAIRS])
    assert plain.hashes is not None
    assert corpus.hashes.tolist() == plain.hashes.tolist()
    assert not plain.labels
    monkeypatch.setattr(token_buffer, "IN_MEMORY", 9)
    assert pairs_of(in_memory(PAIRS)) == PAIRS


def test_a_known_vocabulary_keeps_its_labels() -> None:
    known = in_memory(PAIRS).vocabulary
    grown = read_corpus(InMemory(items=[("new", "ab"), ("Irish", "O'")]), DataConfig(lines=True), known).vocabulary
    assert grown.symbols[: len(known)] == known.symbols
    assert grown.labels == known.labels | {"new": len(grown) - 1}
    fixed = DataConfig(lines=True)
    with pytest.raises(UsageError, match="no label 'polich'; did you mean 'Polish'"):
        read_corpus(InMemory(items=[("polich", "Nowak"), ("a", "a")]), fixed, known, fixed="error")
    with pytest.raises(UsageError, match="no label 'zz'; its 4 labels are 'Irish', 'Polish'"):
        known.label_token("zz")
    with pytest.raises(UsageError, match="without labels"):
        in_memory(["ab", "cd"]).vocabulary.label_token("zz")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ab\ncd\n", "no item has a label"),
        ("\tab\n \tcd\n", "no item has a label"),
        ("x" * 201 + "\tab\ncd\n", r"text:1: 'x+\.*.*cannot be a label"),
        ("a\tab\nb\x07b\tcd\n", r"text:2: .*cannot be a label"),
        ("".join(f"{i}\tab{i}\n" for i in range(1001)), "more than 1,000 different labels in the first 1,001 items"),
    ],
)
def test_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "text").write_text(text)
    with pytest.raises(CorpusError, match=message):
        read_corpus([str(tmp_path / "text")], DataConfig(lines=True, label="tab"))


def test_wrong_columns_and_options(tmp_path: Path) -> None:
    for name, text in {"csv": "name,kind\na,b\nb,c\n", "jsonl": '{"name": "ab", "kind": "b"}\n'}.items():
        (tmp_path / f"t.{name}").write_text(text)
        with pytest.raises(CorpusError, match="no column 'kinds'; did you mean 'kind'"):
            read_corpus([str(tmp_path / f"t.{name}")], DataConfig(column="name", label="kinds"))
    for options, message in [
        ({"label": "tab"}, "labels belong to items"),
        ({"label": "genre", "lines": True}, "without --column it is tab, folder or file"),
        ({"label": "name", "column": "name"}, "other than the items' own"),
        ({"label": " ", "column": "name"}, "other than the items' own"),
        ({"label_dropout": 1.5}, "label_dropout must be"),
    ]:
        with pytest.raises(ConfigError, match=message):
            DataConfig(**options)  # type: ignore[arg-type]
    with pytest.raises(CorpusError, match="its label is not a string, but int"):
        in_memory([(7, "ab")])  # type: ignore[list-item]
    with pytest.raises(CorpusError, match="item 1 is not a string, but tuple"):
        in_memory([("a", "b", "c")])  # type: ignore[list-item]


def test_labels_are_normalised_and_have_no_blanks_around_them() -> None:
    assert labels.cleaned([" Cafe\u0301 ", "a b"], str) == ["Café", "a b"]
    assert in_memory([("Café", "ab"), ("x", "cd")]).vocabulary.label_token(" Cafe\u0301") > 0


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.25, 1.0])
@pytest.mark.parametrize("seq_len", [3, 50])
def test_part_of_the_items_is_read_without_label(dropout: float, seq_len: int) -> None:
    """Exactly this part of the order, an item as a whole, other ones in each epoch; the texts do not change."""
    given = [("ab"[i % 2], f"{i:04}") for i in range(400)]
    corpus = in_memory(given, label_dropout=dropout)
    items = Items(corpus, DataConfig(lines=True, label_dropout=dropout))
    assert sum(items.label_counts.values()) == items.train_items
    reader, special = items.streams(4, 7), corpus.vocabulary.special
    tokens = np.concatenate([reader.next(seq_len)[0] for _ in range(3 * items.train_tokens // (4 * seq_len))]).T
    bare, read = [], 0
    for row in tokens.tolist():
        ends = [i for i, token in enumerate(row) if token == special["end"]]
        for begin, end in zip([0, *(i + 1 for i in ends)], ends, strict=False):
            text, read = corpus.vocabulary.decode(row[begin:end]), read + 1
            assert len(text) == 4
            if row[begin] == special["begin"]:
                bare.append(text)
            else:
                assert row[begin] == special["label:" + "ab"[int(text) % 2]]
    assert abs(len(bare) / read - dropout) < 0.05
    if dropout == 0.25:
        assert len(set(bare)) > items.train_items / 3
    middle = items.streams(4, 7)
    for _ in range(5):
        middle.next(seq_len)
    resumed = items.streams(4, 7)
    resumed.load_state(middle.position, middle.row_state())
    assert all(np.array_equal(a, b) for a, b in zip(middle.next(seq_len), resumed.next(seq_len), strict=True))


def test_table() -> None:
    table = label_table({"a": 10, "long name": 1990})
    assert table == "2 labels:\n  long name  1,990  99.5 %\n  a             10  0.5 %"
    assert label_table({}) == ""
    assert label_table({str(i): 1 for i in range(50)}).endswith("\n  and 20 more labels with 20 items")
