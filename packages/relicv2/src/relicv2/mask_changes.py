"""Masks of other shapes in place of saliency masks (tables 19 and 20, section G.2).

They ask whether masks help because they follow objects. All are functions of masks (B, H, W) bool,
True in the foreground, and keep their device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from retable.errors import UserError
from retable.nn.checks import Shaped, check_rng_key, check_shapes, row_positions
from retable.random import derive_key, integers, uniform


def random_pixels(
    masks: Tensor, rng_key: int, positions: Tensor | None = None, *, area: float
) -> Tensor:
    """Return masks in which each pixel is foreground with probability ``area`` (table 19).

    ``positions`` (B,) int64 are the counters of the draws, for instance places in the data set; 0
    to B - 1 if None.
    """
    positions = _checked(masks, rng_key, positions, area)
    pixels = masks[0].numel()
    counters = positions[:, None] * pixels + torch.arange(pixels, device=masks.device)
    drawn = uniform(derive_key(rng_key, "pixels"), counters) < area
    return drawn.view(masks.shape)


def random_rectangles(
    masks: Tensor, rng_key: int, positions: Tensor | None = None, *, area: float
) -> Tensor:
    """Return masks whose foreground is a rectangle in a random place (table 19).

    Its sides are the root of ``area`` times those of the image. For the other arguments see
    `random_pixels`.
    """
    positions = _checked(masks, rng_key, positions, area)
    shares = torch.full((len(masks),), area, device=masks.device)
    height, width = _sides(shares, masks)
    top = integers(derive_key(rng_key, "top"), positions, masks.shape[1] - height + 1)
    left = integers(derive_key(rng_key, "left"), positions, masks.shape[2] - width + 1)
    return _rectangles(masks, top, left, height, width)


def centered_rectangles(masks: Tensor, *, area: float) -> Tensor:
    """Return masks whose foreground is a rectangle in the middle of the image (table 19)."""
    _checked(masks, 0, None, area)
    return _centered(masks, torch.full((len(masks),), area, device=masks.device))


def with_added(masks: Tensor, *, share: float) -> Tensor:
    """Add a rectangle in the middle of the image to masks (table 20).

    It has the aspect of the image and ``share`` times the area of the mask's foreground.
    """
    return masks | _of_foreground(masks, share)


def with_removed(masks: Tensor, *, share: float) -> Tensor:
    """Take the rectangle of `with_added` away from masks (table 20)."""
    return masks & ~_of_foreground(masks, share)


def bounding_boxes(masks: Tensor) -> Tensor:
    """Return masks of the smallest rectangle around each foreground (section G.2)."""
    check_shapes(Shaped("masks", masks, "B H W", kind="mask"))
    rows, columns = masks.any(dim=2), masks.any(dim=1)
    return _span(rows)[:, :, None] & _span(columns)[:, None, :]


def _span(occupied: Tensor) -> Tensor:
    """Return (B, n) bool, True from the first to the last True of each row."""
    counts = occupied.cumsum(dim=1)
    return (counts > 0) & ((counts < counts[:, -1:]) | occupied)


def _of_foreground(masks: Tensor, share: float) -> Tensor:
    check_shapes(Shaped("masks", masks, "B H W", kind="mask"))
    if not share >= 0:
        raise UserError(f"`share` must be at least 0, got {share}. Use 1 for the mask's own area.")
    return _centered(masks, share * masks.float().mean(dim=(1, 2)))


def _centered(masks: Tensor, areas: Tensor) -> Tensor:
    height, width = _sides(areas, masks)
    top, left = (masks.shape[1] - height) // 2, (masks.shape[2] - width) // 2
    return _rectangles(masks, top, left, height, width)


def _sides(areas: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return height and width (B,) int64 of rectangles of the image's aspect, at most its own."""
    root = areas.double().sqrt()
    height, width = ((root * side).round().long().clamp(max=side) for side in masks.shape[1:])
    return height, width


def _rectangles(masks: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> Tensor:
    rows, columns = (torch.arange(side, device=masks.device) for side in masks.shape[1:])
    inside_rows = (rows >= top[:, None]) & (rows < (top + height)[:, None])
    inside_columns = (columns >= left[:, None]) & (columns < (left + width)[:, None])
    return inside_rows[:, :, None] & inside_columns[:, None, :]


def _checked(masks: Tensor, rng_key: int, positions: Tensor | None, area: float) -> Tensor:
    check_shapes(Shaped("masks", masks, "B H W", kind="mask"))
    check_rng_key(rng_key)
    if not 0 <= area <= 1 or math.isnan(area):
        raise UserError(f"`area` must be a share from 0 to 1, got {area}. Use 0.2 for a fifth.")
    return row_positions(positions, masks)


# By these names, which the package declares as entry points, recipes ask for other masks
# (`retable.views.ViewRecipe.mask_change`). An image has one random mask, as it has one saliency
# mask, in all views, epochs and seeds: draws depend on its position in the data set alone.

_DRAWS = derive_key(0, "mask changes")


def pixels(masks: Tensor, indices: Tensor, area: float) -> Tensor:
    """Return `random_pixels` for the change ("pixels", area)."""
    return random_pixels(masks, _DRAWS, indices, area=area)


def rectangle(masks: Tensor, indices: Tensor, area: float) -> Tensor:
    """Return `random_rectangles` for the change ("rectangle", area)."""
    return random_rectangles(masks, _DRAWS, indices, area=area)


def centered(masks: Tensor, indices: Tensor, area: float) -> Tensor:
    """Return `centered_rectangles` for the change ("centered", area)."""
    return centered_rectangles(masks, area=area)


def added(masks: Tensor, indices: Tensor, share: float) -> Tensor:
    """Return `with_added` for the change ("added", share)."""
    return with_added(masks, share=share)


def removed(masks: Tensor, indices: Tensor, share: float) -> Tensor:
    """Return `with_removed` for the change ("removed", share)."""
    return with_removed(masks, share=share)


def box(masks: Tensor, indices: Tensor, unused: float) -> Tensor:
    """Return `bounding_boxes` for the change ("box", 0)."""
    return bounding_boxes(masks)
