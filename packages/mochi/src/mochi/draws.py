"""Random draws of MoCHi: the members of a pool that are mixed, and their proportions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from retable import random

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


def draw_from_generator(
    generator: torch.Generator | None,
    sizes: Tensor,
    *,
    s: int,
    s_prime: int,
    beta_max: float = 0.5,
) -> MixingDraws:
    """Draw from a torch generator (torch's global one if None), for any training loop.

    Args:
        generator: source of the draws; may be on another device than ``sizes``.
        sizes: (B,) int64 sizes of the pools.
        s: points mixed from pairs, for each query.
        s_prime: points mixed from query and negative, for each query.
        beta_max: upper bound of the query's share; 0.5 keeps it the smaller one (section 3.3).
    """
    device = sizes.device if generator is None else generator.device
    words = torch.empty(len(sizes), s + s_prime, dtype=torch.int64, device=device)
    words.random_(-(2**63), None, generator=generator)
    return _unpack(words.to(sizes.device), sizes, s, beta_max)


def draw_from_key(
    rng_key: int,
    positions: Tensor,
    sizes: Tensor,
    *,
    s: int,
    s_prime: int,
    beta_max: float = 0.5,
) -> MixingDraws:
    """Draw as a function of a key and of each query's position in the global batch.

    A batch that is split over processes thereby draws the same as the whole batch. ``rng_key`` is
    that of the step, equal on all processes; ``positions`` are (B,) int64; the other arguments are
    those of `draw_from_generator`.
    """
    points = s + s_prime
    counters = positions[:, None] * points + torch.arange(points, device=positions.device)
    return _unpack(random.bits(rng_key, counters), sizes, s, beta_max)


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
