"""The shapes data set with texture twins: ``shapes-textures``, with the layer "companion".

A twin is synthesised as ImageNet-Texture's are: two exemplars are cut from the image and quilted.
They must hold no whole object. The paper's exemplars are 96 pixels of images of about 500 x 375, a
fifth of a side; here the image is rendered at twice its size for them, and their side is 22 % of
that. ``twins=oracle`` takes the data set's own variant ``texture_only`` instead: the object's
texture over the whole image, in which no shape is left.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nonsemantic_negatives.textures.exemplars import cut_exemplars
from nonsemantic_negatives.textures.quilting import Quilting, quilt
from retable.data.shapes.dataset import Shapes
from retable.data.source import TRAIN, Source, checksum
from retable.data.sources import register_source
from retable.errors import UserError
from retable.random import derive_key

NAME = "shapes-textures"
LAYER = "companion"

Twins = Literal["quilting", "oracle"]

EXEMPLAR = 0.22
"""Side of an exemplar as a share of that of the image: 96 px of 500 x 375 have 19 to 26 %."""

_CHUNK = 256


class TexturedShapes(Shapes):
    """Shapes whose images have texture twins of their own size.

    Args:
        twins: "quilting" synthesises them, "oracle" takes the variant "texture_only".
        count: as in `Shapes`, like the further options.
    """

    def __init__(self, count: int, *, twins: Twins = "quilting", **options: object) -> None:
        super().__init__(count, **options)  # type: ignore[arg-type]
        if twins not in ("quilting", "oracle"):
            raise UserError(f"`twins` must be 'quilting' or 'oracle', got {twins!r}.")
        self._kind = twins
        variant = {"size": 2 * self.size} if twins == "quilting" else {"variant": "texture_only"}
        self._sources = Shapes(count, **(options | variant))  # type: ignore[arg-type]
        self._twins: Tensor | None = None
        self.layers = {**self.layers, LAYER: "image"}
        self.description |= {"source": NAME, "twins": twins}
        self.description[LAYER] = checksum([twins, str(self._sources.description["pixels"])])

    def layer(self, index: int, name: str) -> Tensor:
        """Return the mask or the twin of one image, the latter uint8 (3, size, size)."""
        if name != LAYER:
            return super().layer(index, name)
        if self._twins is not None:
            return self._twins[index]
        return self.twins(torch.tensor([index]))[0]

    def resident_layer(self, name: str) -> Tensor:
        """Return all masks or all twins; made once, then kept."""
        if name != LAYER:
            return super().resident_layer(name)
        if self._twins is None:
            parts = torch.split(torch.arange(self.count), _CHUNK)
            self._twins = torch.cat([self.twins(part) for part in parts])
        return self._twins

    def twins(self, indices: Tensor) -> Tensor:
        """Return the twins of images, uint8 (n, 3, size, size)."""
        images = self._sources.images(indices)
        if self._kind == "oracle":
            return images
        rng_key = derive_key(self.seed, "twins", self.split)
        side = round(EXEMPLAR * images.shape[-1])
        exemplars = torch.stack(
            [
                cut_exemplars(image, rng_key, int(index), side=side)
                for image, index in zip(images, indices, strict=True)
            ]
        )
        block = round(side * 3 / 7)
        sizes = Quilting(block, max(1, round(block / 3)))
        return quilt(exemplars, self.size, rng_key, indices, sizes=sizes)


def open_textured_shapes(
    address: str,
    split: str,
    *,
    twins: str = "quilting",
    count: int = 8000,
    test_count: int = 2000,
    size: int = 32,
    classes: int = 64,
    rho: float = 0.7,
    background_rho: float = 0.0,
    seed: int = 0,
    variant: str = "clean",
    labels: str = "outline",
) -> Source:
    """Open a split of ``shapes-textures``; its parameters are those of ``shapes`` and ``twins``."""
    if address:
        raise UserError(f"The data set '{NAME}:{address}' is unknown: use '{NAME}?NAME=VALUE'.")
    return TexturedShapes(
        count if split == TRAIN else test_count,
        twins=twins,  # type: ignore[arg-type]
        split=split,
        size=size,
        classes=classes,
        rho=rho,
        background_rho=background_rho,
        seed=seed,
        variant=variant,
        labels=labels,
    )


register_source(NAME, open_textured_shapes)
