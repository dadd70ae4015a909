"""Scores of texts and lines for a command line: each is printed as soon as it arrives; unknown characters are named."""

from __future__ import annotations

import contextlib
import io
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple, Self

from charrnn_runtime.errors import CharrnnError, UnknownCharacterError
from charrnn_runtime.model_file import ModelInfo
from charrnn_runtime.sampler import Sampler
from charrnn_runtime.scoring import ItemScore
from charrnn_runtime.text_io import (
    TextOutput,
    decode_line,
    open_input,
    prompt_of_argument,
    read_lines,
    shown_name,
    write_json,
)
from charrnn_runtime.vocab import UnknownScore, Vocabulary

LINES_NAMED = 5  # lines with unknown characters that a summary names


class Line(NamedTuple):
    """A line or an item.

    Attributes:
        text: as the model takes it.
        place: where it is, such as ``app.log:12``.
        label: of an item; empty if it has none.
    """

    text: str | bytes
    place: str
    label: str = ""


@dataclass(frozen=True)
class TextInput:
    """A text to score: a file, standard input, or an argument of the command line.

    Attributes:
        name: of the file; "-" is standard input, None an argument.
        data: the bytes of an argument.
    """

    name: str | None
    data: bytes = b""

    @classmethod
    def of_argument(cls, text: str, vocabulary: Vocabulary) -> Self:
        """A text itself.

        Raises:
            UsageError: it is not valid in the terminal's encoding, and the model is one of characters.
        """
        given = prompt_of_argument(text, vocabulary)
        return cls(None, given if isinstance(given, bytes) else given.encode("utf-8", "surrogatepass"))

    @property
    def shown(self) -> str:
        """The name in messages."""
        return "text" if self.name is None else shown_name(self.name)

    def lines(self, vocabulary: Vocabulary) -> Iterator[list[Line]]:
        """Lines with their line ends, in lists of those that have arrived.

        Raises:
            InputError: the text cannot be read.
        """
        before = 0
        with self._open() as stream:
            for lines in read_lines(stream):
                yield [
                    Line(decode_line(line, vocabulary, first=number == 1), f"{self.shown}:{number}")
                    for number, line in enumerate(lines, before + 1)
                ]
                before += len(lines)

    def _open(self) -> contextlib.AbstractContextManager[IO[bytes]]:
        return contextlib.nullcontext(io.BytesIO(self.data)) if self.name is None else open_input(self.name)


@dataclass
class UnknownCharacters:
    """Characters that the model has never seen, counted, and where they are.

    Attributes:
        count: how many characters.
        lines: how many lines have some.
        places: the first one on each of the first lines, such as ``app.log:12:3 '☃' (U+2603)``.
    """

    count: int = 0
    lines: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, line: Line, info: ModelInfo) -> None:
        """Adds those of a line."""
        if found := info.find_unknown(line.text):
            position, character = found[0]
            self.add_line(len(found), f"{line.place}:{position + 1}", character)

    def add_line(self, count: int, place: str, character: str) -> None:
        """Adds a line with ``count`` of them; ``place`` is that of the first one, empty if it is not known."""
        self.count += count
        self.lines += 1
        if place and len(self.places) < LINES_NAMED:
            self.places.append(f"{place} {character!r} (U+{ord(character):04X})")

    def __str__(self) -> str:
        left = self.lines - len(self.places)
        places = [*self.places, *([f"and {left:,} more line{'s' if left > 1 else ''}"] if left else [])]
        characters = "character" if self.count == 1 else "characters"
        return f"{self.count:,} {characters} that the model has never seen: {', '.join(places)}"


def stripped_lines(inputs: Sequence[TextInput], vocabulary: Vocabulary) -> Iterator[list[Line]]:
    """The lines that are not empty, without their ends, in lists of those that have arrived."""
    for source in inputs:
        for lines in source.lines(vocabulary):
            stripped = [line._replace(text=line.text.rstrip(_ends(line.text))) for line in lines]  # type: ignore[arg-type]
            yield [line for line in stripped if line.text]


def _ends(text: str | bytes) -> str | bytes:
    return "\r\n" if isinstance(text, str) else b"\r\n"


def check_known(line: Line, info: ModelInfo) -> None:
    """Does nothing if the model knows all characters of a line.

    Raises:
        UnknownCharacterError: it names file, line and column of the first unknown one.
    """
    if found := info.find_unknown(line.text):
        position, character = found[0]
        raise UnknownCharacterError(character, position, len(found), place=f"{line.place}:{position + 1}")


@dataclass
class Totals:
    """Sums over scores."""

    nats: float = 0.0
    tokens: int = 0
    items: int = 0

    def add(self, nats: float, tokens: int) -> None:
        """Adds a text or an item."""
        self.nats, self.tokens, self.items = self.nats + nats, self.tokens + tokens, self.items + 1

    @property
    def nats_per_char(self) -> float:
        """Mean over all tokens."""
        return self.nats / self.tokens

    @property
    def bits_per_char(self) -> float:
        """``nats_per_char`` in bits."""
        return self.nats_per_char / math.log(2)

    @property
    def bits_per_item(self) -> float:
        """Mean over all items, in bits."""
        return self.nats / self.items / math.log(2)

    @property
    def perplexity(self) -> float:
        """exp of ``nats_per_char``."""
        return math.exp(min(self.nats_per_char, 700.0))  # near the largest float


