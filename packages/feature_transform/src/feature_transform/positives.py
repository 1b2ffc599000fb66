"""Positive extrapolation: the two features of a positive pair are moved apart."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from retable.nn.checks import Rows, Shaped, check_shapes, row_weight, unit_rows


def extrapolate_positives(
    query: Tensor,
    key: Tensor,
    weight: Tensor | float,
    *,
    renormalise: bool = False,
    rows: Rows = "unit",
) -> tuple[Tensor, Tensor]:
    """Move query and key away from each other along the line through both (supplement, figure 1).

        q' = w q + (1 - w) k        k' = w k + (1 - w) q

    For unit features and one weight for the row, the score of the pair falls from S to
    S - 2 w (w - 1) (1 - S), which keeps S = 1; q' + k' = q + k always. The query inside k' carries
    its gradient, as in the official code: through the normalisation of q, the score's gradient is
    that of S times 1 + 2 w (w - 1). A detached key stays a constant.

    Args:
        query: (B, D) unit rows.
        key: (B, D) unit rows.
        weight: w in [1, 2], drawn from 1 + Beta(2, 2): a scalar, (B,) or (B, 1) for each row, or
            (B, D). 1 changes nothing.
        renormalise: scale both to unit length.
        rows: "unit" refuses rows of another length, "normalise" scales them, "unchecked" moves rows
            of any length; see `retable.nn.checks.unit_rows`.

    Returns:
        (B, D) each; without ``renormalise`` their squared lengths are 1 + 2 w (w - 1) (1 - S).
    """
    check_shapes(Shaped("query", query, "B D"), Shaped("key", key, "B D"))
    query, key = unit_rows("query", query, rows), unit_rows("key", key, rows)
    weight = row_weight("weight", weight, query)
    apart = (weight - 1) * (query - key)
    query, key = query + apart, key - apart
    if renormalise:
        return F.normalize(query, dim=1), F.normalize(key, dim=1)
    return query, key
