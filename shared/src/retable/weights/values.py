"""Check that tensors of a file hold the values of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from retable.errors import UserError

_READABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has its values in memory, one number for each element."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout is torch.strided
        and not tensor.is_quantized
        and not tensor.is_meta
    )


def refuse_unusable(state: Mapping[str, Tensor], source: str, available: int | None = None) -> None:
    """Raise a UserError for tensors that cannot be weights of an encoder in float32.

    ``available`` are the bytes of the file, which cannot hold more values than that.
    """
    if available is not None and sum(value.numel() for value in state.values()) > available:
        raise UserError(
            f"{source}: The weights claim more values than the file has bytes ({available:,}). Get "
            "the file from its source again."
        )
    faults = [(name, what) for name, value in state.items() if (what := _fault(name, value))]
    if not faults:
        return
    (first, what), same = faults[0], {what for _, what in faults}
    count = f"{len(faults)} tensors such as {first}" if len(faults) > 1 else first
    remedy = (
        "Use a checkpoint of an earlier step"
        if same <= {_NOT_FINITE, _TOO_LARGE, _NEGATIVE}
        else "Save the original weights as dense floating-point tensors"
    )
    raise UserError(
        f"{source}: The weights must be dense, finite floating-point numbers, got {what} in "
        f"{count}. {remedy}."
    )


_NOT_FINITE = "NaN or infinite values"
_TOO_LARGE = "values beyond float32"
_NEGATIVE = "negative variances"


def _fault(name: str, value: Tensor) -> str:
    """Describe what keeps a tensor from being weights; "" if nothing does."""
    for holds, what in _kinds(value):
        if holds:
            return what
    if not value.isfinite().all():
        return _NOT_FINITE
    if value.dtype == torch.float64 and not value.float().isfinite().all():
        return _TOO_LARGE
    if name.endswith("running_var") and bool((value < 0).any()):
        return _NEGATIVE
    return ""


def _kinds(value: Tensor) -> Iterator[tuple[bool, str]]:
    integer = "whole numbers, of which the scale is unknown (quantised weights)"
    yield value.is_meta, "shapes without values (the meta device)"
    yield value.is_quantized, "quantised values"
    yield value.layout is not torch.strided, "sparse values"
    yield not is_plain(value), f"a tensor of type {type(value).__name__}"
    yield value.is_complex(), "complex values"
    yield value.dtype == torch.bool, "true and false"
    yield not value.is_floating_point(), integer
    yield value.dtype not in _READABLE, f"{value.dtype} values, of which the scale is unknown"
