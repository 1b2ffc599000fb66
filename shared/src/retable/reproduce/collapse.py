"""The criterion of a collapse: how the training ended, its scores, and its linear probe.

A paper that prints the word instead of a number (Zhu et al., ICCV 2021, supplement, table 5) does
not define it. The criterion is ours. A run has collapsed if one of these holds:

- the loss became NaN or infinite, or the training was stopped because the embedding collapsed;
- positives do not stand out: over the last epoch their mean score lies within 5 % of the
  negatives' std of the negatives' mean score (`retable.train.health.ALIKE`);
- the linear probe is below three times chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from retable.reproduce.run import FinishedRun
from retable.train import health

ENDINGS = (health.COLLAPSE, health.DIVERGED)
"""The kinds of `retable.train.TrainingFailedError` that count as a collapse."""
TIMES_CHANCE = 3.0
"""Multiple of chance below which a probe finds next to nothing in the features."""


@dataclass(frozen=True)
class CollapseCriterion:
    """The cells of a table that say ``collapse`` instead of a number, and the criterion.

    Attributes:
        rows: Rows whose runs may count as collapsed.
        columns: Columns whose cells say it; others keep the numbers of a collapsed run.
        chance: Accuracy of guessing, in percent, by scale, since data sets differ in their classes.
        probe: Name of the accuracy to compare with chance, as `Metric` uses it.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    chance: Mapping[str, float]
    probe: str = "linear.top1"

    def reason(self, run: FinishedRun, scale: str) -> str | None:
        """Return why a run counts as collapsed, None if it does not."""
        if run.failure is not None:
            return run.failure if run.kind in ENDINGS else None
        return collapse_reason(run.metrics, probe=self.probe, chance=self.chance[scale])


def collapse_reason(metrics: Mapping[str, float], *, probe: str, chance: float) -> str | None:
    """Return why a complete run counts as collapsed, None if it does not.

    Args:
        metrics: Metrics of the run by the names that `Metric` uses; a test whose metrics are
            missing is left out.
        probe: Name of an accuracy in percent.
        chance: Accuracy of guessing, in percent.

    >>> collapse_reason({"linear.top1": 2.5}, probe="linear.top1", chance=1.0)
    'the probe finds 2.50 %, less than 3 times the 1 % of chance'
    """
    prefix = "pretrain."
    own = {n.removeprefix(prefix): value for n, value in metrics.items() if n.startswith(prefix)}
    if failure := health.failure_reason(own):
        return failure.reason
    if health.scores_alike(own):
        return health.mean_scores(own)
    accuracy = metrics.get(probe, math.inf)
    if accuracy < TIMES_CHANCE * chance:
        limit = f"less than {TIMES_CHANCE:g} times the {chance:g} % of chance"
        return f"the probe finds {accuracy:.2f} %, {limit}"
    return None
