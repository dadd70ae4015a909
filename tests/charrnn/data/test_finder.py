"""Folders: what is read, what is left out, and what is said about it."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from charrnn_runtime import Vocabulary

from charrnn.config import DataConfig
from charrnn.data import cache, finder, sources, token_buffer
from charrnn.data.corpus import Corpus, read_corpus, read_items
from charrnn.data.finder import LeftOut, find_sources, read_for
from charrnn.errors import ConfigError, CorpusError

FRENCH = "L'été dernier, près de la forêt. « Où es-tu ? » demanda-t-elle, très gênée.\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(*arguments: object, **config: object) -> Corpus:
    return read_corpus([str(a) for a in arguments], DataConfig(**config))  # type: ignore[arg-type]


def text_of(corpus: Corpus) -> str:
    return corpus.vocabulary.decode(corpus.ids.tolist())


def unreadable(path: Path) -> None:
    path.mkdir()
    (path / "text.txt").write_text("not to be seen")
    path.chmod(0)


def pipe(path: Path) -> None:
    os.mkfifo(path)


LEFT_OUT: dict[str, Callable[[Path], object]] = {
    "binary": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"),
    "binary ": lambda path: path.write_bytes(b"text at first\0"),
    "not UTF-8": lambda path: path.write_bytes(FRENCH.encode("latin-1")),
    "utf-16": lambda path: path.write_bytes(FRENCH.encode("utf-16")),
    "utf-16-le": lambda path: path.write_bytes(FRENCH.encode("utf-16-le")),
    "damaged gzip file": lambda path: path.write_bytes(gzip.compress(b"text" * 99)[:-9]),
    "a PDF document": lambda path: path.write_bytes(b"%PDF-1.4\n"),
    "broken link": lambda path: path.symlink_to("nowhere"),
    "linked folder": lambda path: path.symlink_to(path.parent),
    "special file": pipe,
}


@pytest.mark.parametrize("reason", LEFT_OUT)
def test_one_bad_file_does_not_stop_a_folder_and_is_named(tmp_path: Path, reason: str) -> None:
    (tmp_path / "a.txt").write_text("ab")
    LEFT_OUT[reason](tmp_path / "b-bad")
    (tmp_path / "c.txt").write_text("cd")
    corpus = read(".")
    assert text_of(corpus) == "ab\ncd"
    (note,) = corpus.notes
    assert note.startswith(f"left out: 1 {reason.strip()} (b-bad)")
    assert "2 files" in corpus.description


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ab")
    unreadable(tmp_path / "secret")
    corpus = read(".")
    assert corpus.notes == ("left out: 1 unreadable folder (secret)",)


def test_a_folder_and_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for root, who may run the tests: the system's answer is made up."""
    for name in ("a/x", "b/x", "c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("ab")
    scandir, open_ = os.scandir, Path.open

    def denied_folder(path: str) -> object:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    def denied_file(path: Path, mode: str) -> object:
        if path.name == "c":
            raise PermissionError(13, "Permission denied", str(path))
        return open_(path, mode)

    monkeypatch.setattr(os, "scandir", denied_folder)
    monkeypatch.setattr(Path, "open", denied_file)
    assert read(".").notes == ("left out: 1 unreadable folder (b), 1 Permission denied (c)",)


def test_hidden_files_are_left_out_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ab")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x").write_bytes(b"\0")
    (tmp_path / ".hidden").write_bytes(b"\0")
    assert read(".").notes == ()


def test_the_likely_encoding_of_what_is_left_out_is_named_and_reads_a_folder_of_such_files(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(FRENCH.encode("cp1252"))
    with pytest.raises(CorpusError, match=r"a folder without text files \(left out: 3 not UTF-8 .*--encoding cp1252"):
        read(".")
    assert text_of(read(".", encoding="cp1252")) == FRENCH * 3
    (tmp_path / "d").write_bytes(FRENCH.encode("utf-16"))
    corpus = read(".", encoding="utf-16")
    assert text_of(corpus) == FRENCH
    assert corpus.notes[0].startswith("left out: 3 not utf-16")


def test_the_note_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("ab")
    for i in range(500):
        (tmp_path / f"{i:0200}").write_bytes(b"\0")
        (tmp_path / f"{i:0200}x").write_bytes(b"\xff")
    (note,) = read(".").notes
    assert "500 binary (…" in note
    assert "500 not UTF-8 (…" in note
    assert len(note) < 1000
    assert str(LeftOut().notes) == "[]"


@pytest.fixture
def late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose second file is bad behind its first hundred characters."""
    monkeypatch.setattr(finder, "CHECKED", 100)
    monkeypatch.setattr(sources, "CHUNK", 70)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("one\ntwo")
    (tmp_path / "folder" / "b").write_bytes(b"three\n" * 100 + FRENCH.encode("latin-1"))
    (tmp_path / "folder" / "c").write_text("four\n" * 100)
    return Path("folder")


def test_a_file_that_turns_out_to_be_bad_behind_its_beginning_is_left_out_as_a_whole(late: Path) -> None:
    corpus = read(late)
    assert text_of(corpus) == "one\ntwo\n" + "four\n" * 100
    (note,) = corpus.notes
    assert note.startswith(f"left out: 1 not UTF-8 ({late}/b); {late}/b is likely cp1252")
    assert list(read_items([str(late)], DataConfig(lines=True))) == ["one", "two", *["four"] * 100]
    with pytest.raises(CorpusError, match="b: not UTF-8: byte 0xe9 at offset 602"):  # named itself, it is an error
        read(late / "a", late / "b")


def test_the_cache_remembers_what_was_left_out(late: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_buffer, "IN_MEMORY", 100)
    monkeypatch.setattr(cache, "YOUNG", 0.0)
    (late / "d").write_bytes(b"\0")
    notes = read(late).notes
    assert len(cache.entries()) >= 1
    assert read(late).notes == notes
    assert len(notes) == 2


def test_named_files_are_never_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ab")
    (tmp_path / "b.txt").write_bytes(FRENCH.encode("utf-16"))
    for arguments in ((tmp_path / "b.txt",), (tmp_path / "a.txt", tmp_path / "b.txt"), (tmp_path / "*.txt",)):
        with pytest.raises(CorpusError, match=r"b.txt: it is utf-16"):
            read(*arguments)


def test_the_order_of_a_folder_is_that_of_its_paths(tmp_path: Path) -> None:
    for name in ("b/x", "b.txt", "a", "b/a/c", "c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [Path(s.name).relative_to(tmp_path).as_posix() for s in find_sources([str(tmp_path)]).sources] == [
        p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*")) if p.is_file()
    ]


def test_a_prompt_is_read_as_the_model_takes_it(tmp_path: Path) -> None:
    characters, as_bytes = Vocabulary.from_text("é"), Vocabulary.from_text("", kind="bytes")
    path = tmp_path / "text.txt"
    path.write_bytes("é".encode("cp1252") * 3)
    assert read_for(characters, str(path), encoding="cp1252") == "ééé"
    with pytest.raises(CorpusError, match="--encoding"):
        read_for(characters, str(path))
    assert read_for(as_bytes, str(path)) == path.read_bytes()
    with pytest.raises(ConfigError, match="leave out --encoding"):
        read_for(as_bytes, str(path), encoding="cp1252")
