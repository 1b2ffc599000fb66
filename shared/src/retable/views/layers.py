"""Further layers of an image, cut with the parameters that its view was cut with."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from retable.views.sampling import ViewParameters, to_device


def cut_maps(maps: Tensor, parameters: ViewParameters, size: int) -> Tensor:
    """Cut, resize by nearest neighbour and flip maps of the images' own height and width.

    A view's pixel takes the value of the pixel that its centre falls on. Maps are (B, C, H, W) of
    any type, on any device; the result is (B, C, S, S) for views of ``size`` S.
    """
    count, channels, _, width = maps.shape
    forward = torch.arange(size)
    sideways = torch.where(parameters.flip[:, None], forward.flip(0), forward)
    rows, columns = (
        parameters.crops[:, axis, None]
        + (2 * (parameters.window[:, axis, None] + place) + 1)
        * parameters.crops[:, axis + 2, None]
        // (2 * parameters.resized[:, axis, None])
        for axis, place in ((0, forward), (1, sideways))
    )
    pixels = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    pixels = to_device(pixels, maps.device)[:, None].expand(-1, channels, -1)
    return maps.flatten(2).gather(2, pixels).view(count, channels, size, size)


def companion_parameters(
    parameters: ViewParameters, sides: Tensor, companion_sides: Tensor
) -> ViewParameters:
    """Return the parameters that cut companion images of other sizes at the same fractions.

    The edges of the crops are rounded to whole pixels. ``sides`` are height and width of the
    images, (B, 2) or (2,) int64, ``companion_sides`` those of their companions.
    """
    start = parameters.crops[:, :2]
    first, last = (
        (2 * edge * companion_sides + sides) // (2 * sides)
        for edge in (start, start + parameters.crops[:, 2:])
    )
    first = first.minimum(companion_sides - 1)
    extent = (last - first).clamp(min=1)
    return replace(parameters, crops=torch.cat([first, extent], dim=1))


def cut_boxes(boxes: Tensor, parameters: ViewParameters, size: int) -> Tensor:
    """Move boxes into their images' views and clip them.

    Boxes are (B, N, 4 + K) float32: left, top, right, bottom in pixels of the image, and K further
    columns. Rows of zeros pad. The result is (B, N, 5 + K) float32 in the same order: left, top,
    right, bottom in pixels of the view, the share of the box's area that the view shows (0 for
    padding), the further columns.
    """
    ratio = parameters.resized / parameters.crops[:, 2:]
    offset = parameters.crops[:, :2] * ratio + parameters.window
    # Rows and columns become x and y.
    scale, shift = (pair.flip(1)[:, None] for pair in (ratio, offset))
    low, high = boxes[..., :2] * scale - shift, boxes[..., 2:4] * scale - shift
    area = (high - low).prod(dim=2)
    flip = parameters.flip[:, None]
    left = torch.where(flip, size - high[..., 0], low[..., 0])
    right = torch.where(flip, size - low[..., 0], high[..., 0])
    edges = torch.stack([left, low[..., 1], right, high[..., 1]], dim=2).clamp_(0, size)
    shown = (edges[..., 2:] - edges[..., :2]).prod(dim=2)
    share = torch.where(area > 0, shown / area, 0.0)
    edges = torch.where((area > 0)[..., None], edges, 0.0)
    return torch.cat([edges, share[..., None], boxes[..., 4:]], dim=2)
