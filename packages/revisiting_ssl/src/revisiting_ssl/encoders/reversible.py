"""Reversible residual units (Gomez et al., 2017): the input can be computed from the output.

The channels are two halves. A unit adds a function of one half to the other and swaps them,
(x1, x2) to (x2, x1 + F(x2)), so that the next unit changes the other half. Two units are one block
of the original paper.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retable.errors import UserError
from revisiting_ssl.encoders.recomputation import (
    NormConditions,
    autocast_enabled,
    compute_reversibly,
)
from revisiting_ssl.encoders.units import Branch


def pool_and_double(x: Tensor, stride: int) -> Tensor:
    """Average maps over windows and pad their channels with zeros to twice as many.

    C / 2 zero channels on either side become the first channels of the first half and the last ones
    of the second. Source: ``pool_and_double_channels`` of the official code of Kolesnikov et al. A
    window that crosses the border averages the elements inside. (B, C, H, W), C even, becomes
    (B, 2 C, ceil(H / stride), ceil(W / stride)).

    >>> pool_and_double(torch.ones(1, 2, 4, 4), 2)[0, :, 0, 0]
    tensor([0., 1., 1., 0.])
    """
    if stride > 1:
        x = F.avg_pool2d(x, stride, ceil_mode=True)
    half = x.shape[1] // 2
    return F.pad(x, (0, 0, 0, 0, half, half))


class ReversibleUnit(nn.Module):
    """Maps (B, C, H, W) = (x1, x2) to (x2, x1 + F(x2)), F a `Branch` on half of the channels.

    C is even; for a bottleneck it is a multiple of 8.
    """

    def __init__(self, channels: int, bottleneck: bool) -> None:
        super().__init__()
        if channels % 2:
            raise UserError(
                f"The `channels` of a reversible unit must be an even number, got {channels}."
            )
        self.branch = Branch(channels // 2, channels // 2, 1, bottleneck)

    def residual(self, x: Tensor) -> Tensor:
        """Return F(x) for one half (B, C / 2, H, W).

        Under autocast F computes and keeps its activations in lower precision, while the sum of the
        residuals stays in float32, see `ReversibleBlock`.
        """
        device = x.device.type
        if autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        residual: Tensor = self.branch(x)
        return residual

    def step(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return the halves of the output for those of the input."""
        return second, first + self.residual(second)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W)."""
        first, second = x.chunk(2, dim=1)
        return torch.cat(self.step(first, second), dim=1)

    def inverse(self, y: Tensor) -> Tensor:
        """Return the input (B, C, H, W) of an output, without a change of running statistics.

        In training mode ``y`` must be the output of a complete batch, whose statistics are used.
        """
        second, summed = y.chunk(2, dim=1)
        with NormConditions(self).restored():
            return torch.cat((summed - self.residual(second), second), dim=1)


class ReversibleBlock(nn.Sequential):
    """Reversible units, after `pool_and_double` in all blocks but the first.

    Under autocast the units compute residuals in lower precision and add them in float32. The
    inverse subtracts the same residuals, so that it gives the input up to float32's rounding.

    The ``stride`` is that of `pool_and_double`; None for the first block, which has none. With
    ``recompute`` only the output is kept for the gradient and the units' inputs are recomputed from
    it: less memory for about a third more time.
    """

    def __init__(
        self, channels: int, depth: int, bottleneck: bool, stride: int | None, recompute: bool
    ) -> None:
        super().__init__(*(ReversibleUnit(channels, bottleneck) for _ in range(depth)))
        self.stride = stride
        self.recompute = recompute

    def forward(self, x: Tensor) -> Tensor:
        """Return the last unit's output (B, C, h, w)."""
        if autocast_enabled(x.device.type):
            x = x.float()
        if self.stride is not None:
            x = pool_and_double(x, self.stride)
        units = [unit for unit in self if isinstance(unit, ReversibleUnit)]
        if self.recompute:
            return compute_reversibly(units, x, 0 if self.stride is None else x.shape[1] // 4)
        first, second = x.chunk(2, dim=1)
        for unit in units:
            first, second = unit.step(first, second)
        return torch.cat((first, second), dim=1)
