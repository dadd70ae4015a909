"""Reading text: what may be named, what is refused, and what the message says."""

from __future__ import annotations

import gzip
import io
import sys
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.config import DataConfig
from charrnn.data.corpus import Corpus, corpus_name, read_corpus
from charrnn.data.finder import find_sources, read_text
from charrnn.data.sources import joined_pieces
from charrnn.errors import CorpusError


def read(*arguments: object, **config: object) -> Corpus:
    return read_corpus([str(a) for a in arguments], DataConfig(**config))  # type: ignore[arg-type]


def text_of(corpus: Corpus) -> str:
    return corpus.vocabulary.decode(corpus.ids.tolist())


def test_a_file_becomes_ids_under_a_sorted_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("zebra\r\nä😀b".encode())
    corpus = read(tmp_path / "a.txt")
    assert text_of(corpus) == "zebra\r\nä😀b"  # line ends are left as they are
    symbols = corpus.vocabulary.symbols
    assert list(symbols) == sorted(set(map(ord, "zebra\r\nä😀b")))
    assert corpus.ids.dtype.itemsize == 1
    assert corpus.name == "a"


def test_many_files_are_joined_in_the_order_given_each_on_a_line_of_its_own(tmp_path: Path) -> None:
    for name, content in (("one", "1"), ("two", "2\n"), ("none", ""), ("three", "3")):
        (tmp_path / name).write_text(content)
    corpus = read(*(tmp_path / name for name in ("two", "one", "none", "three")))
    assert text_of(corpus) == "2\n1\n3"
    assert "3 more" in corpus.description
    assert "4 files" in corpus.description


