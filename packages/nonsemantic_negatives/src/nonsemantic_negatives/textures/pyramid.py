"""Blurred copies of exemplars: reduced by a power of two and enlarged again, by Gaussians."""

from __future__ import annotations

import torch
from torch import Tensor


def pyramid(exemplars: Tensor, levels: int) -> list[Tensor]:
    """Return copies of exemplars uint8 (..., e, e), the most blurred first, themselves last.

    The copies are reduced to 1 / 2^(levels - 1), ..., 1 / 2 of their side, never to less than a
    pixel, and enlarged to it again. A small exemplar has fewer levels: floor(log2 e) + 1.
    """
    side = exemplars.shape[-1]
    levels = min(levels, side.bit_length())
    return [
        *(_blurred(exemplars, max(1, side // 2**level)) for level in range(levels - 1, 0, -1)),
        exemplars,
    ]


def _blurred(images: Tensor, side: int) -> Tensor:
    smaller = _resized(images, side)
    return _resized(smaller, images.shape[-1])


def _resized(images: Tensor, side: int) -> Tensor:
    weights = _resampling(images.shape[-1], side).to(images.device)
    resized = weights @ images.double() @ weights.T
    return resized.round().clamp(0, 255).to(torch.uint8)


def _resampling(before: int, after: int) -> Tensor:
    """Return the weights (after, before), float64, of a Gaussian filter of deviation 1/2.

    Widths are in pixels of the coarser of the two images, and the filter ends at 3 of these.
    """
    ratio = before / after
    width = max(1.0, ratio)
    centres = (torch.arange(after, dtype=torch.float64) + 0.5) * ratio
    pixels = torch.arange(before, dtype=torch.float64) + 0.5
    distances = (pixels - centres[:, None]) / width
    weights = torch.exp(-2 * distances.square()) * (distances.abs() <= 3)
    return weights / weights.sum(dim=1, keepdim=True)
