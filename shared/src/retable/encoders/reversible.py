"""Reversible residual units (Gomez et al., 2017): the input can be computed from the output.

Channels are two halves. A unit adds to one of them a function of the other and swaps them,
(x1, x2) to (x2, x1 + F(x2)), so that the next unit changes the other half; two units are one block
of the original paper.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retable.encoders.recomputation import autocast_enabled, compute_reversibly
from retable.encoders.units import Branch
from retable.errors import UserError
from retable.nn.batch_norm import NormConditions


def pool_and_double(x: Tensor, stride: int) -> Tensor:
    """Return maps of 1/stride the size and twice the channels: averages between zero channels.

    The zeros, half as many as there are channels on either side, become a half's first and the
    other half's last channels. Source: ``pool_and_double_channels`` of Kolesnikov et al.'s official
    code. A window that reaches over the border averages what is inside.

    Args:
        x: (B, C, H, W), C even.
        stride: side of the windows that are averaged; 1 averages nothing.

    Returns:
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

    Args:
        channels: C, even; for a bottleneck a multiple of 8.
        bottleneck: kind of the branch.

    Raises:
        UserError: channels that cannot be halved.

    >>> unit = ReversibleUnit(16, bottleneck=True).eval()
    >>> x = torch.randn(2, 16, 4, 4)
    >>> torch.allclose(unit.inverse(unit(x)), x, atol=1e-5)
    True
    """

    def __init__(self, channels: int, bottleneck: bool) -> None:
        super().__init__()
        if channels % 2:
            raise UserError(
                f"A reversible unit has {channels} channels; it needs two halves, use an even "
                f"number."
            )
        self.branch = Branch(channels // 2, channels // 2, 1, bottleneck)

    def residual(self, x: Tensor) -> Tensor:
        """Return F(x) for one half (B, C / 2, H, W).

        Under autocast the sum of the residuals stays in float32, see `ReversibleBlock`, but what F
        keeps for its gradient is in the lower precision.
        """
        device = x.device.type
        if autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        residual: Tensor = self.branch(x)
        return residual

    def step(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output's halves for those of the input."""
        return second, first + self.residual(second)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W)."""
        first, second = x.chunk(2, dim=1)
        return torch.cat(self.step(first, second), dim=1)

    def inverse(self, y: Tensor) -> Tensor:
        """Return the input (B, C, H, W) of an output; running statistics stay as they are.

        In training mode the statistics are those of ``y``'s batch, which must be the whole batch
        whose output it is.
        """
        second, summed = y.chunk(2, dim=1)
        with NormConditions(self).restored():
            return torch.cat((summed - self.residual(second), second), dim=1)


class ReversibleBlock(nn.Sequential):
    """Reversible units, behind `pool_and_double` in all blocks but the first.

    Under autocast what the units add to is kept in float32, as it is without: what they compute in
    lower precision is the same when it is subtracted again, so that the input comes back to
    float32's rounding.

    Args:
        channels: C of the units.
        depth: number of units.
        bottleneck: kind of their branches.
        stride: of `pool_and_double`; None for none, in the first block.
        recompute: keep only the output for the gradient and compute the units' inputs from it,
            instead of keeping what every layer needs: less memory for about a third more time.
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