def test_a_folder_is_read_recursively_without_hidden_and_binary_files(tmp_path: Path) -> None:
    for name, content in {
        "b.txt": b"B",
        "a.md": b"A",
        "deep/er/c": b"C",
        ".hidden": b"H",
        ".git/config": b"G",
        "deep/.secret/x.txt": b"S",
        "picture.png": b"\x89PNG\0\0\xff",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "broken-link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert text_of(read(tmp_path)) == "A\nB\nC"


def test_a_hidden_folder_may_be_named_itself(tmp_path: Path) -> None:
    (tmp_path / ".notes").mkdir()
    (tmp_path / ".notes" / "a.txt").write_text("ab")
    assert text_of(read(tmp_path / ".notes")) == "ab"


@pytest.mark.parametrize("content", [{}, {"x.bin": b"\0\1"}, {".hidden": b"text"}])
def test_a_folder_without_text_files(tmp_path: Path, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(CorpusError, match="a folder without text files"):
        read(tmp_path)


def test_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.md", "b.txt", "sub/c.md", "sub/deeper/d.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "folder.md").mkdir()  # matches, but is no file
    assert text_of(read("*.md", "b.txt")) == "a.md\nb.txt"
    assert text_of(read("**/*.md")) == "a.md\nsub/c.md\nsub/deeper/d.md"
    assert text_of(read(tmp_path / "sub" / "?.md", "b.txt")) == "sub/c.md\nb.txt"
    with pytest.raises(CorpusError, match=r"\*\.rst: no file has a name like this"):
        read("*.rst")


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("ab")
    assert text_of(read(tmp_path / "a[1].txt")) == "ab"


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from a pipe")))
    corpus = read("-")
    assert text_of(corpus) == "from a pipe"
    assert corpus.name == "stdin"


def test_gzip(tmp_path: Path) -> None:
    (tmp_path / "book.txt.gz").write_bytes(gzip.compress(b"ab") + gzip.compress(b"cd"))  # two members are one text
    corpus = read(tmp_path / "book.txt.gz")
    assert text_of(corpus) == "abcd"
    assert corpus.name == "book"


def _flipped(data: bytes) -> bytes:
    return data[:12] + bytes([data[12] ^ 0xFF]) + data[13:]


@pytest.mark.parametrize(
    "data",
    [gzip.compress(b"some text" * 50)[:-9], gzip.compress(b"ab") + b"rest", b"\x1f\x8b",
     _flipped(gzip.compress(b"some text" * 50))],
    ids=["cut short", "followed by more", "two bytes", "flipped bits"],
)  # fmt: skip
def test_damaged_gzip(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.gz").write_bytes(data)
    with pytest.raises(CorpusError, match=r"x\.gz: damaged gzip file"):
        read(tmp_path / "x.gz")


def test_a_byte_order_mark_is_dropped_from_each_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfab")
    (tmp_path / "b").write_bytes(b"\xef\xbb\xbfcd\xef\xbb\xbf")  # within a text it is a character
    assert text_of(read(tmp_path / "a", tmp_path / "b")) == "ab\ncd\ufeff"


@pytest.mark.parametrize(
    ("data", "byte", "offset"),
    [
        (b"abc\xe4def", "0xe4", "3"),
        (b"\xef\xbb\xbfabc\xff", "0xff", "6"),
        ("\ud800".encode("utf-8", "surrogatepass"), "0xed", "0"),
    ],
)
def test_strict_utf8_names_file_byte_and_offset(tmp_path: Path, data: bytes, byte: str, offset: str) -> None:
    (tmp_path / "good.txt").write_text("fine")
    (tmp_path / "bad.txt").write_bytes(data)
    with pytest.raises(CorpusError, match=rf"bad\.txt: not UTF-8: byte {byte} at offset {offset}; .*--bytes"):
        read(tmp_path / "good.txt", tmp_path / "bad.txt")


def test_bytes_take_any_file_as_it_is(tmp_path: Path) -> None:
    data = bytes(range(256)) + b"\xef\xbb\xbf\r\n"
    (tmp_path / "a").write_bytes(data)
    corpus = read(tmp_path / "a", tmp_path / "a", bytes=True)
    assert corpus.ids.tobytes() == data + data  # nothing is put between
    assert corpus.vocabulary.symbols == tuple(range(256))


@pytest.mark.parametrize(("form", "expected"), [(None, "ﬁe\u0301é"), ("NFC", "ﬁéé"), ("NFKD", "fie\u0301e\u0301")])
def test_normalize(tmp_path: Path, form: str | None, expected: str) -> None:
    (tmp_path / "a").write_text("ﬁe\u0301é", encoding="utf-8")
    corpus = read(tmp_path / "a", normalize=form)
    assert text_of(corpus) == expected
    assert set(corpus.vocabulary.symbols) == set(map(ord, expected))
    assert corpus.vocabulary.normalize == form


def test_more_than_256_characters_take_two_bytes_each(tmp_path: Path) -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    (tmp_path / "a").write_text(text, encoding="utf-8")
    corpus = read(tmp_path / "a")
    assert corpus.ids.dtype.itemsize == 2
    assert text_of(corpus) == text


@pytest.mark.parametrize("mode", [False, True], ids=["characters", "bytes"])
@pytest.mark.parametrize(
    ("data", "message"), [(b"", "there is no text in it"), (b"a" * 500, "one distinct character only")]
)
def test_nothing_to_learn_from(tmp_path: Path, data: bytes, message: str, mode: bool) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(CorpusError, match=message):
        read(tmp_path / "a", bytes=mode)


def test_a_file_of_nothing_but_a_byte_order_mark_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf")
    with pytest.raises(CorpusError, match="there is no text in it"):
        read(tmp_path / "a")


def test_a_name_that_is_nothing_lists_the_known_ones() -> None:
    with pytest.raises(CorpusError, match=r"no-such-thing: no such file .*known: .*tinyshakespeare"):
        read("no-such-thing")


def test_a_text_in_the_place_of_its_name() -> None:
    with pytest.raises(CorpusError, match=r"^(It was )+It w…: cannot be read: .*; name a file$"):
        read("It was " * 100)


def test_a_path_below_a_file_and_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("ab")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path / "file" / "x", tmp_path / "loop"):
        with pytest.raises(CorpusError, match="no such file or folder"):
            read(path)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("ab")

    def denied(_: Path, mode: str) -> io.BytesIO:  # root, who may run the tests, may read everything
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(CorpusError, match="a: cannot be read: Permission denied"):
        read(tmp_path / "a")


def test_the_default_is_the_standard_library_and_says_so() -> None:
    found = find_sources([])
    description, sources = found.description, found.sources
    folder = Path(sysconfig.get_paths()["stdlib"])
    assert description.startswith(f"the Python {sys.version_info.major}.{sys.version_info.minor} standard library")
    assert f"({len(sources)} files)" in description
    assert str(folder / "argparse.py") in {source.name for source in sources}
    assert all(Path(source.name).parent == folder for source in sources)
    corpus = read_corpus([], DataConfig())
    assert corpus.name == "python-stdlib"
    assert len(corpus.ids) > 1_000_000
    assert corpus.arguments == ()


@pytest.mark.parametrize(
    ("argument", "name"),
    [
        ("book.txt", "book"),
        ("a/b/War & Peace.txt.gz", "WarPeace"),
        ("-", "stdin"),
        ("notes/*.md", "text"),
        ("..", "text"),
        ("/", "text"),
        ("Ünï.txt", "Ünï"),
        ("x" * 300, "x" * 60),
        ("../../.bashrc", "bashrc"),
    ],
)
def test_the_name_of_a_text_is_fit_for_a_folder(argument: str, name: str) -> None:
    assert corpus_name([argument]) == name


@given(st.text(max_size=40))
def test_any_argument_gives_a_name_that_stays_in_its_folder(argument: str) -> None:
    name = corpus_name([argument])
    assert name
    assert Path(name).name == name
    assert not name.startswith(".")


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), min_size=1, max_size=4))
def test_joining_keeps_every_character(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("joined")
    paths = [folder / str(i) for i in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text.encode())
    names = [str(path) for path in paths]
    assert "".join(joined_pieces(find_sources(names).sources, as_bytes=True)).encode("latin-1").decode() == "".join(
        texts
    )
    kept = [t.removeprefix("\ufeff") for t in texts]
    joined = read_text(names)
    assert joined.replace("\n", "") == "".join(kept).replace("\n", "")
    assert len(joined) <= sum(map(len, kept)) + len(kept) - 1


def test_the_digest_tells_texts_and_vocabularies_apart(tmp_path: Path) -> None:
    digests = set()
    for i, text in enumerate(("abab", "abba", "cdcd", "abab")):
        (tmp_path / f"{i}").write_text(text)
        digests.add(read(tmp_path / f"{i}").sha256)
    assert len(digests) == 3
    assert read(tmp_path / "0", bytes=True).sha256 not in digests
