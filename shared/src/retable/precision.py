"""Names of the floating-point precisions, and their torch types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from retable.errors import UserError

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def autocast_dtype(precision: str) -> torch.dtype | None:
    """Return the type that autocast computes in; None for float32, without autocast."""
    import torch

    dtypes = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in dtypes:
        raise UserError(
            f"`precision` must be one of {', '.join(PRECISIONS)}, got {precision!r}. "
            "Choose one of them."
        )
    return dtypes[precision]
