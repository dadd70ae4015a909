"""OpenAI's ``logprobs`` object: the scores of tokens, aligned with the text that they form."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from charrnn_runtime import TokenScore, Vocabulary
from charrnn_runtime.vocab import UNKNOWN


def token_text(vocabulary: Vocabulary, token: int) -> str:
    """A token as OpenAI writes it: its character, ``bytes:\\xe2`` for a part of one, or ``<name>``."""
    if token == UNKNOWN:
        return "<unknown>"
    symbol = vocabulary.symbols[token]
    if symbol < 0:
        return "<" + next(name for name, number in vocabulary.special.items() if number == token) + ">"
    if vocabulary.kind == "bytes" and symbol > 127:
        return f"bytes:\\x{symbol:02x}"
    return chr(symbol)


class Aligner:
    """Hands out the scores of a text's tokens together with the pieces of the text.

    The scores of a stop string's tokens are left out, because these tokens never become part of the text.
    """

    def __init__(self, vocabulary: Vocabulary, top: int) -> None:
        self._vocabulary = vocabulary
        self._decoder = vocabulary.decoder()
        self._top = top
        self._begin = 0  # of the next token, in characters
        self._shown = 0
        self._held: list[tuple[int, TokenScore]] = []

    def add(self, text: str, scores: Iterable[TokenScore]) -> dict[str, Any]:
        """The ``logprobs`` object for the next piece of text, given the scores that came with it."""
        self._shown += len(text)
        for score in scores:
            self._held.append((self._begin, score))
            self._begin += len(self._decoder.decode(score.token))
        count = next((i for i, (begin, _) in enumerate(self._held) if begin >= self._shown), len(self._held))
        out, self._held = self._held[:count], self._held[count:]
        return {
            "tokens": [token_text(self._vocabulary, score.token) for _, score in out],
            "token_logprobs": [score.log_prob for _, score in out],
            "top_logprobs": [self._likeliest(score) for _, score in out] if self._top else None,
            "text_offset": [begin for begin, _ in out],
        }

    def _likeliest(self, score: TokenScore) -> dict[str, float] | None:
        if score.log_prob is None:
            return None
        return {token_text(self._vocabulary, token): log_prob for token, log_prob in score.top}
