"""Masks that a detector finds inside boxes, in the pixels of an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLES = 2**24
"""Pixels of all masks that are sampled at once, 64 MiB in float32."""


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return masks (n, M, M), probabilities over boxes (n, 4), as bool (n, H, W) of an image.

    A mask spans its box, edge to edge. A pixel belongs to it where the mask, interpolated at the
    pixel's centre, is at least 0.5; outside the box it is 0 (Detectron2's
    ``paste_masks_in_image``).
    """
    height, width = size
    found = torch.zeros(len(masks), height, width, dtype=torch.bool, device=masks.device)
    count = max(1, SAMPLES // (height * width))
    for first in range(0, len(masks), count):
        rows = slice(first, first + count)
        y = _places(boxes[rows, 1], boxes[rows, 3], height)
        x = _places(boxes[rows, 0], boxes[rows, 2], width)
        grid = torch.stack(
            [x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=-1
        )
        values = F.grid_sample(masks[rows, None].to(grid.dtype), grid, align_corners=False)
        found[rows] = values[:, 0] >= 0.5
    return found


def _places(low: Tensor, high: Tensor, count: int) -> Tensor:
    """Return where the centres of ``count`` pixels lie between -1 at low and 1 at high: (n, c)."""
    centres = torch.arange(count, device=low.device, dtype=low.dtype) + 0.5
    extent = (high - low).clamp(min=torch.finfo(low.dtype).eps)
    return (centres - low[:, None]) / extent[:, None] * 2 - 1
