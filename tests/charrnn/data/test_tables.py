"""Columns of tables: delimiters, headers and quotes as people write them, JSON lines, and what is refused."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from charrnn.config import DataConfig
from charrnn.data import sources, tables
from charrnn.data.corpus import Corpus, read_corpus
from charrnn.data.items import LONGEST, Batch, ItemCounts
from charrnn.data.sources import Source
from charrnn.data.tables import DELIMITERS, Column, by_column
from charrnn.errors import CorpusError

if TYPE_CHECKING:
    from tests.conftest import Charrnn


def ingest(data: bytes | str, folder: Path, *, name: str = "text", **config: object) -> Corpus:
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return read_corpus([str(folder / name)], DataConfig(**config))  # type: ignore[arg-type]


def items_of(corpus: Corpus) -> list[str]:
    assert corpus.items is not None
    bounds = itertools.pairwise(corpus.items.tolist())
    return [corpus.vocabulary.decode(corpus.ids[a:b].tolist()) for a, b in bounds]


def column(path: Path, name: str, **options: object) -> list[str]:
    """A column, empty fields included."""
    asked = Column(name=name, counts=ItemCounts(), **options)  # type: ignore[arg-type]
    return [item for batch in by_column(Source(name=str(path), path=path), asked) for item in batch.items]


def written(rows: list[list[str]], delimiter: str, newline: str, always: bool) -> str:
    """A table by the letter of RFC 4180, which the csv module's writer is not in all versions of Python."""

    def field(text: str) -> str:
        quoted = always or any(c in text for c in f'"\r\n{delimiter}')
        return '"' + text.replace('"', '""') + '"' if quoted else text

    return "".join(delimiter.join(map(field, row)) + newline for row in rows)


FIELDS = st.text(st.sampled_from('ab",;\t|\n\ré '), max_size=6)
NAMES = st.text(st.sampled_from("abc é_"), min_size=1, max_size=6).filter(lambda name: name.strip())


@given(
    st.lists(NAMES, min_size=2, max_size=4, unique_by=str.strip),
    st.lists(st.lists(FIELDS, min_size=4, max_size=4), max_size=6),
    st.data(),
    st.sampled_from(DELIMITERS),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    st.integers(1, 9),
)
def test_any_table_with_any_delimiter(
    tmp_path_factory: pytest.TempPathFactory,
    header: list[str],
    rows: list[list[str]],
    data: st.DataObject,
    delimiter: str,
    newline: str,
    always: bool,
    chunk: int,
) -> None:
    at = data.draw(st.integers(0, len(header) - 1))
    rows = [row[: len(header)] for row in rows]
    path = tmp_path_factory.mktemp("table") / "t"
    path.write_bytes(written([header, *rows], delimiter, newline, always).encode())
    expected = [row[at] for row in rows]
    if not always and all(name.startswith(" ") for name in header[1:]):  # then blanks behind delimiters do not count
        expected = [field if any(c in field for c in f'"\r\n{delimiter}') else field.lstrip(" ") for field in expected]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "CHUNK", chunk)
        assert column(path, header[at].strip()) == expected
        assert column(path, header[at], delimiter=delimiter) == expected
    assert column(path, header[at]) == expected


@given(
    st.lists(st.dictionaries(st.sampled_from(["text", "id", "ü"]), st.text(max_size=9) | st.none() | st.integers())),
    st.integers(1, 9),
    st.booleans(),
)
@example([{"text": "\u2028\x85\x0b"}], 1, False)
def test_any_json_lines(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]], chunk: int, ascii_: bool
) -> None:
    rows = [{"text": "first"}, *rows]
    path = tmp_path_factory.mktemp("json") / "t"
    path.write_bytes("".join(json.dumps(row, ensure_ascii=ascii_) + "\n" for row in rows).encode())
    values = [row.get("text") for row in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "CHUNK", chunk)
        assert column(path, "text") == [str(value) for value in values if value is not None]
    assert column(path, "text", as_bytes=True) == [
        str(value).encode().decode("latin-1") for value in values if value is not None
    ]


