"""Health of a run, described in words from the scalars that methods log.

Nothing here depends on a method: a message appears if the scalars that it needs were logged.
"""

from __future__ import annotations

import math
from typing import NamedTuple

COLLAPSED_SPREAD = 0.01
"""Spread of the embedding, as a share of that of even directions, below which it has collapsed."""

ALIKE = 0.05
"""Difference of the mean scores of positives and negatives, as a share of the negatives' standard
deviation, below which the two are indistinguishable.

An untrained ResNet has about 0.5, over an epoch: an image resembles its own crops.
"""

DIVERGED = "diverged"
"""Kind of failure: the loss is not finite."""

COLLAPSE = "collapse"
"""Kind of failure: the embedding no longer distinguishes images."""


class Failure(NamedTuple):
    """Reason why a run must stop: `DIVERGED` or `COLLAPSE`, and a description."""

    kind: str
    reason: str


def failure_reason(metrics: dict[str, float]) -> Failure | None:
    """Return why a run must stop, or None, from means over some steps."""
    loss = metrics.get("loss", 0.0)
    if not math.isfinite(loss):
        return Failure(DIVERGED, f"the loss is not finite ({loss})")
    spread = metrics.get("embedding_spread", 1.0)
    if not spread >= COLLAPSED_SPREAD:
        return Failure(
            COLLAPSE,
            f"the embedding has collapsed (its spread is {spread:.4f} of that of directions "
            f"spread evenly, below {COLLAPSED_SPREAD})",
        )
    return None


def scores_alike(metrics: dict[str, float]) -> bool:
    """Return whether the mean raw scores of positives and negatives are indistinguishable."""
    if not metrics.keys() >= {"positive_mean", "negative_mean", "negative_variance"}:
        return False
    difference = abs(metrics["positive_mean"] - metrics["negative_mean"])
    return difference <= ALIKE * math.sqrt(max(metrics["negative_variance"], 0.0))


class CollapseDetector:
    """Stops a run whose positives have been indistinguishable from negatives for a while.

    A few steps can look so by chance, and in the first epoch nothing is learned yet. So it takes
    the means of at least two consecutive epochs after the first, with at least 50 steps together.

    Attributes:
        epochs: number of consecutive epochs that have looked so; part of the training state.
    """

    EPOCHS, STEPS = 2, 50

    def __init__(self) -> None:
        self.epochs = 0

    def failure_reason(self, epoch: int, steps: int, means: dict[str, float]) -> Failure | None:
        """Add the means over the steps of an epoch (from 1); return why the run must stop."""
        self.epochs = self.epochs + 1 if epoch > 1 and scores_alike(means) else 0
        if self.epochs < self.EPOCHS or self.epochs * steps < self.STEPS:
            return None
        return Failure(COLLAPSE, f"the embedding has collapsed ({mean_scores(means)})")


def mean_scores(metrics: dict[str, float]) -> str:
    """Describe the difference of the mean scores of `scores_alike`."""
    std = math.sqrt(max(metrics["negative_variance"], 0.0))
    return (
        f"the mean score of positives, {metrics['positive_mean']:.4g}, lies within {ALIKE:.0%} of "
        f"a standard deviation, {std:.2g}, of that of negatives, {metrics['negative_mean']:.4g}"
    )


def messages(metrics: dict[str, float], *, ended: bool = True) -> list[str]:
    """Describe what is unusual in an epoch's means of the metrics that methods log.

    Most important first; of an epoch as it should be, nothing. A training that has not ``ended``
    need not have learned yet.
    """
    found = []
    if ended and "chance_loss" in metrics and not metrics["loss"] < metrics["chance_loss"]:
        loss, chance = metrics["loss"], metrics["chance_loss"]
        found.append(f"loss {loss:.3f}, not below the chance level log(ways) = {chance:.3f}")
    fill = metrics.get("queue_fill", 1.0)
    if fill < metrics.get("queue_expected_fill", fill) - 0.01:  # else rounding, or a smaller batch
        found.append(_queue(metrics))
    if ended and {"positive_score_q50", "negative_score_q95"} <= metrics.keys():
        found += _scores(metrics)
    if ended and scores_alike(metrics):
        found.append(f"the embedding has collapsed or not begun to learn: {mean_scores(metrics)}")
    spread = metrics.get("embedding_spread")
    if spread is not None and not spread >= 10 * COLLAPSED_SPREAD:
        found.append(
            f"the embedding is close to collapse: spread {spread:.3f} of that of even directions"
        )
    return found


def _queue(metrics: dict[str, float]) -> str:
    return (
        f"queue only {metrics['queue_fill']:.0%} filled with keys, expected "
        f"{metrics['queue_expected_fill']:.0%} (means of the epoch; full at step "
        f"{metrics['queue_full_step']:.0f}): not every step enqueues its keys, so queries are "
        "contrasted with random or old rows; check that the method's after_step is called and "
        "calls MoCo's"
    )


def _scores(metrics: dict[str, float]) -> list[str]:
    positive, hard = metrics["positive_score_q50"], metrics["negative_score_q95"]
    if positive > hard:
        return []
    return [
        f"cosine of positives {positive:.2f} (5 %: {metrics['positive_score_q05']:.2f}), of "
        f"negatives {metrics['negative_score_q50']:.2f} (95 %: {hard:.2f}): positives do not stand "
        "out from the hardest negatives"
    ]
