"""A model run on a text: surprise, likeliest next characters, and units that correlate with a feature of the text.

Letters: N characters, U units (of all states looked at), F features, K units kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from charrnn_runtime import Sampler, UsageError, Vocabulary
from charrnn_runtime.sampling import log_softmax
from charrnn_runtime.vocab import Ids
from numpy.typing import NDArray

from charrnn.errors import CorpusError
from charrnn.reports.heatmap.features import text_features

GUESSES = 5
MAX_LENGTH = 300_000
_BLOCK = 512  # steps whose logits are processed together
_LABELS = {"\n": "↵", "\t": "⇥", " ": "␣", "\r": "␍"}


@dataclass(frozen=True, kw_only=True)
class ModelText:
    """A text as a model reads it.

    Attributes:
        shown: one character for each position; U+FFFD for a special token and for a
            byte that is not valid UTF-8.
        ids: token ids ``[tokens]``; as many as characters, or more for a byte model.
        ends: ``[N]``, index of the last token of each character.
    """

    shown: str
    ids: Ids
    ends: Ids


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One element of one state, and how it correlates with the features.

    Attributes:
        state: the state's name in the model file, such as ``c_0``.
        index: the element's index in the state.
        correlations: Pearson's r with each feature, by its name.
        values: ``[N]``, the element's value after each character.
    """

    state: str
    index: int
    correlations: Mapping[str, float]
    values: NDArray[np.float32]

    @property
    def name(self) -> str:
        """``c_0[57]``."""
        return f"{self.state}[{self.index}]"

    @property
    def best(self) -> tuple[str, float]:
        """The feature with the largest absolute correlation, and r; ("", 0.0) if the text has no features."""
        return max(self.correlations.items(), key=lambda item: abs(item[1]), default=("", 0.0))


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The data that the page shows.

    Attributes:
        shown: the text, N characters.
        bits: surprise at each character, ``[N]``; for a byte model the sum over its bytes.
        guesses: the likeliest tokens after each character, likeliest first, ``[N, GUESSES]``
            (fewer columns where the vocabulary is smaller).
        probabilities: of the guesses, ``[N, GUESSES]``.
        labels: a name for each token, in id order.
        units: sorted by absolute correlation, largest first.
    """

    shown: str
    bits: NDArray[np.float32]
    guesses: NDArray[np.int32]
    probabilities: NDArray[np.float32]
    labels: tuple[str, ...]
    units: tuple[Unit, ...]


def read_text(vocabulary: Vocabulary, text: str | bytes, *, unknown: str = "error") -> ModelText:
    """Token ids of a text, and the character to show at each position.

    Args:
        vocabulary: the model's.
        text: str, or for a byte model also bytes in any encoding.
        unknown: "error", or "skip" to leave out characters that the model does not know.

    Raises:
        UnknownCharacterError: a character is not in the vocabulary.
        CorpusError: no character is left.
    """
    if vocabulary.kind == "bytes":
        data = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
        characters = data.decode("utf-8", "surrogateescape")
        ends = np.cumsum([len(c.encode("utf-8", "surrogateescape")) for c in characters], dtype=np.int64) - 1
        ids = np.frombuffer(data, np.uint8).astype(np.int64)
        shown = "".join("\N{REPLACEMENT CHARACTER}" if "\ud800" <= c <= "\udfff" else c for c in characters)
    else:
        assert isinstance(text, str)
        ids = vocabulary.encode(text, unknown=unknown)  # type: ignore[arg-type]
        ends = np.arange(len(ids))
        # Made from the ids, because normalization and skipped characters change the text.
        shown = "".join(_character(vocabulary.symbols[i]) for i in ids)
    if not shown:
        raise CorpusError("the text is empty, or has no character that the model knows")
    return ModelText(shown=shown, ids=ids, ends=ends)


def _character(symbol: int) -> str:
    return chr(symbol) if symbol >= 0 and not 0xD800 <= symbol <= 0xDFFF else "\N{REPLACEMENT CHARACTER}"


def analyse(
    sampler: Sampler,
    text: ModelText,
    *,
    units: int = 40,
    names: Sequence[str] = (),
    states: Sequence[str] = (),
    label: str | None = None,
) -> Analysis:
    """Runs a model once over a text, starting from the zero state.

    Args:
        sampler: the model.
        text: see ``read_text``; at most ``MAX_LENGTH`` characters.
        units: number of units to keep: first the best unit of each feature, then
            those with the largest absolute r.
        names: units to keep in addition, such as ``c_0[57]``.
        states: names of the states whose units are compared. Default: those named
            ``c_…``, an LSTM's memory cells; all states of a model without such.
        label: the text is read as one of this kind; only for models trained with labels.

    Raises:
        UsageError: a state, unit or label does not exist, or the text is too long.
    """
    if len(text.shown) > MAX_LENGTH:
        raise UsageError(f"the text has {len(text.shown):,} characters; a page holds {MAX_LENGTH:,} at most")
    if units < 1:
        raise UsageError(f"units must be at least 1, got {units}")
    columns = _columns(sampler, states)
    asked = _asked(names, columns)
    activations, bits, guesses, probabilities = _run(
        sampler, text, sampler.info.first_token(label), [number for number, _ in columns.values()]
    )
    features = text_features(text.shown)
    r = correlations(activations, np.array(list(features.values()), np.float32).reshape(len(features), -1))
    places = [(state, i) for state, (_, size) in columns.items() for i in range(size)]
    kept = [
        Unit(
            state=places[u][0],
            index=places[u][1],
            correlations=dict(zip(features, map(float, r[u]), strict=True)),
            values=activations[:, u].astype(np.float32),
        )
        for u in _choose(r, units, [places.index(place) for place in asked])
    ]
    kept.sort(key=lambda unit: -abs(unit.best[1]))
    return Analysis(
        shown=text.shown,
        bits=bits,
        guesses=guesses,
        probabilities=probabilities,
        labels=token_labels(sampler.vocabulary),
        units=tuple(kept),
    )


def correlations(activations: NDArray[np.floating], features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Pearson's r of each column of activations ``[N, U]`` with each feature ``[F, N]``: ``[U, F]``.

    0 if one of the two is constant or has a value that is not finite.
    """
    n = len(activations)
    mean = sum((block.sum(0) for block in _float64(activations)), np.zeros(activations.shape[1])) / max(n, 1)
    centred = features.astype(np.float64)
    centred -= centred.mean(1, keepdims=True) if n else 0.0
    products = np.zeros((activations.shape[1], len(features)))
    squares = np.zeros(activations.shape[1])
    at = 0
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for block in _float64(activations):
            block -= mean
            products += block.T @ centred[:, at : at + len(block)].T
            squares += np.square(block).sum(0)
            at += len(block)
        r = products / np.sqrt(np.outer(squares, np.square(centred).sum(1)))
    return np.clip(np.nan_to_num(r, nan=0.0, posinf=0.0, neginf=0.0), -1.0, 1.0)


