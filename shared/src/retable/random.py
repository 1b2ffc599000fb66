"""Randomness as a function: every draw is a hash of (seed, purpose, counters).

There is no generator state. The same key and counter give the same draw on any device, in any
worker and on any number of processes, so that a run can be resumed or split differently without
bookkeeping. A batch that is split over processes uses the global positions of its samples as
counters.

Every public function of Retable and its packages that draws takes the same two arguments:

- ``rng_key``, an integer: the random key of one step and purpose, equal on all processes. It must
  change with every step: the number of the step will do, or ``derive_key(seed, "views", step)``.
  Two functions that draw in one step take two keys, derived for different purposes. A module takes
  one to draw its first weights.
- ``positions`` (B,), int64: places of the rows in the global batch, 0 to B - 1 if None. A process
  passes those of its own rows.

No function draws from torch's global generator. Functions that apply draws, such as weights or
permutations, take them as tensors, from any source.

The hash is the finaliser of SplitMix64 (Steele, Lea, Flood, 2014), applied twice: once to the
counter, once to the sum of that and the key.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def derive_key(seed: int, *purpose: str | int) -> int:
    """Derive the 64-bit key of one purpose, for instance ``derive_key(seed, "views", epoch)``.

    Returns a signed 64-bit integer, the same on every machine.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *purpose))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _shift_right(x: Tensor, n: int) -> Tensor:
    """Shift int64 logically; torch's own shift keeps the sign."""
    return (x >> n) & ((1 << (64 - n)) - 1)


