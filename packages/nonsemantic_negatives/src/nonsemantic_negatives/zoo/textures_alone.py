"""Accuracy of a classifier on images and on textures that are synthesised from images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from retable.data.imagenet_variants.categories import imagenet_ids
from retable.data.subsets import wordnet_id
from retable.errors import UserError
from retable.evaluate.decisions import accuracy_by_category, category_accuracy
from retable.evaluate.features import represent
from retable.evaluate.frozen import freeze
from retable.evaluate.representation import PRE_LOGITS, Representation

if TYPE_CHECKING:
    from nonsemantic_negatives.zoo.checkpoints import Checkpoint
    from retable.data.imagenet_variants.categories import VariantImages
    from retable.data.source import Source
    from retable.evaluate.protocol import EvalContext
    from retable.views import ViewRecipe

FEW, MANY = 2.5, 50.0
"""Bounds of the classes that are hardly and mostly recognised, in percent (figure 9)."""

STORED = 224
"""Side of the textures in pixels."""


@dataclass(frozen=True)
class TextureAccuracy:
    """Top-1 accuracies in percent.

    Attributes:
        images: on natural images.
        textures: on textures alone.
        by_class: on the textures of each class, in the order of the classes.
    """

    images: float
    textures: float
    by_class: tuple[float, ...]

    @property
    def hardly(self) -> int:
        """Classes that are recognised in less than 2.5 % of their textures."""
        return sum(value < FEW for value in self.by_class)

    @property
    def mostly(self) -> int:
        """Classes that are recognised in more than half of their textures."""
        return sum(value > MANY for value in self.by_class)


def places_of(class_names: list[str]) -> Tensor:
    """Return the places (C,) of a data set's classes among the outputs for all of ImageNet.

    Raises:
        UserError: a class is none of ImageNet.
    """
    known = {identity: place for place, identity in enumerate(imagenet_ids())}
    found = [known.get(wordnet_id(name) or "") for name in class_names]
    for name, place in zip(class_names, found, strict=True):
        if place is None:
            raise UserError(
                f"The classes must be those of ImageNet, named by WordNet ids, got {name!r}. Name "
                "a folder of ImageNet, or of a subset of it."
            )
    return torch.tensor(found)


def texture_accuracy(
    checkpoint: Checkpoint,
    images: Source,
    textures: VariantImages,
    context: EvalContext,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> TextureAccuracy:
    """Measure a classifier on natural images and on their textures.

    Textures are stored at 224 pixels: networks for inputs of that size see them as they are, others
    see them resized to the size of their inputs, nothing cut off. Of a subset of ImageNet, only its
    classes compete.
    """
    frozen = freeze(checkpoint.load(), context.device, context.precision)
    columns = places_of(list(images.class_names)).to(frozen.device)

    def logits_of(source: Source, view: ViewRecipe) -> tuple[Tensor, Tensor]:
        found = represent(frozen, source, view, Representation(), context, on_progress=on_progress)[
            PRE_LOGITS
        ]
        return found.features[:, columns], found.labels

    view = checkpoint.view
    of_images, labels = logits_of(images, view)
    itself = torch.eye(len(columns), device=frozen.device).bool()
    stored = replace(view, resize=None if view.size == STORED else view.size)
    of_textures, kinds = logits_of(textures.parts[""], stored)
    classes = textures.classes.to(frozen.device)
    by_class = accuracy_by_category(of_textures, kinds, classes)
    return TextureAccuracy(
        category_accuracy(of_images, labels, itself),
        category_accuracy(of_textures, kinds, classes),
        tuple(by_class[~by_class.isnan()].tolist()),
    )
