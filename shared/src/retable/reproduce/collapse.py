"""When a run counts as collapsed: by how its training ended, by its scores, by its probe.

A paper that prints the word instead of a number (Zhu et al., ICCV 2021, supplement, table 5) says
nothing of how it knew. The criterion is ours: any one of

- the loss became NaN or infinite, or the training was stopped because the embedding collapsed;
- positives do not stand out: over the last epoch their mean score lies within 5 % of the
  negatives' std of the negatives' mean score (`retable.train.health.ALIKE`);
- the linear probe is below three times chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from retable.train import health

ENDINGS = (health.COLLAPSE, health.DIVERGED)
"""The kinds of `retable.train.loop.TrainingFailedError` that count as a collapse."""
TIMES_CHANCE = 3.0
"""A probe below this many times chance has found next to nothing in the features."""


@dataclass(frozen=True)
class CollapseCriterion:
    """Where a table says ``collapse`` instead of a number.

    Attributes:
        rows: the rows whose runs are judged so.
        columns: the columns whose cells say it there; others keep the numbers of a collapsed run.
        chance: accuracy of guessing, in percent, by scale: data sets have classes of their own.
        probe: the accuracy to hold against it, a figure by the name that `Figure` gives it.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    chance: Mapping[str, float]
    probe: str = "linear.top1"


def collapse_reason(figures: Mapping[str, float], *, probe: str, chance: float) -> str | None:
    """Return why a run that has ended counts as collapsed, None if it does not.

    Args:
        figures: of the run, by the names that `Figure` gives them; a test whose figures are missing
            is left out.
        probe: name of an accuracy in percent.
        chance: accuracy of guessing, in percent.

    >>> collapse_reason({"linear.top1": 2.5}, probe="linear.top1", chance=1.0)
    'the probe finds 2.50 %, less than 3 times the 1 % of chance'
    """
    prefix = "pretrain."
    own = {n.removeprefix(prefix): value for n, value in figures.items() if n.startswith(prefix)}
    if failure := health.failure_reason(own):
        return failure.reason
    if health.scores_alike(own):
        return health.mean_scores(own)
    accuracy = figures.get(probe, math.inf)
    if accuracy < TIMES_CHANCE * chance:
        said = f"less than {TIMES_CHANCE:g} times the {chance:g} % of chance"
        return f"the probe finds {accuracy:.2f} %, {said}"
    return None
