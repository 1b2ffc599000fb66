"""Checks of the arguments of public functions, so that no wrong shape is broadcast in silence.

A function lists its tensors with the names of their dimensions; an equal name means an equal size:

    check_shapes(
        Shaped("query", query, "B D"),
        Shaped("queue", queue, "K D"),
        Shaped("cosines", cosines, "B K", remedy="Leave out the positive's column."),
    )

These checks read shapes, types and devices, and the host never waits for the device. `unit_rows`
also reads values, on a CPU only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from retable.errors import UserError

Kind = Literal["real", "whole", "mask", "any"]

Rows = Literal["unit", "normalise", "unchecked"]
"""Treatment of rows that should have unit length, see `unit_rows`."""


class Shaped(NamedTuple):
    """An argument and the shape that it must have.

    Attributes:
        name: name of the argument.
        tensor: its value; None is not checked.
        dims: names of the dimensions. A capital letter is at least 1, a small one may be 0, "1+K"
            is one more than K, a number is itself, and "..." in front is any number of dimensions.
        kind: "real" (floating-point), "whole" (int64), "mask" (bool) or "any".
        remedy: sentence for a wrong size; None: one that follows from the shapes.
    """

    name: str
    tensor: Tensor | None
    dims: str
    kind: Kind = "real"
    remedy: str | None = None


def check_shapes(*arguments: Shaped, **sizes: int) -> None:
    """Raise a UserError unless all arguments have their shapes and types and lie on one device.

    ``sizes`` are the sizes of dimensions that are known before. Floating-point tensors must have
    one precision, where half counts as float32.
    """
    seen: list[Shaped] = []
    for argument in arguments:
        if argument.tensor is None:
            continue
        _check_type(argument)
        if seen:
            _check_together(argument, seen)
        if not _fits(argument, sizes):
            raise UserError(_shape_message(argument, sizes, seen))
        seen.append(argument)


def _fits(argument: Shaped, sizes: dict[str, int]) -> bool:
    """Return whether a shape fits ``sizes``; if so, add those of its new dimensions."""
    assert argument.tensor is not None
    dims, shape = argument.dims.split(), argument.tensor.shape
    if dims[0] == "...":
        dims = dims[1:]
        shape = shape[max(0, len(shape) - len(dims)) :]
    if len(dims) != len(shape):
        return False
    found: dict[str, int] = {}
    for dim, size in zip(dims, shape, strict=True):
        name, size = (dim[2:], size - 1) if dim.startswith("1+") else (dim, size)
        if size < (0 if name.islower() else 1):
            return False
        wanted = int(name) if name.isdigit() else sizes.get(name, found.setdefault(name, size))
        if size != wanted:
            return False
    sizes.update(found)
    return True


def _check_type(argument: Shaped) -> None:
    name, tensor, _, kind, _ = argument
    if not isinstance(tensor, Tensor):
        raise UserError(f"`{name}` must be a tensor, got {type(tensor).__name__}. Convert it.")
    if kind == "real":
        if not tensor.is_floating_point():
            raise UserError(f"`{name}` must be floating-point, got {tensor.dtype}. Convert it.")
    elif kind != "any" and tensor.dtype != _DTYPES[kind]:
        raise UserError(f"`{name}` must be {_DTYPES[kind]}, got {tensor.dtype}. Convert it.")


_DTYPES = {"whole": torch.int64, "mask": torch.bool}


def _check_together(argument: Shaped, seen: list[Shaped]) -> None:
    """Compare device and precision with those of the arguments before."""
    name, tensor, _, kind, _ = argument
    first, real = seen[0], next((one for one in seen if one.kind == "real"), None)
    assert tensor is not None
    assert first.tensor is not None
    if tensor.device != first.tensor.device:
        raise UserError(
            f"`{name}` must be on {first.tensor.device}, as `{first.name}` is, got "
            f"{tensor.device}. Move one of them."
        )
    if kind != "real" or real is None:
        return
    assert real.tensor is not None
    if _precision(tensor) != _precision(real.tensor):
        raise UserError(
            f"`{name}` must be {real.tensor.dtype}, as `{real.name}` is, got {tensor.dtype}. "
            "Convert one of them."
        )


def _precision(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _shape_message(argument: Shaped, sizes: dict[str, int], seen: list[Shaped]) -> str:
    """Return the sentences for an argument that does not fit ``sizes``."""
    assert argument.tensor is not None
    name, shape, dims = argument.name, tuple(argument.tensor.shape), argument.dims.split()
    wanted = _written(_size(dim, sizes) for dim in dims)
    said = f"`{name}` must have shape {wanted}"
    if len(shape) == len(dims) and 0 in shape:
        said += ", none of them 0"
    return f"{said}, got {_written(shape)}. {argument.remedy or _remedy(argument, sizes, seen)}"


def _size(dim: str, sizes: dict[str, int]) -> str:
    name = dim.removeprefix("1+")
    if name not in sizes:
        return dim.replace("+", " + ")
    return str(sizes[name] + (dim != name))


def _written(sizes: Iterable[object]) -> str:
    parts = [str(size) for size in sizes]
    return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"


def _remedy(argument: Shaped, sizes: dict[str, int], seen: list[Shaped]) -> str:
    assert argument.tensor is not None
    dims = argument.dims.split()
    shape = argument.tensor.shape
    if 0 in shape:
        return "Pass at least one row."
    known = set(sizes) & {dim.removeprefix("1+") for dim in dims}
    turned = argument.tensor.mT if len(shape) == len(dims) == 2 else None
    if known and turned is not None and _fits(argument._replace(tensor=turned), sizes):
        return "Transpose it."
    others = [one for one in seen if set(one.dims.split()) & set(dims)]
    fitting = " and ".join(f"`{one.name}` {_written(_shape_of(one))}" for one in others)
    return f"Make it fit {fitting}." if fitting else f"Give it {len(dims)} dimensions."


def _shape_of(argument: Shaped) -> tuple[int, ...]:
    assert argument.tensor is not None
    return tuple(argument.tensor.shape)


def row_weight(name: str, weight: Tensor | float, rows: Tensor) -> Tensor | float:
    """Return a weight of rows (B, D) in a form that broadcasts along them.

    A number or 0-dim tensor weighs all rows, (B,) or (B, 1) each row, (B, D) each row and
    dimension. One-dimensional weights become (B, 1): otherwise they would weigh dimensions if
    B = D.
    """
    if not isinstance(weight, Tensor):
        return weight
    count, dim = rows.shape
    if weight.shape not in ((), (count,), (count, 1), (count, dim)):
        raise UserError(
            f"`{name}` must be one number or have shape ({count},), ({count}, 1) or "
            f"({count}, {dim}), got {_written(weight.shape)}. Pass a weight for each row."
        )
    if not weight.is_floating_point():
        raise UserError(f"`{name}` must be floating-point, got {weight.dtype}. Convert it.")
    if weight.ndim and weight.device != rows.device:
        raise UserError(f"`{name}` must be on {rows.device}, got {weight.device}. Move it.")
    return weight[:, None] if weight.ndim == 1 else weight


def unit_rows(name: str, rows: Tensor, treatment: Rows) -> Tensor:
    """Return rows (..., D) of unit length.

    "unit" expects rows that have it. Other rows are an error on a CPU; elsewhere and in compiled
    code, where reading them would stop the device, they become NaN. "normalise" scales the rows, in
    float32 at least. "unchecked" returns them as they are, without any cost.
    """
    if treatment == "unchecked":
        return rows
    wide = torch.promote_types(rows.dtype, torch.float32)
    if treatment == "normalise":
        return F.normalize(rows.to(wide), dim=-1)
    if treatment != "unit":
        raise UserError(
            f"`rows` must be 'unit', 'normalise' or 'unchecked', got {treatment!r}. Use 'unit' for "
            "rows of unit length."
        )
    lengths = torch.linalg.vector_norm(rows.detach(), dim=-1, dtype=wide)
    fits = (lengths - 1).abs() <= _LENGTH_TOLERANCE
    if rows.device.type != "cpu" or torch.compiler.is_compiling():
        return torch.where(fits[..., None], rows, math.nan)
    if not fits.all():
        raise UserError(
            f"`{name}` must have rows of length 1, got a mean length of {lengths.mean():.3g}. "
            'Normalise them, or pass rows="normalise".'
        )
    return rows


_LENGTH_TOLERANCE = 1e-2  # rows that were rounded to bfloat16


def check_rng_key(rng_key: object) -> None:
    """Raise a UserError unless a random key is an integer of 64 bits (`retable.random`)."""
    if not isinstance(rng_key, int):
        raise UserError(
            f"`rng_key` must be an integer, got {type(rng_key).__name__}. Use, for example, the "
            "number of the step."
        )
    if not -(2**63) <= rng_key < 2**63:
        raise UserError(
            f"`rng_key` must be in [-2^63, 2^63), got {rng_key}. Use retable.random.derive_key."
        )


def row_positions(positions: Tensor | None, rows: Tensor) -> Tensor:
    """Return the positions (B,) of rows (B, ...) in the global batch; 0 to B - 1 if None."""
    if positions is None:
        return torch.arange(len(rows), device=rows.device)
    check_shapes(Shaped("positions", positions, "b", kind="whole"), b=len(rows))
    if positions.device != rows.device:
        raise UserError(
            f"`positions` must be on {rows.device}, got {positions.device}. Move them there."
        )
    return positions


def check_least(least: float, **values: float | None) -> None:
    """Raise a UserError unless each value is a number of at least ``least``, or None."""
    for name, value in values.items():
        if value is not None and not value >= least:
            raise UserError(f"`{name}` must be at least {least:g}, got {value}. Enlarge it.")


def check_temperature(temperature: float) -> None:
    """Raise a UserError unless a temperature is positive and finite."""
    if not 0 < temperature < math.inf:
        raise UserError(
            f"`temperature` must be positive, got {temperature}. Use, for example, 0.2."
        )
