"""The class oracle: MoCHi with labels that identify false negatives (section 4).

A false negative is a queue row of the query's own class. The oracle uses labels only to mask these
rows as negatives, and thereby in the pool and in mixing.
"""

from __future__ import annotations

from torch import Tensor

from retable.nn.checks import Shaped, check_shapes


def same_class(labels: Tensor, queue_labels: Tensor) -> Tensor:
    """Return which queue rows have a query's class, (B, K) bool.

    Labels are (B,) and (K,) int64, -1 where unknown, which equals no class.

    >>> import torch
    >>> same_class(torch.tensor([3, -1]), torch.tensor([3, 5, -1]))
    tensor([[ True, False, False],
            [False, False, False]])
    """
    check_shapes(
        Shaped("labels", labels, "B", kind="whole"),
        Shaped("queue_labels", queue_labels, "K", kind="whole"),
    )
    return (labels[:, None] == queue_labels) & (labels[:, None] >= 0)


def allowed_negatives(labels: Tensor, queue_labels: Tensor) -> Tensor:
    """Return the queue rows (B, K) that the oracle allows: the argument ``allowed`` of mixing.

    In your own loop, mask the others in the loss too:
    ``cosines.masked_fill(~allowed_negatives(labels, queue_labels), -math.inf)``.
    """
    return ~same_class(labels, queue_labels)
