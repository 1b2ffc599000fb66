"""The contrastive logits of transformed features, in the fastest measured way.

Nothing of size B x K x D exists, and nothing beyond MoCo's logits where no negatives are mixed:

- positive extrapolation changes 2 B rows;
- mixed negatives are one gather of the queue's rows, or, where few rows share a draw, of the
  scores' columns (`scores_of_groups`);
- hard negatives are an affine function of the scores (`hard_negative_scores`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from feature_transform.draws import draw_groups, hard_weights, mixture, positive_weights
from feature_transform.hard_negatives import hard_negative_scores
from feature_transform.negatives import MixedGroup, mix_negatives, scores_of_groups
from feature_transform.positives import extrapolate_positives
from feature_transform.recipe import TransformRecipe
from retable.nn.checks import (
    Rows,
    Shaped,
    check_rng_key,
    check_shapes,
    row_positions,
    unit_rows,
)


def transformed_logits(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    transform: TransformRecipe,
    rng_key: int,
    positions: Tensor | None = None,
    *,
    rows: Rows = "unit",
) -> Tensor:
    """Return the logits of transformed pairs and negatives, the positive in column 0.

    Computed in float32 at least, also under autocast: extrapolated scores divided by the
    temperature reach -129, where half precision merges neighbouring values.

    Args:
        query: (B, D) unit rows, with gradient.
        key: (B, D) unit rows, detached.
        queue: (K, D) unit rows; not changed.
        transform: the transformation.
        rng_key: random key of the step, equal on all processes; it must change with every step.
        positions: (B,) int64 positions of the rows in the global batch; 0 to B - 1 if None.
        rows: "unit" refuses rows of another length, "normalise" scales them, "unchecked" scores
            inner products of rows of any length; see `retable.nn.checks.unit_rows`.

    Returns:
        (B, 1 + K), **not** divided by the temperature.

    Raises:
        UserError: shapes do not fit, rows are not of unit length, or `TransformRecipe.draw_group`
            does not fit B.
    """
    check_shapes(
        Shaped("query", query, "B D"), Shaped("key", key, "B D"), Shaped("queue", queue, "K D")
    )
    check_rng_key(rng_key)
    positions = row_positions(positions, query)
    with torch.autocast(query.device.type, enabled=False):
        query, key, queue = (
            _in_float32(unit_rows(name, features, rows))
            for name, features in (("query", query), ("key", key), ("queue", queue))
        )
        moved, moved_key = transformed_pair(query, key, transform, rng_key, positions)
        positive = (moved * moved_key).sum(dim=1, keepdim=True)
        scored = moved if transform.score_against == "extrapolated" else query
        scores = transformed_scores(scored, query, queue, transform, rng_key, positions)
        return torch.cat([positive, scores], dim=1)


def _in_float32(features: Tensor) -> Tensor:
    """Convert half precision to float32; leave float32 and float64."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


def transformed_pair(
    query: Tensor, key: Tensor, transform: TransformRecipe, rng_key: int, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """Return query and key (B, D) each, of any length, extrapolated if the recipe says so."""
    check_shapes(Shaped("query", query, "B D"), Shaped("key", key, "B D"))
    if transform.positives == "none":
        return query, key
    weight = positive_weights(transform, rng_key, positions, query.shape[1])
    return extrapolate_positives(
        query, key, weight, renormalise=transform.renormalise, rows="unchecked"
    )


def transformed_scores(
    scored: Tensor,
    query: Tensor,
    queue: Tensor,
    transform: TransformRecipe,
    rng_key: int,
    positions: Tensor,
) -> Tensor:
    """Score queries against the transformed negatives: (B, K).

    ``scored`` (B, D) are the queries that are scored, extrapolated or not; hard negatives are mixed
    with the raw ``query`` (B, D). Rows may have any length. The other arguments are those of
    `transformed_logits`.
    """
    check_shapes(
        Shaped("scored", scored, "B D"),
        Shaped("query", query, "B D"),
        Shaped("queue", queue, "K D"),
        Shaped("positions", positions, "B", kind="whole"),
    )
    if transform.negatives == "none":
        return scored @ queue.T
    if transform.negatives == "hard":
        weight = hard_weights(transform, rng_key, positions, query.shape[1])
        return hard_negative_scores(
            scored, query, queue, weight, renormalise=transform.renormalise, rows="unchecked"
        )
    return mixed_scores([scored], queue, transform, rng_key, positions)[0]


def mixed_scores(
    branches: list[Tensor],
    queue: Tensor,
    transform: TransformRecipe,
    rng_key: int,
    positions: Tensor,
) -> list[Tensor]:
    """Score branches' queries (B, D) against one mixed queue for each group of rows: (B, K) each.

    Row b of all branches has the same position in the global batch. Rows may have any length. The
    other arguments are those of `transformed_logits`.
    """
    check_shapes(
        Shaped("queue", queue, "K D"),
        *(Shaped(f"branches[{i}]", branch, "B D") for i, branch in enumerate(branches)),
        Shaped("positions", positions, "B", kind="whole"),
    )
    drawn = (
        MixedGroup(rows, *mixture(transform, rng_key, number, *queue.shape))
        for number, rows in draw_groups(positions, transform.draw_group)
    )
    if _mixing_columns_is_faster(transform, len(positions), queue.shape[1]):
        groups = list(drawn)
        return [scores_of_groups(scored, queue, groups) for scored in branches]
    parts: list[list[Tensor]] = [[] for _ in branches]
    for rows, partners, weight in drawn:
        mixed = mix_negatives(
            queue, partners, weight, renormalise=transform.renormalise, rows="unchecked"
        )
        for part, scored in zip(parts, branches, strict=True):
            part.append(scored[rows] @ mixed.T)
    return [part[0] if len(part) == 1 else torch.cat(part) for part in parts]


def _mixing_columns_is_faster(transform: TransformRecipe, rows: int, dim: int) -> bool:
    """Return whether columns of scores (n, K) can be mixed, and faster than rows of a queue (K, D).

    Columns are gathered forward and backward, rows only once and contiguously: measured, both take
    the same time for groups of about D / 2 queries.
    """
    of_group = min(transform.draw_group or rows, rows)
    possible = transform.effective_level == "batch" and not transform.renormalise
    return possible and 2 * of_group <= dim
