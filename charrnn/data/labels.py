"""Labels of items: where they are in a text, and what is refused.

A label becomes a special token that begins its item in place of the begin
token, so it never collides with the characters of the text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

from charrnn.data.containers import SUFFIXES
from charrnn.data.items import Batch
from charrnn.data.sources import Source
from charrnn.errors import CorpusError

MAX_LABELS = 1000  # each has a token of its own, and classification scores a text once for each
LONGEST_LABEL = 200  # characters


def labelled(items: list[str], place: str, source: Source) -> Batch:
    """Items with their labels.

    Args:
        items: texts from one source.
        place: "tab": each item is its label, a tab and its text; an item without a tab has no label. "folder" or
            "file": the label is the name of the folder of the source, or of the file without its suffixes.
        source: where the items are from.

    Raises:
        CorpusError: the source is not a file, and so has no folder and no name.
    """
    if place == "tab":
        parts = [item.partition("\t") for item in items]
        return Batch([text if tab else label for label, tab, text in parts], [tab and label for label, tab, _ in parts])
    if source.path is None:
        raise CorpusError(f"{source.name} has no {place}, from which --label {place} takes the label; name files")
    path = source.path.absolute()
    return Batch(items, [path.parent.name if place == "folder" else _stem(path)] * len(items))


def _stem(path: Path) -> str:
    return Path(path.stem).stem if path.suffix.lower() in SUFFIXES else path.stem


def cleaned(labels: list[str], where: Callable[[int], str]) -> list[str]:
    """The labels in Unicode's normal form C, without blanks around them.

    Args:
        labels: as they are in the text.
        where: names the item of a label, by its place in the list.

    Raises:
        CorpusError: a label is too long, or holds characters that cannot be printed.
    """
    made = {label: unicodedata.normalize("NFC", label).strip() for label in set(labels)}
    wrong = {label for label, name in made.items() if len(name) > LONGEST_LABEL or not name.isprintable()}
    for i, label in enumerate(labels):
        if label in wrong:
            raise CorpusError(
                f"{where(i)}: {label!r:.60} cannot be a label: labels have at most {LONGEST_LABEL} characters, all of "
                "them printable; is it the right column (--label)?"
            )
    return [made[label] for label in labels]


def check_labels(description: str, labels: int, items: int) -> None:
    """Raises CorpusError for a text with labels in which no item, or nearly every item, has one of its own."""
    if items and not labels:
        raise CorpusError(f"{description}: no item has a label; name another place or column of them (--label)")
    if labels > MAX_LABELS:
        raise CorpusError(
            f"{description}: there are more than {MAX_LABELS:,} different labels in the first {items:,} items; a label "
            "is a kind of text, such as a genre or a language: name another column (--label)"
        )
