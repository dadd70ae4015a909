"""Encodings: every one that Python knows can be read, and the common ones are recognised and named."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from charrnn.config import DataConfig
from charrnn.data import encodings, sources
from charrnn.data.corpus import read_corpus
from charrnn.data.finder import read_text
from charrnn.errors import ConfigError, CorpusError

ENCODINGS = [
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    "utf-32",
    "utf-32-le",
    "utf-32-be",
    "utf-7",
    "gbk",
    "gb2312",
    "gb18030",
    "big5",
    "big5hkscs",
    "shift_jis",
    "cp932",
    "euc_jp",
    "iso2022_jp",
    "euc_kr",
    "cp949",
    "johab",
    "cp1250",
    "cp1251",
    "cp1252",
    "cp1253",
    "cp1254",
    "cp1255",
    "cp1256",
    "latin-1",
    "iso8859-2",
    "iso8859-5",
    "iso8859-15",
    "koi8-r",
    "koi8-u",
    "cp437",
    "cp850",
    "cp866",
    "mac_roman",
    "cp037",
]

LOST = {
    "shift_jis": "¥‾",
    "cp932": "¢£¬‖−〜",
    "euc_jp": "¥‾",
    "iso2022_jp": "\x1b\x0e\x0f¥‾",
    "euc_kr": "\u3164",
    "utf-7": "\ufeff",
}

FRENCH = "L'été dernier, nous avons visité le château près de la forêt. « Où es-tu ? » demanda-t-elle, très gênée.\n"
GERMAN = "Die Straße führt über schöne Hügel nach München. Süße Äpfel, öde Wälder, Größe und Übermut.\n"
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.\n"
CHINESE = "话说天下大势，分久必合，合久必分。周末七国分争，并入于秦。及秦灭之后，楚、汉分争，又并入于汉。\n"
TRADITIONAL = "話說天下大勢，分久必合，合久必分。周末七國分爭，并入於秦。及秦滅之後，楚、漢分爭，又并入於漢。\n"
JAPANESE = (
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。薄暗い所で泣いていた事だけは記憶している。\n"
)
KOREAN = "모든 국민은 법 앞에 평등하다. 누구든지 성별·종교 또는 사회적 신분에 의하여 차별을 받지 아니한다.\n"
POLISH = "Litwo! Ojczyzno moja! ty jesteś jak zdrowie: Ile cię trzeba cenić, ten tylko się dowie, Kto cię stracił.\n"
GREEK = "Μήνιν άειδε θεά Πηληιάδεω Αχιλήος ουλομένην, η μυρί' Αχαιοίς άλγε' έθηκε\n"

RECOGNISED = [
    *[(text, name) for text in (FRENCH, GERMAN, RUSSIAN, CHINESE, JAPANESE) for name in ("utf-16", "utf-32")],
    *[
        (FRENCH, name)
        for name in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "cp1252", "latin-1", "mac_roman")
    ],
    *[(GERMAN, name) for name in ("utf-16-le", "utf-16-be", "cp1252", "latin-1")],
    *[(RUSSIAN, name) for name in ("utf-16-le", "utf-16-be", "cp1251", "koi8-r", "cp866", "iso8859-5")],
    *[(CHINESE, name) for name in ("utf-16-le", "utf-16-be", "utf-32-le", "gbk", "gb2312", "gb18030")],
    *[(TRADITIONAL, name) for name in ("utf-16-le", "big5", "gbk")],
    *[(JAPANESE, name) for name in ("utf-16-le", "utf-32-be", "shift_jis", "cp932", "euc_jp", "iso2022_jp")],
    *[(KOREAN, name) for name in ("utf-16-be", "euc_kr", "cp949")],
    *[(POLISH, name) for name in ("utf-16-le", "cp1250", "iso8859-2")],
    *[(GREEK, name) for name in ("utf-16-le", "cp1253", "iso8859-7")],
]


def named_in(message: str) -> str:
    """The encoding that an error advises."""
    found = re.search(r"--encoding (\S+) reads it", message)
    assert found, message
    return found[1]


@pytest.mark.parametrize("repeat", [1, 3000], ids=["short", "long"])
@pytest.mark.parametrize(("text", "encoding"), RECOGNISED, ids=[f"{name}-{text[:5]}" for text, name in RECOGNISED])
def test_a_text_in_another_encoding_is_recognised_and_the_advice_reads_it(
    tmp_path: Path, text: str, encoding: str, repeat: int
) -> None:
    text = text.encode(encoding, "ignore").decode(encoding) * repeat
    path = tmp_path / "text.txt"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(CorpusError, match=rf"^{path}: (it is|not UTF-8: .* it may be)") as caught:
        read_text([str(path)])
    message = str(caught.value)
    assert len(message) < len(str(path)) + 250
    assert any(word in message for word in re.findall(r"\w{3,}", text))  # a piece of the text, to judge by
    assert read_text([str(path)], encoding=named_in(message)) == text
    assert (
        read_corpus([str(path)], DataConfig(encoding=named_in(message))).vocabulary.decode(
            read_corpus([str(path)], DataConfig(encoding=encoding)).ids.tolist()
        )
        == text
    )


def test_one_odd_byte_far_into_a_large_file_is_looked_at_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"plain ascii text, line after line\n" * 100_000 + (RUSSIAN * 9).encode("cp1251"))
    with pytest.raises(CorpusError, match=r"byte 0xc2 at offset 3,400,000; it may be cp1251 .*Все счастливые"):
        read_text([str(path)])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (FRENCH.encode() * 20 + b"\xe9" + FRENCH.encode() * 20, "it is UTF-8, except for damaged bytes: remove them"),
        (FRENCH.encode()[:3], "byte 0xc3 at offset 2: the file ends within a character; it may have been cut short"),
        (b"\xde\xad\xbe\xef" + bytes(range(256)), "it holds zero bytes: not a text; --bytes takes any file"),
        (b"caf\xe9 au lait", "may be cp1252 (Windows-1252, which includes Latin-1) (“café au”)"),
        (b"\x81\x8d\x8f", "name its encoding"),
    ],
    ids=["damaged UTF-8", "cut short", "binary", "one byte", "no guess"],
)
def test_what_is_said_of_other_bytes(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(CorpusError, match=re.escape(message)):
        read_text([str(tmp_path / "a")])


@pytest.mark.parametrize(
    "text", ["ab\0cde\0" * 50, "a\0" * 3, "\0" * 50, "x\0y", "plain", "naïve", "\x1b[31mred\x1b[0m"]
)
def test_utf8_with_zero_bytes_or_escapes_is_not_taken_for_something_else(tmp_path: Path, text: str) -> None:
    (tmp_path / "a").write_bytes(text.encode())
    assert read_text([str(tmp_path / "a")]) == text


def test_the_word_of_the_user_counts(tmp_path: Path) -> None:
    data = "find -print0".encode("utf-16-le")  # it may be meant: single letters with zeros between them
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(CorpusError, match="it is utf-16-le"):
        read_text([str(tmp_path / "a")])
    assert read_text([str(tmp_path / "a")], encoding="utf-8") == data.decode("utf-8")
    (tmp_path / "b").write_bytes(FRENCH.encode() * 9)
    with pytest.raises(CorpusError, match=r"not ascii: byte 0x.*it is UTF-8, as it seems: leave out --encoding"):
        read_text([str(tmp_path / "b")], encoding="ascii")


# All that UTF-16 holds in one unit, and some beyond. st.characters(codec=…) offers the same, a second later.
CHARACTERS = "".join(chr(i) for i in (*range(0xD800), *range(0xE000, 0x10000), 0x10000, 0x1F600, 0x20000, 0x10FFFF))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_any_text_survives_in_any_encoding(tmp_path_factory: pytest.TempPathFactory, encoding: str) -> None:
    path = tmp_path_factory.mktemp("encoding") / "text"

    # Some characters are encoded like others: they cannot come back.
    lost = LOST.get(encoding, "")
    alphabet = [c for c in CHARACTERS if c not in lost and c.encode(encoding, "ignore")]

    @settings(max_examples=15)
    @given(st.text(st.sampled_from(alphabet), max_size=40), st.integers(1, 7))
    @example("ab\n" * 9, 3)
    def survives(text: str, chunk: int) -> None:
        data = text.encode(encoding)
        path.write_bytes(data)
        expected = text
        if not encodings.removes_bom(encoding) or encoding == "utf-8":
            expected = expected.removeprefix("\ufeff")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sources, "CHUNK", chunk)
            assert read_text([str(path)], encoding=encoding) == expected

    survives()


@given(st.binary(max_size=30), st.integers(1, 7), st.sampled_from([e for e in ENCODINGS if e != "utf-7"]))
@example(b"\xff\xfe\x00", 1, "utf-16")
@example(b"\xef\xbb\xbf\xff", 2, "utf-8")
def test_a_byte_that_cannot_be_decoded_is_named_with_its_place(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, chunk: int, encoding: str
) -> None:
    path = tmp_path_factory.mktemp("encoding") / "text"
    path.write_bytes(data)
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        bom = len(codecs.BOM_UTF8) if encoding == "utf-8-sig" and data.startswith(codecs.BOM_UTF8) else 0
        place = error.start + bom
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sources, "CHUNK", chunk)
            with pytest.raises(
                CorpusError, match=rf"(byte 0x{data[place]:02x} at offset {place}[;:,]|: it is |damaged)"
            ):
                read_text([str(path)], encoding=encoding)


@pytest.mark.parametrize(
    ("name", "stored"), [("latin1", "iso8859-1"), ("UTF8", "utf-8"), ("GBK", "gbk"), ("Shift-JIS", "shift_jis")]
)
def test_an_encoding_may_be_written_in_many_ways(name: str, stored: str) -> None:
    config = DataConfig(encoding=name)
    assert config.encoding == stored
    assert DataConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("name", ["", "klingon", "base64", "rot13", "zip", "utf-8\0", "a" * 1000])
def test_an_encoding_that_does_not_exist(name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown encoding .*known are"):
        DataConfig(encoding=name)


def test_bytes_have_no_encoding() -> None:
    with pytest.raises(ConfigError, match="leave out --encoding"):
        DataConfig(bytes=True, encoding="cp1252")
