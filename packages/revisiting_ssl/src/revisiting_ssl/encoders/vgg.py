"""VGG19 with batch norm (Simonyan and Zisserman, 2015; Kolesnikov et al., 2019).

As in the official code of the latter (google/revisiting-self-supervised, ``models/vggnet.py``):
no dropout, no biases, and convolutions as fully connected layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from retable.domains import Small
from retable.encoders import Encoder, register_encoder
from retable.encoders.resnet import make_norm
from retable.errors import UserError
from retable.random import initialising
from retable.settings import validate_fields
from revisiting_ssl.encoders.tensorflow_defaults import tensorflow_defaults


@register_encoder
@dataclass(frozen=True)
class VggRecipe:
    """A VGG encoder; the default is VGG19-BN of the usual width, for 224 px.

    Attributes:
        widening: factor k on the channels. The stacks have 8 k, 16 k, 32 k, and then 64 k channels,
            the fully connected layers 512 k. The paper's 8x is the usual network.
        stacks: number of 3x3 convolutions in each stack.
        pools: for each stack, whether a 2x2 max-pooling follows it.
        fc_kernel: side of the maps before the fully connected layers: 7 for images of 224 px, 2
            for patches of 64 px.
    """

    widening: Small = 8
    stacks: tuple[Small, ...] = (2, 2, 4, 4, 4)
    pools: tuple[bool, ...] = (True, True, True, True, True)
    fc_kernel: Small = 7

    def __post_init__(self) -> None:
        validate_fields(self)
        if not self.stacks:
            raise UserError(
                f"`encoder.stacks` must be a positive number of convolutions for each stack, got "
                f"{self.stacks}."
            )
        if len(self.stacks) != len(self.pools):
            raise UserError(
                f"`encoder.pools` must be true or false for each of the stacks {self.stacks}, got "
                f"{self.pools}."
            )

    def channels(self, stack: int) -> int:
        """Return the channels of a stack, counted from 0."""
        return 8 * self.widening << min(stack, 3)

    @property
    def label(self) -> str:
        """The name that the paper's tables use, and the size of the last maps.

        >>> VggRecipe().label
        'VGG19-BN 8x for 7x7 maps before its first fully connected layer'
        """
        return (
            f"VGG{sum(self.stacks) + 3}-BN {self.widening}x for {self.fc_kernel}x{self.fc_kernel} "
            "maps before its first fully connected layer"
        )

    def build(self, rng_key: int) -> VggEncoder:
        """Return the encoder with weights drawn from ``rng_key``."""
        with initialising(rng_key):
            return VggEncoder(self)


def _layer(inputs: int, outputs: int, kernel: int, padding: int) -> nn.Sequential:
    """Return a convolution with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=padding, bias=False),
        make_norm("batch", outputs),
        nn.ReLU(inplace=True),
    )


class VggEncoder(Encoder):
    """Images (B, 3, H, W) to features (B, 512 k), the last fully connected layer after its ReLU.

    Taps: "block1" and so on, each stack's maps before its max-pooling; "fc6", maps of 1x1 for
    images of the size that the recipe's ``fc_kernel`` is for; "pre_logits", the mean over positions
    of the last layer's maps.
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

    def advance(self, name: str, x: Tensor) -> Tensor:
        """Compute a tap from the tap before it, see `Encoder.advance`."""
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
                f"The VGG encoder needs maps of at least {side}x{side}, got {height}x{width}. Use "
                f"larger images, a smaller fc_kernel than {self.recipe.fc_kernel}, or fewer pools."
            )
