"""Max-pooling with zero padding, after the first convolution of Kolesnikov et al.'s encoders."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def max_pool_padded(x: Tensor) -> Tensor:
    """Return the maximum over 3x3 windows with stride 2, on maps padded with zeros.

    torch pads with minus infinity, which differs at the border of negative maps: those of v2 and
    RevNet, before any ReLU. Source: ``fixed_padding`` before every pooling in the official code.
    (B, C, H, W) becomes (B, C, ceil(H / 2), ceil(W / 2)).

    >>> max_pool_padded(-torch.ones(1, 1, 4, 4))
    tensor([[[[ 0.,  0.],
              [ 0., -1.]]]])
    """
    return F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, stride=2)


def max_pool_compact(x: Tensor) -> Tensor:
    """Compute `max_pool_padded` with one byte per maximum kept for the gradient, in twice the time.

    torch keeps the padded maps and an eight-byte index per maximum. In a RevNet, whose first
    convolution has many channels, that is as much as all later layers together.
    """
    if x.shape[3] < 3:  # one place in such a map can be two in a window
        return max_pool_padded(x)
    return cast(Tensor, _CompactMaximum.apply(x))


_BORDER = 9
"""Place of a maximum that is a zero of the padding; 0 to 8 are the places in a window."""


class _CompactMaximum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        found = [_maximum(part) for part in torch.split(x, _images_at_once(x))]
        ctx.save_for_backward(torch.cat([place for _, place in found]))
        ctx.shape = x.shape
        last = x.is_contiguous(memory_format=torch.channels_last)
        ctx.memory_format = torch.channels_last if last else torch.contiguous_format
        return torch.cat([maxima for maxima, _ in found])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (place,) = ctx.saved_tensors
        of_input = torch.empty(
            ctx.shape,
            dtype=gradient.dtype,
            device=gradient.device,
            memory_format=ctx.memory_format,
        )
        size = _images_at_once(of_input)
        parts = (torch.split(tensor, size) for tensor in (of_input, gradient, place))
        for target, values, places in zip(*parts, strict=True):
            _scatter(target, values, places)
        return of_input


def _images_at_once(x: Tensor) -> int:
    """Return the number of images of at most 2^22 elements, whose int64 indices take 8 MiB."""
    return max(1, (1 << 22) // x[0].numel())


def _maximum(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maxima and, as uint8, the place of each in its window."""
    width = x.shape[3]
    maxima, index = F.max_pool2d(x, 3, stride=2, padding=1, return_indices=True)
    # The row and the column inside the window, as row * width + column.
    offset = index.sub_(_corners(x, maxima)).int()
    row = offset.div(width, rounding_mode="floor")
    place = offset.sub_(row, alpha=width - 3).to(torch.uint8)
    beyond = (maxima < 0) & _reach_over(x, maxima)
    return maxima.masked_fill_(beyond, 0), place.masked_fill_(beyond, _BORDER)


def _scatter(target: Tensor, values: Tensor, place: Tensor) -> None:
    """Write the sums of the maxima's gradients to ``target``, which has the maps' shape."""
    beyond = place == _BORDER
    values = values.masked_fill(beyond, 0)
    place = place.masked_fill(beyond, 4)  # the middle, which is always inside
    index = (place // 3).int().mul_(target.shape[3] - 3).add_(place).long()
    index += _corners(target, values)
    flat = torch.zeros_like(target, memory_format=torch.contiguous_format).flatten(2)
    flat.scatter_add_(2, index.flatten(2), values.flatten(2))
    target.copy_(flat.view(target.shape))


def _corners(x: Tensor, maxima: Tensor) -> Tensor:
    """Return (h, w) indices of the windows' first elements in flat maps, negative in padding."""
    rows, columns = (2 * torch.arange(n, device=x.device) - 1 for n in maxima.shape[2:])
    return rows[:, None] * x.shape[3] + columns


def _reach_over(x: Tensor, maxima: Tensor) -> Tensor:
    """Return (h, w), true for windows that contain padding."""
    starts = (2 * torch.arange(n, device=x.device) - 1 for n in maxima.shape[2:])
    rows, columns = (
        (start < 0) | (start + 3 > side) for start, side in zip(starts, x.shape[2:], strict=True)
    )
    return rows[:, None] | columns
