"""Randomness as a function: every draw is a hash of (seed, purpose, counters).

There is no generator state to carry. The same key and counter give the same draw on any device, in
any worker and on any number of processes, so that data order, augmentation and mixing survive
resuming and re-sharding without bookkeeping. A batch that is split over processes draws with the
global positions of its samples as counters and thereby gets its slice of the global draw.

The hash is the finaliser of SplitMix64 (Steele, Lea, Flood, 2014), applied twice: once to the
counter, once to the sum of that and the key.
"""

from __future__ import annotations

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


def permutation(key: int, n: int) -> Tensor:
    """Return a random permutation of range(n), int64 of shape (n,), on the CPU.

    >>> sorted(permutation(0, 5).tolist())
    [0, 1, 2, 3, 4]
    """
    return torch.argsort(bits(key, torch.arange(n)), stable=True)


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
