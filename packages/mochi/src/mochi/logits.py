"""The logits of the synthetic negatives in closed form, without the points.

A mixed point is a combination of vectors whose dot products with the query MoCo has computed:

    q.h  = (alpha q.n_i + (1 - alpha) q.n_j) / |alpha n_i + (1 - alpha) n_j|
    q.h' = (beta  q.q   + (1 - beta)  q.n_j) / |beta  q   + (1 - beta)  n_j|
    |beta q + (1 - beta) n_j|^2 = beta^2 + (1 - beta)^2 + 2 beta (1 - beta) q.n_j

Query mixing needs no further products, and pair mixing only the norms of the combinations, which
are computed a few thousand at a time. The points carry no gradient, so norms are constants, and so
is one of the two q in q.q: numerators have a gradient, denominators are detached. The backward pass
then adds a few numbers to the gradient of the cosines, which MoCo propagates anyway.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mochi.draws import MixingDraws, draw_mixing
from mochi.mixing import (
    MIXING,
    check_cosines,
    check_draws,
    check_mixing,
    combine_pairs,
    cosines_of,
    in_float32,
    mask_disallowed,
    mixing_rows,
    pair_rows_and_shares,
)
from mochi.pool import HardPool, hardest
from retable.nn.checks import Rows, check_rng_key, row_positions
from retable.random import derive_key

# Combinations in memory at a time. On a CPU, 2048 of 128 floats (1 MiB) fit into the cache.
_CHUNK_CPU = 2048
_CHUNK_GPU = 32768


def mixed_logits(
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
    """Return the cosines (B, s + s') of queries with synthetic negatives, the pair-mixed first.

    Equal, in value and in the gradient of ``query``, to

        points = mix_hard_negatives(query, queue, ...)
        torch.einsum("bd,bsd->bs", query, points)

    for an equal ``rng_key``, up to float rounding, and **not** divided by the temperature. The
    arguments and errors are those of `mochi.mix_hard_negatives`; a query without any allowed row
    gets -inf. If ``cosines`` are those of the contrastive loss, with their gradient, both share one
    matrix product, forward and backward.
    """
    check_mixing(query, queue, cosines, allowed)
    check_rng_key(rng_key)
    positions = row_positions(positions, query)
    query, queue = mixing_rows(query, queue.detach(), rows)
    given = cosines
    if cosines is None:
        cosines = cosines_of(query, queue)
    cosines = mask_disallowed(in_float32(cosines), allowed)
    pool = hardest(cosines, n_hard)
    check_cosines(query, queue, given, pool)
    key = derive_key(rng_key, MIXING)
    draws = draw_mixing(key, positions, pool.sizes, s=s, s_prime=s_prime, beta_max=beta_max)
    return logits_from_draws(query, queue, cosines, pool, draws, detach_query=detach_query)


def logits_from_draws(
    query: Tensor,
    queue: Tensor,
    cosines: Tensor,
    pool: HardPool,
    draws: MixingDraws,
    *,
    detach_query: bool = True,
) -> Tensor:
    """Return the dot products (B, s + s') of the points of given draws; see `mixed_logits`.

    ``query`` (B, D) and ``queue`` (K, D) must be unit rows, which is not checked here, and
    ``cosines`` (B, K) their products.
    """
    check_draws(query, queue, pool, draws, cosines)
    s, s_prime = draws.alpha.shape[1], draws.beta.shape[1]
    no_pool = (pool.sizes == 0)[:, None]
    rows = pool.rows.gather(1, torch.cat([draws.first, draws.second, draws.parent], dim=1))
    # One gather, hence one scatter in backward. A masked parent's -inf would become NaN.
    parents = cosines.gather(1, rows).masked_fill(no_pool, 0.0)
    first, second, parent = torch.split(parents, [s, s, s_prime], dim=1)
    alpha, beta = draws.alpha.to(cosines.dtype), draws.beta.to(cosines.dtype)

    pairs = torch.lerp(second, first, alpha) / _pair_norms(queue, pool, draws)

    other = query.detach() if detach_query else query
    itself = (query * other).sum(dim=1, keepdim=True)
    square = other.square().sum(dim=1, keepdim=True)
    overlap = parent.detach() if detach_query else parent
    squared_norm = beta**2 * square + (1 - beta) ** 2 + 2 * beta * (1 - beta) * overlap
    # The floor is that of torch.nn.functional.normalize: opposites give zero, not NaN.
    queries = (beta * itself + (1 - beta) * parent) / squared_norm.clamp(min=1e-24).sqrt()

    return torch.cat([pairs, queries], dim=1).masked_fill(no_pool, -math.inf)


@torch.no_grad()
def _pair_norms(queue: Tensor, pool: HardPool, draws: MixingDraws) -> Tensor:
    """Return |alpha n_i + (1 - alpha) n_j| as (B, s), a chunk of combinations at a time."""
    rows, shares = pair_rows_and_shares(pool, draws, queue.dtype)
    chunk = _CHUNK_CPU if queue.device.type == "cpu" else _CHUNK_GPU
    norms = [
        torch.linalg.vector_norm(combine_pairs(queue, *part), dim=1)
        for part in zip(torch.split(rows, chunk), torch.split(shares, chunk), strict=True)
    ]
    return torch.cat(norms).view(draws.alpha.shape).clamp(min=1e-12)
