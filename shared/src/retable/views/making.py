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

    Images are (B, 3, H, W) uint8 on any device, and nothing waits for that device; indices are
    (B,) int64 on the CPU. For the keys see `sample_parameters`, for ``compiled`` `photometric`.
    """
    parameters = sample_parameters(recipe, rng_key, indices, *images.shape[2:], image_key=image_key)
    crops = crop_resize(images, parameters, recipe.size, recipe.interpolation)
    return photometric(crops, parameters, recipe, compiled=compiled)
