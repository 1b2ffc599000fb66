"""Operations on the levels of 8-bit images.

Levels are whole numbers from 0 to 255, held as float32 and with the channels apart, (3, B, S, S).
Every operation gives what Pillow gives, rounding included, and works on all samples at once, each
with its own strength.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def look_up(levels: Tensor, tables: Tensor) -> Tensor:
    """Replace every level by an entry of its sample's table: (B, 256), or (3, B, 256)."""
    entries = tables.to(levels.dtype).expand(len(levels), -1, -1)
    return entries.gather(2, levels.flatten(2).long()).view_as(levels)


def autocontrast(levels: Tensor, strength: Tensor) -> Tensor:
    """Stretch each channel to [0, 255], ``ImageOps.autocontrast``; strength (B,) 1 or 0.

    A channel of one level stays.
    """
    low, high = (bound[..., None].double() for bound in levels.flatten(2).aminmax(dim=2))
    places = torch.arange(256, device=levels.device)
    # In double precision and in this order: elsewhere 255 would become 254 here and there.
    scale = 255 / (high - low).clamp(min=1)
    table = (places * scale - low * scale).trunc().clamp(0, 255)
    return look_up(levels, _where(strength, high > low, table))


def equalize(levels: Tensor, strength: Tensor) -> Tensor:
    """Flatten each channel's histogram, ``ImageOps.equalize``; strength (B,) 1 or 0."""
    pixels = levels.flatten(2).long()
    counts = pixels.new_zeros(*levels.shape[:2], 256)
    counts.scatter_add_(2, pixels, torch.ones_like(pixels))
    of_highest = counts.gather(2, pixels.amax(dim=2, keepdim=True))
    step = (pixels.shape[2] - of_highest) // 255
    below = counts.cumsum(dim=2) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    return look_up(levels, _where(strength, step > 0, table))


def contrast(levels: Tensor, factor: Tensor) -> Tensor:
    """Blend with the rounded mean of the grey image, ``ImageEnhance.Contrast``; factor (B,)."""
    mean = _gray(levels).mean(dim=(1, 2), dtype=torch.float64).add_(0.5).floor_()
    return _blend(mean.to(levels.dtype)[:, None, None], levels, factor)


def color(levels: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey image, ``ImageEnhance.Color``; factor (B,)."""
    return _blend(_gray(levels), levels, factor)


def sharpness(levels: Tensor, factor: Tensor) -> Tensor:
    """Blend with the smoothed image, ``ImageEnhance.Sharpness``; factor (B,).

    Smoothed is a pixel's mean with its eight neighbours, itself weighing five times, and on the
    border the pixel itself.
    """
    rows = levels[:, :, :-2] + levels[:, :, 1:-1] + levels[:, :, 2:]
    sums = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * levels[:, :, 1:-1, 1:-1]
    smoothed = levels.clone()
    smoothed[:, :, 1:-1, 1:-1] = sums.div_(13).add_(0.5).floor_()
    return _blend(smoothed, levels, factor)


def _gray(levels: Tensor) -> Tensor:
    """(3, B, S, S) -> (B, S, S) with ITU-R 601-2 weights in 16 bits, exact in float32."""
    red, green, blue = levels.unbind()
    return (red * 19595 + green * 38470 + blue * 7471 + 32768).div_(65536).floor_()


def _blend(degenerate: Tensor, levels: Tensor, factor: Tensor) -> Tensor:
    """Move from the degenerate image to this one, and beyond it where the factor exceeds 1."""
    return (factor[:, None, None] * (levels - degenerate)).add_(degenerate).clamp_(0, 255).floor_()


def _where(strength: Tensor, holds: Tensor, table: Tensor) -> Tensor:
    """Return tables (3, B, 256) where the strength is 1 and the condition (3, B, 1) holds."""
    places = torch.arange(256, dtype=table.dtype, device=table.device)
    return torch.where((strength > 0)[:, None] & holds, table, places)


def affine(levels: Tensor, matrices: Tensor, fill: Sequence[float], *, bicubic: bool) -> Tensor:
    """Fetch every pixel (x, y) from (a x + b y + c, d x + e y + f), pixel centres at halves.

    Not ``grid_sample``: Pillow's border is the fill colour outside the image and repeated pixels
    inside (no blend of the two), and its bicubic filter is Keys' with a = -1 where torch's has
    -0.75. Levels (3, B, S, S) are rounded down. Matrices (B, 6) float64 are (a, b, c, d, e, f);
    ``fill`` has a level for each channel, for what lies outside the image.
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