def _float64(activations: NDArray[np.floating]) -> Iterator[NDArray[np.float64]]:
    """Blocks of rows as float64. The whole array in float64 would need too much memory."""
    for begin in range(0, len(activations), 8192):
        yield activations[begin : begin + 8192].astype(np.float64)


def token_labels(vocabulary: Vocabulary) -> tuple[str, ...]:
    """A visible name for each token, never empty."""
    special = {i: f"<{name}>" for name, i in vocabulary.special.items()}
    labels = []
    for i, symbol in enumerate(vocabulary.symbols):
        if i in special:
            labels.append(special[i])
        elif vocabulary.kind == "bytes" and symbol > 126:
            labels.append(f"\\x{symbol:02x}")
        else:
            c = _character(symbol)
            labels.append(_LABELS.get(c) or (c if c.isprintable() else f"U+{symbol:04X}"))
    return tuple(labels)


def _columns(sampler: Sampler, wanted: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The chosen states: name → (index in the model's list of states, size)."""
    known = {s.input: (number, s.size) for number, s in enumerate(sampler.info.states)}
    for name in wanted:
        if name not in known:
            raise UsageError(f"the model has no state {name!r}; it has {', '.join(known)}")
    if not wanted:
        wanted = [name for name in known if name.startswith("c_")] or list(known)
    return {name: known[name] for name in known if name in wanted}


def _asked(names: Sequence[str], columns: Mapping[str, tuple[int, int]]) -> list[tuple[str, int]]:
    places = []
    for name in names:
        state, _, index = name.removesuffix("]").partition("[")
        size = columns.get(state, (0, 0))[1]
        if not (index.isascii() and index.isdigit() and len(index) < 10 and int(index) < size):
            known = ", ".join(f"{s}[0] to {s}[{n - 1}]" for s, (_, n) in columns.items())
            raise UsageError(f"no unit {name!r} among the states looked at; there are {known}")
        places.append((state, int(index)))
    return places


def _choose(r: NDArray[np.float64], units: int, asked: Sequence[int]) -> list[int]:
    """Columns to keep: all of ``asked``, and ``units`` more: the best of each feature, then the best of the others."""
    strength = np.abs(r)
    best = strength.max(1, initial=0.0)
    leaders = sorted(strength.argmax(0).tolist(), key=lambda u: -best[u]) if len(r) else []
    order = dict.fromkeys([*leaders, *np.argsort(-best, kind="stable").tolist()])
    return list(dict.fromkeys([*asked, *[u for u in order if u not in asked][:units]]))


def _run(
    sampler: Sampler, text: ModelText, first: int, numbers: Sequence[int]
) -> tuple[NDArray[np.float16], NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
    """Activations ``[N, U]``, bits ``[N]``, guesses and their probabilities ``[N, GUESSES]``.

    Activations are stored as float16: 200 MB for 100,000 characters and 1,024 units. The
    page shows 255 steps of colour, so this is precise enough.
    """
    sizes = [sampler.info.states[number].size for number in numbers]
    n, vocab = len(text.shown), len(sampler.vocabulary)
    top = min(GUESSES, vocab)
    activations = np.empty((n, sum(sizes)), np.float16)
    guesses, probabilities = np.empty((n, top), np.int32), np.empty((n, top), np.float32)
    token_bits = np.empty(len(text.ids))
    # The logits after the first token predict that of the text. It is not a position of the text.
    inputs = np.concatenate([[first], text.ids])
    logits = np.empty((_BLOCK, vocab), np.float32)
    place, filled, begin = 0, 0, 0
    for at, (row, state) in enumerate(sampler.steps(inputs)):
        if at and place < n and text.ends[place] == at - 1:
            np.concatenate([state[number] for number in numbers], out=activations[place], casting="same_kind")
            place += 1
        logits[filled] = row
        filled += 1
        if filled == _BLOCK or at == len(inputs) - 1:
            log_probs = log_softmax(logits[:filled])
            targets = text.ids[begin : begin + filled]
            token_bits[begin : begin + filled] = -log_probs[np.arange(len(targets)), targets][
                : len(targets)
            ] / math.log(2)
            _guess(log_probs, np.arange(begin - 1, begin - 1 + filled), text.ends, guesses, probabilities)
            begin, filled = begin + filled, 0
    starts = np.concatenate([[0], text.ends[:-1] + 1])
    return activations, np.add.reduceat(token_bits, starts).astype(np.float32), guesses, probabilities


def _guess(
    log_probs: NDArray[np.float64],
    tokens: Ids,
    ends: Ids,
    guesses: NDArray[np.int32],
    probabilities: NDArray[np.float32],
) -> None:
    """Writes the likeliest next tokens of the rows that complete a character; equally likely ones in id order."""
    places = np.searchsorted(ends, tokens)
    whole = (places < len(ends)) & (ends[np.minimum(places, len(ends) - 1)] == tokens)
    rows = log_probs[whole]
    order = np.argsort(-rows, axis=1, kind="stable")[:, : guesses.shape[1]]
    guesses[places[whole]] = order
    probabilities[places[whole]] = np.exp(np.take_along_axis(rows, order, 1))
