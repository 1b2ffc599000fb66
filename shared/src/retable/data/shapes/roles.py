"""Variants of the shapes data set in the roles of the published out-of-distribution sets.

A set is opened in the same form as a published one, so that both are evaluated by the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from retable.data.imagenet_variants.categories import Category, VariantImages
from retable.data.imagenet_variants.corruptions import KINDS, SEVERITIES
from retable.data.shapes.dataset import Shapes
from retable.errors import UserError

if TYPE_CHECKING:
    from retable.data.source import Source

_SHORT = {"elastic_transform": "elastic", "jpeg_compression": "jpeg"}
"""Names of kinds of corruption that are shorter here than in ImageNet-C."""

ROLES = {
    "c": {
        f"{kind}:{severity}": f"corrupted:{_SHORT.get(kind, kind)}:{severity}"
        for kind in KINDS
        for severity in SEVERITIES
    },
    "r": {"": "recoloured"},
    "sketch": {"": "sketch"},
    "stylized": {"": "texture_swapped"},
    "texture": {"": "texture_only"},
    "cue_conflict": {"": "texture_swapped"},
}
"""The variant that stands for each part of a set: other colours for other renditions, textures of
other classes for those of paintings, the object's texture alone for a synthesised texture."""


def open_role(name: str, open_variant: Callable[[str], Source]) -> VariantImages:
    """Open the variant that stands for a published set.

    ``open_variant`` opens a variant of the test images by its name.

    Raises:
        UserError: no variant stands for the set.
    """
    if name not in ROLES:
        raise UserError(
            f"The set {name!r} must be a folder: no variant of shapes stands for it. Name it with "
            f"--ood {name}=DIR, or use one of {', '.join(ROLES)}."
        )
    parts = {part: open_variant(variant) for part, variant in ROLES[name].items()}
    source = next(iter(parts.values()))
    categories = tuple(Category(outline, ()) for outline in source.class_names)
    textures = _textures_of(source) if name == "cue_conflict" else None
    return VariantImages(parts, categories, torch.eye(len(categories)).bool(), textures)


def _textures_of(source: Source) -> torch.Tensor:
    """Return the classes (n, C) that the texture of each image goes with."""
    if not isinstance(source, Shapes):
        raise UserError(
            "Cue conflicts of shapes need all images of the data set. Leave out its subset."
        )
    shown = source.factors(torch.arange(len(source)))["texture"]
    return shown[:, None] == source.class_textures
