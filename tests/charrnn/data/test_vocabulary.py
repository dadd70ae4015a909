"""Rare and new characters, from the text to the model file, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from charrnn_runtime import Sampler, UnknownCharacterError, Vocabulary

from charrnn.config import DataConfig
from charrnn.data.corpus import Corpus, read_corpus
from charrnn.errors import ConfigError, CorpusError
from charrnn.runs.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from tests.conftest import Charrnn

QUICK = ("--steps", 4, "--hidden-size", 8, "--embedding-size", 4, "--batch-size", 4, "--seq-len", 16, "--dropout", 0)


def ingest(
    text: str, folder: Path, known: Vocabulary | None = None, fixed: str | None = None, **config: object
) -> Corpus:
    (folder / "text.txt").write_bytes(text.encode())
    return read_corpus([str(folder / "text.txt")], DataConfig(**config), known, fixed=fixed)  # type: ignore[arg-type]


def symbols(corpus: Corpus) -> str:
    return "".join(chr(s) if s >= 0 else "·" for s in corpus.vocabulary.symbols)


def test_rare_characters_become_one(tmp_path: Path) -> None:
    corpus = ingest("abab😀aé", tmp_path, min_count=2)
    assert symbols(corpus) == "ab·"
    assert corpus.vocabulary.special == {"unknown": 2}
    assert corpus.ids.tolist() == [0, 1, 0, 1, 2, 0, 2]
    assert corpus.counts == (3, 2, 2)
    assert corpus.vocabulary.encode("a🦆b").tolist() == [0, 2, 1]
    everything = ingest("abab", tmp_path, min_count=2)
    assert everything.vocabulary.special == {}  # nothing is rare, so there is nothing to learn of the unknown
    items = ingest("ab\nab\nc\n", tmp_path, min_count=2, lines=True)
    assert symbols(items) == "ab···"
    assert sorted(items.vocabulary.special) == ["begin", "end", "unknown"]
    with pytest.raises(CorpusError, match="--min-count leaves fewer than two"):
        ingest("aaaabc", tmp_path, min_count=3)
    with pytest.raises(ConfigError, match="--bytes has a token for every byte"):
        DataConfig(bytes=True, min_count=2)


def test_a_known_vocabulary_grows_by_frequent_characters_only(tmp_path: Path) -> None:
    known = ingest("ababc", tmp_path, min_count=2).vocabulary
    grown = ingest("aaxxxyb\nb", tmp_path, known, min_count=2, lines=True)
    assert grown.vocabulary.symbols[: len(known)] == known.symbols
    assert symbols(grown) == "ab·x··"
    assert grown.vocabulary.special == {"unknown": 2, "begin": 4, "end": 5}
    unknown = grown.vocabulary.special["unknown"]
    assert grown.counts[unknown] == 1  # y


def test_a_fixed_vocabulary(tmp_path: Path) -> None:
    plain = Vocabulary.from_text("abc")
    assert ingest("cabbage"[:4], tmp_path, plain, "error").ids.tolist() == [2, 0, 1, 1]
    with pytest.raises(UnknownCharacterError, match=r"text.txt:1:6: .*'g' \(U\+0067\) \(2 such") as caught:
        ingest("cabbage", tmp_path, plain, "error")
    assert (caught.value.character, caught.value.position) == ("g", 5)
    skipped = ingest("cabbage", tmp_path, plain, "skip")
    assert skipped.ids.tolist() == [2, 0, 1, 1, 0]
    assert skipped.vocabulary == plain
    assert len(ingest("", tmp_path, plain, "error").ids) == 0
    rest = ingest("ababc", tmp_path, min_count=2).vocabulary
    assert ingest("abz", tmp_path, rest, "error").ids.tolist() == [0, 1, 2]
    with pytest.raises(CorpusError, match="knows no items"):
        ingest("ab", tmp_path, plain, "error", lines=True)
    items = ingest("ab\nba", tmp_path, lines=True).vocabulary
    left = ingest("axb\nx\nb", tmp_path, items, "skip", lines=True)
    assert left.items is not None
    assert [items.decode(left.ids[a:b].tolist()) for a, b in zip(left.items, left.items[1:], strict=False)] == [
        "ab",
        "",
        "b",
    ]


def test_from_a_rare_emoji_to_a_sampled_text(tmp_path: Path, text: str, charrnn: Charrnn) -> None:
    path, more = tmp_path / "book.txt", tmp_path / "more.txt"
    path.write_text(text[:3000] + "😀é")
    outcome = charrnn("train", path, "--min-count", 2, *QUICK, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert "rarer ones become one unknown character" in outcome.out
    best = tmp_path / "run" / "best.pt"
    vocabulary = load_checkpoint(best).vocabulary
    assert "unknown" in vocabulary.special
    assert charrnn("train", "--resume", "--steps", 6, "--out", tmp_path / "run").code == 0
    assert charrnn("export", best, tmp_path / "m.onnx").code == 0
    sampler = Sampler(tmp_path / "m.onnx")
    assert len(sampler.generate("🦆 the", length=5, seed=1).text) <= 5
    assert sampler.score("😀").log_probs.tolist() == sampler.score("🦆").log_probs.tolist()
    values = json.loads(charrnn("eval", tmp_path / "m.onnx", path, "--json").out)
    assert values["characters"] == 3002
    # Another text: what is frequent there gets a row, what is rare stays unknown.
    more.write_text(text[:2000] + "ЖЖЖ🦆")
    outcome = charrnn("train", more, "--init-from", tmp_path / "run", *QUICK[:2], "--out", tmp_path / "tuned")
    assert outcome.code == 0, outcome.err
    assert "1 characters are new to the model and get rows of their own: 'Ж'" in outcome.out
    tuned = load_checkpoint(tmp_path / "tuned" / "best.pt")
    assert tuned.vocabulary.symbols == (*vocabulary.symbols, ord("Ж"))
    assert tuned.data_config.min_count == 2


def test_a_model_of_crlf_made_lf_is_evaluated_so(tmp_path: Path, text: str, charrnn: Charrnn) -> None:
    (tmp_path / "dos.txt").write_bytes(text[:3000].replace("\n", "\r\n").encode())
    outcome = charrnn("train", tmp_path / "dos.txt", "--newlines", "lf", *QUICK, "--out", tmp_path / "run")
    assert "CRLF and 0 single CR became LF" in outcome.out
    values = json.loads(charrnn("eval", tmp_path / "run", tmp_path / "dos.txt", "--json").out)
    assert values["characters"] == 3000
