"""The class oracle: what MoCHi would do if labels told false negatives apart (section 4).

A false negative is a queue row of the query's own class. The oracle uses labels for nothing but
barring these rows from the negatives, and thereby from the pool and from mixing.
"""

from __future__ import annotations

from torch import Tensor


def same_class(labels: Tensor, queue_labels: Tensor) -> Tensor:
    """Mark the queue rows that share a query's class.

    Args:
        labels: (B,) int64 classes of the queries, -1 where unknown.
        queue_labels: (K,) int64 classes of the queue's rows, -1 where unknown.

    Returns:
        (B, K) bool; an unknown class equals none, not even another unknown one.

    >>> import torch
    >>> same_class(torch.tensor([3, -1]), torch.tensor([3, 5, -1]))
    tensor([[ True, False, False],
            [False, False, False]])
    """
    return (labels[:, None] == queue_labels) & (labels[:, None] >= 0)


def allowed_negatives(labels: Tensor, queue_labels: Tensor) -> Tensor:
    """Mark the queue rows (B, K) that the oracle leaves: give them as ``allowed`` to mixing.

    In your own loop, bar the others from the loss too:
    ``cosines.masked_fill(~allowed_negatives(labels, queue_labels), -math.inf)``.
    """
    return ~same_class(labels, queue_labels)
