"""Cue conflicts (Geirhos et al., ICLR 2019): the shape of one category, the texture of another.

DIR/SHAPE/SHAPE1-TEXTURE2.png, 16 categories of 80 images each.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from retable.data.image_files import ImageFiles
from retable.data.imagenet_variants.categories import Category
from retable.data.imagenet_variants.folders import read_folders
from retable.data.subsets import Subset
from retable.errors import UserError

_NAME = re.compile(r"(?P<shape>[a-z]+)\d+-(?P<texture>[a-z]+)\d+\.")


def read_conflicts(
    root: Path, categories: tuple[Category, ...], skip_unreadable: bool
) -> tuple[Subset, Tensor]:
    """Return the images whose cues differ, labelled by shape, and their textures (n,).

    Images of a shape or texture that is none of the categories are left out, and so are those whose
    texture is their shape's, which have no conflict.

    Raises:
        UserError: a folder is missing, or a file is not named by a shape and a texture.
    """
    places = {category.name: number for number, category in enumerate(categories)}
    facts = {"source": f"cue_conflict:{root}"}
    source = read_folders(root, places, list(places), facts, skip_unreadable=skip_unreadable)
    textures = torch.tensor([_texture(source, row, places) for row in range(len(source))])
    rows = ((textures >= 0) & (textures != source.labels)).nonzero()[:, 0]
    if not len(rows):
        raise UserError(f"The folder {root} has no image of two categories. Complete the set.")
    kept = Subset(source, rows, source.labels[rows], list(places), "conflicting cues")
    return kept, textures[rows]


def _texture(source: ImageFiles, row: int, places: dict[str, int]) -> int:
    folder, _, name = source.names[row].replace("\\", "/").rpartition("/")
    found = _NAME.match(name)
    if found is None or found["shape"] != folder:
        raise UserError(
            f"Cue conflicts must be files such as {folder}1-clock2.png, got {source.names[row]}. "
            "Use the published folder."
        )
    return places.get(found["texture"], -1)
