"""The steps from images to a view: draws, cuts of an image and its layers, colours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from retable.data.plans import BatchSpec
from retable.data.source import LayerKind
from retable.views import ViewParameters, ViewRecipe, photometric, sample_parameters
from retable.views.layers import companion_parameters, cut_boxes, cut_maps
from retable.views.masks import cut_foreground


def layer_names(recipes: Iterable[ViewRecipe]) -> tuple[str, ...]:
    """Return the layers that views ask for or are masked by, each once."""
    return tuple(
        dict.fromkeys(
            name
            for recipe in recipes
            for name in (*recipe.layers, *([recipe.mask] if recipe.mask_probability else []))
        )
    )


def draw_views(
    recipes: tuple[ViewRecipe, ...],
    spec: BatchSpec,
    indices: Tensor,
    heights: Tensor | int,
    widths: Tensor | int,
) -> Iterator[ViewParameters]:
    """Draw each view's parameters of samples that have these positions, heights and widths."""
    for recipe, key in zip(recipes, spec.keys, strict=True):
        yield sample_parameters(recipe, key, indices, heights, widths, image_key=spec.image_key)


class Cuts(NamedTuple):
    """What is cut out of B images for one view.

    Attributes:
        crops: (B, 3, S, S), without colour changes.
        layers: the layers that the view asks for, by name; images without colour changes.
        masks: (B, 1, S, S) bool, True in the foreground; None if the view replaces no background.
    """

    crops: Tensor
    layers: dict[str, Tensor]
    masks: Tensor | None


def cut_with_layers(
    images: Tensor,
    layers: Mapping[str, Tensor],
    kinds: Mapping[str, LayerKind],
    indices: Tensor,
    parameters: ViewParameters,
    recipe: ViewRecipe,
    cut_images: Callable[[Tensor, ViewParameters], Tensor],
) -> Cuts:
    """Cut images (B, 3, H, W) and those of their layers (B, ...) that the recipe asks for.

    ``indices`` (B,) are their positions in the data set.
    """
    found = {}
    for name in recipe.layers:
        layer = layers[name]
        if kinds[name] == "map":
            found[name] = cut_maps(layer, parameters, recipe.size)
        elif kinds[name] == "boxes":
            found[name] = cut_boxes(layer, parameters, recipe.size)
        else:
            sides = (torch.tensor(pool.shape[2:]) for pool in (images, layer))
            found[name] = cut_images(layer, companion_parameters(parameters, *sides))
    masks = None
    if recipe.mask_probability > 0:
        masks = cut_foreground(
            layers[recipe.mask],
            indices,
            recipe.mask_change,
            recipe.least_foreground,
            lambda maps: cut_maps(maps, parameters, recipe.size),
        )
    return Cuts(cut_images(images, parameters), found, masks)


def finish_view(
    cuts: Cuts,
    kinds: Mapping[str, LayerKind],
    parameters: ViewParameters,
    recipe: ViewRecipe,
    *,
    compiled: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Colour the view and those of its layers that are images."""
    view = photometric(cuts.crops, parameters, recipe, masks=cuts.masks, compiled=compiled)
    layers = dict(cuts.layers)
    if images := [name for name in recipe.layers if kinds[name] == "image"]:
        of_layers = replace(recipe, mask="", mask_probability=0.0)
        for name in images:
            layers[name] = photometric(layers[name], parameters, of_layers, compiled=compiled)
    return view, layers
