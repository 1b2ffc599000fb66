"""Networks passed through for their shapes: no weight is drawn and no product is computed.

Of a network that is too large to be run here, parameters, operations and what its backward pass
keeps can be counted all the same: what is left to compute takes a small part of the time, and
weights no memory. torch's own way, meta tensors, imports TorchDynamo and SymPy at their first
addition, which takes seconds.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LARGE = 2**16
"""Elements from which on a weight is not drawn: drawing fewer takes less than a millisecond."""

# The others of `torch.nn.init` arrive here as the methods that they call.
_DRAWS = (
    Tensor.normal_,
    Tensor.uniform_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_uniform_,
)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Let convolutions and linear layers return zeros, and large new weights be zeros unseen.

    For CPU tensors. Shapes, types under autocast, and what autograd keeps for the backward pass are
    those of the real thing. Only `torch.conv2d`, `torch.nn.functional.linear`, and the normal and
    uniform draws of large tensors of `torch.empty` are left out: all else is computed.

    >>> with shapes_only():
    ...     torch.nn.Conv2d(3, 8, 3, padding=1)(torch.ones(2, 3, 9, 9)).shape
    torch.Size([2, 8, 9, 9])
    """
    with _ShapesOnly():
        yield


class _ShapesOnly(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self._pages: dict[int, mmap.mmap] = {}  # by address; held so that none is used again

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func is torch.empty:
            return self._empty(*args, **given)
        if func in _DRAWS:
            weights: Tensor = args[0] if args else given["tensor"]
            if weights.data_ptr() in self._pages:
                return weights
        if func is F.linear:
            return _linear(*args, **given)
        if func is torch.conv2d:
            return _conv2d(*args, **given)
        return func(*args, **given)

    def _empty(self, *size: Any, **kind: Any) -> Tensor:
        shape = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
        usual = torch.get_default_dtype()
        device = torch.device(kind.get("device") or torch.get_default_device())
        elsewhere = device.type != "cpu" or not set(kind) <= {"device", "dtype"}
        if math.prod(shape) < LARGE or elsewhere or kind.get("dtype") not in (None, usual):
            return torch.empty(*size, **kind)
        # Private anonymous pages are zeros, and none is in memory before it is written to.
        size_in_bytes = math.prod(shape) * usual.itemsize
        pages = mmap.mmap(-1, size_in_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        weights = torch.frombuffer(pages, dtype=usual).view(*shape)
        self._pages[weights.data_ptr()] = pages
        return weights


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return zeros_for_product(input, weight, (*input.shape[:-1], len(weight)))


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    if isinstance(padding, str):  # "same" and "valid"
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    reach = [d * (k - 1) + 1 for d, k in zip(_pair(dilation), weight.shape[2:], strict=True)]
    padded = [side + 2 * p for side, p in zip(input.shape[2:], _pair(padding), strict=True)]
    sides = [
        (side - window) // step + 1
        for side, window, step in zip(padded, reach, _pair(stride), strict=True)
    ]
    return zeros_for_product(input, weight, (len(input), len(weight), *sides))


def _pair(value: Any) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return first, second


def zeros_for_product(input: Tensor, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return zeros of a shape as if a product had made them: in its type, with its graph.

    >>> zeros_for_product(torch.ones(2, 3), torch.ones(4, 3, requires_grad=True), (2, 4))
    tensor([[0., 0., 0., 0.],
            [0., 0., 0., 0.]], grad_fn=<_ZerosBackward>)
    """
    device = input.device.type
    if torch.is_autocast_enabled(device):
        input = input.to(torch.get_autocast_dtype(device))
    output: Tensor = _Zeros.apply(input, weight, shape)
    return output


class _Zeros(torch.autograd.Function):
    """Keep what a product's backward pass needs, and return zeros in the product's place."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(input, weight)
        return input.new_zeros(shape)
