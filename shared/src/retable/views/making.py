"""Views from images: draw, cut, colour."""

from __future__ import annotations

from torch import Tensor

from retable.views.colours import photometric
from retable.views.cropping import crop_resize
from retable.views.recipe import ViewRecipe
from retable.views.sampling import ViewParameters, sample_parameters


def make_view(
    images: Tensor,
    indices: Tensor,
    recipe: ViewRecipe,
    rng_key: int,
    *,
    image_key: int | None = None,
    compiled: bool = False,
) -> Tensor:
    """Make one view of each of B images of equal size.

    Args:
        images: (B, 3, H, W) uint8, on any device; nothing waits for that device.
        indices: (B,) int64 on the CPU, the images' places in their data set: together with the key
            they determine the draws, whatever the batch.
        recipe: how views are made.
        rng_key: of one view number and one epoch, for instance ``derive_key(seed, "views", epoch,
            0)``.
        image_key: of what an image's views share, see `retable.views.sample_parameters`.
        compiled: see `retable.views.photometric`.

    Returns:
        (B, 3, S, S) float32, normalised, on the images' device.

    >>> import torch
    >>> from retable.views import moco_v2
    >>> images = torch.zeros(4, 3, 40, 50, dtype=torch.uint8)
    >>> make_view(images, torch.arange(4), moco_v2(32), rng_key=0).shape
    torch.Size([4, 3, 32, 32])
    """
    parameters = sample_parameters(recipe, rng_key, indices, *images.shape[2:], image_key=image_key)
    crops = crop_resize(images, parameters, recipe.size, recipe.interpolation)
    return photometric(crops, parameters, recipe, compiled=compiled)


def finish_view(
    crops: Tensor, parameters: ViewParameters, recipe: ViewRecipe, *, compiled: bool = False
) -> Tensor:
    """Finish B crops that were cut (and flipped) elsewhere by `retable.views.cut`.

    Args:
        crops: (B, 3, S, S) uint8, on any device.
        parameters: B rows, those that the crops were cut with.
        recipe: the one that they were drawn from.
        compiled: see `retable.views.photometric`.

    Returns:
        (B, 3, S, S) float32, normalised, on the crops' device.

    >>> import torch
    >>> from retable.views import moco_v2
    >>> drawn = sample_parameters(moco_v2(32), 0, torch.arange(4), 48, 64)
    >>> finish_view(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), drawn, moco_v2(32)).shape
    torch.Size([4, 3, 32, 32])
    """
    return photometric(crops, parameters, recipe, compiled=compiled)
