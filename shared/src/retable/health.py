"""The health of a run in plain words, from the scalars that methods log.

Nothing here knows a method: a sentence appears where the scalars that it needs were logged.
"""

from __future__ import annotations

import math

COLLAPSED_SPREAD = 0.01
"""An embedding whose per-dimension spread is below this share of the sphere's is collapsed."""


def fatal(metrics: dict[str, float]) -> str | None:
    """Return why a run must stop, or None; from means over some steps.

    >>> fatal({"loss": float("nan")})
    'the loss is not finite (nan)'
    """
    loss = metrics.get("loss", 0.0)
    if not math.isfinite(loss):
        return f"the loss is not finite ({loss})"
    spread = metrics.get("embedding_spread", 1.0)
    if not spread >= COLLAPSED_SPREAD:
        return (
            f"the embedding has collapsed (its spread is {spread:.4f} of that of directions "
            f"spread evenly, below {COLLAPSED_SPREAD})"
        )
    return None


def sentences(metrics: dict[str, float]) -> list[str]:
    """Say what an epoch's means mean, most important first.

    Args:
        metrics: means over an epoch, by the names that methods log.
    """
    return [
        sentence
        for sentence in (
            _against_chance(metrics),
            _queue(metrics),
            _scores(metrics),
            _spread(metrics),
            _rank(metrics),
        )
        if sentence
    ]


def _against_chance(metrics: dict[str, float]) -> str | None:
    if "chance_loss" not in metrics:
        return None
    loss, chance = metrics["loss"], metrics["chance_loss"]
    standing = "below" if loss < chance else "not below"
    return f"loss {loss:.3f}, {standing} the chance level log(ways) = {chance:.3f}"


def _queue(metrics: dict[str, float]) -> str | None:
    fill = metrics.get("queue_fill", 1.0)
    if fill >= 1.0:
        return None
    return (
        f"queue {fill:.0%} filled with keys (mean of the epoch), the rest still random: loss rises "
        f"until the queue is full at step {metrics['queue_full_step']:.0f}: normal"
    )


def _scores(metrics: dict[str, float]) -> str | None:
    if "positive_score_q50" not in metrics or "negative_score_q95" not in metrics:
        return None
    positive, hard = metrics["positive_score_q50"], metrics["negative_score_q95"]
    text = (
        f"cosine of positives {positive:.2f} (5 %: {metrics['positive_score_q05']:.2f}), "
        f"of negatives {metrics['negative_score_q50']:.2f} (95 %: {hard:.2f})"
    )
    if positive <= hard:
        return text + ": positives do not stand out from the hardest negatives yet"
    return text


def _rank(metrics: dict[str, float]) -> str | None:
    if "effective_rank" not in metrics:
        return None
    return f"effective rank of the features {metrics['effective_rank']:.1f}"


def _spread(metrics: dict[str, float]) -> str | None:
    spread = metrics.get("embedding_spread")
    if spread is None or spread >= 10 * COLLAPSED_SPREAD:
        return None
    return f"the embedding is close to collapse: spread {spread:.3f}, where 1 is even"
