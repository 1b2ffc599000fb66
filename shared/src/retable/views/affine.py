"""Affine transforms of 8-bit images, each sample with its own matrix, as Pillow makes them.

Not ``grid_sample``: Pillow's border is the fill colour outside the image and repeated pixels inside
(no blend of the two), and its bicubic filter is Keys' with a = -1 where torch's has -0.75.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def transform(levels: Tensor, matrices: Tensor, fill: Sequence[float], *, bicubic: bool) -> Tensor:
    """Fetch every pixel (x, y) from (a x + b y + c, d x + e y + f), pixel centres at halves.

    Args:
        levels: (3, B, S, S) float32, whole numbers from 0 to 255.
        matrices: (B, 6) float64, (a, b, c, d, e, f).
        fill: three levels, one for each channel, for what lies outside the image.
        bicubic: interpolate over 4 x 4 pixels rather than 2 x 2.

    Returns:
        Whole levels (3, B, S, S), rounded down.

    >>> levels = torch.arange(3.0).expand(3, 1, 3, 3)
    >>> left_by_one = torch.tensor([[1.0, 0.0, 1.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    >>> transform(levels, left_by_one, (9.0, 9.0, 9.0), bicubic=False)[0, 0, 0]
    tensor([1., 2., 9.])
    """
    size = levels.shape[-1]
    # In double precision like Pillow, because many results are whole numbers but for rounding (at
    # the usual shear of 0.3 a twentieth of a difference is a frequent part), and then are cut.
    centers = torch.arange(size, dtype=torch.float64, device=levels.device) + 0.5
    a, b, c, d, e, f = matrices[:, :, None, None].unbind(dim=1)
    x = a * centers + b * centers[:, None] + c  # (B, S, S)
    y = d * centers + e * centers[:, None] + f
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    x, y = x - 0.5, y - 0.5
    left, top = x.floor(), y.floor()
    pixels = levels.flatten(2)
    columns = _neighbours(left, size, bicubic)
    rows = []
    for row in _neighbours(top, size, bicubic):
        places = [(row * size + column).flatten(1).expand(3, -1, -1) for column in columns]
        row_of_taps = [pixels.gather(2, place).view_as(levels) for place in places]
        rows.append(_interpolate(row_of_taps, x - left))
    moved = _interpolate(rows, y - top).clamp_(0, 255).floor_().to(levels.dtype)
    for plane, level in zip(moved, fill, strict=True):
        plane.masked_fill_(~inside, level)
    return moved


def _neighbours(first: Tensor, size: int, bicubic: bool) -> list[Tensor]:
    """Return the pixels that are interpolated between, int64, the border's repeated."""
    shifts = range(-1, 3) if bicubic else range(2)
    return [(first + shift).clamp(0, size - 1).long() for shift in shifts]


def _interpolate(taps: list[Tensor], part: Tensor) -> Tensor:
    """Interpolate ``part`` of the way between the two middle taps.

    As polynomials in the differences, which are exactly 0 where the image is flat: sums of weights
    that are 1 to rounding only would lose a level there.
    """
    if len(taps) == 2:
        first, second = taps
        return first + part * (second - first)
    before, first, second, after = taps
    square = 2 * (before - first) + second - after
    cube = first - before + after - second
    return first + part * (second - before + part * (square + part * cube))
