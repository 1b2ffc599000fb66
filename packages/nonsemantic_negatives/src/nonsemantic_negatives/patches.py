"""Patch-based negatives: an image's own patches in random places (Ge et al., NeurIPS 2021).

A negative is a grid of d x d patches, each cut from a place of the image that is drawn for itself,
so that the image keeps its texture and colours and loses the shape of its objects. It is made from
the query's augmented view. The paper draws d for each image from 16 to 72 pixels at 224.

Every pixel of the negative is looked up in the image once: the patch that it lies in tells where,
so no patch is copied one by one and no canvas is larger than the image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from retable.errors import UserError
from retable.nn.checks import Shaped, check_rng_key, check_shapes, row_positions
from retable.random import derive_key, integers, uniform

PATCHES = "patches"
"""Purpose of the draws, by which their key is derived from the step's."""


class PatchDraws(NamedTuple):
    """The draws for B images; the grid has n rows and m columns, enough for the smallest patches.

    Attributes:
        side: (B,) int64, side d of the patches in pixels.
        top: (B, n, m) int64, first row of each patch in the image, 0 to H - d.
        left: (B, n, m) int64, first column, 0 to W - d.
        turns: (B, n, m) int64, counterclockwise quarter turns; None: no patch is turned.
        upside_down: (B, n, m) bool, flipped top to bottom after the turn; None: no patch is.
        mirrored: (B, n, m) bool, flipped left to right after the turn; None: no patch is.
    """

    side: Tensor
    top: Tensor
    left: Tensor
    turns: Tensor | None = None
    upside_down: Tensor | None = None
    mirrored: Tensor | None = None


def patch_negatives(
    images: Tensor,
    rng_key: int,
    positions: Tensor | None = None,
    *,
    low: int = 16,
    high: int = 72,
    mirror: bool = False,
    upside_down: bool = False,
    turn: bool = False,
) -> Tensor:
    """Return images of the same size that are made of patches of their image.

    Args:
        images: (B, C, H, W) of any type and device: the augmented query views. The host does not
            wait for the device.
        rng_key: random key of the step, equal on all processes; it must change with every step.
        positions: (B,) int64 positions of the images in the global batch; 0 to B - 1 if None.
        low: smallest side of a patch in pixels, included; 16 of 224 (the official code's command).
        high: largest side, included, at most the shorter side of the images; 72 of 224.
        mirror: flip each patch left to right with probability 1/2 (table 6, "H").
        upside_down: flip each patch top to bottom with probability 1/2 (table 6, "V").
        turn: turn each patch by 0, 90, 180 or 270 degrees, equally often, before it is flipped
            (table 6, "rotation").

    Returns:
        (B, C, H, W) of the images' type. Patches at the right and lower edge are cut off.

    Raises:
        UserError: the shapes do not fit, or ``low`` and ``high`` do not satisfy
            1 <= low <= high <= min(H, W).

    >>> images = torch.arange(32.0).view(1, 2, 4, 4)
    >>> torch.equal(patch_negatives(images, 0, low=4, high=4), images)  # one patch: all of it
    True
    """
    check_shapes(Shaped("images", images, "B C H W", kind="any"))
    check_rng_key(rng_key)
    positions = row_positions(positions, images)
    height, width = images.shape[-2:]
    draws = draw_patches(
        derive_key(rng_key, PATCHES),
        positions,
        (height, width),
        low=low,
        high=high,
        mirror=mirror,
        upside_down=upside_down,
        turn=turn,
    )
    return assemble_patches(images, draws)


