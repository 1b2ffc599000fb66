"""Texture twins of images: how `retable.data.derived` makes them of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from nonsemantic_negatives.textures.exemplars import SIDE, cut_exemplars
from nonsemantic_negatives.textures.quilting import Quilting
from nonsemantic_negatives.textures.synthesis import Backend, synthesize
from retable.domains import Pixels, Seed
from retable.errors import UserError
from retable.random import derive_key
from retable.settings import to_plain, validate_fields

_PIXELS_AT_ONCE = 1 << 16
"""Pixels of textures that a process makes together: 64 of 32 px, one of 224 px."""


@dataclass(frozen=True)
class TwinRecipe:
    """How twins are made; the defaults make ImageNet-Texture (supplement, section A.1).

    Attributes:
        size: side of a twin in pixels.
        exemplar: side of the two patches in pixels of the image's own resolution.
        backend: synthesis, see `nonsemantic_negatives.textures.synthesize`.
        seed: seed of all draws.
    """

    size: Pixels = 224
    exemplar: Pixels = SIDE
    backend: Backend = field(default_factory=Quilting)
    seed: Seed = 0

    def __post_init__(self) -> None:
        validate_fields(self)
        if isinstance(self.backend, Quilting) and self.backend.block > self.exemplar:
            raise UserError(
                f"`block` must be at most `exemplar`, {self.exemplar} pixels, got "
                f"{self.backend.block}. Make the blocks smaller or the exemplars larger."
            )

    @property
    def at_once(self) -> int:
        """Number of twins that a process makes together."""
        return max(1, _PIXELS_AT_ONCE // self.size**2)

    @property
    def settings(self) -> object:
        """The recipe as plain values."""
        return to_plain(self)

    def make(self, images: Sequence[Tensor], names: Sequence[str], device: str) -> Sequence[Tensor]:
        """Return the twins uint8 (3, S, S) of images uint8 (3, H, W)."""
        numbers = [number_of(name) for name in names]
        exemplars = [
            cut_exemplars(image, self.seed, number, side=self.exemplar)
            for image, number in zip(images, numbers, strict=True)
        ]
        textures = synthesize(
            torch.stack(exemplars).to(device),
            self.size,
            derive_key(self.seed, "textures"),
            torch.tensor(numbers, device=device),
            backend=self.backend,
        )
        return textures.cpu().unbind()


def number_of(name: str) -> int:
    """Return the number of an image, which its draws are counted by: 40 bits of its path."""
    return derive_key(0, "twin", *Path(name).with_suffix("").parts) & (2**40 - 1)
