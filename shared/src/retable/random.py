"""Randomness as a function: every draw is a hash of (seed, purpose, counters).

There is no generator state to carry. The same key and counter give the same draw on any device, in
any worker and on any number of processes, so that data order, augmentation and mixing survive
resuming and re-sharding without bookkeeping. A batch that is split over processes draws with the
global positions of its samples as counters and thereby gets its slice of the global draw.

The hash is the finaliser of SplitMix64 (Steele, Lea, Flood, 2014), applied twice: once to the
counter, once to the sum of that and the key.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def derive_key(seed: int, *purpose: str | int) -> int:
    """Derive the 64-bit key of one purpose, for instance ``derive_key(seed, "views", epoch)``.

    Returns a signed 64-bit integer, the same on every machine.

    >>> derive_key(0, "views", 3) == derive_key(0, "views", 3)
    True
    >>> derive_key(0, "views", 3) == derive_key(0, "views", 4)
    False
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *purpose))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _shift_right(x: Tensor, n: int) -> Tensor:
    """Shift int64 logically: torch's own shift keeps the sign."""
    return (x >> n) & ((1 << (64 - n)) - 1)


def _finalise(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def bits(key: int, counters: Tensor) -> Tensor:
    """Hash int64 ``counters`` of any shape to int64 of the same shape, all 64 bits random."""
    return _finalise(_finalise(counters * _GOLDEN) + key)


def uniform(key: int, counters: Tensor) -> Tensor:
    """Draw float32 from the open interval (0, 1), one for each counter.

    >>> uniform(derive_key(0, "example"), torch.arange(6).view(2, 3)).shape
    torch.Size([2, 3])
    """
    # 23 bits and a half step keep out both ends: 1 - 2**-24 is a float32.
    return (_shift_right(bits(key, counters), 41).float() + 0.5) * 2.0**-23


def integers(key: int, counters: Tensor, high: int | Tensor) -> Tensor:
    """Draw int64 uniformly from [0, high), one for each counter; ``high`` below 2**31, broadcast.

    >>> sorted(set(integers(0, torch.arange(100), 3).tolist()))
    [0, 1, 2]
    """
    return (_shift_right(bits(key, counters), 32) * high) >> 32


def normal(key: int, counters: Tensor) -> Tensor:
    """Draw float32 from the standard normal distribution (Box-Muller), one for each counter."""
    word = bits(key, counters)
    radius = ((_shift_right(word, 32).double() + 0.5) * 2.0**-32).log_().mul_(-2).sqrt_()
    angle = (word & 0xFFFFFFFF).double() * (2 * torch.pi * 2.0**-32)
    return (radius * angle.cos_()).float()


def beta(key: int, counters: Tensor, a: float, b: float) -> Tensor:
    """Draw float32 from Beta(a, b), one for each counter, by the inverse distribution function.

    See `beta_quantile` for its accuracy; ``a`` and ``b`` at least 0.5.

    >>> draws = beta(derive_key(0, "example"), torch.arange(1000), 2.0, 2.0)
    >>> bool((draws > 0).all()), bool((draws < 1).all())
    (True, True)
    """
    return beta_quantile(uniform(key, counters), a, b)


def beta_quantile(shares: Tensor, a: float, b: float) -> Tensor:
    """Return the values below which given shares of Beta(a, b) lie, float32 of the same shape.

    Interpolated in a table of the angle whose squared sine is the value, where the density is
    smooth up to both ends. The distribution of the result is off by at most one cell of the table,
    1.3e-4, and only inside its first and last cell.

    Args:
        shares: any shape, float32 in (0, 1).
        a: first shape parameter, at least 0.5.
        b: second shape parameter, at least 0.5.

    Raises:
        ValueError: a parameter below 0.5, where the table would be coarse.

    >>> beta_quantile(torch.tensor([0.25, 0.5]), 1.0, 1.0)  # the uniform distribution
    tensor([0.2500, 0.5000])
    """
    if min(a, b) < 0.5:
        raise ValueError(f"Beta({a:g}, {b:g}): expected both parameters to be at least 0.5")
    table = _beta_angles(float(a), float(b), shares.device)
    place = shares * (len(table) - 1)
    below = place.long()
    low = table[below]
    angle = torch.lerp(low, table[below + 1], place - below)
    # An angle that rounds to a right one would be a draw of exactly 1.
    return angle.sin().square_().clamp_(1e-9, 1 - 2.0**-24)


_ANGLES = 1 << 13


@functools.lru_cache(maxsize=16)
def _beta_angles(a: float, b: float, device: torch.device) -> Tensor:
    """Return the angles (8193,), float32, below which equal shares of Beta(a, b) lie.

    With x = sin(t)^2, Beta's density is 2 sin(t)^(2a-1) cos(t)^(2b-1) dt up to a constant.
    """
    nodes = torch.linspace(0, torch.pi / 2, (1 << 17) + 1, dtype=torch.float64)
    density = nodes.sin().pow(2 * a - 1) * nodes.cos().clamp(min=0).pow(2 * b - 1)
    shares = torch.cumulative_trapezoid(density, nodes)
    shares = torch.cat([shares.new_zeros(1), shares]) / shares[-1]
    wanted = torch.linspace(0, 1, _ANGLES + 1, dtype=torch.float64)
    above = torch.searchsorted(shares, wanted).clamp(1, len(shares) - 1)
    rise = shares[above] - shares[above - 1]
    part = ((wanted - shares[above - 1]) / rise.clamp(min=1e-300)).clamp(0, 1)
    angles = nodes[above - 1] + part * (nodes[above] - nodes[above - 1])
    return angles.float().to(device)


def permutation(key: int, n: int, device: torch.device | str = "cpu") -> Tensor:
    """Return a random permutation of range(n), int64 of shape (n,); equal on every device.

    >>> sorted(permutation(0, 5).tolist())
    [0, 1, 2, 3, 4]
    """
    return torch.argsort(bits(key, torch.arange(n, device=device)), stable=True)


def generator(key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh torch generator for the draws that torch makes itself."""
    return torch.Generator(device).manual_seed(key & (2**63 - 1))


@contextmanager
def initialising(key: int) -> Iterator[None]:
    """Let torch's own initialisers draw from ``key`` inside the block, global state restored after.

    >>> with initialising(1):
    ...     a = torch.nn.Linear(2, 2).weight
    >>> with initialising(1):
    ...     b = torch.nn.Linear(2, 2).weight
    >>> torch.equal(a, b)
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key & (2**63 - 1))
        yield