def draw_patches(
    rng_key: int,
    positions: Tensor,
    size: tuple[int, int],
    *,
    low: int,
    high: int,
    mirror: bool = False,
    upside_down: bool = False,
    turn: bool = False,
) -> PatchDraws:
    """Draw as a function of a key and of each image's position in the global batch.

    ``positions`` are (B,) int64, ``size`` is height and width of the images in pixels; the other
    arguments are those of `patch_negatives`. All draws are independent.
    """
    height, width = size
    check_range(low, high, min(size))
    side = low + integers(derive_key(rng_key, "side"), positions, high - low + 1)
    rows, columns = -(-height // low), -(-width // low)
    cells = torch.arange(rows * columns, device=positions.device).view(rows, columns)
    counters = positions[:, None, None] * (rows * columns) + cells
    largest = side[:, None, None]
    return PatchDraws(
        side=side,
        top=integers(derive_key(rng_key, "top"), counters, height - largest + 1),
        left=integers(derive_key(rng_key, "left"), counters, width - largest + 1),
        turns=integers(derive_key(rng_key, "turns"), counters, 4) if turn else None,
        upside_down=_coins(derive_key(rng_key, "upside_down"), counters) if upside_down else None,
        mirrored=_coins(derive_key(rng_key, "mirrored"), counters) if mirror else None,
    )


def check_range(low: int, high: int, shorter_side: int) -> None:
    """Raise a UserError unless 1 <= low <= high <= shorter_side."""
    if not 1 <= low <= high:
        raise UserError(
            f"`low` and `high` must be at least 1 and in this order, got {low} and {high}. Use 16 "
            "and 72 for images of 224 pixels."
        )
    if high > shorter_side:
        raise UserError(
            f"`high` must be at most the shorter side of the images, {shorter_side} pixels, got "
            f"{high}. Make the patches smaller."
        )


def assemble_patches(images: Tensor, draws: PatchDraws) -> Tensor:
    """Return the negatives (B, C, H, W) of given draws; see `patch_negatives`."""
    check_shapes(
        Shaped("images", images, "B C H W", kind="any"),
        Shaped("draws.side", draws.side, "B", kind="whole"),
        Shaped("draws.top", draws.top, "B N M", kind="whole"),
        Shaped("draws.left", draws.left, "B N M", kind="whole"),
        Shaped("draws.turns", draws.turns, "B N M", kind="whole"),
        Shaped("draws.upside_down", draws.upside_down, "B N M", kind="mask"),
        Shaped("draws.mirrored", draws.mirrored, "B N M", kind="mask"),
    )
    channels, height, width = images.shape[1:]
    rows, columns = _source_pixels(draws, height, width)
    pixels = (rows * width + columns).flatten(1)[:, None].expand(-1, channels, -1)
    return images.flatten(2).gather(2, pixels).view(images.shape)


def _source_pixels(draws: PatchDraws, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the row and the column of the image that each pixel shows, (B, H, W) or broadcast."""
    side = draws.side[:, None]
    down, across = (torch.arange(extent, device=side.device) for extent in (height, width))
    count, cell_columns = len(draws.side), draws.top.shape[2]
    cells = (down // side)[:, :, None] * cell_columns + (across // side)[:, None, :]

    def of_pixel(of_cell: Tensor) -> Tensor:
        return of_cell.flatten(1).gather(1, cells.flatten(1)).view(count, height, width)

    row, column = (down % side)[:, :, None], (across % side)[:, None, :]
    last = side[:, :, None] - 1
    # From the pixel of the finished patch back to that of the patch in the image.
    if draws.upside_down is not None:
        row = torch.where(of_pixel(draws.upside_down), last - row, row)
    if draws.mirrored is not None:
        column = torch.where(of_pixel(draws.mirrored), last - column, column)
    if draws.turns is not None:
        turns = of_pixel(draws.turns)
        odd = turns % 2 == 1
        row, column = torch.where(odd, column, row), torch.where(odd, last - row, column)
        half = turns >= 2
        row, column = torch.where(half, last - row, row), torch.where(half, last - column, column)
    return of_pixel(draws.top) + row, of_pixel(draws.left) + column


def _coins(rng_key: int, counters: Tensor) -> Tensor:
    return uniform(rng_key, counters) < 0.5
