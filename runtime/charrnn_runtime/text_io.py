"""Text in and out of a command line: prompts, texts to score, generated texts, JSON.

Models of bytes take and give bytes as they are; models of characters take UTF-8
and give characters in the encoding of the terminal.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from charrnn_runtime.errors import CharrnnError, UsageError
from charrnn_runtime.generation import Generation, Prompt, Request
from charrnn_runtime.sampler import Sampler
from charrnn_runtime.vocab import Vocabulary

SEPARATOR = "----"  # the line between two texts
_FLUSH_SECONDS = 0.05  # seconds after which buffered output is flushed, for readers that follow it
_CHUNK = 1 << 16  # bytes read at once
_LONGEST_LINE = 1 << 20  # bytes after which a line is cut


class InputError(CharrnnError):
    """A text cannot be read."""


def prompt_of_argument(argument: str, vocabulary: Vocabulary) -> str | bytes:
    """The prompt for an argument of the command line.

    Python marks bytes that do not fit the terminal's encoding by lone surrogates. A model of bytes gets the bytes.

    Raises:
        UsageError: the argument has such bytes, and the model is one of characters.
    """
    at = next((i for i, c in enumerate(argument) if "\udc80" <= c <= "\udcff"), None)
    if at is None:
        return argument
    if vocabulary.kind == "bytes":
        return os.fsencode(argument)
    raise UsageError(
        f"the prompt is not valid {sys.getfilesystemencoding().upper()}: "
        f"byte 0x{ord(argument[at]) - 0xDC00:02X} at position {at}"
    )


def prompt_of_file(name: str | os.PathLike[str], vocabulary: Vocabulary) -> str | bytes:
    """The prompt in a file, or on standard input for "-": UTF-8, or for a model of bytes any bytes.

    Raises:
        InputError: the file cannot be read, or is not UTF-8.
    """
    with open_input(name) as stream:
        data = stream.read()
    if vocabulary.kind == "bytes":
        return data
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{shown_name(name)}: is not UTF-8 (byte 0x{data[error.start]:02X} at byte {error.start}); "
            "convert it, for example with: iconv -t UTF-8"
        ) from error


@contextlib.contextmanager
def open_input(name: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file, or standard input for "-", to be read as bytes.

    Raises:
        InputError: it cannot be opened or read.
    """
    try:
        if os.fspath(name) == "-":
            # A standard input that a host program has set may give only characters.
            yield getattr(sys.stdin, "buffer", None) or io.BytesIO(sys.stdin.read().encode("utf-8", "surrogatepass"))
        else:
            with Path(name).open("rb") as file:
                yield file
    except OSError as error:
        raise InputError(f"{shown_name(name)}: cannot be read: {error.strerror or error}") from error


def shown_name(name: str | os.PathLike[str]) -> str:
    """The name of an input in messages."""
    return "standard input" if os.fspath(name) == "-" else os.fspath(name)


def read_lines(stream: IO[bytes]) -> Iterator[list[bytes]]:
    """Lines with their line ends (LF, CRLF or CR), in lists of those that have arrived; the last may have no end.

    A list is given out as soon as there is one complete line, so that a program
    that writes slowly is followed line by line. A line of more than 1 MiB is cut.
    """
    held = b""
    read = getattr(stream, "read1", stream.read)
    while chunk := read(_CHUNK):
        data = held + chunk
        # CR at the end of the data may be the first half of CRLF.
        end = max(data.rfind(b"\n"), data.rfind(b"\r", 0, len(data) - 1)) + 1
        if len(data) - end > _LONGEST_LINE:
            end = len(data)
        held = data[end:]
        if end:
            yield _split_lines(data[:end])
    if held:
        yield _split_lines(held)


def _split_lines(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)  # of bytes, this divides at LF, CRLF and CR only


def decode_line(line: bytes, vocabulary: Vocabulary, *, first: bool) -> str | bytes:
    """A line as the model takes it. For a model of characters, bytes that are not UTF-8 become U+FFFD.

    Args:
        line: its bytes.
        vocabulary: the model's.
        first: whether it is the first of its file, which may begin with a byte order mark.
    """
    if vocabulary.kind == "bytes":
        return line
    return line.decode("utf-8-sig" if first else "utf-8", "replace")


