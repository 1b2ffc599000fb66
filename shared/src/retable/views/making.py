"""Views of images of equal size: draw, crop, colour."""

from __future__ import annotations

from torch import Tensor

from retable.views.colours import photometric
from retable.views.cropping import crop_resize
from retable.views.recipe import ViewRecipe
from retable.views.sampling import sample_parameters


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
            they determine the draws.
        recipe: how views are made.
        rng_key: of one view number and one epoch, for instance ``derive_key(seed, "views", epoch,
            0)``.
        image_key: key of the draws that an image's views share, see
            `retable.views.sample_parameters`.
        compiled: see `retable.views.photometric`.

    Returns:
        (B, 3, S, S) float32, normalised, on the images' device.
    """
    parameters = sample_parameters(recipe, rng_key, indices, *images.shape[2:], image_key=image_key)
    crops = crop_resize(images, parameters, recipe.size, recipe.interpolation)
    return photometric(crops, parameters, recipe, compiled=compiled)
