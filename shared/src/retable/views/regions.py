"""Regions of views: random crops, or a window of the resized image.

Everything is drawn for all images and all attempts at once, from the first counters of each image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from retable.views.recipe import LEAST_COVERED, ViewRecipe

_ATTEMPTS = 10  # of RandomResizedCrop, torchvision

_AREA = slice(0, _ATTEMPTS)
_RATIO = slice(_ATTEMPTS, 2 * _ATTEMPTS)
_CORNER = [20, 21]


def regions(
    recipe: ViewRecipe, draws: Tensor, heights: Tensor, widths: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return crops, resized and window as in `retable.views.ViewParameters`.

    ``draws`` (B, 22 or more) float32 in (0, 1) are each image's own; ``heights`` and ``widths``
    (B,) int64 those of the images.
    """
    sides = torch.stack([heights, widths], dim=1)
    if recipe.crop_scale is None:
        return _windows(recipe, draws, sides)
    samplers = {
        "torchvision": _as_torchvision,
        "tensorflow": _as_tensorflow,
        "deepmind": _as_deepmind,
    }
    sample = samplers[recipe.crop_sampling]
    crops = sample(recipe.crop_scale, recipe.crop_ratio, draws, sides)
    square = torch.full((len(crops), 2), recipe.size)
    return crops, square, torch.zeros_like(square)


def _windows(recipe: ViewRecipe, draws: Tensor, sides: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Resize the image and choose a window of it.

    The short side is resized and the long one rounded down, as torchvision does, or both alike.
    """
    to = recipe.resize or recipe.size
    resized = to * sides // sides.amin(dim=1, keepdim=True)
    if not recipe.keep_aspect:
        resized = torch.full_like(sides, to)
    if recipe.window == "random":
        window = _corners(draws, resized, torch.tensor(recipe.size))
    else:
        # Half-way cases round to the even number, as Python's round does in torchvision.
        window = ((resized - recipe.size).double() / 2).round_().long()
    return torch.cat([torch.zeros_like(sides), sides], dim=1), resized, window


def _as_torchvision(
    scale: tuple[float, float], ratio: tuple[float, float], draws: Tensor, sides: Tensor
) -> Tensor:
    """Draw `RandomResizedCrop` as torchvision does: ten attempts, then the largest centre crop."""
    tried = _tried(scale, ratio, draws, sides)
    fits = ((tried > 0) & (tried <= sides[:, None])).all(dim=2)  # (B, attempts)
    chosen = _first(tried, fits)
    corner = _corners(draws, sides, chosen)
    failed = ~fits.any(dim=1)
    if failed.any():
        chosen[failed] = _largest_within(ratio, sides[failed])
        corner[failed] = (sides - chosen)[failed] // 2
    return torch.cat([corner, chosen], dim=1)


def _as_deepmind(
    scale: tuple[float, float], ratio: tuple[float, float], draws: Tensor, sides: Tensor
) -> Tensor:
    """Draw once as torchvision does, and cut the sides to those of the image."""
    chosen = _tried(scale, ratio, draws, sides)[:, 0].clamp_(min=1).minimum(sides)
    return torch.cat([_corners(draws, sides, chosen), chosen], dim=1)


def _tried(
    scale: tuple[float, float], ratio: tuple[float, float], draws: Tensor, sides: Tensor
) -> Tensor:
    """Draw areas uniformly and aspects uniformly in the logarithm: sides (B, attempts, 2)."""
    area = sides.prod(dim=1, keepdim=True) * (
        scale[0] + (scale[1] - scale[0]) * draws[:, _AREA].double()
    )
    bounds = torch.tensor(ratio, dtype=torch.float64).log()
    aspect = torch.lerp(bounds[0], bounds[1], draws[:, _RATIO].double()).exp_()
    tall, wide = (area / aspect).sqrt_(), (area * aspect).sqrt_()
    return torch.stack([tall, wide], dim=2).round_().long()


def _as_tensorflow(
    scale: tuple[float, float], ratio: tuple[float, float], draws: Tensor, sides: Tensor
) -> Tensor:
    """Draw as TensorFlow's ``sample_distorted_bounding_box`` with the image as its box.

    An attempt draws the aspect, then the height between those that belong to the bounds of the
    area, as far as the image holds them, and moves it by one where rounding left the bounds. Crops
    that cover too little of the box are rejected. After ten attempts (a hundred there, of which
    about one in eight fails at a scale of (0.05, 1)) the image itself is taken. The place is drawn
    from all; TensorFlow's own code never takes the last row and column.
    """
    heights, widths = sides[:, :1].double(), sides[:, 1:].double()
    area = heights * widths
    lowest, highest = scale[0] * area, scale[1] * area
    aspect = ratio[0] + (ratio[1] - ratio[0]) * draws[:, _RATIO].double()
    # The largest height that belongs to a width which rounds to the image's, and no more.
    widest = ((widths + 0.5) / aspect).ceil_().sub_(1)
    most = (highest / aspect).sqrt_().round_().minimum(widest).minimum(heights)
    least = (lowest / aspect).sqrt_().round_().minimum(most)
    tall = least + ((most - least + 1) * draws[:, _AREA].double()).floor_()
    tall += (tall * (tall * aspect).round_() < lowest).double()
    tall -= (tall * (tall * aspect).round_() > highest).double()
    wide = (tall * aspect).round_()
    covered = tall * wide
    fits = (covered >= lowest.maximum(LEAST_COVERED * area)) & (covered <= highest)
    fits &= (tall <= heights) & (wide <= widths)
    chosen = _first(torch.stack([tall, wide], dim=2).long(), fits)
    chosen = torch.where(fits.any(dim=1, keepdim=True), chosen, sides)
    return torch.cat([_corners(draws, sides, chosen), chosen], dim=1)


def _first(tried: Tensor, fits: Tensor) -> Tensor:
    """Return of each image's attempts (B, attempts, 2) the first that fits: (B, 2)."""
    return tried[torch.arange(len(tried)), fits.byte().argmax(dim=1)]


def _corners(draws: Tensor, sides: Tensor, inside: Tensor) -> Tensor:
    """Draw the corners of ``inside`` (B, 2) within ``sides`` (B, 2), uniformly: (B, 2)."""
    return (draws[:, _CORNER].double() * (sides - inside + 1)).long()


def _largest_within(ratio: tuple[float, float], sides: Tensor) -> Tensor:
    """Return the sides (B, 2) of the largest region whose width over height is within bounds."""
    heights, widths = sides.double().unbind(dim=1)
    largest = torch.stack(
        [
            torch.where(widths / heights < ratio[0], (widths / ratio[0]).round(), heights),
            torch.where(widths / heights > ratio[1], (heights * ratio[1]).round(), widths),
        ],
        dim=1,
    )
    return largest.long()