# U+2400 is the picture of U+0000, and so on; C1 control characters have none.
_PICTURES = {c: 0x2400 + c for c in range(32)} | {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


class TextOutput:
    """Standard output for generated texts: their exact bytes from a model of bytes, else characters.

    What is written is flushed at least every 50 ms, while it is being written.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._bytes: IO[bytes] | None = getattr(sys.stdout, "buffer", None) if vocabulary.kind == "bytes" else None
        self._flushed = time.monotonic()
        if self._bytes is not None:
            sys.stdout.flush()

    def write(self, text: str | bytes) -> None:
        """Writes text: a prompt, or a piece that was generated with ``errors="surrogateescape"``."""
        if self._bytes is not None:
            self._bytes.write(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))
        else:
            sys.stdout.write(_decoded(text))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def write_given(self, text: str | bytes) -> None:
        """Writes a text that was read: on a terminal its control characters, which could change it, as pictures."""
        if sys.stdout.isatty():
            text = text if isinstance(text, str) else text.decode("utf-8", "surrogateescape")
            text = text.translate(_PICTURES)
        self.write(text)

    def flush(self) -> None:
        """Gives out what was written."""
        (self._bytes or sys.stdout).flush()
        self._flushed = time.monotonic()


def write_stream(sampler: Sampler, request: Request, *, with_prompt: bool) -> None:
    """Writes one text to standard output while it is generated; errors in the request come before any output."""
    pieces = sampler.stream_request(replace(request, errors="surrogateescape"))
    output = TextOutput(sampler.vocabulary)
    if with_prompt:
        output.write(_text(request.prompt))
    for piece in pieces:
        output.write(piece)
    output.write("\n")
    output.flush()


def write_texts(sampler: Sampler, request: Request, num: int, *, with_prompt: bool) -> None:
    """Writes ``num`` texts to standard output, each as soon as it and all before it are finished.

    They are texts 0 to ``num - 1`` of the request's seed, with a line of dashes
    between them. When it is interrupted, all that are finished have been written.
    """
    output = TextOutput(sampler.vocabulary)
    prompt = _text(request.prompt) if with_prompt else ""
    between = ""

    def write(done: Generation) -> None:
        nonlocal between
        output.write(between)
        output.write(prompt)
        output.write(done.text + "\n")
        output.flush()
        between = f"{SEPARATOR}\n"

    give_finished(sampler, replace(request, errors="surrogateescape"), num, write)


def write_json_texts(sampler: Sampler, request: Request, num: int) -> None:
    """Writes ``num`` texts as one JSON object; of an interrupted run those that are finished.

    Its keys: seed, prompt, texts, finish_reasons and, if the request asks for
    them, log_probs (natural logarithms, one list a text).
    """
    texts: list[Generation] = []
    try:
        give_finished(sampler, request, num, texts.append)
    finally:
        if texts:
            with uninterrupted():
                write_json(json_of_texts(request, texts))


def json_of_texts(request: Request, texts: Sequence[Generation]) -> dict[str, Any]:
    """The object that ``write_json_texts`` writes."""
    values: dict[str, Any] = {
        "seed": request.seed,
        "prompt": _decoded(_text(request.prompt)),
        "texts": [done.text for done in texts],
        "finish_reasons": [done.finish_reason for done in texts],
    }
    if request.log_probs:
        values["log_probs"] = [done.log_probs.tolist() for done in texts if done.log_probs is not None]
    return values


def give_finished(
    sampler: Sampler, request: Request, num: int, give: Callable[[Generation], bool | None], *, batch: int = 64
) -> None:
    """Calls ``give`` with texts 0 to ``num - 1`` of a request's seed, in their order and as soon as possible.

    It ends early if ``give`` returns True. When it is interrupted, ``give`` is called with all that are finished.

    Raises:
        KeyboardInterrupt: it was interrupted.
    """
    waiting: dict[int, Generation] = {}
    number = 0
    try:
        for finished in sampler.generate_groups((replace(request, index=i) for i in range(num)), batch=batch):
            waiting.update(finished)
            while number in waiting:
                with uninterrupted():
                    enough = give(waiting.pop(number))
                    number += 1
                if enough:
                    return
    except KeyboardInterrupt:
        with uninterrupted():
            for _, done in sorted(waiting.items()):
                give(done)
        raise


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C takes effect at the end of the block: an output that is interrupted loses what it was about to write."""
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def write_json(values: Any, file: IO[str] | None = None) -> None:
    """Writes a line of JSON: ASCII, whatever the stream's encoding is, and null for numbers that JSON lacks."""
    print(json.dumps(_finite(values), allow_nan=False), file=file or sys.stdout, flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value


def _text(prompt: Prompt) -> str | bytes:
    assert isinstance(prompt, (str, bytes)), "a command line has no token ids"
    return prompt


def _decoded(text: str | bytes) -> str:
    return text if isinstance(text, str) else text.decode("utf-8", "replace")
