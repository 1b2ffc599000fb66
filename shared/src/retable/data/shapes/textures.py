"""Textures of the shapes data set: patterns in [0, 1] on any coordinates, one kind for each image.

Only additions, products, quotients, floors and comparisons of float32 are used, which IEEE 754
rounds in one way, so that a pattern has the same bits on every machine and in every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from retable.random import uniform

LATTICE = 24
"""Side of the periodic lattice of random values under a noise texture."""


def bilinear(tables: Tensor, which: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Read ``tables`` (T, H, W) at fractional positions, interpolating linearly; edges extend.

    ``which`` (n,) names each image's table; ``rows`` and ``columns`` are (n, P) in cells.
    """
    _, height, width = tables.shape
    rows = rows.clamp(0, height - 1)
    columns = columns.clamp(0, width - 1)
    top = rows.floor().clamp_(max=height - 2)
    left = columns.floor().clamp_(max=width - 2)
    down, right = rows - top, columns - left
    corner = (top * width + left).long() + which[:, None] * (height * width)
    values = tables.reshape(-1)
    a, b = values[corner], values[corner + 1]
    upper = a + (b - a) * right
    a, b = values[corner + width], values[corner + (width + 1)]
    lower = a + (b - a) * right
    return upper + (lower - upper) * down


def _wave(x: Tensor) -> Tensor:
    """Return the triangle wave of period 1: 0 at whole numbers, 1 half way between."""
    return 1 - (2 * (x - x.floor()) - 1).abs()


def _edge(x: Tensor, softness: float) -> Tensor:
    """Turn a wave into bands with ramps ``softness`` wide around the value 1/2."""
    return ((x - 0.5) / softness + 0.5).clamp(0, 1)


def stripes(u: Tensor, v: Tensor, period: float) -> Tensor:
    """Return parallel stripes; ``period`` is a share of the image side, as in all patterns."""
    return _edge(_wave(u / period), 0.5)


def shading(u: Tensor, v: Tensor, period: float) -> Tensor:
    """Return a brightness that rises and falls evenly, a slope where the period is long."""
    return _wave(u / period)


def checks(u: Tensor, v: Tensor, period: float) -> Tensor:
    """Return a chessboard with two cells a period."""
    a = 2 * _edge(_wave(u / period), 0.5) - 1
    b = 2 * _edge(_wave(v / period), 0.5) - 1
    return (a * b + 1) / 2


def dots(u: Tensor, v: Tensor, period: float) -> Tensor:
    """Return round dots on a square lattice."""
    a, b = 1 - _wave(u / period), 1 - _wave(v / period)
    return ((0.55 - (a * a + b * b)) / 0.5 + 0.5).clamp(0, 1)


def net(u: Tensor, v: Tensor, period: float) -> Tensor:
    """Return thin lines that cross at right angles."""
    crossing = torch.maximum(_wave(u / period), _wave(v / period))
    return ((crossing - 0.72) / 0.35 + 0.5).clamp(0, 1)


def clouds(u: Tensor, v: Tensor, lattices: Tensor, cell: float) -> Tensor:
    """Return value noise: random lattice values ``cell`` apart, interpolated linearly."""
    n = lattices.shape[0]
    # Coordinates lie in about [-1, 2]; the lattice repeats (its last row equals its first).
    rows, columns = (x / (cell * LATTICE) for x in (u, v))
    rows, columns = ((x - x.floor()) * LATTICE for x in (rows, columns))
    value = bilinear(lattices, torch.arange(n, device=u.device), rows, columns)
    return ((value - 0.5) * 1.8 + 0.5).clamp(0, 1)


def lattices(rng_key: int, indices: Tensor) -> Tensor:
    """Draw each image's lattice of uniform values, (n, LATTICE + 1, LATTICE + 1), periodic."""
    cells = torch.arange(LATTICE * LATTICE, device=indices.device)
    values = uniform(rng_key, indices[:, None] * (LATTICE * LATTICE) + cells)
    values = values.view(-1, LATTICE, LATTICE)
    values = torch.cat([values, values[:, :1]], 1)
    return torch.cat([values, values[:, :, :1]], 2)


Pattern = Callable[..., Tensor]
Texture = tuple[Pattern | None, bool]
"""A pattern (None: constant) and whether it reads a noise lattice as its third argument."""

FOREGROUND: dict[str, Texture] = {
    "plain": (None, False),
    "fine stripes": (partial(stripes, period=0.12), False),
    "wide stripes": (partial(stripes, period=0.26), False),
    "checks": (partial(checks, period=0.25), False),
    "dots": (partial(dots, period=0.17), False),
    "net": (partial(net, period=0.22), False),
    "grain": (partial(clouds, cell=0.05), True),
    "clouds": (partial(clouds, cell=0.15), True),
}
"""The textures of the object, in the order of the factor "texture"."""

BACKGROUND: dict[str, Texture] = {
    "plain": (None, False),
    "shading": (partial(shading, period=2.0), False),
    "haze": (partial(clouds, cell=0.25), True),
    "waves": (partial(stripes, period=0.4), False),
}
"""The textures of the background; every one has a random direction, so none reveals the pose."""


def paint(
    textures: Sequence[Texture],
    kinds: Tensor,
    u: Tensor,
    v: Tensor,
    indices: Tensor,
    rng_key: int,
) -> Tensor:
    """Return each image's pattern, float32 (n, P), at coordinates ``u`` and ``v`` (n, P).

    ``kinds`` (n,) names each image's entry of ``textures``; ``indices`` and ``rng_key`` fix the
    noise.
    """
    out = torch.zeros_like(u)
    for kind, (pattern, noisy) in enumerate(textures):
        members = (kinds == kind).nonzero()[:, 0]
        if pattern is None or len(members) == 0:
            continue
        arguments = [u[members], v[members]]
        if noisy:
            arguments.append(lattices(rng_key, indices[members]))
        out[members] = pattern(*arguments)
    return out
