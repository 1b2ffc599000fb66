"""The residual encoders of Kolesnikov et al. (2019): ResNet v1, ResNet v2 and RevNet, of any width.

Sizes, paddings and constants are those of their official code (``models/resnet.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from retable.encoders.base import Encoder
from retable.encoders.pooling import max_pool_compact, max_pool_padded
from retable.encoders.resnet import BasicBlock, Bottleneck, convolution, make_norm
from retable.encoders.reversible import ReversibleBlock
from retable.encoders.tensorflow_defaults import tensorflow_defaults
from retable.encoders.units import PreActivationUnit
from retable.errors import UserError


@dataclass(frozen=True)
class ResidualRecipe:
    """A residual encoder; the defaults are ResNet50 v2 of the usual width, for 224 px.

    Attributes:
        version: ``v1``, normalisation behind each convolution and ReLU behind each sum, torchvision
            in all but its constants; ``v2``, `PreActivationUnit`; ``reversible``, RevNet.
        units: in each block. (3, 4, 6, 3) is ResNet50, (2, 2, 2, 2) of basic ones ResNet18.
        bottleneck: 1x1, 3x3 and 1x1 convolutions in a unit, or two of 3x3.
        widening: k. The root has 16 k channels, the blocks 64 k, 128 k, 256 k, 512 k (a quarter
            without bottlenecks); the papers' 4x is the usual network, 16x the widest.
        strides: of each block. (1, 2, 2, 1) for 64 px patches (official code, ``models/utils.py``).
        root_kernel: side of the first convolution.
        root_stride: of the first convolution; 1 for patches.
        root_pool: 3x3 maximum with stride 2 behind it.
        last_relu: False leaves out the ReLU before the mean over positions: the paper's "(-)".
        skip: False removes all skip connections with their projections (table 1; only v2).
        reversible_backward: keep each block's output alone and compute the other activations anew
            in the backward pass (only reversible); changes no number beyond rounding.

    Raises:
        UserError: a field is out of range, or two contradict each other.
    """

    version: Literal["v1", "v2", "reversible"] = "v2"
    units: tuple[int, ...] = (3, 4, 6, 3)
    bottleneck: bool = True
    widening: int = 4
    strides: tuple[int, ...] = (1, 2, 2, 2)
    root_kernel: int = 7
    root_stride: int = 2
    root_pool: bool = True
    last_relu: bool = True
    skip: bool = True
    reversible_backward: bool = False

    def __post_init__(self) -> None:
        for field in ("units", "strides"):  # JSON has no tuples
            object.__setattr__(self, field, tuple(getattr(self, field)))
        self._check_sizes()
        self._check_version()

    def _check_sizes(self) -> None:
        for field in ("units", "strides"):
            values = getattr(self, field)
            if not values or min(values) < 1:
                raise UserError(
                    f"The encoder's {field} are {values}; use a positive number for each block."
                )
        if len(self.units) != len(self.strides):
            raise UserError(
                f"The encoder has units {self.units} but strides {self.strides}; use one stride "
                f"for each block."
            )
        for field in ("widening", "root_stride"):
            value = getattr(self, field)
            if value < 1:
                raise UserError(f"The encoder's {field} is {value}; use 1 or more.")
        if self.root_kernel % 2 == 0:
            raise UserError(
                f"The encoder's root_kernel is {self.root_kernel}; use an odd size, which has a "
                f"middle."
            )

    def _check_version(self) -> None:
        if self.version not in ("v1", "v2", "reversible"):
            raise UserError(
                f"The encoder's version is {self.version!r}; use one of v1, v2, reversible."
            )
        if self.version == "v1" and not self.last_relu:
            raise UserError(
                "A v1 encoder ends in the ReLU of its last unit; use version v2 or reversible "
                "with last_relu=False."
            )
        if self.version != "v2" and not self.skip:
            raise UserError(
                f"A {self.version} encoder has no form without skip connections; use version v2 "
                f"with skip=False."
            )
        if self.version != "reversible" and self.reversible_backward:
            raise UserError(
                f"The units of a {self.version} encoder have no inverse; use version reversible "
                f"with reversible_backward=True."
            )
        if self.version == "reversible" and self.strides[0] != 1:
            raise UserError(
                f"The first block of a reversible encoder has stride {self.strides[0]}, but no "
                f"pooling before it; use 1, and root_stride or root_pool for smaller maps."
            )

    def channels(self, block: int) -> int:
        """Return the channels that leave a block, counted from 0; -1 is the last.

        >>> ResidualRecipe().channels(0), ResidualRecipe().channels(-1)
        (256, 2048)
        """
        return (64 if self.bottleneck else 16) * self.widening << block % len(self.units)


class _Root(nn.Module):
    """First convolution, in v1 with normalisation and ReLU, and maximum."""

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

    Taps: "after_root"; "block1" and so on, the sums that leave each block's last unit (in v1 with
    their ReLU; in RevNet before `pool_and_double`); "pre_logits".

    Attributes:
        feature_dim: F, 512 k for the widening k (128 k without bottlenecks).
        recipe: what it was built from.
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

    def _advance(self, name: str, x: Tensor) -> Tensor:
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
    """Build one block: its first unit has the stride and the change of channels."""
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