@pytest.mark.parametrize(
    "table",
    [
        "id,name,age\n1,Anna,7\n2,Bert,8\n",
        "id;name;age\n1;Anna;7\n2;Bert;8\n",
        "id\tname\tage\n1\tAnna\t7\n2\tBert\t8\n",
        "id|name|age\n1|Anna|7\n2|Bert|8\n",
        "\ufeffname;id\r\nAnna;1,5\r\nBert;2,5\r\n",  # Excel in much of Europe
        "sep=;\r\nid;name\r\n1;Anna\r\n2;Bert\r\n",
        "sep=^\nid^name\n1^Anna\n2^Bert\n",
        "id, name, age\n1, Anna, 7\n2, Bert, 8\n",
        ' "id" , "name" \n1,Anna\n2,Bert\n',
        '"id","name"\n"1","Anna"\n"2","Bert"\n',
        "\n\r\nid,name\n1,Anna\n\n2,Bert\n",
        '"a\nheader",name\n1,Anna\n2,Bert\n',
        "name\nAnna\nBert\n",
        "name\rAnna\rBert\r",
        '{"id": 1, "name": "Anna"}\n{"id": 2, "name": "Bert"}\n',
        '\ufeff{"name":"Anna"}\r\n\r\n{"name":"Bert","more":[1,{"name":"no"}]}',
        '  { "name" : "Anna" }\n{"name": null}\n{}\n{"name": "Bert"}\n',
    ],
)
@pytest.mark.parametrize("name", ["table.csv", "x"])
def test_a_table_is_recognised_by_its_header(tmp_path: Path, table: str, name: str) -> None:
    for encoding in (None, "utf-16", "utf-16-le"):
        data = (table.removeprefix("\ufeff") if encoding == "utf-16" else table).encode(encoding or "utf-8")
        corpus = ingest(data, tmp_path, name=name, column="name", encoding=encoding)
        assert items_of(corpus) == ["Anna", "Bert"]
    assert items_of(ingest(table, tmp_path, name=name, column="name", bytes=True)) == ["Anna", "Bert"]
    if "{" not in table:
        assert items_of(ingest(table, tmp_path, name=name, column=" name ")) == ["Anna", "Bert"]


def test_a_column_of_a_table(tmp_path: Path) -> None:
    table = '\ufeffid,smiles\r\n1,"C""C"\r\n\r\n2,"O\nN"\r\n3\r\n4,\r\n5,CC\r\n'
    for as_bytes in (False, True):
        corpus = ingest(table, tmp_path, column="smiles", bytes=as_bytes)
        assert items_of(corpus) == ['C"C', "O\nN", "CC"]
        assert "1 empty ones" in corpus.notes[0]
        assert "1 rows without the column" in corpus.notes[0]
    assert items_of(ingest("é,ü\nx,ab\n", tmp_path, column="ü", bytes=True)) == ["ab"]


def test_a_suffix_decides_between_equal_delimiters(tmp_path: Path) -> None:
    table = "text\nhello, world\nand; so on\n"
    assert items_of(ingest(table, tmp_path, name="t.tsv", column="text")) == ["hello, world", "and; so on"]
    assert items_of(ingest(table, tmp_path, name="t.TSV.gz", column="text")) == ["hello, world", "and; so on"]
    corpus = ingest(table, tmp_path, name="t.csv", column="text")
    assert items_of(corpus) == ["hello", "and; so on"]
    assert "1 rows have more fields than the header" in corpus.notes[0]
    assert items_of(ingest(table, tmp_path, column="text", delimiter="\t")) == ["hello, world", "and; so on"]


