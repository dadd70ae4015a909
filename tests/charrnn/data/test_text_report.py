"""What is said of a text before training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from charrnn_runtime import Vocabulary

from charrnn.config import DataConfig
from charrnn.data import text_report
from charrnn.data.corpus import Corpus, read_corpus

if TYPE_CHECKING:
    pass


def ingest(
    text: str, folder: Path, known: Vocabulary | None = None, fixed: str | None = None, **config: object
) -> Corpus:
    (folder / "text.txt").write_bytes(text.encode())
    return read_corpus([str(folder / "text.txt")], DataConfig(**config), known, fixed=fixed)  # type: ignore[arg-type]


def test_the_report_names_the_rarest_and_how_much_they_are(tmp_path: Path) -> None:
    text = "a" * 900 + "b" * 90 + "\u200b" * 6 + "\n" * 3 + "\x1b"
    line = ingest(text, tmp_path).report
    assert line.startswith("5 tokens; the 5 rarest characters are 100.0 % of the text: U+001B 1×, '\\n' 3×, ")
    assert "U+200B ZERO WIDTH SPACE 6×" in line
    assert line.isprintable()
    line = ingest(text, tmp_path, min_count=50).report
    assert line == (
        "3 tokens; the 2 rarest characters are 99.0 % of the text: 'b' 90×, 'a' 900×; "
        "rarer ones become one unknown character, 1.0 % of the text"
    )
    assert ingest(text, tmp_path, bytes=True).report == ""
    assert text_report.share(1, 3_000_000) == "3e-05 %" or text_report.share(1, 3_000_000) == "less than 0.0001 %"
