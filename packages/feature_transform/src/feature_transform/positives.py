"""Positive extrapolation: the two features of a positive pair are pushed apart."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def extrapolate_positives(
    query: Tensor, key: Tensor, weight: Tensor | float, *, renormalise: bool = False
) -> tuple[Tensor, Tensor]:
    """Move query and key away from each other along the line through both (supplement, figure 1).

        q' = w q + (1 - w) k        k' = w k + (1 - w) q

    For unit features and a weight that is one number for the row, the score of the pair falls from
    S to S - 2 w (w - 1) (1 - S), which leaves S = 1 where it is; q' + k' = q + k always. The query
    inside k' carries its gradient, as in the official code: through the normalisation of q, the
    score's gradient is that of S times 1 + 2 w (w - 1). A key that was detached stays a constant.

    Args:
        query: (B, D).
        key: (B, D).
        weight: w in [1, 2], drawn from 1 + Beta(2, 2): one number, (B, 1) or (B, D). 1 changes
            nothing.
        renormalise: bring both back to unit length.

    Returns:
        (B, D) each; without ``renormalise`` their squared lengths are 1 + 2 w (w - 1) (1 - S).

    >>> import torch
    >>> query, key = torch.eye(4)[:2], torch.eye(4)[2:]
    >>> [tuple(moved.shape) for moved in extrapolate_positives(query, key, 1.5)]
    [(2, 4), (2, 4)]
    """
    apart = (weight - 1) * (query - key)
    query, key = query + apart, key - apart
    if renormalise:
        return F.normalize(query, dim=1), F.normalize(key, dim=1)
    return query, key
