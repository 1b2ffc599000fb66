"""ResNet v1, ResNet v2 and RevNet of any width (Kolesnikov et al., 2019).

Sizes, paddings and constants are those of the official code (google/revisiting-self-supervised,
``models/resnet.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from retable.domains import Small
from retable.encoders import Encoder, register_encoder
from retable.encoders.resnet import BasicBlock, Bottleneck, convolution, make_norm
from retable.errors import UserError
from retable.random import initialising
from retable.settings import validate_fields
from revisiting_ssl.encoders.pooling import max_pool_compact, max_pool_padded
from revisiting_ssl.encoders.reversible import ReversibleBlock
from revisiting_ssl.encoders.tensorflow_defaults import tensorflow_defaults
from revisiting_ssl.encoders.units import PreActivationUnit


@register_encoder
@dataclass(frozen=True)
class ResidualRecipe:
    """A residual encoder; the default is ResNet50 v2 of the usual width, for 224 px.

    Attributes:
        version: ``v1`` has a norm after each convolution and a ReLU after each sum, as torchvision
            but for its constants; ``v2`` has `PreActivationUnit`; ``reversible`` is RevNet.
        units: number of units in each block. (3, 4, 6, 3) is ResNet50, (2, 2, 2, 2) without
            bottlenecks ResNet18.
        bottleneck: True for 1x1, 3x3 and 1x1 convolutions in a unit, False for two of 3x3.
        widening: factor k on the channels. The root has 16 k channels, the blocks 64 k, 128 k,
            256 k, 512 k (a quarter without bottlenecks). The paper's 4x is the usual network, 16x
            its widest.
        strides: stride of each block; (1, 2, 2, 1) for 64 px patches (official code,
            ``models/utils.py``).
        root_kernel: side of the first convolution.
        root_stride: stride of the first convolution; 1 for patches.
        root_pool: True for a 3x3 max-pooling with stride 2 after the first convolution.
        last_relu: False removes the ReLU before the mean over positions: the paper's "(-)".
        skip: False removes all skip connections with their projections (table 1; only v2).
        reversible_backward: True keeps only each block's output and recomputes the other
            activations in the backward pass (only reversible); equal up to rounding.
    """

    version: Literal["v1", "v2", "reversible"] = "v2"
    units: tuple[Small, ...] = (3, 4, 6, 3)
    bottleneck: bool = True
    widening: Small = 4
    strides: tuple[Small, ...] = (1, 2, 2, 2)
    root_kernel: Small = 7
    root_stride: Small = 2
    root_pool: bool = True
    last_relu: bool = True
    skip: bool = True
    reversible_backward: bool = False

    def __post_init__(self) -> None:
        validate_fields(self)
        self._check_sizes()
        self._check_version()

    def _check_sizes(self) -> None:
        for field in ("units", "strides"):
            values = getattr(self, field)
            if not values:
                raise UserError(
                    f"`encoder.{field}` must be a positive number for each block, got {values}."
                )
        if len(self.units) != len(self.strides):
            raise UserError(
                f"`encoder.strides` must be one stride for each of the blocks {self.units}, got "
                f"{self.strides}."
            )
        if self.root_kernel % 2 == 0:
            raise UserError(f"`encoder.root_kernel` must be odd, got {self.root_kernel}.")

    def _check_version(self) -> None:
        if self.version == "v1" and not self.last_relu:
            raise UserError(
                "`encoder.last_relu` must be true for version v1, whose last unit ends in a ReLU, "
                "got false. Use version v2 or reversible."
            )
        if self.version != "v2" and not self.skip:
            raise UserError(
                f"`encoder.skip` must be true for version {self.version}, got false. Use version "
                "v2."
            )
        if self.version != "reversible" and self.reversible_backward:
            raise UserError(
                f"`encoder.reversible_backward` must be false for version {self.version}, whose "
                "units have no inverse, got true. Use version reversible."
            )
        if self.version == "reversible" and self.strides[0] != 1:
            raise UserError(
                "`encoder.strides` must begin with 1 for version reversible, whose first block has "
                f"no pooling, got {self.strides[0]}. Use root_stride or root_pool for smaller maps."
            )

    def channels(self, block: int) -> int:
        """Return the output channels of a block, counted from 0; -1 is the last."""
        return (64 if self.bottleneck else 16) * self.widening << block % len(self.units)

    @property
    def label(self) -> str:
        """The name that the paper's tables use, and the fields that it leaves out.

        >>> ResidualRecipe("reversible", last_relu=False).label
        'RevNet50 (-) 4x with a 7x7/2 root, pooling and block strides 1, 2, 2, 2'
        """
        depth = 2 + sum(self.units) * (3 if self.bottleneck else 2)
        reversible = self.version == "reversible"
        name = f"RevNet{depth}" if reversible else f"ResNet{depth} {self.version}"
        return (
            f"{name}{'' if self.last_relu else ' (-)'} {self.widening}x"
            f"{'' if self.skip else ' without skip connections'} with a "
            f"{self.root_kernel}x{self.root_kernel}/{self.root_stride} root, "
            f"{'' if self.root_pool else 'no '}pooling and block strides "
            f"{', '.join(map(str, self.strides))}"
        )

    def build(self, rng_key: int) -> ResidualEncoder:
        """Return the encoder with weights drawn from ``rng_key``."""
        with initialising(rng_key):
            return ResidualEncoder(self)


class _Root(nn.Module):
    """First convolution, in v1 with norm and ReLU, and max-pooling."""

    def __init__(self, recipe: ResidualRecipe, channels: int) -> None:
        super().__init__()
        self.conv = convolution(3, channels, recipe.root_kernel, recipe.root_stride)
        self.norm = make_norm("batch", channels) if recipe.version == "v1" else None
        self.pool = recipe.root_pool
        self.maximum = max_pool_compact if recipe.reversible_backward else max_pool_padded

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.conv(images)
        if self.norm is not None:
            x = F.relu_(self.norm(x))
        return self.maximum(x) if self.pool else x


class ResidualEncoder(Encoder):
    """Images (B, 3, H, W) to features (B, F), the mean over positions of the last activation.

    Taps: "after_root"; "block1" and so on, the output of each block's last unit (in v1 after its
    ReLU; in RevNet before `pool_and_double`); "pre_logits".

    Attributes:
        feature_dim: F, 512 k for the widening k (128 k without bottlenecks).
    """

    def __init__(self, recipe: ResidualRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        channels = 16 * recipe.widening
        if recipe.version == "reversible":
            channels = recipe.channels(0)
        self.root = _Root(recipe, channels)
        for block in range(len(recipe.units)):
            self.add_module(f"block{block + 1}", _block(recipe, block, channels))
            channels = recipe.channels(block)
        self.norm = None if recipe.version == "v1" else make_norm("batch", channels)
        self.feature_dim = channels
        blocks = (f"block{block + 1}" for block in range(len(recipe.units)))
        self.tap_names = ("after_root", *blocks, "pre_logits")
        tensorflow_defaults(self)

    def advance(self, name: str, x: Tensor) -> Tensor:
        """Compute a tap from the tap before it, see `Encoder.advance`."""
        if name == "after_root":
            return cast(Tensor, self.root(x))
        if name != "pre_logits":
            return cast(Tensor, self.get_submodule(name)(x))
        if self.norm is not None:
            x = self.norm(x)
            if self.recipe.last_relu:
                x = F.relu_(x)
        return x.mean((2, 3))


def _block(recipe: ResidualRecipe, block: int, inputs: int) -> nn.Module:
    """Build a block, whose first unit has the stride and changes the channels."""
    outputs, depth, stride = recipe.channels(block), recipe.units[block], recipe.strides[block]
    if recipe.version == "reversible":
        return ReversibleBlock(
            outputs, depth, recipe.bottleneck, stride if block else None, recipe.reversible_backward
        )
    return nn.Sequential(
        *(
            _unit(recipe, outputs if index else inputs, outputs, 1 if index else stride)
            for index in range(depth)
        )
    )


def _unit(recipe: ResidualRecipe, inputs: int, outputs: int, stride: int) -> nn.Module:
    if recipe.version == "v2":
        return PreActivationUnit(inputs, outputs, stride, recipe.bottleneck, recipe.skip)
    if recipe.bottleneck:
        return Bottleneck(inputs, outputs // 4, stride, "batch")
    return BasicBlock(inputs, outputs, stride, "batch")
