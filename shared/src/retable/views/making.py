"""Views of images of equal size: draw, crop, colour."""

from __future__ import annotations

from torch import Tensor

from retable.errors import UserError
from retable.views.colours import photometric
from retable.views.cropping import crop_resize
from retable.views.layers import cut_maps
from retable.views.masks import cut_foreground
from retable.views.recipe import ViewRecipe
from retable.views.sampling import sample_parameters


def make_view(
    images: Tensor,
    indices: Tensor,
    recipe: ViewRecipe,
    rng_key: int,
    *,
    image_key: int | None = None,
    masks: Tensor | None = None,
    compiled: bool = False,
) -> Tensor:
    """Make one view of each of B images: (B, 3, S, S) float32, normalised, on their device.

    Images are (B, 3, H, W) uint8 on any device, and nothing waits for that device; indices are
    (B,) int64 on the CPU. For the keys see `sample_parameters`, for ``compiled`` `photometric`.
    ``masks`` (B, 1, H, W), positive in the foreground, are those of a recipe that replaces
    backgrounds (`ViewRecipe.mask_probability`), which needs them.
    """
    parameters = sample_parameters(recipe, rng_key, indices, *images.shape[2:], image_key=image_key)
    crops = crop_resize(images, parameters, recipe.size, recipe.interpolation)
    foreground = None
    if recipe.mask_probability > 0:
        expected = (len(images), 1, *images.shape[2:])
        if masks is None or masks.shape != expected:
            raise UserError(
                f"`masks` must be {expected} for a recipe that replaces backgrounds, got "
                f"{None if masks is None else tuple(masks.shape)}. Pass the images' masks."
            )
        foreground = cut_foreground(
            masks,
            indices,
            recipe.mask_change,
            recipe.least_foreground,
            lambda maps: cut_maps(maps, parameters, recipe.size),
        )
    return photometric(crops, parameters, recipe, masks=foreground, compiled=compiled)
