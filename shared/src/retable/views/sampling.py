"""What is random about a view, drawn as a function of (key, data set index).

Nothing here looks at pixels. The draws for one image depend on nothing but the key and the image's
index in its data set, hence not on the batch, the worker or the process it happens to be in, and
what is drawn for the colours does not depend on the image's height and width.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from retable.random import uniform
from retable.views.rand_augment import draw_operations
from retable.views.recipe import ViewRecipe

# One image owns this many counters; the unused ones are room for steps that do not exist yet.
SLOTS = 64
_ATTEMPTS = 10  # of RandomResizedCrop, torchvision

_AREA = slice(0, _ATTEMPTS)
_RATIO = slice(_ATTEMPTS, 2 * _ATTEMPTS)
_TOP, _LEFT, _FLIP, _JITTER = 20, 21, 22, 23
_ORDER = slice(24, 28)
_FACTORS = slice(28, 32)
_GRAY, _BLUR, _SIGMA, _SOLARIZE = 32, 33, 34, 35
_USED = 36


@dataclass(frozen=True)
class ViewParameters:
    """What was drawn for B views, as CPU tensors; `len`, indexing by rows and `concatenate` work.

    Attributes:
        crops: (B, 4) int64, the region that is cut out: top, left, height, width in pixels.
        resized: (B, 2) int64, height and width to which the region is resized.
        window: (B, 2) int64, top and left of the view in the resized region (0 for random crops,
            which are resized to the view itself; the centre crop of a test view has them).
        flip: (B,) bool, mirrored horizontally.
        jitter: (B,) bool, colours jittered.
        jitter_order: (B, 4) int64, the order of brightness 0, contrast 1, saturation 2, hue 3.
        jitter_factors: (B, 4) float32, one for each of these four: three factors, shift in turns.
        gray: (B,) bool.
        blur_sigma: (B,) float32, in pixels of the view, 0 for no blur.
        solarize: (B,) bool.
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
    gray: Tensor
    blur_sigma: Tensor
    solarize: Tensor
    operations: Tensor
    arguments: Tensor
    bicubic: Tensor

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, rows: slice | Tensor) -> ViewParameters:
        """Return the parameters of some rows, given as a slice or an index tensor."""
        return ViewParameters(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @staticmethod
    def concatenate(parts: list[ViewParameters]) -> ViewParameters:
        """Join the rows of several parameters in order."""
        names = [f.name for f in fields(ViewParameters)]
        return ViewParameters(**{n: torch.cat([getattr(p, n) for p in parts]) for n in names})


def sample_parameters(
    recipe: ViewRecipe,
    key: int,
    indices: Tensor,
    heights: Tensor | int,
    widths: Tensor | int,
) -> ViewParameters:
    """Draw the parameters of one view of each of B images.

    Args:
        recipe: what may be drawn.
        key: of one view number and one epoch, for instance ``derive_key(seed, "views", epoch, 0)``.
        indices: (B,) int64, the images' places in their data set; on any device.
        heights: (B,) or one number, of the images in pixels.
        widths: likewise.

    Many batches, an epoch even, can be drawn in one call and indexed afterwards: it costs less.

    >>> from retable.views import moco_v2
    >>> drawn = sample_parameters(moco_v2(32), 0, torch.arange(8), 48, 64)
    >>> drawn.crops.shape, drawn.jitter_factors.shape, len(drawn[:2])
    (torch.Size([8, 4]), torch.Size([8, 4]), 2)
    """
    indices = indices.cpu()
    count = len(indices)
    heights = torch.as_tensor(heights, dtype=torch.int64, device="cpu").expand(count)
    widths = torch.as_tensor(widths, dtype=torch.int64, device="cpu").expand(count)
    draws = uniform(key, indices[:, None] * SLOTS + torch.arange(_USED))
    crops, resized, window = _regions(recipe, draws, heights, widths)
    strengths = torch.tensor(recipe.jitter)
    centers = torch.tensor([1.0, 1.0, 1.0, 0.0])
    lowest = torch.cat([(1 - strengths[:3]).clamp_(min=0), -strengths[3:]])
    low, high = recipe.blur_sigma
    sigma = low + (high - low) * draws[:, _SIGMA]
    operations, arguments, bicubic = draw_operations(recipe.rand_augment, key, indices)
    return ViewParameters(
        crops=crops,
        resized=resized,
        window=window,
        flip=draws[:, _FLIP] < recipe.flip_probability,
        jitter=draws[:, _JITTER] < recipe.jitter_probability,
        jitter_order=draws[:, _ORDER].argsort(dim=1),
        jitter_factors=torch.lerp(lowest, centers + strengths, draws[:, _FACTORS]),
        gray=draws[:, _GRAY] < recipe.gray_probability,
        blur_sigma=sigma * (draws[:, _BLUR] < recipe.blur_probability),
        solarize=draws[:, _SOLARIZE] < recipe.solarize_probability,
        operations=operations,
        arguments=arguments,
        bicubic=bicubic,
    )


def _regions(
    recipe: ViewRecipe, draws: Tensor, heights: Tensor, widths: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return crops (B, 4), resized (B, 2) and window (B, 2), all int64."""
    if recipe.crop_scale is None:
        return _center_regions(recipe, heights, widths)
    crops = _random_crops(recipe.crop_scale, recipe.crop_ratio, draws, heights, widths)
    square = torch.full((len(crops), 2), recipe.size)
    return crops, square, torch.zeros_like(square)


def _random_crops(
    scale: tuple[float, float],
    ratio: tuple[float, float],
    draws: Tensor,
    heights: Tensor,
    widths: Tensor,
) -> Tensor:
    """Draw `RandomResizedCrop` as torchvision does: ten attempts, then the largest centre crop.

    All ten attempts of all images are tried at once and the first that fits is taken.
    """
    sides = torch.stack([heights, widths], dim=1)
    area = sides.prod(dim=1, keepdim=True) * (
        scale[0] + (scale[1] - scale[0]) * draws[:, _AREA].double()
    )
    bounds = torch.tensor(ratio, dtype=torch.float64).log()
    aspect = torch.lerp(bounds[0], bounds[1], draws[:, _RATIO].double()).exp_()
    tried = torch.stack([(area / aspect).sqrt_(), (area * aspect).sqrt_()], dim=2).round_().long()
    fits = ((tried > 0) & (tried <= sides[:, None])).all(dim=2)  # (B, attempts)
    first = fits.byte().argmax(dim=1)
    chosen = tried[torch.arange(len(tried)), first]
    free = sides - chosen + 1
    corner = (draws[:, [_TOP, _LEFT]].double() * free).long()
    failed = ~fits.any(dim=1)
    if failed.any():
        chosen[failed] = _largest_within(ratio, sides[failed])
        corner[failed] = (sides - chosen)[failed] // 2
    return torch.cat([corner, chosen], dim=1)


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


def _center_regions(
    recipe: ViewRecipe, heights: Tensor, widths: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Resize the short side (the long one rounded down), cut the centre out, as torchvision."""
    sides = torch.stack([heights, widths], dim=1)
    short = sides.amin(dim=1, keepdim=True)
    resized = (recipe.resize or recipe.size) * sides // short
    # Half-way cases round to the even number, as Python's round does in torchvision.
    window = ((resized - recipe.size).double() / 2).round_().long()
    return torch.cat([torch.zeros_like(sides), sides], dim=1), resized, window
