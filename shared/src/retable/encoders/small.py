"""Small residual networks for proxies: minutes of training on two CPU cores.

The CIFAR networks of He et al. (2016, section 4.2): a 3x3 stem and three stages of 16, 32, 64
channels, depth 6n + 2 with n basic blocks a stage; projections where the width changes.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from retable.encoders.base import Encoder
from retable.encoders.resnet import BasicBlock, convolution, initialise, make_norm, scaled

#: Blocks in each of the three stages.
SMALL_DEPTHS: dict[str, int] = {"small_resnet8": 1, "small_resnet14": 2, "small_resnet20": 3}


class SmallResNet(Encoder):
    """Images (B, 3, H, W) to average-pooled features (B, feature_dim), 64 at width 1.

    Taps: "layer1" to "layer3", each stage's features, and "pre_logits". The arguments are fields of
    `retable.encoders.ResNetRecipe`. On a CPU multiples of 16 channels run fastest. The ``small``
    stem keeps the resolution; ``imagenet`` (3x3, stride 2) costs a quarter of its time.
    """

    tap_names = ("layer1", "layer2", "layer3", "pre_logits")
    folds_batch_norms = True

    def __init__(
        self, name: str, *, width: float = 1.0, stem: str = "imagenet", norm: str = "batch"
    ) -> None:
        super().__init__()
        channels = scaled(16, width)
        self.conv1 = convolution(3, channels, 3, 1 if stem == "small" else 2)
        self.bn1 = make_norm(norm, channels)
        self.relu = nn.ReLU(inplace=True)
        stages: list[nn.Module] = []
        inputs = channels
        for stage in range(3):
            channels = scaled(16 * 2**stage, width)
            for index in range(SMALL_DEPTHS[name]):
                stride = 2 if stage > 0 and index == 0 else 1
                stages.append(BasicBlock(inputs, channels, stride, norm))
                inputs = channels
        self.blocks = nn.Sequential(*stages)
        self.depth = SMALL_DEPTHS[name]
        self.feature_dim = inputs
        initialise(self)

    def advance(self, name: str, x: Tensor) -> Tensor:
        """Compute a tap from the tap before it, see `Encoder.advance`."""
        if name == "pre_logits":
            return torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1)
        stage = self.tap_names.index(name)
        if stage == 0:
            x = self.relu(self.bn1(self.conv1(x)))
        first = stage * self.depth
        return cast(Tensor, self.blocks[first : first + self.depth](x))
