"""Encoders: networks from images (B, 3, H, W) to pooled features (B, F)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, overload

from retable.encoders.base import Encoder
from retable.encoders.residual import ResidualEncoder, ResidualRecipe
from retable.encoders.resnet import DEPTHS, ResNet, zero_init_residual_
from retable.encoders.small import SMALL_DEPTHS, SmallResNet
from retable.encoders.vgg import VggEncoder, VggRecipe
from retable.errors import UserError
from retable.random import initialising

__all__ = [
    "ENCODER_NAMES",
    "Encoder",
    "EncoderRecipe",
    "ResNet",
    "ResNetRecipe",
    "ResidualEncoder",
    "ResidualRecipe",
    "SmallResNet",
    "VggEncoder",
    "VggRecipe",
    "build_encoder",
]

ENCODER_NAMES = tuple(DEPTHS) + tuple(SMALL_DEPTHS)


@dataclass(frozen=True)
class ResNetRecipe:
    """A network with torchvision's names, or a small one of that kind.

    Attributes:
        name: one of `ENCODER_NAMES`: ``resnet18`` to ``resnet200`` or ``small_resnet8`` to ``20``.
        width: factor on the number of channels of every layer, 1, 2, 4 in the papers; small
            fractions serve tests and proxies.
        stem: ``imagenet`` (7x7 stride 2 and max-pool; 3x3 stride 2 in the small family) or
            ``small`` (3x3 stride 1, no pooling: the usual choice for 32 px, SimCLR appendix B.9).
        norm: ``batch``, or ``group`` (Wu and He, 2018) for encoders without batch statistics.
        zero_init_residual: start each residual block as its shortcut (SimSiam's official code).

    Raises:
        UserError: a field is none of these.
    """

    name: str = "resnet50"
    width: float = 1.0
    stem: Literal["imagenet", "small"] = "imagenet"
    norm: Literal["batch", "group"] = "batch"
    zero_init_residual: bool = False

    def __post_init__(self) -> None:
        for field, choices in (
            ("name", ENCODER_NAMES),
            ("stem", ("imagenet", "small")),
            ("norm", ("batch", "group")),
        ):
            value = getattr(self, field)
            if value not in choices:
                raise UserError(
                    f"The encoder's {field} is {value!r}; use one of {', '.join(choices)}."
                )
        if not self.width > 0:
            raise UserError(f"The encoder's width is {self.width}; use a positive factor.")


EncoderRecipe: TypeAlias = ResNetRecipe | ResidualRecipe | VggRecipe
"""What an encoder is, as far as a checkpoint has to know."""


@overload
def build_encoder(recipe: ResNetRecipe, rng_key: int) -> ResNet | SmallResNet: ...
@overload
def build_encoder(recipe: ResidualRecipe, rng_key: int) -> ResidualEncoder: ...
@overload
def build_encoder(recipe: VggRecipe, rng_key: int) -> VggEncoder: ...
@overload
def build_encoder(recipe: EncoderRecipe, rng_key: int) -> Encoder: ...


def build_encoder(recipe: EncoderRecipe, rng_key: int) -> Encoder:
    """Build an encoder with attribute ``feature_dim``, weights drawn from ``rng_key``.

    >>> import torch
    >>> encoder = build_encoder(ResNetRecipe("small_resnet8"), rng_key=0)
    >>> encoder(torch.zeros(2, 3, 32, 32)).shape, encoder.feature_dim
    (torch.Size([2, 64]), 64)
    """
    with initialising(rng_key):
        if isinstance(recipe, ResidualRecipe):
            return ResidualEncoder(recipe)
        if isinstance(recipe, VggRecipe):
            return VggEncoder(recipe)
        build = ResNet if recipe.name in DEPTHS else SmallResNet
        encoder = build(recipe.name, width=recipe.width, stem=recipe.stem, norm=recipe.norm)
    if recipe.zero_init_residual:
        zero_init_residual_(encoder)
    return encoder
