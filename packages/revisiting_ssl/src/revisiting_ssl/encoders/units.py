"""Pre-activation residual units: a norm and a ReLU before each convolution (He et al., 2016b).

"Version 2" of ResNet. Nothing follows the last convolution, so that a network of such units is a
sum of their branches.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from retable.encoders.resnet import convolution, make_norm


class Branch(nn.Module):
    """The residual branch F: maps (B, inputs, H, W) to (B, outputs, H / stride, W / stride).

    A bottleneck is BN, ReLU, 1x1 to a quarter of the outputs, BN, ReLU, 3x3 with the stride, BN,
    ReLU, 1x1. The other kind is BN, ReLU, 3x3, BN, ReLU, 3x3 with the stride.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        inner = outputs // 4 if bottleneck else outputs
        self.bn1 = make_norm("batch", inputs)
        self.conv1 = convolution(inputs, inner, 1 if bottleneck else 3)
        self.bn2 = make_norm("batch", inner)
        self.conv2 = convolution(inner, inner, 3, stride)
        if bottleneck:
            self.bn3 = make_norm("batch", inner)
            self.conv3 = convolution(inner, outputs, 1)
        self.bottleneck = bottleneck
        self.relu = nn.ReLU(inplace=True)

    def activated(self, x: Tensor) -> Tensor:
        """Return the first norm and ReLU of the input."""
        return cast(Tensor, self.relu(self.bn1(x)))

    def convolved(self, activated: Tensor) -> Tensor:
        """Return F(x) from the output of `activated`."""
        x = self.conv2(self.relu(self.bn2(self.conv1(activated))))
        if self.bottleneck:
            x = self.conv3(self.relu(self.bn3(x)))
        return cast(Tensor, x)

    def forward(self, x: Tensor) -> Tensor:
        """Return F(x)."""
        return self.convolved(self.activated(x))


class PreActivationUnit(nn.Module):
    """The sum of a `Branch` and its input, or its projected activation where the shape changes.

    ``skip=False`` removes the skip connection and its projection.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, bottleneck: bool, skip: bool = True
    ) -> None:
        super().__init__()
        self.branch = Branch(inputs, outputs, stride, bottleneck)
        self.skip = skip
        self.projection: nn.Conv2d | None = None
        if skip and (stride != 1 or inputs != outputs):
            self.projection = convolution(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (B, outputs, H / stride, W / stride)."""
        activated = self.branch.activated(x)
        residual = self.branch.convolved(activated)
        if not self.skip:
            return residual
        return residual.add_(x if self.projection is None else self.projection(activated))
