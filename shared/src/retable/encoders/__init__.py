"""Encoders: networks from images (B, 3, H, W) to pooled features (B, F)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from retable.domains import Width
from retable.encoders.base import Encoder, EncoderRecipe
from retable.encoders.registry import register_encoder
from retable.encoders.resnet import DEPTHS, ResNet, zero_init_residual_
from retable.encoders.small import SMALL_DEPTHS, SmallResNet
from retable.errors import UserError
from retable.random import initialising
from retable.settings import validate_fields

__all__ = [
    "ENCODER_NAMES",
    "Encoder",
    "EncoderRecipe",
    "ResNet",
    "ResNetRecipe",
    "SmallResNet",
    "register_encoder",
]

ENCODER_NAMES = tuple(DEPTHS) + tuple(SMALL_DEPTHS)


@register_encoder
@dataclass(frozen=True)
class ResNetRecipe:
    """A ResNet with torchvision's parameter names, or a small one for small images.

    Attributes:
        name: one of `ENCODER_NAMES`: ``resnet18`` to ``resnet200`` or ``small_resnet8`` to ``20``.
        width: factor on the number of channels of every layer, 1, 2, 4 in the papers; small
            fractions serve tests and proxies.
        stem: ``imagenet`` (7x7 stride 2 and max-pool; 3x3 stride 2 in the small family) or
            ``small`` (3x3 stride 1, no pooling: the usual choice for 32 px, SimCLR appendix B.9).
        norm: ``batch``, or ``group`` (Wu and He, 2018) for encoders without batch statistics.
        zero_init_residual: start each residual block as its shortcut (SimSiam's official code).
    """

    name: str = "resnet50"
    width: Width = 1.0
    stem: Literal["imagenet", "small"] = "imagenet"
    norm: Literal["batch", "group"] = "batch"
    zero_init_residual: bool = False

    def __post_init__(self) -> None:
        validate_fields(self)
        if self.name not in ENCODER_NAMES:
            raise UserError(
                f"`encoder.name` must be one of {', '.join(ENCODER_NAMES)}, got {self.name!r}."
            )

    @property
    def label(self) -> str:
        """The encoder in words: "resnet50 of width 1 with the imagenet stem"."""
        return f"{self.name} of width {self.width:g} with the {self.stem} stem"

    def build(self, rng_key: int) -> ResNet | SmallResNet:
        """Return the encoder with weights drawn from ``rng_key``."""
        network = ResNet if self.name in DEPTHS else SmallResNet
        with initialising(rng_key):
            encoder = network(self.name, width=self.width, stem=self.stem, norm=self.norm)
        if self.zero_init_residual:
            zero_init_residual_(encoder)
        return encoder
