"""Synthetic hard negatives: mixtures of the hardest existing ones (section 3).

For a query q with its pool of the N hardest negatives,

- pair mixing (section 3.2) makes s points  h  = u / |u|,  u = alpha n_i + (1 - alpha) n_j,
- query mixing (section 3.3) makes s' points h' = u / |u|,  u = beta  q   + (1 - beta)  n_j,

with n_i, n_j drawn from the pool, alpha ~ U(0, 1) and beta ~ U(0, 0.5). They are negatives of this
query in this step only: they carry no gradient and never enter the queue.

This module computes the points. InfoNCE needs only their dot products with the query, which
`mochi.logits` computes without the points.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mochi.draws import MixingDraws, draw_from_generator
from mochi.pool import HardPool, hardest
from retable.errors import UserError


def mix_hard_negatives(
    query: Tensor,
    queue: Tensor,
    *,
    n_hard: int,
    s: int,
    s_prime: int,
    generator: torch.Generator | None = None,
    cosines: Tensor | None = None,
    allowed: Tensor | None = None,
    beta_max: float = 0.5,
    detach_query: bool = True,
) -> Tensor:
    """Synthesise s + s' hard negatives for each query.

    Args:
        query: (B, D) unit rows.
        queue: (K, D) unit rows, the negatives.
        n_hard: N, the size of the pool; at most K. 1024 on ImageNet-100 (table 1).
        s: points mixed from pairs; may exceed N. 1024 on ImageNet-100.
        s_prime: points mixed from query and negative; may exceed N. 128 on ImageNet-100.
        generator: source of the draws; torch's global one if None.
        cosines: (B, K) ``query @ queue.T``; computed if None.
        allowed: (B, K) bool, False where a row must not be mixed for a query, as in the class
            oracle (section 4). Pools shrink where fewer than N rows are allowed; a query without
            any allowed row gets NaN.
        beta_max: upper bound of the query's share.
        detach_query: treat the query inside h' as a constant, as every known implementation does.

    Returns:
        (B, s + s', D) unit rows, the pair-mixed first; without gradient if ``detach_query``.

    Raises:
        UserError: the shapes do not fit, N > K, a count is negative, or beta_max is not in (0, 1].
    """
    check_mixing(query, queue, s, s_prime, beta_max)
    query, queue = in_float32(query), in_float32(queue.detach())
    if cosines is None:
        cosines = cosines_of(query.detach(), queue)
    pool = hardest(mask_disallowed(cosines, allowed), n_hard)
    draws = draw_from_generator(generator, pool.sizes, s=s, s_prime=s_prime, beta_max=beta_max)
    return points_from_draws(query, queue, pool, draws, detach_query=detach_query)


def points_from_draws(
    query: Tensor, queue: Tensor, pool: HardPool, draws: MixingDraws, *, detach_query: bool = True
) -> Tensor:
    """Return the points (B, s + s', D) of given draws; see `mix_hard_negatives`."""
    if detach_query:
        query = query.detach()
    pairs = combine_pairs(queue, *pair_rows_and_shares(pool, draws, queue.dtype))
    parents = queue[pool.rows.gather(1, draws.parent)]
    queries = torch.lerp(parents, query[:, None], draws.beta[..., None].to(queue.dtype))
    mixed = torch.cat([pairs.view(len(query), -1, queue.shape[1]), queries], dim=1)
    points = F.normalize(mixed, dim=2)
    return points.masked_fill((pool.sizes == 0)[:, None, None], math.nan)


def pair_rows_and_shares(
    pool: HardPool, draws: MixingDraws, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the queue rows and shares of the parents of all pair-mixed points, (B s, 2) each."""
    rows = torch.stack([draws.first, draws.second], dim=2).flatten(1)
    alpha = draws.alpha.to(dtype)
    shares = torch.stack([alpha, 1 - alpha], dim=2)
    return pool.rows.gather(1, rows).view(-1, 2), shares.view(-1, 2)


def combine_pairs(queue: Tensor, rows: Tensor, shares: Tensor) -> Tensor:
    """Return the weighted sums (n, D) of n pairs of rows (n, 2), as embedding bags of two."""
    return F.embedding_bag(rows, queue, mode="sum", per_sample_weights=shares)


def cosines_of(query: Tensor, queue: Tensor) -> Tensor:
    """Return (B, K) dot products in float32; in half precision the hardest rows would tie."""
    with torch.autocast(query.device.type, enabled=False):
        return in_float32(query) @ in_float32(queue).T


def in_float32(rows: Tensor) -> Tensor:
    """Convert half precision to float32; leave float32 and float64."""
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def mask_disallowed(cosines: Tensor, allowed: Tensor | None) -> Tensor:
    """Set the cosines of rows that are not allowed to -inf."""
    return cosines if allowed is None else cosines.masked_fill(~allowed, -math.inf)


def check_mixing(query: Tensor, queue: Tensor, s: int, s_prime: int, beta_max: float) -> None:
    """Raise a UserError unless the arguments of mixing fit together."""
    if query.ndim != 2 or queue.ndim != 2 or query.shape[1] != queue.shape[1]:
        raise UserError(
            f"`query` and `queue` must have shapes (B, D) and (K, D), got {tuple(query.shape)} and "
            f"{tuple(queue.shape)}. Pass one feature a row."
        )
    check_counts(s, s_prime, beta_max)


def check_counts(s: int, s_prime: int, beta_max: float) -> None:
    """Raise a UserError unless the counts are not negative and beta_max is in (0, 1]."""
    if min(s, s_prime) < 0:
        raise UserError(
            f"`s` and `s_prime` must be 0 or more, got {s} and {s_prime}. Use 0 for no mixing."
        )
    if not 0 < beta_max <= 1:
        raise UserError(
            f"`beta_max` must be in (0, 1], got {beta_max}. Use 0.5, the paper's value."
        )
