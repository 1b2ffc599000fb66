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

from mochi.draws import MixingDraws, draw_mixing
from mochi.pool import HardPool, hardest
from retable.errors import UserError
from retable.nn.checks import Rows, Shaped, check_rng_key, check_shapes, row_positions, unit_rows
from retable.random import derive_key

MIXING = "mixing"
"""Purpose of the draws, by which their key is derived from the step's."""


def mix_hard_negatives(
    query: Tensor,
    queue: Tensor,
    rng_key: int,
    positions: Tensor | None = None,
    *,
    n_hard: int,
    s: int,
    s_prime: int,
    cosines: Tensor | None = None,
    allowed: Tensor | None = None,
    beta_max: float = 0.5,
    detach_query: bool = True,
    rows: Rows = "unit",
) -> Tensor:
    """Synthesise s + s' hard negatives for each query.

    Args:
        query: (B, D) unit rows.
        queue: (K, D) unit rows, the negatives.
        rng_key: random key of the step, equal on all processes; it must change with every step.
        positions: (B,) int64 positions of the queries in the global batch; 0 to B - 1 if None.
        n_hard: N, the size of the pool; at most K. 1024 on ImageNet-100 (table 1).
        s: points mixed from pairs; may exceed N. 1024 on ImageNet-100.
        s_prime: points mixed from query and negative; may exceed N. 128 on ImageNet-100.
        cosines: (B, K) ``query @ queue.T``, before the division by the temperature; computed if
            None.
        allowed: (B, K) bool, False where a row must not be mixed for a query, as in the class
            oracle (section 4). Pools shrink where fewer than N rows are allowed; a query without
            any allowed row gets NaN.
        beta_max: upper bound of the query's share.
        detach_query: treat the query inside h' as a constant, as every known implementation does.
        rows: "unit" refuses rows of another length, "normalise" scales query and queue, see
            `retable.nn.checks.unit_rows`.

    Returns:
        (B, s + s', D) unit rows, the pair-mixed first; without gradient if ``detach_query``.

    Raises:
        UserError: the shapes do not fit, rows or cosines are not as described, N > K, a count is
            negative, or beta_max is not in (0, 1].
    """
    check_mixing(query, queue, cosines, allowed)
    check_rng_key(rng_key)
    positions = row_positions(positions, query)
    query, queue = mixing_rows(query, queue.detach(), rows)
    given = cosines
    if cosines is None:
        cosines = cosines_of(query.detach(), queue)
    pool = hardest(mask_disallowed(cosines, allowed), n_hard)
    check_cosines(query, queue, given, pool)
    key = derive_key(rng_key, MIXING)
    draws = draw_mixing(key, positions, pool.sizes, s=s, s_prime=s_prime, beta_max=beta_max)
    return points_from_draws(query, queue, pool, draws, detach_query=detach_query)


def points_from_draws(
    query: Tensor, queue: Tensor, pool: HardPool, draws: MixingDraws, *, detach_query: bool = True
) -> Tensor:
    """Return the points (B, s + s', D) of given draws; see `mix_hard_negatives`.

    The lengths of ``query`` (B, D) and ``queue`` (K, D) are not checked here.
    """
    check_draws(query, queue, pool, draws)
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


def check_mixing(
    query: Tensor, queue: Tensor, cosines: Tensor | None, allowed: Tensor | None
) -> None:
    """Raise a UserError unless the tensors of mixing fit together."""
    without_positive = "Pass `query @ queue.T`, without the positive's column."
    check_shapes(
        Shaped("query", query, "B D"),
        Shaped("queue", queue, "K D"),
        Shaped("cosines", cosines, "B K", remedy=without_positive),
        Shaped("allowed", allowed, "B K", kind="mask"),
    )


def check_draws(
    query: Tensor,
    queue: Tensor,
    pool: HardPool,
    draws: MixingDraws,
    cosines: Tensor | None = None,
) -> None:
    """Raise a UserError unless pools, draws and cosines are those of the queries."""
    check_shapes(
        Shaped("query", query, "B D"),
        Shaped("queue", queue, "K D"),
        Shaped("cosines", cosines, "B K"),
        Shaped("pool.rows", pool.rows, "B N", kind="whole"),
    )
    check_shapes(
        Shaped("pool.rows", pool.rows, "B N", kind="whole"),
        Shaped("pool.sizes", pool.sizes, "B", kind="whole"),
        Shaped("draws.first", draws.first, "B s", kind="whole"),
        Shaped("draws.second", draws.second, "B s", kind="whole"),
        Shaped("draws.alpha", draws.alpha, "B s"),
        Shaped("draws.parent", draws.parent, "B p", kind="whole"),
        Shaped("draws.beta", draws.beta, "B p"),
    )


def mixing_rows(query: Tensor, queue: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """Return unit rows in float32 at least; the closed form holds for unit rows only."""
    if rows == "unchecked":
        raise UserError(
            "`rows` must be 'unit' or 'normalise' for mixing, got 'unchecked'. Use 'normalise' for "
            "rows of any length."
        )
    query, queue = unit_rows("query", query, rows), unit_rows("queue", queue, rows)
    return in_float32(query), in_float32(queue)


@torch.no_grad()
def check_cosines(query: Tensor, queue: Tensor, cosines: Tensor | None, pool: HardPool) -> None:
    """Raise a UserError unless given cosines are those of query and queue.

    Only the hardest of each query is compared, and only on a CPU, where reading stops no device.
    """
    if cosines is None or cosines.device.type != "cpu" or torch.compiler.is_compiling():
        return
    hardest_rows = pool.rows[:, :1]
    found = cosines.gather(1, hardest_rows)[:, 0]
    expected = (query * queue[hardest_rows[:, 0]]).sum(dim=1)
    wrong = ((found - expected).abs() > _COSINE_TOLERANCE) & (pool.sizes > 0)
    if wrong.any():
        query_row = int(wrong.nonzero()[0, 0])
        raise UserError(
            f"`cosines` must be `query @ queue.T`, {expected[query_row]:.3g} for the hardest row "
            f"of query {query_row}, got {found[query_row]:.3g}. Pass them before the division by "
            "the temperature and before the queue changes."
        )


_COSINE_TOLERANCE = 0.02  # products that were computed in bfloat16
