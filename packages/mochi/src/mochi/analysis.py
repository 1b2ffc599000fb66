"""Analyses of the paper besides accuracy: hardness of negatives and the share of false ones.

All functions take cosines of one training step and return means over its queries, without gradient;
the curves of figure 2 are means of these over epochs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mochi.draws import MixingDraws
from mochi.oracle import same_class
from mochi.pool import HardPool, hardest
from retable.errors import UserError
from retable.nn.checks import Shaped, check_shapes, check_temperature


def _check_number(name: str, number: int, most: int) -> None:
    if not 1 <= number <= most:
        raise UserError(
            f"`{name}` must be between 1 and {most}, the number of negatives, got {number}. "
            f"Use at most {most}."
        )


@torch.no_grad()
def proxy_accuracy(logits: Tensor, negatives: int | None = None) -> Tensor:
    """Return the share of queries whose key exceeds every negative (figure 2b), a scalar.

    Args:
        logits: (B, 1 + K + s + s'), the positive first; any positive multiple of the cosines.
        negatives: number of columns after the first to compare with; K leaves synthetic ones out,
            None takes all.
    """
    check_shapes(Shaped("logits", logits, "B 1+K"))
    if negatives is not None:
        _check_number("negatives", negatives, logits.shape[1] - 1)
    end = None if negatives is None else 1 + negatives
    return (logits[:, 0] > logits[:, 1:end].amax(dim=1)).float().mean()


class Hardness(NamedTuple):
    """Comparison of the hardest synthetic negative with the hardest real one, scalars.

    Attributes:
        gap: mean over queries of the difference of the two cosines.
        harder: share of queries for which the difference is positive.
    """

    gap: Tensor
    harder: Tensor


@torch.no_grad()
def hardness(real: Tensor, synthetic: Tensor) -> Hardness:
    """Compare the hardest real cosine (B, K) of a query with its hardest synthetic one (B, s)."""
    check_shapes(Shaped("real", real, "B K"), Shaped("synthetic", synthetic, "B S"))
    gap = synthetic.amax(dim=1) - real.amax(dim=1)
    # A query whose negatives are all masked has no gap.
    return Hardness(gap.nanmean(), (gap > 0).float().mean())


@torch.no_grad()
def matching_probabilities(logits: Tensor, temperature: float, n: int = 1024) -> Tensor:
    """Return the n largest softmax probabilities of negatives (figure 2a).

    Args:
        logits: (B, 1 + K) cosines, the positive first.
        temperature: tau of the loss.
        n: number of probabilities; 1024 in the paper.

    Returns:
        (n,) probabilities of the softmax over all 1 + K, largest first, averaged over queries by
        rank.
    """
    check_shapes(Shaped("logits", logits, "B 1+K"))
    check_temperature(temperature)
    _check_number("n", n, logits.shape[1] - 1)
    scaled = logits.float() / temperature
    top = scaled[:, 1:].topk(n, dim=1).values
    return (top - scaled.logsumexp(dim=1, keepdim=True)).exp().mean(dim=0)


@torch.no_grad()
def false_negatives(cosines: Tensor, labels: Tensor, queue_labels: Tensor, n: int = 1024) -> Tensor:
    """Return the share of false negatives among the n hardest (figure 2c), a scalar.

    Args:
        cosines: (B, K) with the queue, without a mask: an oracle's false negatives also count.
        labels: (B,) int64 classes of the queries.
        queue_labels: (K,) int64, -1 for rows without a key, which count as true negatives.
        n: number of hardest negatives, 1024 in the paper for every pool size; at most K are used.
    """
    check_shapes(
        Shaped("cosines", cosines, "B K"),
        Shaped("labels", labels, "B", kind="whole"),
        Shaped("queue_labels", queue_labels, "K", kind="whole"),
    )
    if n < 1:
        raise UserError(f"`n` must be at least 1, got {n}. Use 1024, the paper's number.")
    rows = hardest(cosines, min(n, cosines.shape[1])).rows
    return same_class(labels, queue_labels).gather(1, rows).float().mean()


class SyntheticFalseNegatives(NamedTuple):
    """Shares of synthetic points that may be false negatives, scalars; NaN without such points.

    Attributes:
        definite: share of pair-mixed points whose parents are both false negatives.
        partial: share of pair-mixed points with at least one false negative as parent.
        query_mixed: share of query-mixed points whose queue parent is a false negative.
    """

    definite: Tensor
    partial: Tensor
    query_mixed: Tensor


@torch.no_grad()
def synthetic_false_negatives(
    pool: HardPool, draws: MixingDraws, labels: Tensor, queue_labels: Tensor
) -> SyntheticFalseNegatives:
    """Return the shares of synthetic points that are mixed from false negatives (figure 2c).

    ``pool`` are the pools (B, N) that were mixed and ``draws`` the draws from them; labels are
    (B,) and (K,) int64, -1 where unknown.
    """
    check_shapes(
        Shaped("pool.rows", pool.rows, "B N", kind="whole"),
        Shaped("labels", labels, "B", kind="whole"),
        Shaped("draws.first", draws.first, "B s", kind="whole"),
        Shaped("draws.second", draws.second, "B s", kind="whole"),
        Shaped("draws.parent", draws.parent, "B p", kind="whole"),
    )
    false = same_class(labels, queue_labels).gather(1, pool.rows)
    first, second = false.gather(1, draws.first), false.gather(1, draws.second)
    return SyntheticFalseNegatives(
        definite=(first & second).float().mean(),
        partial=(first | second).float().mean(),
        query_mixed=false.gather(1, draws.parent).float().mean(),
    )
