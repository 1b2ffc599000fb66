"""Negatives mixed among themselves: interpolation and extrapolation with a permuted queue.

With one weight for all, mixing has exact effects on a query's scores: a permutation keeps the mean,
so Mean(neg) stays, and Var(neg) is multiplied by about w^2 + (1 - w)^2 - below 1 for interpolation,
above for extrapolation. If Mean(neg) rises over a training, the training caused it, not the
operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from retable.errors import UserError
from retable.nn.checks import Rows, Shaped, check_shapes, row_weight, unit_rows


def mix_negatives(
    negatives: Tensor,
    partners: Tensor,
    weight: Tensor | float,
    *,
    renormalise: bool = False,
    rows: Rows = "unit",
) -> Tensor:
    """Mix each negative with its partner: Z' = w Z + (1 - w) Z[partners].

    With w in (0, 1) this is interpolation, with w in (1, 2) extrapolation (supplement, equation 1).
    The result replaces the negatives in the logits; a queue stores the raw ones.

    Args:
        negatives: (K, D) unit rows.
        partners: (K,) int64, a permutation of the rows; fixed points stay unchanged.
        weight: w, a scalar, (K,) or (K, 1) for each row, or (K, D). Interpolation draws it from
            Beta(1.6, 1.6), extrapolation from 1 + Beta(2, 2).
        renormalise: scale the mixed rows to unit length.
        rows: "unit" refuses negatives of another length, "normalise" scales them, "unchecked" mixes
            rows of any length; see `retable.nn.checks.unit_rows`.

    Returns:
        (K, D); without ``renormalise`` squared lengths are 1 - 2 w (1 - w) (1 - z_j . z_partner)
        for one weight in a row: at most 1 after interpolation, at least 1 after extrapolation.
    """
    check_shapes(
        Shaped("negatives", negatives, "K D"), Shaped("partners", partners, "K", kind="whole")
    )
    negatives = unit_rows("negatives", negatives, rows)
    weight = row_weight("weight", weight, negatives)
    if isinstance(weight, Tensor):
        weight = weight.to(negatives.dtype)
    # In place on the gathered rows: for a large queue, another allocation costs more than mixing.
    mixed = negatives.index_select(0, partners).lerp_(negatives, weight)
    return F.normalize(mixed, dim=1) if renormalise else mixed


def mixed_cosines(
    cosines: Tensor,
    partners: Tensor,
    weight: Tensor | float,
    partner_cosines: Tensor | None = None,
) -> Tensor:
    """Return the scores (B, K) with mixed negatives from those with raw ones, without the points.

    Equal, in value and in the gradient of the query, to ``query @ mix_negatives(...).T``, for one
    weight for each negative. It reads and writes (B, K) where mixing reads and writes (K, D), so it
    is faster where B is small or many groups of rows have different permutations.

    Args:
        cosines: (B, K) ``query @ negatives.T``, with its gradient.
        partners: (K,) int64, or (B, K) where rows have different ones.
        weight: w, a scalar, (1, K) for each negative, (B, 1) for each query, or (B, K).
        partner_cosines: ``z_j . z_partner`` of unit rows, of the partners' shape, for re-normalised
            negatives; None does not normalise.

    >>> mixed_cosines(torch.tensor([[1.0, 0.0]]), torch.tensor([1, 0]), 0.75)
    tensor([[0.7500, 0.2500]])
    """
    by_column = isinstance(partners, Tensor) and partners.ndim == 1
    check_shapes(
        Shaped("cosines", cosines, "B K"),
        Shaped("partners", partners, "K" if by_column else "B K", kind="whole"),
        Shaped("partner_cosines", partner_cosines, "K" if by_column else "B K"),
    )
    if isinstance(weight, Tensor):
        _check_score_weight(weight, *cosines.shape)
        weight = weight.to(cosines.dtype)
    chosen = cosines.index_select(1, partners) if by_column else cosines.gather(1, partners)
    mixed = torch.lerp(chosen, cosines, weight)
    if partner_cosines is None:
        return mixed
    squared = 1 - 2 * weight * (1 - weight) * (1 - partner_cosines)
    # The mixture of opposites is rounding error without a direction.
    return mixed / squared.clamp(min=torch.finfo(mixed.dtype).eps).sqrt()


def _check_score_weight(weight: Tensor, queries: int, negatives: int) -> None:
    """Refuse other shapes, also (K,), which is that of queries if B = K."""
    shapes = ((1, negatives), (queries, 1), (queries, negatives))
    if weight.ndim and weight.shape not in shapes:
        raise UserError(
            f"`weight` must be one number or have shape {shapes[0]}, {shapes[1]} or {shapes[2]}, "
            f"got {tuple(weight.shape)}. Use weight[None] for one weight for each negative."
        )


class MixedGroup(NamedTuple):
    """Rows of queries that are scored against the same mixed negatives."""

    rows: slice
    """Rows of the queries (B, D); consecutive groups contain every row once."""
    partners: Tensor
    """(K,) int64, a permutation."""
    weight: Tensor
    """A scalar without gradient."""


def scores_of_groups(scored: Tensor, negatives: Tensor, groups: Sequence[MixedGroup]) -> Tensor:
    """Score queries (B, D), each group against negatives (K, D) mixed for this group: (B, K).

    Rows may have any length. The groups' rows must be all rows of ``scored``, in their order.

    Equal, in value and gradient, to ``scored[rows] @ mix_negatives(...).T`` for each group. One
    matrix product serves all groups, and its result is mixed in place, without a further matrix of
    size K x D or B x K.
    """
    check_shapes(Shaped("scored", scored, "B D"), Shaped("negatives", negatives, "K D"))
    stop = 0
    for group in groups:
        if group.rows.start != stop or group.rows.stop > len(scored):
            break
        stop = group.rows.stop
        check_shapes(Shaped("partners", group.partners, "K", kind="whole"), K=len(negatives))
    if stop != len(scored):
        raise UserError(
            f"`groups` must hold all {len(scored)} rows of `scored` in order, got "
            f"{[(group.rows.start, group.rows.stop) for group in groups]}. Change the slices."
        )
    scores: Tensor = _ScoresOfGroups.apply(scored, negatives, groups)
    return scores


class _ScoresOfGroups(torch.autograd.Function):
    """Without it autograd would save, gather and scatter a matrix of scores for each group."""

    @staticmethod
    def forward(
        ctx: Any, scored: Tensor, negatives: Tensor, groups: Sequence[MixedGroup]
    ) -> Tensor:
        ctx.save_for_backward(scored, negatives)
        ctx.groups = groups
        scores = scored @ negatives.T
        for rows, partners, weight in groups:
            scores[rows] = mixed_cosines(scores[rows], partners, weight)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        scored, negatives = ctx.saved_tensors
        of_scored, of_negatives = torch.empty_like(scored), None
        for rows, partners, weight in ctx.groups:
            # Mixing with one weight is a matrix whose transpose mixes with the inverse permutation.
            inverse = torch.empty_like(partners)
            inverse[partners] = torch.arange(len(partners), device=partners.device)
            of_raw = mixed_cosines(grad[rows], inverse, weight)
            of_scored[rows] = of_raw @ negatives
            if ctx.needs_input_grad[1]:
                added = of_raw.T @ scored[rows]
                of_negatives = added if of_negatives is None else of_negatives.add_(added)
        return of_scored, of_negatives, None
