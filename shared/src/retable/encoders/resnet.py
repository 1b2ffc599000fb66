"""ResNet-18 to -200 (He et al., 2016) with torchvision's parameter names and without classifier.

The papers scale every layer's width and exchange the stem, which torchvision's builder does not
offer, and importing torchvision costs more than importing torch. Its weights load unchanged.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from retable.encoders.base import Encoder

#: Blocks in each of the four stages, and whether they are bottlenecks.
DEPTHS: dict[str, tuple[tuple[int, ...], bool]] = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
    "resnet200": ((3, 24, 36, 3), True),
}


class Stem(NamedTuple):
    """What a ResNet does before its first stage; the padding is half the kernel."""

    kernel: int
    stride: int
    pool: str


STEMS = {"imagenet": Stem(7, 2, "max"), "small": Stem(3, 1, "none")}


def scaled(channels: int, width: float) -> int:
    """Return a layer's number of channels at a width factor, at least one."""
    return max(1, round(channels * width))


def make_norm(kind: str, channels: int) -> nn.Module:
    """Return batch normalisation, or group normalisation with 16 channels a group.

    Sixteen channels a group is the setting that Wu and He (2018, table 3) found best among fixed
    group widths; numbers of channels that it does not divide take their common divisor.
    """
    if kind == "group":
        return nn.GroupNorm(channels // math.gcd(channels, 16), channels)
    return nn.BatchNorm2d(channels)


def convolution(
    inputs: int, outputs: int, size: int, stride: int = 1, padding: int | None = None
) -> nn.Conv2d:
    """Return a convolution without bias; the default padding keeps the map's size at stride 1."""
    padding = size // 2 if padding is None else padding
    return nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)


def initialise(module: nn.Module) -> None:
    """Draw convolutions from He's normal distribution by fan-out, as torchvision does.

    The last normalisation of a block starts at scale one: the MoCo and BYOL results were made so,
    SimSiam's from `zero_init_residual_`.
    """
    for layer in module.modules():
        # On the meta device nothing can be drawn, and trying imports sympy and TorchDynamo.
        if isinstance(layer, nn.Conv2d) and not layer.weight.is_meta:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def zero_init_residual_(module: nn.Module) -> None:
    """Start the last normalisation of every residual block at scale zero (Goyal et al., 2017).

    Each block is the identity at first, or its projection.
    """
    for block in module.modules():
        if isinstance(block, BasicBlock | Bottleneck):
            last_norm = block.bn3 if isinstance(block, Bottleneck) else block.bn2
            nn.init.zeros_(last_norm.weight)  # type: ignore[arg-type]


class _Block(nn.Module):
    """A residual block: normalised convolutions beside an identity or a projection.

    Layers are registered in torchvision's order, which is also that of an optimizer's state.
    """

    relu: nn.ReLU
    downsample: nn.Sequential | None

    def _end(self, inputs: int, outputs: int, stride: int, norm: str) -> None:
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                convolution(inputs, outputs, 1, stride), make_norm(norm, outputs)
            )

    def _residual(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return cast(Tensor, self.relu(self._residual(x).add_(shortcut)))


class BasicBlock(_Block):
    """Two 3x3 convolutions, the first with the stride."""

    def __init__(self, inputs: int, channels: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, channels, 3, stride)
        self.bn1 = make_norm(norm, channels)
        self.conv2 = convolution(channels, channels, 3)
        self.bn2 = make_norm(norm, channels)
        self._end(inputs, channels, stride, norm)

    def _residual(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return cast(Tensor, self.bn2(self.conv2(x)))


class Bottleneck(_Block):
    """1x1, 3x3 with the stride (as torchvision: "version 1.5"), 1x1 to four times the channels.

    With ``caffe`` the first 1x1 convolution has the stride, as in the paper's released networks.
    """

    def __init__(
        self, inputs: int, channels: int, stride: int, norm: str, caffe: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, channels, 1, stride if caffe else 1)
        self.bn1 = make_norm(norm, channels)
        self.conv2 = convolution(channels, channels, 3, 1 if caffe else stride)
        self.bn2 = make_norm(norm, channels)
        self.conv3 = convolution(channels, 4 * channels, 1)
        self.bn3 = make_norm(norm, 4 * channels)
        self._end(inputs, 4 * channels, stride, norm)

    def _residual(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return cast(Tensor, self.bn3(self.conv3(x)))


class ResNet(Encoder):
    """Images (B, 3, H, W) to average-pooled features (B, feature_dim).

    Taps: "layer1" to "layer4", each stage's features, and "pre_logits".

    The arguments are fields of `retable.encoders.ResNetRecipe`. At width 1 the feature_dim is 512
    for ResNet-18 and 2048 for ResNet-50.
    """

    tap_names = ("layer1", "layer2", "layer3", "layer4", "pre_logits")
    folds_batch_norms = True

    def __init__(
        self,
        name: str,
        *,
        width: float = 1.0,
        stem: str = "imagenet",
        norm: str = "batch",
        stem_stride: int | None = None,
        stem_padding: int | None = None,
        stem_pool: str | None = None,
        stem_relu: bool = True,
        downsampling: str = "torchvision",
    ) -> None:
        super().__init__()
        depths, bottleneck = DEPTHS[name]
        channels = scaled(64, width)
        usual = STEMS[stem]
        stride = stem_stride or usual.stride
        self.conv1 = convolution(3, channels, usual.kernel, stride, stem_padding)
        pooled = (stem_pool or usual.pool) == "max"
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if pooled else nn.Identity()
        self.stem_relu = stem_relu
        self.bn1 = make_norm(norm, channels)
        self.relu = nn.ReLU(inplace=True)
        inputs = channels
        for stage, depth in enumerate(depths):
            channels = scaled(64 * 2**stage, width)
            blocks: list[nn.Module] = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                if bottleneck:
                    caffe = downsampling == "caffe"
                    blocks.append(Bottleneck(inputs, channels, stride, norm, caffe))
                else:
                    blocks.append(BasicBlock(inputs, channels, stride, norm))
                inputs = 4 * channels if bottleneck else channels
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.feature_dim = inputs
        initialise(self)

    def advance(self, name: str, x: Tensor) -> Tensor:
        """Compute a tap from the tap before it, see `Encoder.advance`."""
        if name == "pre_logits":
            return torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1)
        if name == "layer1":
            x = self.bn1(self.conv1(x))
            x = self.maxpool(self.relu(x) if self.stem_relu else x)
        return cast(Tensor, self.get_submodule(name)(x))
