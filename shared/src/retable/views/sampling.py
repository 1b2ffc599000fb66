"""Random parameters of views, drawn as functions of (key, data set index).

They do not depend on the batch, the worker, the process or pixels, and those for the colours not on
the image's height and width.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from retable.random import uniform
from retable.views.rand_augment import draw_operations
from retable.views.recipe import ViewRecipe
from retable.views.regions import regions

# One image owns this many counters; the unused ones are room for steps that do not exist yet.
SLOTS = 64
# Counters 0 to 21 belong to the region.
_FLIP, _JITTER = 22, 23
_ORDER = slice(24, 28)
_FACTORS = slice(28, 32)
_GRAY, _BLUR, _SIGMA, _SOLARIZE, _BRIGHTNESS, _SATURATION, _MASK, _LEVEL = range(32, 40)
_USED = 40


@dataclass(frozen=True)
class ViewParameters:
    """Parameters of B views, as CPU tensors; `len` and indexing by rows work.

    Attributes:
        crops: (B, 4) int64, the region that is cut out: top, left, height, width in pixels.
        resized: (B, 2) int64, height and width to which the region is resized.
        window: (B, 2) int64, top and left of the view in the resized region (0 for random crops,
            which are resized to the view itself; windows of a resized image have them).
        flip: (B,) bool, mirrored horizontally; ``jitter``, ``gray`` and ``solarize`` likewise.
        jitter_order: (B, 4) int64, the order of brightness 0, contrast 1, saturation 2, hue 3.
        jitter_factors: (B, 4) float32, one for each of these four: three factors, shift in turns;
            the first is a shift too where ``jitter_terms`` is "deepmind".
        brightness_shift: (B,) float32, added to all channels.
        saturation: (B,) float32, the factor of HSV's saturation, 1 where the recipe has none.
        blur_sigma: (B,) float32, in pixels of the view, 0 for no blur.
        masked: (B,) bool, whether the background is replaced.
        level: (B,) float32, its grey level.
        operations: (B, n) int64, of RandAugment's n layers (0 without it), positions in
            `retable.views.rand_augment.OPERATIONS` or its ``SKIPPED``.
        arguments: (B, n) float32, of these operations.
        bicubic: (B, n) bool, the filter of geometric ones, else bilinear.
    """

    crops: Tensor
    resized: Tensor
    window: Tensor
    flip: Tensor
    jitter: Tensor
    jitter_order: Tensor
    jitter_factors: Tensor
    brightness_shift: Tensor
    saturation: Tensor
    gray: Tensor
    blur_sigma: Tensor
    solarize: Tensor
    masked: Tensor
    level: Tensor
    operations: Tensor
    arguments: Tensor
    bicubic: Tensor

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, rows: slice | Tensor) -> ViewParameters:
        return ViewParameters(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def sample_parameters(
    recipe: ViewRecipe,
    rng_key: int,
    indices: Tensor,
    heights: Tensor | int,
    widths: Tensor | int,
    *,
    image_key: int | None = None,
) -> ViewParameters:
    """Draw the parameters of one view of each of B images.

    Many batches, or an epoch, can be drawn in one call and indexed afterwards: it costs less.

    ``rng_key`` is that of one view number and one epoch, for instance ``derive_key(seed, "views",
    epoch, 0)``; ``image_key`` that of the draws that all views of an image share in an epoch, for
    instance ``derive_key(seed, "images", epoch)``, which only recipes with ``gray_shared`` need.
    Indices (B,) int64 are the images' places in their data set; heights and widths, (B,) or one
    number, are in pixels.
    """
    indices = indices.cpu()
    count = len(indices)
    heights = torch.as_tensor(heights, dtype=torch.int64, device="cpu").expand(count)
    widths = torch.as_tensor(widths, dtype=torch.int64, device="cpu").expand(count)
    counters = indices[:, None] * SLOTS + torch.arange(_USED)
    draws = uniform(rng_key, counters)
    crops, resized, window = regions(recipe, draws, heights, widths)
    strengths = torch.tensor(recipe.jitter)
    centers = torch.tensor([1.0, 1.0, 1.0, 0.0])
    lowest = torch.cat([(1 - strengths[:3]).clamp_(min=0), -strengths[3:]])
    if recipe.jitter_terms == "deepmind":
        centers[0], lowest[0] = 0.0, -strengths[0]
    low, high = recipe.blur_sigma
    sigma = low + (high - low) * draws[:, _SIGMA]
    gray = draws[:, _GRAY]
    if recipe.gray_shared:
        if image_key is None:
            raise ValueError("`image_key` must be given for views that share their greyscale.")
        gray = uniform(image_key, counters[:, _GRAY])
    dullest, brightest = recipe.saturation or (1.0, 1.0)
    operations, arguments, bicubic = draw_operations(recipe.rand_augment, rng_key, indices)
    return ViewParameters(
        crops=crops,
        resized=resized,
        window=window,
        flip=draws[:, _FLIP] < recipe.flip_probability,
        jitter=draws[:, _JITTER] < recipe.jitter_probability,
        jitter_order=draws[:, _ORDER].argsort(dim=1),
        jitter_factors=torch.lerp(lowest, centers + strengths, draws[:, _FACTORS]),
        brightness_shift=recipe.brightness_shift * (2 * draws[:, _BRIGHTNESS] - 1),
        saturation=dullest + (brightest - dullest) * draws[:, _SATURATION],
        gray=gray < recipe.gray_probability,
        blur_sigma=sigma * (draws[:, _BLUR] < recipe.blur_probability),
        solarize=draws[:, _SOLARIZE] < recipe.solarize_probability,
        masked=draws[:, _MASK] < recipe.mask_probability,
        level=draws[:, _LEVEL],
        operations=operations,
        arguments=arguments,
        bicubic=bicubic,
    )


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor to the device without making the host wait."""
    if device.type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
