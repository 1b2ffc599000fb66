"""Random draws of the transformation: weights and partners.

Draws are a function of the step's key and of positions in the global batch or in the queue, so that
they do not depend on the number of processes. Level "batch" draws once for each group of
`TransformRecipe.draw_group` rows of the global batch. Other training loops may draw differently,
for instance with `torch.distributions.Beta`: the operations take tensors. `retable.random`
explains ``rng_key`` and ``positions``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from feature_transform.recipe import Level, TransformRecipe
from retable import random
from retable.errors import UserError
from retable.nn.checks import Shaped, check_least, check_rng_key, check_shapes
from retable.random import derive_key


def row_weights(
    rng_key: int,
    positions: Tensor,
    dim: int,
    beta: tuple[float, float],
    level: Level,
    group: int | None = None,
) -> Tensor:
    """Draw Beta(a, b) weights for rows.

    Args:
        rng_key: random key of this step and purpose, equal on all processes.
        positions: (n,) int64 positions of the rows in the global batch or in the queue.
        dim: D, used by level "dimension".
        beta: a and b.
        level: "batch": one draw for each group of rows; "sample": one for each row; "dimension":
            one for each row and dimension.
        group: rows of a group; None: all.

    Returns:
        (n, 1), or (n, D) for level "dimension".
    """
    check_rng_key(rng_key)
    check_shapes(Shaped("positions", positions, "N", kind="whole"))
    check_least(1, dim=dim, group=group)
    if level not in ("batch", "sample", "dimension"):
        raise UserError(
            f"`level` must be 'batch', 'sample' or 'dimension', got {level!r}. Choose one."
        )
    rows = positions[:, None]
    if level == "batch":
        rows = torch.zeros_like(rows) if group is None else rows // group
    elif level == "dimension":
        rows = rows * dim + torch.arange(dim, device=positions.device)
    return random.beta(rng_key, rows, *beta)


def positive_weights(
    transform: TransformRecipe, rng_key: int, positions: Tensor, dim: int
) -> Tensor:
    """Draw the weights 1 + Beta(alpha_ex, alpha_ex) of positive extrapolation: (n, 1) or (n, D)."""
    alpha = transform.alpha_ex
    purpose = derive_key(rng_key, "positive weight")
    level, group = transform.effective_level, transform.draw_group
    return 1 + row_weights(purpose, positions, dim, (alpha, alpha), level, group)


def hard_weights(transform: TransformRecipe, rng_key: int, positions: Tensor, dim: int) -> Tensor:
    """Draw the query's share in its hard negatives, for either side of `hard_weight_on`."""
    purpose = derive_key(rng_key, "hard weight")
    level, group = transform.effective_level, transform.draw_group
    weight = row_weights(purpose, positions, dim, transform.hard_beta, level, group)
    return weight if transform.hard_weight_on == "query" else 1 - weight


class Mixture(NamedTuple):
    """Partners and weight of mixed negatives, as `feature_transform.mix_negatives` takes them."""

    partners: Tensor
    """(K,) int64, a permutation."""
    weight: Tensor
    """A scalar, (K, 1) or (K, D)."""


def mixture(
    transform: TransformRecipe, rng_key: int, group: Tensor, size: int, dim: int
) -> Mixture:
    """Draw partners and weights of a queue of ``size`` rows of ``dim`` for one group of queries.

    ``group`` is the index of the group in the global batch, a 0-dim int64 tensor; the negatives of
    ``transform`` must be "interpolate" or "extrapolate".
    """
    if transform.negatives not in ("interpolate", "extrapolate"):
        raise UserError(
            "`transform.negatives` must be 'interpolate' or 'extrapolate' to be mixed, got "
            f"{transform.negatives!r}. Choose one."
        )
    check_least(1, size=size, dim=dim)
    interpolates = transform.negatives == "interpolate"
    alpha = transform.alpha_in if interpolates else transform.alpha_ex
    partners = random.permutation(derive_key(rng_key, "partners"), size, group.device, group)
    purpose, level = derive_key(rng_key, "negative weight"), transform.effective_level
    if level == "batch":
        weight = random.beta(purpose, group, alpha, alpha)
    else:
        rows = group * size + torch.arange(size, device=group.device)
        weight = row_weights(purpose, rows, dim, (alpha, alpha), level)
    return Mixture(partners, weight if interpolates else 1 + weight)


def draw_groups(positions: Tensor, group: int | None) -> Iterator[tuple[Tensor, slice]]:
    """Yield each group of this process's rows as (its index in the global batch, its rows).

    Args:
        positions: (n,) int64 positions of the rows in the global batch, consecutive and starting at
            a multiple of the smaller of ``group`` and n, as in a batch that is split over
            processes.
        group: rows of a group; None: all.
    """
    check_shapes(Shaped("positions", positions, "B", kind="whole"))
    rows = len(positions)
    if group is None:
        yield torch.zeros_like(positions[0]), slice(0, rows)
        return
    check_draw_group(rows, group)
    for start in range(0, rows, min(group, rows)):
        yield positions[start] // group, slice(start, min(start + group, rows))


def check_draw_group(rows: int, group: int | None) -> None:
    """Raise a UserError unless one of a group and a process's rows divides the other."""
    if group is not None and group % rows and rows % group:
        raise UserError(
            f"`draw_group` must divide a process's {rows} rows or be a multiple of them, got "
            f"{group}. Change draw_group or the number of processes."
        )