def print_line_scores(
    sampler: Sampler,
    batches: Iterable[Sequence[Line]],
    *,
    name: str,
    unknown: UnknownScore = "charge",
    each: bool,
    as_json: bool,
    order: Callable[[Iterator[ItemScore]], Iterator[ItemScore]] = iter,
    more: Callable[[], Mapping[str, Any]] = dict,
) -> None:
    """Scores lines or items one by one, and prints them and a summary.

    Args:
        sampler: the model.
        batches: the lines, without their ends, in lists of those that are there.
        name: of the text, for an error.
        unknown: as for ``Sampler.score``.
        each: whether every line is printed, at once; the summary then goes to the standard error.
        as_json: whether JSON is printed: an object a line, and one for the summary.
        order: puts the scores into the order in which they are printed.
        more: called when all have been scored; what it returns is added to the JSON of the summary.

    Raises:
        CharrnnError: there is nothing to score, or a text cannot be read.
        UnknownCharacterError: ``unknown`` is "error", and the model has never seen a character.
    """
    totals, strange = Totals(), UnknownCharacters()
    output = TextOutput(sampler.vocabulary)

    def counted() -> Iterator[ItemScore]:
        for line, score in score_lines(sampler, batches, unknown):
            totals.add(score.nats, score.tokens)
            if score.num_unknown:
                strange.add(line, sampler.info)
            yield score

    for score in order(counted()):
        if each:
            print_item_score(output, score, as_json=as_json)
    output.flush()
    if not totals.items:
        raise CharrnnError(f"{name}: there is nothing to score in it")
    print_item_summary(totals, strange, each=each, as_json=as_json, more=more())


def score_lines(
    sampler: Sampler, batches: Iterable[Sequence[Line]], unknown: UnknownScore
) -> Iterator[tuple[Line, ItemScore]]:
    """Lines or items with their scores, each list before the next one is asked for.

    Raises:
        UnknownCharacterError: ``unknown`` is "error", and the model has never seen a character; with its place.
    """
    for batch in batches:
        if unknown == "error":
            for line in batch:
                check_known(line, sampler.info)
        scores = sampler.score_items([[line.text for line in batch]], labels=[[line.label for line in batch]])
        yield from zip(batch, scores, strict=True)


def print_item_score(output: TextOutput, score: ItemScore, *, as_json: bool) -> None:
    """Prints a line or item with its score at once: bits, bits per character and the text."""
    if as_json:
        text = score.text if isinstance(score.text, str) else score.text.decode("utf-8", "replace")
        values = {"bits": score.bits, "bits_per_char": score.bits_per_char, "unknown": score.num_unknown, "text": text}
        write_json(values | ({"label": score.label} if score.label else {}))
        return
    output.write(f"{score.bits:.3f}\t{score.bits_per_char:.4f}\t")
    output.write_given(score.text)
    output.write("\n")


def print_item_summary(
    totals: Totals, strange: UnknownCharacters, *, each: bool, as_json: bool, more: Mapping[str, Any]
) -> None:
    """Prints the sums over lines or items; to the standard error if each of them was printed."""
    file = sys.stderr if each else sys.stdout
    characters = totals.tokens - totals.items
    if as_json:
        values = {
            "bits_per_item": totals.bits_per_item,
            "bits_per_char": totals.bits_per_char,
            "nats_per_char": totals.nats_per_char,
            "perplexity": totals.perplexity,
            "items": totals.items,
            "characters": characters,
            "unknown": strange.count,
            **more,
        }
        write_json(values, file)
    else:
        print(
            f"{totals.bits_per_item:.4f} bits/item   {totals.bits_per_char:.4f} bits/char, ends included   "
            f"{totals.items:,} items   {characters:,} characters",
            file=file,
        )
    print_unknown(strange)


def print_text_scores(
    sampler: Sampler, inputs: Sequence[TextInput], *, unknown: UnknownScore = "charge", as_json: bool
) -> None:
    """Scores each text as a whole, in constant memory, and prints a line for it, with its name if there are several.

    Raises:
        CharrnnError: there is nothing to score in one, or it cannot be read.
        UnknownCharacterError: ``unknown`` is "error", and the model has never seen a character.
    """
    strange = UnknownCharacters()
    for source in inputs:
        totals, before = Totals(), strange.count
        for log_probs in sampler.score_stream(_pieces(source, sampler.info, unknown, strange)):
            totals.add(-float(log_probs.sum()), len(log_probs))
        if not totals.tokens:
            raise CharrnnError(f"{source.shown}: there is nothing to score in it")
        name = source.shown if len(inputs) > 1 else None
        print_text_score(totals, name, unknown=strange.count - before, as_json=as_json)
    print_unknown(strange)


def print_text_score(totals: Totals, name: str | None, *, unknown: int, as_json: bool) -> None:
    """Prints the score of a whole text."""
    if as_json:
        values = {
            "nats_per_char": totals.nats_per_char,
            "bits_per_char": totals.bits_per_char,
            "perplexity": totals.perplexity,
            "characters": totals.tokens,
            "unknown": unknown,
        }
        write_json(values if name is None else {"name": name, **values})
        return
    begin = "" if name is None else f"{name}: "
    print(
        f"{begin}{totals.nats_per_char:.4f} nats/char   {totals.bits_per_char:.4f} bits/char   "
        f"perplexity {totals.perplexity:.3f}   {totals.tokens:,} characters",
        flush=True,
    )


def print_unknown(strange: UnknownCharacters) -> None:
    """Says on the standard error how many unknown characters were charged, and where they are."""
    if strange.count:
        print(f"note: {strange}", file=sys.stderr)


def _pieces(
    source: TextInput, info: ModelInfo, unknown: UnknownScore, strange: UnknownCharacters
) -> Iterator[str | bytes]:
    for lines in source.lines(info.vocabulary):
        for line in lines:
            if unknown == "error":
                check_known(line, info)
            strange.add(line, info)
        texts = [line.text for line in lines]
        yield b"".join(texts) if info.vocabulary.kind == "bytes" else "".join(texts)  # type: ignore[arg-type]
