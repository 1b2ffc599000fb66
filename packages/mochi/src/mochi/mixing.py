"""MoCHi's idea: synthesise hard negatives by mixing those that are hard already (section 3).

For a query q with its pool of the N hardest negatives,

- pair mixing (section 3.2) makes s points  h  = u / |u|,  u = alpha n_i + (1 - alpha) n_j,
- query mixing (section 3.3) makes s' points h' = u / |u|,  u = beta  q   + (1 - beta)  n_j,

with n_i, n_j drawn from the pool, alpha ~ U(0, 1) and beta ~ U(0, 0.5). They join the negatives of
this query for this step, and nothing else: they carry no gradient and never enter the queue.

Here the points themselves are made, for loops that want them. What InfoNCE needs are their dot
products with the query, and `mochi.logits` has these without the points.
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
        s: points mixed from pairs; may exceed N. 1024 there.
        s_prime: points mixed from query and negative; may exceed N. 128 there.
        generator: source of the draws; torch's global one if None.
        cosines: (B, K) ``query @ queue.T`` if it is there already.
        allowed: (B, K) bool, False where a row must not be mixed for a query, as in the class
            oracle (section 4). Pools shrink where fewer than N rows are allowed; a query without
            any allowed row has no negatives to mix and gets NaN.
        beta_max: the query's largest share.
        detach_query: take the query inside h' as a constant, as every known implementation does.

    Returns:
        (B, s + s', D) unit rows, the pair-mixed first; without gradient if ``detach_query``.

    Raises:
        UserError: if the shapes do not fit, N > K, a count is negative, or beta_max is not in
            (0, 1].

    >>> unit = lambda *shape: F.normalize(torch.randn(*shape), dim=-1)
    >>> mix_hard_negatives(unit(2, 8), unit(32, 8), n_hard=4, s=6, s_prime=3).shape
    torch.Size([2, 9, 8])
    """
    check_mixing(query, queue, s, s_prime, beta_max)
    query, queue = in_float32(query), in_float32(queue.detach())
    if cosines is None:
        cosines = cosines_of(query.detach(), queue)
    pool = hardest(bar(cosines, allowed), n_hard)
    draws = draw_from_generator(generator, pool.sizes, s=s, s_prime=s_prime, beta_max=beta_max)
    return points_from_draws(query, queue, pool, draws, detach_query=detach_query)


def points_from_draws(
    query: Tensor, queue: Tensor, pool: HardPool, draws: MixingDraws, *, detach_query: bool = True
) -> Tensor:
    """Synthesise the points (B, s + s', D) that given draws name; see `mix_hard_negatives`."""
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
    """Name the parents of all pair-mixed points, as rows of the queue and shares, (B s, 2) each."""
    rows = torch.stack([draws.first, draws.second], dim=2).flatten(1)
    alpha = draws.alpha.to(dtype)
    shares = torch.stack([alpha, 1 - alpha], dim=2)
    return pool.rows.gather(1, rows).view(-1, 2), shares.view(-1, 2)


def combine_pairs(queue: Tensor, rows: Tensor, shares: Tensor) -> Tensor:
    """Return the weighted sums (n, D) of n pairs of rows (n, 2): an embedding bag of two."""
    return F.embedding_bag(rows, queue, mode="sum", per_sample_weights=shares)


def cosines_of(query: Tensor, queue: Tensor) -> Tensor:
    """Return (B, K) dot products in full precision: rounded to half, a pool's top would tie."""
    with torch.autocast(query.device.type, enabled=False):
        return in_float32(query) @ in_float32(queue).T


def in_float32(rows: Tensor) -> Tensor:
    """Widen half precision to float32; leave float32 and float64."""
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def bar(cosines: Tensor, allowed: Tensor | None) -> Tensor:
    """Set the cosines of rows that are not allowed to -inf."""
    return cosines if allowed is None else cosines.masked_fill(~allowed, -math.inf)


def check_mixing(query: Tensor, queue: Tensor, s: int, s_prime: int, beta_max: float) -> None:
    """Raise a UserError unless the arguments of mixing fit together."""
    if query.ndim != 2 or queue.ndim != 2 or query.shape[1] != queue.shape[1]:
        raise UserError(
            f"Queries of shape {tuple(query.shape)} and a queue of shape {tuple(queue.shape)} do "
            "not fit: pass (B, D) and (K, D) with one row for each feature."
        )
    check_counts(s, s_prime, beta_max)


def check_counts(s: int, s_prime: int, beta_max: float) -> None:
    """Raise a UserError unless the counts of points and the query's largest share make sense."""
    if min(s, s_prime) < 0:
        raise UserError(f"The counts s = {s} and s_prime = {s_prime} must be 0 or more.")
    if not 0 < beta_max <= 1:
        raise UserError(f"beta_max = {beta_max} must lie in (0, 1]; the paper's value is 0.5.")