def test_line_ends_are_folded_in_every_format(tmp_path: Path) -> None:
    for table in ('t,u\n"a\r\nb\rc",x\n', '{"t": "a\\r\\nb\\rc"}\n'):
        assert items_of(ingest(table, tmp_path, column="t", newlines="lf")) == ["a\nb\nc"]
        assert items_of(ingest(table, tmp_path, column="t")) == ["a\r\nb\rc"]


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("id,name\n1,a\n", {"column": "smiles"}, r"text: no column 'smiles'; there are 'id', 'name'$"),
        ("id,Name\n1,a\n", {"column": "name"}, r"no column 'name'; did you mean 'Name'\? there are 'id', 'Name'$"),
        ("id,first_name\n", {"column": "firstname"}, r"did you mean 'first_name'\?"),
        (
            "id^name\n1^a\n",
            {"column": "name"},
            r"there are 'id\^name' with the delimiter ','; name another .*--delimiter",
        ),
        ("id,name\n1,a\n", {"column": "name", "delimiter": ";"}, r"there are 'id,name' with the delimiter ';'"),
        ('{"id": 1}\n{"Name": "x"}\n', {"column": "name"}, r"did you mean 'Name'\? there are 'id', 'Name'$"),
        (",".join(map(str, range(99))), {"column": "name"}, r"'28', '29' …$"),
        (
            'id,name\n1,a\n2,"b" c\n',
            {"column": "name"},
            r"text: line 3: not a table with the delimiter ',': .*fields with",
        ),
        ('id,name\n1,"open\n2,b\n', {"column": "name"}, "text: line 3: not a table"),
        ("", {"column": "name"}, "there is no item in it"),
        ("\n\n", {"column": "name"}, "there is no item in it"),
        ('{"name": null}\n', {"column": "name"}, "there is no item in it"),
        ("id\n" + "x" * (LONGEST + 1), {"column": "id"}, "line 2: not a table .*: field larger"),
        ('{"a": "x"}\n{"a": ["x"]}\n', {"column": "a"}, "text: line 2: column 'a' holds a list, not a text"),
        ('{"a": {"x": 1}}\n', {"column": "a"}, "text: line 1: column 'a' holds an object, not a text"),
        ('{"a": "x"}\n\n[1]\n', {"column": "a"}, "text: line 3: not a JSON object; make one a line"),
        ('{"a": "x"}\n{"a": \n', {"column": "a"}, "text: line 2: not a JSON object on a line of its own"),
        (
            '{\n"a": "x"\n}\n',
            {"column": "a"},
            r"line 1: not a JSON object on a line of its own: .* jq -c '\.\[\]' FILE",
        ),
        ('[{"a": "x"},\n{"a": "y"}]\n', {"column": "a"}, r"line 1: not a JSON object .* jq -c"),
        ('{"a": "\\ud800"}\n', {"column": "a"}, r"line 1: column 'a' holds half of a surrogate pair \(\\ud800\)"),
        ('{"a": ' + "[" * 100_000 + "\n", {"column": "a"}, "line 1: not a JSON object"),
        ('{"a": "' + "x" * (LONGEST + 1) + '"}\n', {"column": "a"}, "line 1: column 'a' is longer than 1,000,000"),
        (b'{"a": "\xff"}\n', {"column": "a"}, "not UTF-8: byte 0xff at offset 7"),
    ],
)
def test_what_is_refused(tmp_path: Path, data: str | bytes, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        ingest(data, tmp_path, **options)


@pytest.mark.parametrize("begin", ["id\n", '{"id": "'])
def test_a_line_without_end_is_refused_in_bounded_memory(begin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(*_: object, **__: object) -> Iterator[str]:
        yield begin
        while True:
            yield "x" * 1_000_000

    monkeypatch.setattr(tables, "text_pieces", endless)
    monkeypatch.setattr(Source, "chunks", lambda *_, **__: iter([begin.encode()]))
    tracemalloc.start()
    try:
        with pytest.raises(CorpusError, match=r"a line of more than 8,000,000 characters is not a row of a table"):
            column(Path("x"), "id")
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()


def test_another_format_is_one_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A toy format of blocks "name=value" joins the others, and nothing else has to know."""

    class Blocks:
        def recognises(self, head: bytes) -> bool:
            return head.startswith(b"%blocks")

        def column(self, source: Source, column: Column) -> Iterator[Batch]:
            text = b"".join(source.chunks(column.on_read)).decode()
            yield Batch([line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{column.name}=")])

    monkeypatch.setattr(tables, "FORMATS", (Blocks(), *tables.FORMATS))
    data = "%blocks\nname=Anna\nage=7\nname=Bert\nage=8\n"
    assert items_of(ingest(data, tmp_path, column="name")) == ["Anna", "Bert"]


def test_tables_on_the_command_line(tmp_path: Path, charrnn: Charrnn) -> None:
    (tmp_path / "t.csv").write_text("id;name\n" + "".join(f"{i};name {i}\n" for i in range(50)))
    tiny = ["--steps", "2", "--hidden-size", "8", "--out", str(tmp_path / "run")]
    outcome = charrnn("train", tmp_path / "t.csv", "--column", "smiles", *tiny)
    assert outcome.code == 1
    assert "no column 'smiles'; there are 'id', 'name'" in outcome.err
    assert not (tmp_path / "run").exists()
    (tmp_path / "t.csv").write_text("id\tname\n" + "".join(f"{i}\tname {i}\n" for i in range(50)))
    outcome = charrnn("train", tmp_path / "t.csv", "--column", "name", "--delimiter", "\\t", *tiny)
    assert outcome.code == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text("utf-8"))["data"]["delimiter"] == "\t"


@pytest.mark.parametrize(
    ("typed", "separator"), [("\\n\\n", "\n\n"), ("\n\n", "\n\n"), ("\\x1e", "\x1e"), ("\\\\n", "\\n"), ("\\d", "\\d")]
)
def test_a_separator_may_be_typed_with_escapes(tmp_path: Path, charrnn: Charrnn, typed: str, separator: str) -> None:
    (tmp_path / "t").write_text(separator.join(f"item {i}" for i in range(50)), newline="")
    tiny = ["--steps", "2", "--hidden-size", "8", "--out", str(tmp_path / "run")]
    outcome = charrnn("train", tmp_path / "t", "--separator", typed, *tiny)
    assert outcome.code == 0
    assert "50 items" in outcome.out + outcome.err
    assert json.loads((tmp_path / "run" / "config.json").read_text("utf-8"))["data"]["separator"] == separator
