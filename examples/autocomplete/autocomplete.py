"""A line of text that a model completes while it is typed.

    python autocomplete.py model.onnx

The menu has the most probable next words, with their probabilities; Tab and the arrow keys choose one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from charrnn_runtime import Sampler
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

MOST_CONTEXT = 200  # characters before the cursor that the model reads


class ModelCompleter(Completer):
    """Completes with the most probable continuations."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:  # noqa: ARG002
        """Up to five ends of the word at the cursor."""
        before = document.text_before_cursor[-MOST_CONTEXT:]
        for found in self._sampler.complete(before, n=5, unknown="skip"):
            word = before.split(" ")[-1] + str(found.text)  # the menu shows the whole word
            yield Completion(str(found.text), display=word, display_meta=f"{found.probability:.0%}")


def main(path: str) -> None:
    """Asks for lines, and prints them, until Ctrl-D."""
    session: PromptSession[str] = PromptSession(completer=ModelCompleter(Sampler(path)), complete_in_thread=True)
    while True:
        try:
            print(session.prompt("> "))
        except (EOFError, KeyboardInterrupt):
            return


if __name__ == "__main__":
    main(sys.argv[1])
