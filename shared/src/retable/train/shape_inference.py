"""Forward passes for shapes alone: large weights are not drawn, and products are not computed.

Networks that are too large for this machine can be built and passed through within seconds. Meta
tensors would do so too, but import TorchDynamo and SymPy at their first addition, which takes
seconds itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from retable.random import normal

LARGE = 2**16
"""Number of elements from which on a tensor is not drawn; fewer take less than a millisecond."""

# The other functions of `torch.nn.init` arrive here as the methods that they call.
_DRAWS = (
    Tensor.normal_,
    Tensor.uniform_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_uniform_,
)


class shapes_only(TorchFunctionMode):  # noqa: N801, a context manager
    """Context in which convolutions, linear layers and draws of large weights cost next to nothing.

    Shapes, types under autocast and the graph for the backward pass are the real ones. Values mean
    nothing: of a product one channel is computed and repeated, and new weights of at least `LARGE`
    elements are zeros that take no memory until something writes to them.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace draws and products."""
        given = dict(kwargs or {})
        if func is torch.empty:
            return _empty(*args, **given)
        if func in _DRAWS:
            weights: Tensor = args[0] if args else given["tensor"]
            if weights.numel() >= LARGE and weights.dtype == torch.float32:
                return weights
        if func is normal and args[1].numel() >= LARGE:
            return _empty(args[1].shape)
        if func is Tensor.addmm_:
            return args[0]
        if func is F.linear:
            return _linear(*args, **given)
        if func is torch.conv2d:
            return _conv2d(*args, **given)
        return func(*args, **given)


def _empty(*size: Any, **kind: Any) -> Tensor:
    tensor = torch.empty(*size, **kind)
    usual = tensor.dtype == torch.float32 and tensor.device.type == "cpu"
    if tensor.numel() < LARGE or not usual or not set(kind) <= {"device", "dtype"}:
        return tensor
    # NumPy's zeros are pages that the system fills at the first access; torch writes its own.
    # Weights must not hold arbitrary values: truncated normal draws repeat until all are in range.
    return torch.from_numpy(numpy.zeros(tuple(tensor.shape), numpy.float32))


# Slices keep the storage of the tensor: autograd saves the input that the full product would save.


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    one = F.linear(input[..., :1], weight[:1, :1])
    return one + one.new_zeros(len(weight))


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    one = torch.conv2d(input[:1, :1], weight[:1, :1], None, stride, padding, dilation)
    return one + one.new_zeros(len(input), len(weight), 1, 1)
