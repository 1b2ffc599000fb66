"""Back-propagation through reversible units that keeps only the last one's output.

The usual backward pass needs every layer's input. Here a unit's input is computed from its output,
the unit's layers once more from that, and then their gradients (Gomez et al., 2017, algorithm 1):
memory for one unit at a time, however many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from retable.nn.batch_norm import NormConditions


class Additive(Protocol):
    """A module whose output is (x2, x1 + residual(x2))."""

    def residual(self, x: Tensor) -> Tensor:
        """Return what is added to the other half."""

    def step(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output's halves."""


def autocast_enabled(device: str) -> bool:
    """Whether operations on a type of device choose their own precision now."""
    return torch.amp.autocast_mode.is_autocast_available(device) and torch.is_autocast_enabled(
        device
    )


def compute_reversibly(units: Sequence[Additive], x: Tensor, blank: int = 0) -> Tensor:
    """Return the last unit's output; the gradient will need nothing else than that.

    The gradient is the ordinary one up to the rounding of the inversion. Batch norms see each batch
    twice but follow it once. Parameters are inputs of the operation, so that their hooks see their
    gradients as ever (data parallelism).

    Args:
        units: modules, one behind the other.
        x: (B, C, h, w), the halves of the first one's input along the channels.
        blank: how many of the last channels are zero. They come back as zeros and not as rounding
            errors, which a normalisation would blow up and a ReLU sort by their signs.

    Returns:
        (B, C, h, w). Nothing may change it in place.
    """
    parameters = [p for unit in units for p in cast(nn.Module, unit).parameters()]
    return cast(Tensor, _Recomputed.apply(units, blank, x, *parameters))


def _autocast_as_now(device: str) -> AbstractContextManager[object]:
    """Return a context with the present autocast state, for later."""
    if not torch.amp.autocast_mode.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(
        device,
        dtype=torch.get_autocast_dtype(device),
        enabled=torch.is_autocast_enabled(device),
        cache_enabled=torch.is_autocast_cache_enabled(),
    )


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, units: Sequence[Additive], blank: int, x: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.units, ctx.blank = units, blank
        ctx.norms = NormConditions(*cast(Sequence[nn.Module], units))
        ctx.autocast = _autocast_as_now(x.device.type)
        first, second = x.chunk(2, dim=1)
        for unit in units:
            first, second = unit.step(first, second)
        output = torch.cat((first, second), dim=1)
        # Parameters too: their change before the backward pass is then noticed.
        ctx.save_for_backward(output, *parameters)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        output, *_ = ctx.saved_tensors
        first, second = output.chunk(2, dim=1)
        of_first, of_second = gradient.chunk(2, dim=1)
        of_parameters: list[Tensor | None] = []
        with ctx.norms.restored(), ctx.autocast:
            for unit in reversed(ctx.units):
                if unit is ctx.units[0] and ctx.blank:
                    first = F.pad(first[:, : -ctx.blank], (0, 0, 0, 0, 0, ctx.blank))
                residual, of_residual, of_unit = _differentiated(unit, first, of_second)
                # The output was (x2, x1 + F(x2)).
                first, second = second - residual, first
                of_first, of_second = of_second, of_first + of_residual
                of_parameters[:0] = of_unit
        of_input = torch.cat((of_first, of_second), dim=1)
        return None, None, of_input, *of_parameters


def _differentiated(
    unit: Additive, x: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Return F(x), and what the gradient of F(x) gives to x and to each parameter of the unit."""
    parameters = list(cast(nn.Module, unit).parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        residual = unit.residual(x)
    of_x, *rest = torch.autograd.grad(residual, (x, *trained), gradient)
    found = iter(rest)
    of_unit = [next(found) if parameter.requires_grad else None for parameter in parameters]
    return residual.detach(), of_x, of_unit
