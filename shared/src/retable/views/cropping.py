"""Cut, resize and flip: the geometric half of a view.

An antialiased resize is linear and separable, so crop, resize and flip of one image together are
``V @ image @ H^T``, with a matrix V of (S, height) and one H of (S, width) whose rows hold the
filter's weights inside the crop: a batch is two batched matrix products, on any device, without a
loop and without reading anything back.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from retable.views.recipe import ViewRecipe
from retable.views.sampling import ViewParameters, to_device

Interpolation = Literal["bilinear", "bicubic"]

# Above this many multiply-adds for one image and channel, a CPU is faster with ATen's own kernel,
# image by image, which skips the zeros of the matrices (measured: equal at about 80 pixels).
_DENSE_LIMIT = 1_000_000


def crop_resize(
    images: Tensor,
    parameters: ViewParameters,
    size: int,
    interpolation: Interpolation = "bilinear",
) -> Tensor:
    """Cut the drawn regions, resize them with antialiasing and flip them.

    Equal, to float rounding, to torchvision's ``resized_crop(antialias=True)`` on float images,
    or to ``resize`` and ``center_crop`` where a recipe has no random crop; bicubic results, which
    overshoot, are clamped to [0, 1].

    Images are (B, 3, H, W) uint8 on any device, the result is (B, 3, S, S) float32 in [0, 1] for a
    ``size`` of S pixels; in memory the channels lie apart, (3, B, S, S), the order in which colours
    are computed fastest.
    """
    height, width = images.shape[2:]
    if (height, width) == (size, size):
        whole = (parameters.crops == torch.tensor([0, 0, size, size])).all()
        if whole and (parameters.resized == size).all() and not parameters.flip.any():
            return _planes(images).div_(255).transpose(0, 1)
    if images.device.type == "cpu" and size * height * (size + width) > _DENSE_LIMIT:
        return _one_by_one(images, parameters, size, interpolation)
    with torch.autocast(images.device.type, enabled=False):
        vertical, horizontal = _matrices(parameters, height, width, size, interpolation, images)
        planes = _planes(images)
        squeezed = planes.new_empty(len(images), size, width)
        # Where input and output are of one size, the output takes the input's place.
        fits = (height, width) == (size, size)
        views = planes if fits else planes.new_empty(3, len(images), size, size)
        for plane, view in zip(planes, views, strict=True):
            torch.bmm(vertical, plane, out=squeezed)
            torch.bmm(squeezed, horizontal.mT, out=view)
    if interpolation == "bicubic":
        views.clamp_(0, 1)
    return views.transpose(0, 1)


def cut(image: Tensor, parameters: ViewParameters, recipe: ViewRecipe) -> Tensor:
    """Cut one view (3, S, S) uint8 out of one image (3, H, W) uint8: what a loader's worker does.

    Like `crop_resize` (crop, resize and flip), rounded to whole values as torchvision rounds them.
    ``parameters`` has exactly one row, drawn from the recipe. Finish a batch of such crops with
    `retable.views.photometric`.
    """
    (geometry,) = _geometry(parameters)
    return _cut(image, geometry, recipe.size, recipe.interpolation)


def _planes(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 -> (3, B, H, W) float32, contiguous."""
    return images.transpose(0, 1).to(torch.float32, memory_format=torch.contiguous_format)


def _matrices(
    parameters: ViewParameters,
    height: int,
    width: int,
    size: int,
    interpolation: Interpolation,
    images: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return V (B, S, H), scaled so that 255 becomes 1, and H (B, S, W) on the images' device."""
    # Output pixel s of a flipped view reads where pixel S - 1 - s of the unflipped one would.
    forward = torch.arange(size, dtype=torch.float32)
    columns = torch.where(parameters.flip[:, None], forward.flip(0), forward)
    table = torch.cat([parameters.crops, parameters.resized, parameters.window], dim=1).float()
    packed = to_device(torch.cat([table, columns], dim=1), images.device)
    top, left, crop_height, crop_width, to_height, to_width, down, right = (
        packed[:, i, None] for i in range(8)
    )
    rows = down + torch.arange(size, dtype=torch.float32, device=images.device)
    columns = right + packed[:, 8:]
    vertical = _resize_matrix(rows, top, crop_height, to_height, height, interpolation)
    horizontal = _resize_matrix(columns, left, crop_width, to_width, width, interpolation)
    return vertical.div_(255), horizontal


def _resize_matrix(
    outputs: Tensor,
    start: Tensor,
    length: Tensor,
    resized: Tensor,
    source: int,
    interpolation: Interpolation,
) -> Tensor:
    """Weights (B, S, source) of an antialiased resize of ``length`` pixels to ``resized``.

    ``outputs`` (B, S) are the wanted pixels of the result; start, length, resized are (B, 1).
    Positions count from the start of the crop, as in a resize of the crop alone, so that float32
    rounds them alike.
    """
    scale = length / resized
    centers = scale * (outputs + 0.5)
    positions = torch.arange(source, dtype=torch.float32, device=outputs.device) - start + 0.5
    inside = (positions > 0) & (positions < length)
    # Shrinking widens the filter to the spacing of the outputs: that is the antialiasing.
    steepness = 1 / scale.clamp(min=1)
    distance = positions[:, None, :] - centers[:, :, None]
    distance = distance.abs_().mul_(steepness[:, :, None])
    if interpolation == "bilinear":
        weights = distance.neg_().add_(1).clamp_(min=0)
    else:
        weights = _bicubic(distance)
    weights = weights.mul_(inside[:, None, :])
    return weights.div_(weights.sum(dim=2, keepdim=True))


def _bicubic(distance: Tensor) -> Tensor:
    """Keys' cubic with a = -0.5, PIL's and, with antialiasing, torch's."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


Geometry = tuple[list[int], list[int], list[int], bool]


def _geometry(parameters: ViewParameters) -> list[Geometry]:
    columns = (parameters.crops, parameters.resized, parameters.window, parameters.flip)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _cut(image: Tensor, geometry: Geometry, size: int, interpolation: Interpolation) -> Tensor:
    """Cut (3, H, W) of any dtype to (3, S, S) with ATen's kernel."""
    (top, left, height, width), resized, (down, right), flip = geometry
    view = image[None, :, top : top + height, left : left + width]
    if [height, width] != resized:
        view = F.interpolate(view, size=resized, mode=interpolation, antialias=True)
    view = view[0, :, down : down + size, right : right + size]
    return view.flip(2) if flip else view


def _one_by_one(
    images: Tensor, parameters: ViewParameters, size: int, interpolation: Interpolation
) -> Tensor:
    views = images.new_empty(3, len(images), size, size, dtype=torch.float32)
    for i, geometry in enumerate(_geometry(parameters)):
        top, left, height, width = geometry[0]
        region = images[i, :, top : top + height, left : left + width]
        inside = ([0, 0, height, width], *geometry[1:])
        views[:, i] = _cut(region.float(), inside, size, interpolation)
    views.div_(255)
    if interpolation == "bicubic":
        views.clamp_(0, 1)
    return views.transpose(0, 1)
