"""ResNets as Haiku computes them: with the padding that TensorFlow calls "SAME"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from retable.domains import Width
from retable.encoders import ResNet, register_encoder
from retable.random import initialising
from retable.settings import validate_fields


def same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the padding before and after a side that makes it ``ceil(side / stride)`` long.

    An odd pixel goes to the end. torchvision's networks pad both ends alike, so that their strided
    layers look at other pixels of an even side.

    >>> same_padding(224, kernel=7, stride=2), same_padding(56, kernel=3, stride=2)
    ((2, 3), (0, 1))
    """
    total = max(0, (-(-side // stride) - 1) * stride + kernel - side)
    return total // 2, total - total // 2


def pad_same(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """Pad maps (B, C, H, W) for a layer of ``kernel`` and ``stride``."""
    rows, columns = (same_padding(side, kernel, stride) for side in x.shape[2:])
    return F.pad(x, (*columns, *rows), value=value)


class SameConv2d(nn.Conv2d):
    """A convolution without bias that pads by `pad_same`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__(inputs, outputs, kernel, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (B, C', ceil(H / stride), ceil(W / stride))."""
        return super().forward(pad_same(x, self.kernel_size[0], self.stride[0]))


class SameMaxPool(nn.Module):
    """3x3 max pooling with stride 2 that pads by `pad_same`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (B, C, ceil(H / 2), ceil(W / 2))."""
        return F.max_pool2d(pad_same(x, 3, 2, float("-inf")), 3, 2)


class HaikuResNet(ResNet):
    """A `ResNet` whose strided layers pad as Haiku's do; parameters have torchvision's names."""

    folds_batch_norms = False

    def __init__(self, name: str, *, width: float = 1.0) -> None:
        super().__init__(name, width=width)
        for parent in [*self.modules()]:
            for child, layer in [*parent.named_children()]:
                if isinstance(layer, nn.Conv2d) and layer.stride[0] > 1:
                    setattr(parent, child, _with_same_padding(layer))
        self.maxpool = SameMaxPool()  # type: ignore[assignment]


def _with_same_padding(layer: nn.Conv2d) -> SameConv2d:
    kernel, stride = layer.kernel_size[0], layer.stride[0]
    padded = SameConv2d(layer.in_channels, layer.out_channels, kernel, stride)
    padded.weight = layer.weight
    return padded


@register_encoder
@dataclass(frozen=True)
class HaikuResNetRecipe:
    """A ResNet of the official checkpoints.

    Attributes:
        name: depth.
        width: factor on the number of channels of every layer.
    """

    name: Literal["resnet50", "resnet101", "resnet152", "resnet200"] = "resnet50"
    width: Width = 1.0

    def __post_init__(self) -> None:
        validate_fields(self)

    @property
    def label(self) -> str:
        """The encoder in words."""
        return f"{self.name} of width {self.width:g} with Haiku's padding"

    def build(self, rng_key: int) -> HaikuResNet:
        """Return the encoder with weights drawn from ``rng_key``."""
        with initialising(rng_key):
            return HaikuResNet(self.name, width=self.width)
