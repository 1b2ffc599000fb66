"""The nearest resolved pixels of each pixel that is resolved in random order."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Neighbours(NamedTuple):
    """Neighbours of the pixels of an order, padded to k.

    Attributes:
        pixels: (n, k) int64, by distance, equal distances by the order.
        counts: (n,) int64, how many there are.
        weights: (n, k) int64, 2^12 exp(-D / mean D) for squared distances D, rounded.
    """

    pixels: Tensor
    counts: Tensor
    weights: Tensor


def nearest_resolved(order: Tensor, size: int, count: int, done: int, stop: int) -> Neighbours:
    """Return the ``count`` nearest resolved pixels of the first ``stop`` pixels of an order.

    Of the pixels of the order (S * S,), the first ``done`` are resolved at the beginning and see
    all of these; each later one sees all before it.
    """
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    numbers = torch.arange(stop)
    limits = numbers.clamp(min=done)
    pixels = torch.zeros(stop, count, dtype=torch.int64)
    squares = torch.zeros(stop, count, dtype=torch.int64)
    waiting, radius = numbers, 2
    while len(waiting):
        waiting = _search(order, rank, size, limits, waiting, radius, pixels, squares)
        radius *= 2
    counts = limits.clamp(max=count)
    return Neighbours(pixels, counts, _weights(squares, counts))


def _search(
    order: Tensor,
    rank: Tensor,
    size: int,
    limits: Tensor,
    numbers: Tensor,
    radius: int,
    pixels: Tensor,
    squares: Tensor,
) -> Tensor:
    """Fill in the neighbours within ``radius``; return the numbers that need a larger one."""
    count = pixels.shape[1]
    offsets = torch.arange(-radius, radius + 1)
    down, across = (grid.flatten() for grid in torch.meshgrid(offsets, offsets, indexing="ij"))
    square = down.square() + across.square()
    # Only a disc is searched completely.
    within = square <= radius**2
    down, across, square = down[within], across[within], square[within]
    whole = radius >= math.hypot(size, size)
    left: list[Tensor] = []
    for part in torch.split(numbers, max(1, (1 << 22) // len(down))):
        target = order[part]
        rows = target[:, None] // size + down
        columns = target[:, None] % size + across
        place = (rows * size + columns).clamp(0, size**2 - 1)
        ranks = rank[place]
        seen = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
        seen &= ranks < limits[part][:, None]
        enough = seen.sum(dim=1) >= limits[part].clamp(max=count)
        if whole:
            enough[:] = True
        key = torch.where(seen, square * size**2 + ranks, torch.iinfo(torch.int64).max)
        chosen = key[enough].topk(min(count, key.shape[1]), largest=False, sorted=True)
        kept = part[enough]
        found = place[enough].gather(1, chosen.indices)
        width = found.shape[1]
        valid = chosen.values < torch.iinfo(torch.int64).max
        pixels[kept, :width] = torch.where(valid, found, 0)
        squares[kept, :width] = torch.where(valid, square[chosen.indices], 0)
        left.append(part[~enough])
    return torch.cat(left)


def _weights(squares: Tensor, counts: Tensor) -> Tensor:
    """Return the weights of neighbours at squared distances (n, k), 0 for the padding."""
    real = torch.arange(squares.shape[1]) < counts[:, None]
    mean = squares.sum(dim=1).double() / counts.clamp(min=1)
    scaled = squares / mean.clamp(min=1e-9)[:, None]
    return torch.where(real, (2**12 * torch.exp(-scaled)).round().to(torch.int64), 0)
