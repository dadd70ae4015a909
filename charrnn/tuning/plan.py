"""The plan of a search, and what comes of it: budgets of trials, their outcomes, the winner; when to stop searching.

What a search takes of the time is lost to the training after it. A small text is read to its best in less time than
there is: the search is free, and its trials are whole trainings if there is time for enough of them. A long text would
be learned better until the last second: there, a search has to find more than it costs. So the gain of more time is
estimated from the recipe's losses with the trials' budgets, and a search goes on while it costs little, or less than
what its best trial has gained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from charrnn.errors import ConfigError
from charrnn.tuning.space import Change, is_neutral

JOURNAL = "tune.log"
FACTOR = 3  # between two budgets of a trial; one trial of so many goes on
LONGEST_PART = 1 / 9  # of the whole time, for the longest budget of a trial
MOST_PART = 2 / 3  # of the whole time, for the search
SHORTEST = 4.0  # seconds; a model that trains for less says little
MOST_BUDGETS = 4
LEAST_SECONDS = 15.0  # for a search and a training
LEAST_TRIALS = 25  # of a search that gives a whole training to each of them
MARGIN = 0.01  # nats by which a trial must beat the recipe; about the difference between two seeds
PRICE = 0.005  # nats that a search may cost even if it finds nothing
# Nats that a model gains if it is trained FACTOR times as long: a figure for the beginning, and how much of a gain the
# next factor brings. A list of words, 15 s to 20 min: 1.1, 1.1, 0.5, 0.2. So the training has rather too much time.
FIRST_GAIN, GAIN_LEFT = 0.1, 0.7


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
    found = [max(SHORTEST, seconds * LONGEST_PART)]
    while found[0] / FACTOR >= SHORTEST and len(found) < MOST_BUDGETS:
        found.insert(0, found[0] / FACTOR)
    return tuple(found)


def whole_training(seconds: float, longest: float, ends_after: float | None, side_by_side: int = 1) -> float | None:
    """The limit of time for trials that are whole trainings, in seconds; None if the text is too long for that.

    Dropout and smaller sizes pay late in a training, so a trial that is cut short says little about them.

    Args:
        seconds: for the search and the training.
        longest: budget of a trial.
        ends_after: seconds after which the recipe's training ends by itself; None if it goes on for the longest budget.
        side_by_side: trials at a time.
    """
    if ends_after is None or ends_after * LEAST_TRIALS > seconds * MOST_PART * side_by_side:
        return None
    return min(FACTOR * ends_after, longest)  # larger models take longer


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


def _recipe(outcomes: Sequence[Outcome]) -> Outcome | None:
    return next((outcome for outcome in outcomes if is_neutral(outcome.change)), None)


def _lead(outcome: Outcome, recipe: Outcome, steps: int) -> float:
    """Nats by which a trial beats the recipe, with the longest budget that it had.

    A lead with a short budget says little about a long one: it is halved for each of the ``steps`` budgets that is
    still to come.
    """
    both = min(len(outcome.losses), len(recipe.losses))
    return (recipe.losses[both - 1] - outcome.losses[both - 1]) * 0.5 ** (steps - both)


def winner(outcomes: Sequence[Outcome], steps: int) -> Outcome | None:
    """The best trial of those with the longest budget: the recipe's own, unless another one is clearly better.

    Args:
        outcomes: the trials.
        steps: the number of budgets; the search may have ended before any trial had the longest one.
    """
    best, recipe = min(outcomes, key=lambda outcome: outcome.rank, default=None), _recipe(outcomes)
    if best is None or recipe is None or len(recipe.losses) < len(best.losses):
        return best
    return best if _lead(best, recipe, steps) >= MARGIN else recipe


def search_time(
    seconds: float, budgets: Sequence[float], outcomes: Sequence[Outcome], *, ends_early: bool = False
) -> float:
    """Seconds that a search may take, by what it has found so far.

    The loss of the recipe is taken to fall by the same amount whenever the time grows by the same factor, near the time
    that there is: a search of the part f costs slope · -ln(1 - f).

    Args:
        seconds: for the search and the training.
        budgets: of trials, in seconds, ascending.
        outcomes: the trials.
        ends_early: whether the recipe's training ends by itself within the longest budget, so that more time for it
            gains nothing.
    """
    if ends_early:
        return seconds * MOST_PART
    recipe, gain, known = _recipe(outcomes), FIRST_GAIN, 0
    if recipe is not None and len(recipe.losses) > 1:
        known = len(recipe.losses) - 1
        gain = max(recipe.losses[-2] - recipe.losses[-1], 0.0)
    lead = max((_lead(outcome, recipe, len(budgets)) for outcome in outcomes), default=0.0) if recipe else 0.0
    slope = gain * GAIN_LEFT ** math.log(seconds / budgets[known], FACTOR) / math.log(FACTOR)
    part = 1 - math.exp(-(PRICE + lead) / slope) if slope else 1.0
    return seconds * min(part, MOST_PART)
