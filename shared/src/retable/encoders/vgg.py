"""VGG19 with batch normalisation (Simonyan and Zisserman, 2015; Kolesnikov et al., 2019).

As in the latter's official code (``models/vggnet.py``): no dropout, no biases, and fully connected
layers that are convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from retable.encoders.base import Encoder
from retable.encoders.resnet import make_norm
from retable.encoders.tensorflow_defaults import tensorflow_defaults
from retable.errors import UserError


@dataclass(frozen=True)
class VggRecipe:
    """A VGG encoder; the defaults are VGG19-BN of the usual width, for 224 px.

    Attributes:
        widening: k. The stacks have 8 k, 16 k, 32 k, 64 k and from there on 64 k channels, the
            fully connected layers 512 k. The papers' 8x is the usual network.
        stacks: 3x3 convolutions in each stack.
        pools: whether each stack is followed by a 2x2 maximum.
        fc_kernel: side of the maps that are left for the fully connected layers: 7 for images of
            224 px, 2 for patches of 64 px.

    Raises:
        UserError: a field is out of range, or there is not one of ``pools`` for each stack.
    """

    widening: int = 8
    stacks: tuple[int, ...] = (2, 2, 4, 4, 4)
    pools: tuple[bool, ...] = (True, True, True, True, True)
    fc_kernel: int = 7

    def __post_init__(self) -> None:
        for field in ("stacks", "pools"):  # JSON has no tuples
            object.__setattr__(self, field, tuple(getattr(self, field)))
        for field in ("widening", "fc_kernel"):
            value = getattr(self, field)
            if value < 1:
                raise UserError(f"The encoder's {field} is {value}; use 1 or more.")
        if not self.stacks or min(self.stacks) < 1:
            raise UserError(
                f"The encoder's stacks are {self.stacks}; use a positive number of convolutions "
                f"for each stack."
            )
        if len(self.stacks) != len(self.pools):
            raise UserError(
                f"The encoder has stacks {self.stacks} but pools {self.pools}; use one of true "
                f"and false for each stack."
            )

    def channels(self, stack: int) -> int:
        """Return the channels of a stack, counted from 0.

        >>> [VggRecipe().channels(stack) for stack in range(5)]
        [64, 128, 256, 512, 512]
        """
        return 8 * self.widening << min(stack, 3)


def _layer(inputs: int, outputs: int, kernel: int, padding: int) -> nn.Sequential:
    """Return a convolution with normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=padding, bias=False),
        make_norm("batch", outputs),
        nn.ReLU(inplace=True),
    )


class VggEncoder(Encoder):
    """Images (B, 3, H, W) to features (B, 512 k), the last fully connected layer after its ReLU.

    Taps: "block1" and so on, each stack's maps before its maximum; "fc6", maps of 1x1 if images
    have the size that the recipe's ``fc_kernel`` is for; "pre_logits", the mean over positions of
    what is larger.

    Attributes:
        feature_dim: 512 k.
        recipe: what it was built from.
    """

    def __init__(self, recipe: VggRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.feature_dim = 512 * recipe.widening
        channels = 3
        for stack, depth in enumerate(recipe.stacks):
            layers = []
            for _ in range(depth):
                layers.append(_layer(channels, recipe.channels(stack), 3, padding=1))
                channels = recipe.channels(stack)
            self.add_module(f"block{stack + 1}", nn.Sequential(*layers))
        self.fc6 = _layer(channels, self.feature_dim, recipe.fc_kernel, padding=0)
        self.fc7 = _layer(self.feature_dim, self.feature_dim, 1, padding=0)
        blocks = (f"block{stack + 1}" for stack in range(len(recipe.stacks)))
        self.tap_names = (*blocks, "fc6", "pre_logits")
        tensorflow_defaults(self)

    def _advance(self, name: str, x: Tensor) -> Tensor:
        if name == "pre_logits":
            return cast(Tensor, self.fc7(x)).mean((2, 3))
        depth = self.tap_names.index(name)
        if depth > 0 and self.recipe.pools[depth - 1]:
            self._refuse_smaller(x, 2)
            x = F.max_pool2d(x, 2)
        if name == "fc6":
            self._refuse_smaller(x, self.recipe.fc_kernel)
        return cast(Tensor, self.get_submodule(name)(x))

    def _refuse_smaller(self, x: Tensor, side: int) -> None:
        height, width = x.shape[2:]
        if min(height, width) < side:
            raise UserError(
                f"Maps of {height}x{width} are left where the VGG encoder needs {side}x{side}; use "
                f"larger images, a smaller fc_kernel than {self.recipe.fc_kernel}, or fewer pools."
            )
