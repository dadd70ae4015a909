"""Texts that a program holds in memory; they are read like files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from charrnn.config import DataConfig
from charrnn.data.finder import FoundText, LeftOut
from charrnn.data.items import LONGEST, Batch
from charrnn.data.sources import Source, SourceError, check_encodable
from charrnn.errors import ConfigError

Item = str | tuple[str | None, str]

_BATCH = 10_000  # items in a batch
_BATCH_CHARACTERS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class InMemory:
    """A text that a program holds in memory: either ``text`` or ``items``.

    Attributes:
        text: a text as a string, or as the bytes of a file.
        items: short texts, each with a beginning and an end, or pairs (label, text), where the label may be None;
            they are iterated over once.

    Raises:
        ConfigError: it is of another type.
    """

    text: str | bytes | None = field(default=None, repr=False)
    items: Iterable[Item] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.text is None) == (self.items is None):
            raise ConfigError("give the text in one way: text=… or items=…")
        if self.text is not None and not isinstance(self.text, (str, bytes)):
            raise ConfigError(f"text=… must be a string or bytes, not {type(self.text).__name__}")
        if isinstance(self.items, (str, bytes)):
            raise ConfigError("items=… must be many strings, not a single one; a whole text is given as text=…")
        if self.items is not None and not isinstance(self.items, Iterable):
            raise ConfigError(f"items=… must be strings to iterate over, not {type(self.items).__name__}")

    @property
    def kind(self) -> Literal["text", "items"]:
        """The name of the argument that was given: text=… or items=…."""
        return "text" if self.text is not None else "items"

    def find(self, config: DataConfig) -> FoundText:
        """The text in the form in which ``finder`` gives texts that it finds.

        Raises:
            ConfigError: the configuration is for a text of another kind.
        """
        name = f"{self.kind}=…"
        if self.items is not None and not config.has_items:
            raise ConfigError("the model was trained on running text and knows no items: give text=…, not items=…")
        if config.encoding is not None and not isinstance(self.text, bytes):
            raise ConfigError(f"{name} is decoded already: leave out encoding")
        if self.items is not None:
            source = Source(name=name, items=_batches(self.items, name))
        elif isinstance(self.text, bytes):
            source = Source(name=name, spool=io.BytesIO(self.text))
        else:
            source = Source(name=name, text=self.text)
        return FoundText(description=name, sources=[source], left_out=LeftOut())


def _batches(items: Iterable[Item], name: str) -> Iterator[Batch]:
    """The items in batches; those in which no item has a label have none.

    Raises:
        SourceError: an item is neither a string nor a label with one, is too long, or has characters that UTF-8
            cannot encode.
    """
    batch: list[str] = []
    labels: list[str] = []
    characters = 0
    for number, given in enumerate(items, 1):
        label, item = given if isinstance(given, (tuple, list)) and len(given) == 2 else (None, given)
        if not isinstance(item, str):
            raise SourceError(f"{name}: item {number:,} is not a string, but {type(item).__name__}", "not a string")
        if label is not None and not isinstance(label, str):
            raise SourceError(
                f"{name}: item {number:,}: its label is not a string, but {type(label).__name__}; "
                "give pairs (label, text)",
                "not a string",
            )
        if len(item) > LONGEST:
            raise SourceError(
                f"{name}: item {number:,} is longer than {LONGEST:,} characters, the limit of an item; "
                "give shorter ones, or train on them as one text: text=…",
                "too long",
            )
        batch.append(item)
        labels.append(label or "")
        characters += len(item)
        if len(batch) == _BATCH or characters >= _BATCH_CHARACTERS:
            yield Batch(_checked(batch, number, name), _checked(labels, number, name) if any(labels) else None)
            batch, labels, characters = [], [], 0
    if batch:
        yield Batch(_checked(batch, number, name), _checked(labels, number, name) if any(labels) else None)


def _checked(batch: list[str], last: int, name: str) -> list[str]:
    """The batch, if UTF-8 can encode it; ``last`` is the number of its last item, counted from 1."""
    try:
        "".join(batch).encode()
    except UnicodeEncodeError:
        for number, item in enumerate(batch, last - len(batch) + 1):
            check_encodable(item, f"{name}: item {number:,}")
    return batch
