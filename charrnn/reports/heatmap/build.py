"""Makes the page of a heat map from a model and a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from charrnn_runtime import Sampler, UsageError

from charrnn.reports.heatmap.analysis import MAX_LENGTH, Analysis, analyse, read_text
from charrnn.reports.heatmap.page import heatmap_page


@dataclass(frozen=True, kw_only=True)
class Heatmap:
    """A page and its data.

    Attributes:
        page: HTML.
        analysis: the data on it.
        left_out: number of characters at the end of the text that are not shown.
    """

    page: str
    analysis: Analysis
    left_out: int


def build_heatmap(
    sampler: Sampler,
    text: str | bytes,
    *,
    title: str,
    text_name: str,
    length: int = 100_000,
    units: int = 40,
    names: Sequence[str] = (),
    states: Sequence[str] = (),
    unknown: str = "error",
    label: str | None = None,
) -> Heatmap:
    """Runs the model over the text and makes the page.

    Args:
        sampler: the model.
        text: str, or for a byte model bytes.
        title, text_name: names of model and text on the page.
        length: read at most this many characters (bytes for a byte model) from the beginning.
        units, names, states, label: see ``analyse``.
        unknown: "error" or "skip": what to do with characters that are not in the vocabulary.

    Raises:
        UsageError: an argument is out of range.
        CorpusError: the text is empty.
        UnknownCharacterError: a character is not in the vocabulary.
    """
    if not 1 <= length <= MAX_LENGTH:
        raise UsageError(f"length must be from 1 to {MAX_LENGTH:,}, got {length:,}: the page holds all of the text")
    left_out = max(0, len(text) - length)
    read = read_text(sampler.vocabulary, text[:length], unknown=unknown)
    analysis = analyse(sampler, read, units=units, names=names, states=states, label=label)
    info = sampler.info
    facts = {
        "model:": f"{info.cell} {info.num_layers}×{info.hidden_size}",
        "text:": text_name,
        **({} if label is None else {"label:": label}),
        "characters:": f"{len(read.shown):,}" + (f" (the first, of {len(text):,})" if left_out else ""),
        "bits per character:": f"{float(analysis.bits.mean()):.3f}",
    }
    return Heatmap(page=heatmap_page(analysis, title=title, facts=facts), analysis=analysis, left_out=left_out)


def model_title(path: Path) -> str:
    """A page's title: the name of the model file or of the run folder."""
    return f"Heat map of {path.resolve().name}"
