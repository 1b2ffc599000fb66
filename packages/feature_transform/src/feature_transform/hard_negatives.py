"""Hard negatives: every negative of a query mixed with that query (supplement, section G.2).

The paper did not run this on ImageNet-1K because it needs a separate queue for each query,
B x K x D numbers. The scores of the points follow from dot products that the loss computes anyway.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from retable.nn.checks import Rows, Shaped, check_shapes, row_weight, unit_rows


def mix_with_query(
    query: Tensor,
    negatives: Tensor,
    weight: Tensor | float,
    *,
    renormalise: bool = False,
    rows: Rows = "unit",
) -> Tensor:
    """Return the mixed points w q_i + (1 - w) z_j (supplement, equation 2).

    For small B and K; `hard_negative_scores` needs no points.

    Args:
        query: (B, D) unit rows.
        negatives: (K, D) unit rows.
        weight: w, the query's share: a scalar, (B,) or (B, 1) for each query, or (B, D) for each
            of its dimensions. Where the paper's weight is the negative's share, pass one minus it.
        renormalise: scale the points to unit length.
        rows: "unit" refuses rows of another length, "normalise" scales query and negatives,
            "unchecked" mixes rows of any length; see `retable.nn.checks.unit_rows`.

    Returns:
        (B, K, D).
    """
    check_shapes(Shaped("query", query, "B D"), Shaped("negatives", negatives, "K D"))
    query, negatives = unit_rows("query", query, rows), unit_rows("negatives", negatives, rows)
    weight = row_weight("weight", weight, query)
    if isinstance(weight, Tensor) and weight.ndim == 2:
        weight = weight[:, None, :]
    points = weight * query[:, None, :] + (1 - weight) * negatives[None]
    return F.normalize(points, dim=2) if renormalise else points


def hard_negative_scores(
    scored: Tensor,
    query: Tensor,
    negatives: Tensor,
    weight: Tensor | float,
    *,
    renormalise: bool = False,
    rows: Rows = "unit",
) -> Tensor:
    """Return the dot products (B, K) of each query with its hard negatives, without the points.

    Equal, in value and gradient, to

        torch.einsum("bd,bkd->bk", scored, mix_with_query(query, negatives, weight, ...))

    from p.h = p.(w q) + (p (1 - w)).z, one matrix product as in MoCo, and for the lengths
    |h|^2 = |w q|^2 + 2 (w (1 - w) q).z + |(1 - w) z|^2, two more (one for a scalar weight).
    With p = q, an orthogonal negative (s = 0) scores w: no hard negative scores below its raw
    score.

    ``scored`` (B, D) are ``query`` itself or extrapolated queries, of any length; the other
    arguments are those of `mix_with_query`.
    """
    check_shapes(
        Shaped("scored", scored, "B D"),
        Shaped("query", query, "B D"),
        Shaped("negatives", negatives, "K D"),
    )
    query, negatives = unit_rows("query", query, rows), unit_rows("negatives", negatives, rows)
    weight = row_weight("weight", weight, query)
    if isinstance(weight, Tensor):
        weight = weight.to(query.dtype)
    own = (scored * query * weight).sum(dim=1, keepdim=True)
    scores = ((scored * (1 - weight)) @ negatives.T).add_(own)
    if not renormalise:
        return scores
    return scores * _squared_lengths(query, negatives, weight).rsqrt()


def _squared_lengths(query: Tensor, negatives: Tensor, weight: Tensor | float) -> Tensor:
    """Return the squared lengths (B, K) of w q + (1 - w) z."""
    own = (query * weight).square().sum(dim=1, keepdim=True)
    crossed = (2 * query * weight * (1 - weight)) @ negatives.T
    if isinstance(weight, Tensor) and weight.ndim == 2 and weight.shape[1] > 1:
        others = (1 - weight).square() @ negatives.square().T
    else:
        others = (1 - weight) ** 2 * negatives.square().sum(dim=1)
    # The mixture of opposites is rounding error without a direction.
    return crossed.add_(own).add_(others).clamp(min=torch.finfo(own.dtype).eps)
