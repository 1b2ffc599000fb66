"""Exemplars: the two patches of an image that its texture is made of (supplement, section A.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from retable.errors import UserError
from retable.nn.checks import Shaped, check_rng_key, check_shapes
from retable.random import derive_key, integers

SIDE = 96
"""Side of an exemplar in pixels of the image's own resolution, as in the official script."""


def cut_exemplars(image: Tensor, rng_key: int, number: int = 0, *, side: int = SIDE) -> Tensor:
    """Cut two squares out of an image: the middle, and one from anywhere.

    Args:
        image: uint8 (3, H, W), RGB, in its own resolution; the paper's images are not resized
            before. An image with a short side below ``side`` is enlarged to it.
        rng_key: random key of the data set.
        number: number of the image in the data set, the counter of its draw.
        side: side of the squares in pixels; 96 of about 500 x 375 in the paper.

    Returns:
        uint8 (2, 3, side, side).
    """
    check_shapes(Shaped("image", image, "C H W", kind="any"))
    check_rng_key(rng_key)
    if image.dtype != torch.uint8:
        raise UserError(f"`image` must be uint8, got {image.dtype}. Convert it.")
    if side < 1:
        raise UserError(f"`side` must be at least 1 pixel, got {side}. Use {SIDE}.")
    image = _at_least(image, side)
    free = torch.tensor(image.shape[1:]) - side
    counter = torch.tensor([2 * number, 2 * number + 1])
    drawn = integers(derive_key(rng_key, "exemplar"), counter, free + 1)
    corners = [(free // 2).tolist(), drawn.tolist()]
    return torch.stack([image[:, y : y + side, x : x + side] for y, x in corners])


def _at_least(image: Tensor, side: int) -> Tensor:
    """Enlarge an image, bilinearly, so that its short side has ``side`` pixels."""
    shorter = min(image.shape[1:])
    if shorter >= side:
        return image
    height, width = (max(side, round(extent * side / shorter)) for extent in image.shape[1:])
    larger = F.interpolate(image[None].float(), (height, width), mode="bilinear")
    return larger.round().to(torch.uint8)[0]
