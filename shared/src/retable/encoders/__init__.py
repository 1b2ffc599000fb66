"""Encoders: networks from images (B, 3, H, W) to pooled features (B, F)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from retable.domains import Interval, Width
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

MAX_STEM = 16
"""Largest stride and padding of a stem."""


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
        stem_stride: stride of the first convolution; None: that of ``stem``. This and the fields
            below are for ``resnet18`` to ``resnet200``, as other programs build them.
        stem_padding: its padding; None: half its kernel.
        stem_pool: ``max`` (3x3, stride 2) or ``none``; None: that of ``stem``.
        stem_relu: whether a ReLU follows the first norm.
        downsampling: where a bottleneck has its stride: ``torchvision`` in the 3x3 convolution,
            ``caffe`` in the first 1x1 (He et al., 2016; Detectron2's ``STRIDE_IN_1X1``).
    """

    name: str = "resnet50"
    width: Width = 1.0
    stem: Literal["imagenet", "small"] = "imagenet"
    norm: Literal["batch", "group"] = "batch"
    zero_init_residual: bool = False
    stem_stride: Annotated[int, Interval(1, MAX_STEM, whole=True)] | None = None
    stem_padding: Annotated[int, Interval(0, MAX_STEM, whole=True)] | None = None
    stem_pool: Literal["max", "none"] | None = None
    stem_relu: bool = True
    downsampling: Literal["torchvision", "caffe"] = "torchvision"

    def __post_init__(self) -> None:
        validate_fields(self)
        if self.name not in ENCODER_NAMES:
            raise UserError(
                f"`encoder.name` must be one of {', '.join(ENCODER_NAMES)}, got {self.name!r}."
            )
        self._validate_details()

    def _validate_details(self) -> None:
        if self.details and self.name not in DEPTHS:
            raise UserError(
                f"`encoder.name` must be one of {', '.join(DEPTHS)} for an encoder with "
                f"{', '.join(self.details)}, got {self.name!r}."
            )
        if self.downsampling == "caffe" and not DEPTHS[self.name][1]:
            raise UserError(
                "`encoder.downsampling` must be torchvision for a ResNet of basic blocks, got "
                f"'caffe' for {self.name}."
            )

    @property
    def details(self) -> tuple[str, ...]:
        """What differs from torchvision's network with this stem, in words."""
        return tuple(
            text
            for differs, text in (
                (self.stem_stride is not None, f"stem stride {self.stem_stride}"),
                (self.stem_padding is not None, f"stem padding {self.stem_padding}"),
                (self.stem_pool == "max", "max pooling"),
                (self.stem_pool == "none", "no pooling"),
                (not self.stem_relu, "no ReLU in the stem"),
                (self.downsampling == "caffe", "strides in the 1x1 convolutions"),
            )
            if differs
        )

    @property
    def label(self) -> str:
        """The encoder in words: "resnet50 of width 1 with the imagenet stem"."""
        plain = f"{self.name} of width {self.width:g} with the {self.stem} stem"
        return ", ".join((plain, *self.details))

    def build(self, rng_key: int) -> ResNet | SmallResNet:
        """Return the encoder with weights drawn from ``rng_key``."""
        shape: dict[str, Any] = {"width": self.width, "stem": self.stem, "norm": self.norm}
        with initialising(rng_key):
            encoder: ResNet | SmallResNet
            if self.name in DEPTHS:
                encoder = ResNet(
                    self.name,
                    stem_stride=self.stem_stride,
                    stem_padding=self.stem_padding,
                    stem_pool=self.stem_pool,
                    stem_relu=self.stem_relu,
                    downsampling=self.downsampling,
                    **shape,
                )
            else:
                encoder = SmallResNet(self.name, **shape)
        if self.zero_init_residual:
            zero_init_residual_(encoder)
        return encoder
