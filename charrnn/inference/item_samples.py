"""Whole items from a model of items: drawn in batches, distinct ones on request, and counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from charrnn_runtime import Request, Sampler
from charrnn_runtime.generation import Generation

from charrnn.data.item_filter import Membership
from charrnn.errors import ConfigError

BATCH = 256  # items side by side; larger ones are no faster
TRIES = 20  # items drawn for each that is wanted, before distinct ones are given up
LEAST_TRIES = 2000


@dataclass(kw_only=True)
class Report:
    """What was drawn.

    Attributes:
        drawn: items drawn in all.
        distinct: different ones among those that are whole and not empty.
        empty: those without a character.
        cut: those that were cut at the given length, and so are no whole items.
        known: how many of the distinct ones stand in the training text; None if that is not known.
    """

    drawn: int = 0
    distinct: int = 0
    empty: int = 0
    cut: int = 0
    known: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def __str__(self) -> str:
        known = (
            "whether they stand in the training text is not known (name it: --against FILE)"
            if self.known is None
            else f"{self.known:,} ({self.known / max(1, self.distinct):.2%}) stand in the training text"
        )
        return (
            f"{self.drawn:,} drawn: {self.distinct:,} distinct ({self.distinct / max(1, self.drawn):.2%}), "
            f"{self.empty:,} empty, {self.cut:,} cut by --length; of the distinct ones {known}"
        )


def has_items(sampler: Sampler) -> bool:
    """Whether a model ends its texts itself."""
    return "end" in sampler.vocabulary.special


class ItemSampler:
    """Draws items and counts them.

    Args:
        sampler: a model with an end token.
        length: characters of an item at most.
        prompt: how every item begins.
        seed: item i is text i of this seed.
        options: see ``SamplingOptions``.
        against: the training text's items.

    Raises:
        ConfigError: the model has no end token.
    """

    def __init__(
        self,
        sampler: Sampler,
        *,
        length: int,
        seed: int,
        prompt: str = "",
        unknown: Any = "error",
        stop: Any = (),
        options: Any = None,
        against: Membership | None = None,
    ) -> None:
        if not has_items(sampler):
            raise ConfigError(
                "this model does not end its texts: it was trained on running text, without --lines; "
                "leave out --unique, --report and --against"
            )
        self.report = Report(known=None if against is None else 0)
        self._sampler, self._against, self._prompt = sampler, against, prompt
        self._request: dict[str, Any] = {
            "prompt": prompt, "length": length, "seed": seed, "unknown": unknown, "stop": stop,
            "options": options or {},
        }  # fmt: skip
        self._seen: set[str] = set()

    def draw(self, count: int) -> Iterator[str]:
        """So many items as they come, in the order of their numbers; empty and cut ones too."""
        for item, _ in self._items(count):
            yield item

    def draw_distinct(self, count: int) -> Iterator[str]:
        """So many different items, whole and not empty.

        Ends early where the model cannot: after 20 items drawn for each one that is wanted.
        """
        if count < 1:
            return
        for item, new in self._items(max(LEAST_TRIES, TRIES * count)):
            if new:
                yield item
            if len(self._seen) == count:
                return

    def _items(self, most: int) -> Iterator[tuple[str, bool]]:
        """Items in the order of their numbers, and whether each is whole, not empty and new."""
        requests = (Request(**self._request, index=i) for i in range(most))
        waiting: dict[int, Generation] = {}
        number = 0
        for finished, generation in self._sampler.generate_many(requests, batch=min(BATCH, most)):
            waiting[finished] = generation
            while (done := waiting.pop(number, None)) is not None:
                number += 1
                yield self._counted(done)

    def _counted(self, done: Generation) -> tuple[str, bool]:
        item, report = self._prompt + done.text, self.report
        report.drawn += 1
        cut, new = done.finish_reason == "length", False
        if cut:
            report.cut += 1
        elif not item:
            report.empty += 1
        elif item not in self._seen:
            new = True
            self._seen.add(item)
            report.distinct += 1
            if self._against is not None and item in self._against:
                assert report.known is not None
                report.known += 1
        return item, new
