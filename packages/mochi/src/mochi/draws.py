"""Random draws of MoCHi: the members of a pool that are mixed, and their proportions.

`retable.random` explains ``rng_key`` and ``positions``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from retable import random
from retable.errors import UserError
from retable.nn.checks import Shaped, check_rng_key, check_shapes

_POSITION_BITS = 24


class MixingDraws(NamedTuple):
    """The draws for B queries, s pair-mixed and s' query-mixed points each.

    All are independent between queries and between points; positions are drawn with replacement
    over points, so s and s' may exceed the pool.

    Attributes:
        first: (B, s) int64 positions in the query's pool.
        second: (B, s) int64, each different from ``first`` unless the pool has one member.
        alpha: (B, s) share of ``first``, uniform on (0, 1).
        parent: (B, s') int64 positions in the query's pool.
        beta: (B, s') share of the query, uniform on (0, beta_max).
    """

    first: Tensor
    second: Tensor
    alpha: Tensor
    parent: Tensor
    beta: Tensor


def draw_mixing(
    rng_key: int,
    positions: Tensor,
    sizes: Tensor,
    *,
    s: int,
    s_prime: int,
    beta_max: float = 0.5,
) -> MixingDraws:
    """Draw as a function of a key and of each query's position in the global batch.

    Args:
        rng_key: random key of the step, equal on all processes.
        positions: (B,) int64 positions of the queries in the global batch.
        sizes: (B,) int64 sizes of the pools, below 2^24.
        s: points mixed from pairs, for each query.
        s_prime: points mixed from query and negative, for each query.
        beta_max: upper bound of the query's share; 0.5 keeps it the smaller one (section 3.3).
    """
    check_rng_key(rng_key)
    check_counts(s, s_prime, beta_max)
    check_shapes(
        Shaped("positions", positions, "B", kind="whole"), Shaped("sizes", sizes, "B", kind="whole")
    )
    points = s + s_prime
    counters = positions[:, None] * points + torch.arange(points, device=positions.device)
    return _unpack(random.bits(rng_key, counters), sizes, s, beta_max)


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


def _unpack(words: Tensor, sizes: Tensor, s: int, beta_max: float) -> MixingDraws:
    """Make the draws of one synthetic point from its 64 random bits.

    Two positions take 24 bits each, so that their probabilities have a relative error of at most
    N / 2**24, and the proportion takes the last 16.
    """
    pairs, queries = words[:, :s], words[:, s:]
    sizes = sizes[:, None]
    others = (sizes - 1).clamp(min=1)
    first = _position(pairs, 40, sizes)
    # A step of 1 to size - 1 around the pool reaches every other member equally often.
    second = (first + 1 + _position(pairs, 16, others)) % sizes.clamp(min=1)
    return MixingDraws(
        first=first,
        second=second,
        alpha=_fraction(pairs),
        parent=_position(queries, 40, sizes),
        beta=_fraction(queries) * beta_max,
    )


def _position(words: Tensor, shift: int, high: Tensor) -> Tensor:
    """Draw from [0, high) with 24 of the bits."""
    mask = (1 << _POSITION_BITS) - 1
    return (((words >> shift) & mask) * high) >> _POSITION_BITS


def _fraction(words: Tensor) -> Tensor:
    """Draw from the open interval (0, 1) with the lowest 16 bits."""
    return ((words & 0xFFFF).float() + 0.5) * 2.0**-16
