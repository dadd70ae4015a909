"""Whole items from a model of items: sampled in batches, distinct ones on request, and counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from charrnn_runtime import Generation, Request, Sampler
from charrnn_runtime.text_io import give_finished

from charrnn.data.item_filter import Membership
from charrnn.errors import ConfigError

BATCH = 256  # items side by side; larger ones are no faster
TRIES = 20  # items sampled for each distinct one that is requested, before sampling ends without it
LEAST_TRIES = 2000


@dataclass(kw_only=True)
class Report:
    """What was sampled.

    Attributes:
        sampled: items in all.
        distinct: different ones among those that are whole and not empty.
        empty: those without a character.
        cut: those that were cut at the given length, and so are not whole items.
        known: how many of the distinct ones are in the training text; None if that is not known.
    """

    sampled: int = 0
    distinct: int = 0
    empty: int = 0
    cut: int = 0
    known: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def __str__(self) -> str:
        known = (
            "whether they are in the training text is not known (name it: --against FILE)"
            if self.known is None
            else f"{self.known:,} ({self.known / max(1, self.distinct):.2%}) are in the training text"
        )
        return (
            f"{self.sampled:,} sampled: {self.distinct:,} distinct ({self.distinct / max(1, self.sampled):.2%}), "
            f"{self.empty:,} empty, {self.cut:,} cut by --length; of the distinct ones {known}"
        )


def has_items(sampler: Sampler) -> bool:
    """Whether a model ends its texts itself."""
    return "end" in sampler.vocabulary.special


class ItemSampler:
    """Samples items and counts them. Item i is text i of the request's seed.

    Args:
        sampler: a model with an end token.
        request: how to sample an item; its prompt is how every item begins, and part of it.
        against: the training text's items.

    Attributes:
        report: the counts so far.

    Raises:
        ConfigError: the model has no end token.
    """

    def __init__(self, sampler: Sampler, request: Request, against: Membership | None = None) -> None:
        if not has_items(sampler):
            raise ConfigError(
                "this model does not end its texts: it was trained on running text, without --lines; "
                "leave out --unique, --report and --against"
            )
        self.report = Report(known=None if against is None else 0)
        self._sampler, self._against = sampler, against
        self._as_bytes = sampler.vocabulary.kind == "bytes"
        # The exact bytes of an item decide whether it is a known one.
        self._request = replace(request, errors="surrogateescape")
        prompt = request.prompt
        assert isinstance(prompt, (str, bytes))
        self._prompt = prompt if isinstance(prompt, str) else prompt.decode("utf-8", "surrogateescape")
        self._seen: set[str] = set()

    def sample(self, count: int, give: Callable[[Generation], None]) -> None:
        """Calls ``give`` with ``count`` items in the order of their numbers, with empty and cut ones."""

        def counted(done: Generation) -> None:
            self._count(done)
            give(done)

        give_finished(self._sampler, self._request, count, counted, batch=min(BATCH, max(1, count)))

    def sample_distinct(self, count: int, give: Callable[[Generation], None]) -> None:
        """Calls ``give`` with ``count`` different items, whole and not empty.

        Ends early if the model cannot: after 20 items sampled for each one that is wanted.
        """
        if count < 1:
            return

        def counted(done: Generation) -> bool:
            if len(self._seen) < count and self._count(done):
                give(done)
            return len(self._seen) == count

        most = max(LEAST_TRIES, TRIES * count)
        give_finished(self._sampler, self._request, most, counted, batch=min(BATCH, most))

    def _count(self, done: Generation) -> bool:
        """Counts an item; returns whether it is whole, not empty and new."""
        item, report = self._prompt + done.text, self.report
        report.sampled += 1
        if done.finish_reason == "length":
            report.cut += 1
            return False
        if not item:
            report.empty += 1
            return False
        if item in self._seen:
            return False
        self._seen.add(item)
        report.distinct += 1
        if self._against is not None:
            known = (item.encode("utf-8", "surrogateescape") if self._as_bytes else item) in self._against
            report.known = (report.known or 0) + known
        return True
