"""How well a model with labels predicts and classifies items whose labels are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from charrnn_runtime import Sampler
from charrnn_runtime.scoring import ItemScore
from charrnn_runtime.text_scores import Line


@dataclass(kw_only=True)
class LabelTotals:
    """The sums over the items of one label.

    Attributes:
        items, nats, tokens: how many they are, their negative log-probability with their label, and its tokens.
        correct: those whose own label is the most probable one.
        log_loss: sum of the negative logarithm of the probability of the own label, in nats.
    """

    items: int = 0
    nats: float = 0.0
    tokens: int = 0
    correct: int = 0
    log_loss: float = 0.0

    def add(self, other: LabelTotals) -> None:
        """Adds the sums of another one."""
        for name in ("items", "nats", "tokens", "correct", "log_loss"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def to_json(self) -> dict[str, Any]:
        """Means: nats per character, accuracy and log-loss."""
        return {
            "items": self.items,
            "nats_per_char": self.nats / max(1, self.tokens),
            "accuracy": self.correct / max(1, self.items),
            "log_loss": self.log_loss / max(1, self.items),
        }


class LabelScores:
    """Classifies items, and sums up by label. Items without a label are left out.

    Args:
        sampler: a model with labels.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self.labels: dict[str, LabelTotals] = {}

    def classified(self, batches: Iterable[Sequence[Line]]) -> Iterator[Sequence[Line]]:
        """The same items; those with a label are classified on the way."""
        for batch in batches:
            lines = [line for line in batch if line.label]
            for label in {line.label for line in lines}:
                self._sampler.vocabulary.label_token(label)
            found = self._sampler.classify_logs([line.text for line in lines]) if lines else []
            for line, logs in zip(lines, found, strict=True):
                name = line.label
                totals = self.labels.setdefault(name, LabelTotals())
                totals.correct += max(logs, key=lambda label: logs[label]) == name
                totals.log_loss -= logs[name]
            yield batch

    def scored(self, scores: Iterable[ItemScore]) -> Iterator[ItemScore]:
        """The same scores, which are added up by label on the way."""
        for score in scores:
            if score.label:
                totals = self.labels.setdefault(score.label, LabelTotals())
                totals.items += 1
                totals.nats += score.nats
                totals.tokens += score.tokens
            yield score

    def to_json(self) -> dict[str, Any]:
        """Accuracy and log-loss of all items, and the figures of each label; empty if no item has a label."""
        if not self.labels:
            return {}
        total = LabelTotals()
        for totals in self.labels.values():
            total.add(totals)
        values = total.to_json()
        return {
            "accuracy": values["accuracy"],
            "log_loss": values["log_loss"],
            "labels": {label: self.labels[label].to_json() for label in sorted(self.labels)},
        }

    def __str__(self) -> str:
        values = self.to_json()
        width = max(map(len, values["labels"]))
        lines = [f"accuracy {values['accuracy']:.2%}   log-loss {values['log_loss']:.4f} nats/item"]
        lines += [
            f"  {label:{width}}  {row['items']:>9,} items   {row['nats_per_char']:.4f} nats/char   "
            f"accuracy {row['accuracy']:.2%}   log-loss {row['log_loss']:.4f}"
            for label, row in values["labels"].items()
        ]
        return "\n".join(lines)
