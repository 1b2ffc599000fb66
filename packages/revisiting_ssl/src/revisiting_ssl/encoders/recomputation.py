"""Back-propagation through reversible units that keeps only the output of the last unit.

The usual backward pass keeps every layer's input. This one computes a unit's input from its output,
runs the unit once more on that input, and then computes its gradients (Gomez et al., 2017,
algorithm 1). It needs memory for one unit at a time, whatever their number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm


class NormConditions:
    """The state of networks' batch norms, kept so that a forward pass can be repeated under it.

    A backward pass may run outside of `retable.nn.batch_norm.rows_per_image` or after ``eval()``.

    Args:
        networks: any modules; kept, not copied.
    """

    def __init__(self, *networks: nn.Module) -> None:
        layers = [layer for network in networks for layer in network.modules()]
        self._conditions = [
            (layer, {name: getattr(layer, name) for name in _CONDITIONS if hasattr(layer, name)})
            for layer in layers
            if isinstance(layer, _BatchNorm)
        ]

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Inside the block, normalise as at construction, without updating running statistics."""
        found = []
        for layer, conditions in self._conditions:
            buffers = dict(layer._buffers)
            found.append((layer, {name: getattr(layer, name) for name in conditions}, buffers))
            for name, value in conditions.items():
                setattr(layer, name, value)
            if layer.training:
                layer._buffers.update(dict.fromkeys(buffers))
        try:
            yield
        finally:
            for layer, conditions, buffers in found:
                for name, value in conditions.items():
                    setattr(layer, name, value)
                layer._buffers.update(buffers)


_CONDITIONS = ("training", "group_size")


class Additive(Protocol):
    """A module whose output is (x2, x1 + residual(x2))."""

    def residual(self, x: Tensor) -> Tensor:
        """Return the summand of the other half."""

    def step(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return the halves of the output."""


def autocast_enabled(device: str) -> bool:
    """Whether autocast is enabled now for a type of device."""
    return torch.amp.autocast_mode.is_autocast_available(device) and torch.is_autocast_enabled(
        device
    )


def compute_reversibly(units: Sequence[Additive], x: Tensor, blank: int = 0) -> Tensor:
    """Return the output (B, C, h, w) of the last unit, and keep only it for the gradient.

    Nothing may change the output in place. The gradient is the ordinary one up to the rounding of
    the inversion. Batch norms see each batch
    twice but update their running statistics once. Parameters are inputs of the operation, so that
    their hooks fire as usual (data parallelism needs them).

    Args:
        units: modules, applied one after the other.
        x: (B, C, h, w), the input of the first unit, its two halves along the channels.
        blank: number of the last channels that are zero. The inverse sets them to zero instead of
            rounding errors, which a norm would amplify and a ReLU would sort by sign.
    """
    parameters = [p for unit in units for p in cast(nn.Module, unit).parameters()]
    return cast(Tensor, _Recomputed.apply(units, blank, x, *parameters))


def _autocast_as_now(device: str) -> AbstractContextManager[object]:
    """Return a context that restores the present autocast state."""
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
        # Parameters too, so that autograd notices a change before the backward pass.
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
    """Return F(x), and the gradients of x and of each parameter for a gradient of F(x)."""
    parameters = list(cast(nn.Module, unit).parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        residual = unit.residual(x)
    of_x, *rest = torch.autograd.grad(residual, (x, *trained), gradient)
    found = iter(rest)
    of_unit = [next(found) if parameter.requires_grad else None for parameter in parameters]
    return residual.detach(), of_x, of_unit
