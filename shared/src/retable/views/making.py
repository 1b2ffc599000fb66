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
    """Make one view of each of B images: (B, 3, S, S) float32, normalised, on their device.

    Args:
        images: (B, 3, H, W) uint8, on any device; nothing waits for that device.
        indices: (B,) int64 on the CPU, as all that follows see `retable.views.sample_parameters`.
        recipe: distributions of the draws.
        rng_key: key of one view number and one epoch.
        image_key: key of the draws that all views of an image share.
        compiled: see `retable.views.photometric`.
    """
    parameters = sample_parameters(recipe, rng_key, indices, *images.shape[2:], image_key=image_key)
    crops = crop_resize(images, parameters, recipe.size, recipe.interpolation)
    return photometric(crops, parameters, recipe, compiled=compiled)