def _finalise(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def bits(rng_key: int, counters: Tensor) -> Tensor:
    """Hash int64 ``counters`` of any shape to int64 of the same shape, all 64 bits random."""
    return _finalise(_finalise(counters * _GOLDEN) + rng_key)


def uniform(rng_key: int, counters: Tensor) -> Tensor:
    """Draw float32 from the open interval (0, 1), one for each counter, of the counters' shape."""
    # 23 bits and a half step exclude both ends: 1 - 2**-24 is a float32.
    return (_shift_right(bits(rng_key, counters), 41).float() + 0.5) * 2.0**-23


def integers(rng_key: int, counters: Tensor, high: int | Tensor) -> Tensor:
    """Draw int64 from [0, high), one for each counter; ``high`` is broadcast, below 2**31."""
    return (_shift_right(bits(rng_key, counters), 32) * high) >> 32


def _draw_in_chunks(draw: Callable[[Tensor], Tensor], counters: Tensor) -> Tensor:
    """Return float32 draws, one for each counter; on a CPU, chunk by chunk.

    Intermediate results then stay in the cache; new memory for all of them would cost several times
    as much as the arithmetic.
    """
    if counters.device.type != "cpu" or counters.numel() <= _COUNTERS_IN_CACHE:
        return draw(counters)
    drawn = torch.empty(counters.shape)
    pieces = (torch.split(x.reshape(-1), _COUNTERS_IN_CACHE) for x in (counters, drawn))
    for piece, place in zip(*pieces, strict=True):
        place.copy_(draw(piece))
    return drawn


_COUNTERS_IN_CACHE = 1 << 16  # 512 KiB


def normal(rng_key: int, counters: Tensor) -> Tensor:
    """Draw float32 from the standard normal distribution (Box-Muller), one for each counter.

    A ``TorchFunctionMode`` may replace the draw, as it may replace those of `torch.nn.init`.
    """
    if has_torch_function_unary(counters):
        return handle_torch_function(normal, (counters,), rng_key, counters)
    return _draw_in_chunks(lambda piece: _box_muller(bits(rng_key, piece)), counters)


def _box_muller(word: Tensor) -> Tensor:
    radius = ((_shift_right(word, 32).double() + 0.5) * 2.0**-32).log_().mul_(-2).sqrt_()
    angle = (word & 0xFFFFFFFF).double() * (2 * torch.pi * 2.0**-32)
    return (radius * angle.cos_()).float()


BETA_PARAMETERS = (0.1, 100.0)
"""Range of a and b for which Beta(a, b) can be drawn; float32 is too coarse for smaller ones."""


def beta(rng_key: int, counters: Tensor, a: float, b: float) -> Tensor:
    """Draw float32 from Beta(a, b), one for each counter, by the inverse distribution function.

    `beta_quantile` documents its accuracy and the range of ``a`` and ``b``.
    """
    return _draw_in_chunks(lambda piece: beta_quantile(uniform(rng_key, piece), a, b), counters)


def beta_quantile(shares: Tensor, a: float, b: float) -> Tensor:
    """Return the quantiles of Beta(a, b) at probabilities in (0, 1), float32 of the same shape.

    Interpolated in a table of the angle whose squared sine is the value; as a function of the angle
    the density is smooth up to both ends. The error of the distribution function is at most 2e-4,
    at its ends. Values that float32 would round to 1 become the largest float32 below 1.
    """
    smallest, largest = BETA_PARAMETERS
    if not all(smallest <= parameter <= largest for parameter in (a, b)):
        raise ValueError(
            f"`a` and `b` of Beta(a, b) must be in [{smallest:g}, {largest:g}], got ({a:g}, {b:g})"
        )
    table = _beta_angles(float(a), float(b), shares.device)
    place = shares * (len(table) - 1)
    below = place.long()
    low = table.take(below)  # table[below] would wait for the device if below has one element
    angle = torch.lerp(low, table.take(below + 1), place - below)
    tiny = torch.finfo(torch.float32).tiny
    return angle.sin().square_().clamp_(tiny, 1 - 2.0**-24)


_ANGLES = 1 << 13


@functools.lru_cache(maxsize=16)
def _beta_angles(a: float, b: float, device: torch.device) -> Tensor:
    """Return the angles (8193,), float32, that divide Beta(a, b) into equal shares."""
    angles, shares = _lower_half(a, b)
    # The upper half is the lower one of Beta(b, a), read from the other end.
    angles_above, shares_above = _lower_half(b, a)
    total = shares[-1] + shares_above[-1]
    angles = torch.cat([angles, torch.pi / 2 - angles_above.flip(0)])
    shares = torch.cat([shares, total - shares_above.flip(0)]) / total
    wanted = torch.linspace(0, 1, _ANGLES + 1, dtype=torch.float64)
    above = torch.searchsorted(shares, wanted).clamp(1, len(shares) - 1)
    rise = shares[above] - shares[above - 1]
    part = ((wanted - shares[above - 1]) / rise.clamp(min=1e-300)).clamp(0, 1)
    table = angles[above - 1] + part * (angles[above] - angles[above - 1])
    return table.float().to(device)


def _lower_half(a: float, b: float) -> tuple[Tensor, Tensor]:
    """Return angles from 0 to pi / 4 and the integrals of x^(a-1) (1-x)^(b-1) up to them.

    Integrated over a power of x, so that the integrand has no pole at 0: over the square root,
    which keeps everything else smooth, or over x^a where a is below 1/2.
    """
    power = min(a, 0.5)
    nodes = torch.linspace(0, 0.5**power, (1 << 16) + 1, dtype=torch.float64)
    x = nodes ** (1 / power)
    integrals = torch.cumulative_trapezoid(x ** (a - power) * (1 - x) ** (b - 1) / power, nodes)
    return x.sqrt().asin(), torch.cat([integrals.new_zeros(1), integrals])


def permutation(
    rng_key: int, n: int, device: torch.device | str = "cpu", number: int | Tensor = 0
) -> Tensor:
    """Return a random permutation of range(n), int64 of shape (n,); equal on every device.

    Different values of ``number`` give independent permutations; the host does not read a 0-dim
    tensor.
    """
    return torch.argsort(bits(rng_key, number * n + torch.arange(n, device=device)), stable=True)


def dropout(rows: Tensor, rate: float, rng_key: int, numbers: Tensor) -> Tensor:
    """Set units to zero at random and scale the others so that the means stay the same.

    A batch that is split over processes drops the same units as the whole batch.

    Args:
        rows: (n, D).
        rate: probability that a unit is dropped, in [0, 1), rounded to a multiple of 2^-16.
        rng_key: key of the draws, equal on all processes.
        numbers: (n,) int64, index of each row among the rows of all processes.
    """
    words = -(-rows.shape[1] // 4)
    counters = numbers[:, None] * words + torch.arange(words, device=rows.device)
    # One hash of 64 bits decides on four units: a number from -2^15 to 2^15 - 1 for each.
    draws = bits(rng_key, counters).view(torch.int16)[:, : rows.shape[1]]
    kept = draws >= round(rate * 2**16) - 2**15
    return torch.where(kept, rows, 0.0) * (1 / (1 - rate))


def generator(rng_key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a new torch generator for draws that torch makes itself."""
    return torch.Generator(device).manual_seed(rng_key & (2**63 - 1))


@contextmanager
def initialising(rng_key: int) -> Iterator[None]:
    """Inside the block, let torch's initialisers draw from ``rng_key``.

    The state of torch's global generator is restored afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(rng_key & (2**63 - 1))
        yield
