"""Every error that charrnn raises for something that the caller can correct.

    CharrnnError                    exit code 1
    ├── UsageError (ValueError)     exit code 2: an argument that cannot be used
    │   ├── UnknownCharacterError   text holds a character the model has never seen
    │   └── PatternError            a pattern is malformed, too large, or no text matches it
    ├── ModelFileError              the model file is not one, is damaged or does not fit the format
    ├── SnapshotError               bytes are not a saved conversation, are damaged, or belong to another model
    ├── ModelOutputError            the model computed NaN or nothing that can be drawn from
    ├── BusyError                   the engine's queue is full
    ├── HubError                    a model cannot be fetched from the Hugging Face Hub, or written there
    └── DeviceError                 the requested device cannot be used, or ONNX Runtime is missing

The trainer's own errors (``charrnn.errors``) derive from ``CharrnnError`` too, so
one ``except CharrnnError`` catches all of them. Each message names the thing,
the place and the remedy.
"""

from __future__ import annotations


class CharrnnError(Exception):
    """Root of all errors that charrnn and charrnn_runtime raise on purpose."""

    exit_code = 1


class UsageError(CharrnnError, ValueError):
    """An argument or option has a value that cannot be used."""

    exit_code = 2


class UnknownCharacterError(UsageError):
    """A text or an option holds a character that is not in the model's vocabulary.

    Attributes:
        character: the character (never raised for a byte model with all 256 tokens).
        position: its index in the text, counted in characters from 0.
        total: how many such characters the text has.
        option: the name of the option that holds it; None if it is in the text itself.
        place: file, line and column of the character, such as ``app.log:12:3``; None if they are not known.
        problem: the message without its remedy, for front ends whose remedy has another name.
    """

    def __init__(
        self, character: str, position: int, total: int = 1, *, option: str | None = None, place: str | None = None
    ) -> None:
        self.character = character
        self.position = position
        self.total = total
        self.option = option
        self.place = place
        more = f" ({total} such characters in all)" if total > 1 else ""
        self.problem = f"the model has never seen {character!r} (U+{ord(character):04X})"
        if place is None:
            self.problem += f" at position {position} of {option or 'the text'}{more}"
            remedy = "" if option else ", or pass unknown='skip' (--unknown skip)"
        else:  # a text that is scored
            self.problem = f"{place}: {self.problem}{more}"
            remedy = ", or charge it like the least likely character: --unknown charge"
        super().__init__(f"{self.problem}; leave it out{remedy}")


class PatternError(UsageError):
    """A pattern is malformed or too large, has parts that are not supported, or no text of the model matches it."""


class ModelFileError(CharrnnError):
    """A file is not a charrnn model file, is damaged, or contradicts itself."""


class SnapshotError(CharrnnError):
    """Bytes are not a saved conversation, are damaged, or belong to another model."""


class ModelOutputError(CharrnnError):
    """The model computed logits from which nothing can be drawn (NaN, or all minus infinity)."""


class BusyError(CharrnnError):
    """An engine's queue is full; the same request may be taken in a moment."""


class HubError(CharrnnError):
    """A model cannot be fetched from the Hugging Face Hub or written there, or huggingface_hub is missing."""


class DeviceError(CharrnnError):
    """The requested device cannot be used, or ONNX Runtime is missing."""
