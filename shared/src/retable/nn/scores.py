"""Score statistics: the scores of a contrastive step in three numbers.

Zhu et al. (ICCV 2021, section 3.1; supplement, section A) monitor a training by the mean score of
its positive pairs and the mean and variance of the scores of its negative pairs, at every step. A
score is the inner product of two features, a cosine on the unit sphere.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from retable.nn.checks import Shaped, check_shapes
from retable.nn.queues import Moments


class ScoreStatistics(NamedTuple):
    """Statistics of the scores of one step; 0-dim tensors, float64, without gradient.

    Attributes:
        positive_mean: mean over queries of the score with their positive.
        negative_mean: mean over queries of their mean score with negatives.
        negative_variance: mean over queries of the unbiased variance of their scores with
            negatives; the variance between queries is not part of it.
    """

    positive_mean: Tensor
    negative_mean: Tensor
    negative_variance: Tensor

    def named(self, prefix: str = "") -> dict[str, Tensor | float]:
        """Return the statistics by name, as scalars for a log."""
        return {f"{prefix}{name}": value for name, value in self._asdict().items()}


@torch.no_grad()
def score_statistics(positives: Tensor, negatives: Tensor) -> ScoreStatistics:
    """Return the statistics of given scores.

    Args:
        positives: (B,) score of each query with its positive.
        negatives: (B, K) scores with its negatives. -inf masks a negative, as in
            `retable.nn.losses.info_nce`; a query without any negative is left out, and one with a
            single negative has no variance.
    """
    check_shapes(Shaped("positives", positives, "B"), Shaped("negatives", negatives, "B K"))
    positives = positives.float() if positives.itemsize < 4 else positives
    at_once = max(1, len(negatives))
    if negatives.device.type == "cpu":
        at_once = max(1, min(at_once, _SCORES_IN_CACHE // max(1, negatives.shape[1])))
    wide = torch.promote_types(negatives.dtype, torch.float32)
    scratch = negatives.new_empty((at_once, negatives.shape[1]), dtype=wide)
    parts = (
        _row_statistics(rows.to(wide), scratch[: len(rows)])
        for rows in torch.split(negatives, at_once)
    )
    count, sums, squares = (torch.cat(of_rows) for of_rows in zip(*parts, strict=True))
    broken = sums.isnan()  # NaN must show in the result
    return ScoreStatistics(
        positives.double().mean(),
        _mean_where((count > 0) | broken, sums / count),
        _mean_where((count > 1) | broken, squares / (count - 1)),
    )


# Scores that a CPU sums at a time, 2 MiB: they may be the largest matrix of a step, and new memory
# for all of them would cost several times as much as the sums.
_SCORES_IN_CACHE = 1 << 19


def _row_statistics(scores: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return number, sum, and sum of squares about the mean of rows (n, K), float64 of (n,) each.

    -inf is left out. ``scratch`` (n, K) is overwritten.
    """
    # x - x is NaN where x is -inf.
    masked = torch.sub(scores, scores, out=scratch).nan_to_num_(nan=1.0).sum(dim=1)
    count = (scores.shape[1] - masked).double()
    zero = {"nan": math.nan, "posinf": math.inf, "neginf": 0.0}
    sums = scratch.copy_(scores).nan_to_num_(**zero).sum(dim=1).double()
    means = (sums / count).to(scores.dtype)[:, None]
    centred = torch.sub(scores, means, out=scratch).nan_to_num_(**zero)
    return count, sums, centred.square_().sum(dim=1).double()


def _mean_where(kept: Tensor, values: Tensor) -> Tensor:
    return torch.where(kept, values, 0.0).sum() / kept.sum()


@torch.no_grad()
def queue_score_statistics(queries: Tensor, keys: Tensor, moments: Moments) -> ScoreStatistics:
    """Return the statistics of raw scores with every row of a queue, without computing the scores.

    With the queue's mean row m and mean outer product M (`retable.nn.queues.KeyQueue.moments`), a
    query q has the mean score q.m and the variance K / (K - 1) q^T (M - m m^T) q: work B D^2
    instead of B K D. It is done in float64, because the difference may be small compared with its
    terms. ``keys`` (B, D) are the positives of ``queries`` (B, D).
    """
    check_shapes(
        Shaped("queries", queries, "B D"), Shaped("keys", keys, "B D"), D=len(moments.mean)
    )
    queries, keys = queries.double(), keys.double()
    mean_query = queries.mean(dim=0)
    covariance = torch.addr(moments.products, moments.mean, moments.mean, alpha=-1.0)
    unbiased = moments.size / (moments.size - 1) if moments.size > 1 else math.nan
    # The sum of inner products is one inner product of the flattened matrices.
    positive = torch.dot(queries.flatten(), keys.flatten()) / len(queries)
    variance = torch.dot((queries @ covariance).flatten(), queries.flatten()) / len(queries)
    return ScoreStatistics(
        positive, torch.dot(mean_query, moments.mean), variance.clamp_min(0.0) * unbiased
    )
