"""The plan of a search, and what comes of it: budgets of trials, their outcomes, the winner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from charrnn.errors import ConfigError
from charrnn.tuning.space import Change, is_neutral

JOURNAL = "tune.log"
FACTOR = 3  # between two budgets of a trial; one trial of so many goes on
FINAL_PART = 1 / 3  # of the whole time, for the training of the winner
LONGEST_PART = 1 / 3  # of the time of that training, for the longest budget of a trial
SHORTEST = 4.0  # seconds; a model that trains for less says little
MOST_BUDGETS = 4
LEAST_SECONDS = 15.0  # for a search and a training
MARGIN = 0.005  # nats by which a trial must beat the recipe; another seed changes about as much


def budgets(seconds: float) -> tuple[float, ...]:
    """The budgets of trials in a search with so much time in all, in seconds, ascending.

    Raises:
        ConfigError: the time is too short for a search.
    """
    if seconds < LEAST_SECONDS:
        raise ConfigError(
            f"--time {seconds:g}s is too short for a search: give {LEAST_SECONDS:g}s or more, better an hour; "
            "for a short time, charrnn train chooses the settings by itself"
        )
    found = [max(SHORTEST, seconds * FINAL_PART * LONGEST_PART)]
    while found[0] / FACTOR >= SHORTEST and len(found) < MOST_BUDGETS:
        found.insert(0, found[0] / FACTOR)
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial went.

    Attributes:
        number: counted from 0.
        change: of the recipe's choice, see ``space``.
        losses: validation loss with each budget that it had, in nats per character; shortest budget first.
    """

    number: int
    change: Change
    losses: tuple[float, ...]

    @property
    def rank(self) -> tuple[int, float]:
        """A key to sort by: longest budget first, then the lowest loss with it."""
        return -len(self.losses), self.losses[-1]


def winner(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The best trial of those with the longest budget: the recipe's own, unless another one is clearly better."""
    best = min(outcomes, key=lambda outcome: outcome.rank, default=None)
    for outcome in outcomes:
        if best and is_neutral(outcome.change) and len(outcome.losses) == len(best.losses):
            return outcome if outcome.losses[-1] < best.losses[-1] + MARGIN else best
    return best
