"""Image quilting (Efros and Freeman, SIGGRAPH 2001), for a batch of images at once.

Blocks are laid row by row, each over a strip of the blocks before it. A block is drawn among the
windows of the exemplars whose colours in the strips agree best, and is joined to what lies there
along the path of least error. Every pixel is therefore a pixel of an exemplar.

All sums are of whole numbers that float32 holds exactly, so that a texture has the same bits on
every device and with any number of threads, and windows that agree equally well are ties.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from retable.domains import NonNegative, Pixels
from retable.errors import UserError
from retable.nn.checks import Shaped, check_rng_key, check_shapes, row_positions
from retable.random import derive_key, integers
from retable.settings import validate_fields

_EXACT = 1023
"""Products of values in [-128, 127] whose sum float32 holds exactly: below 2^24 / 2^14."""


@dataclass(frozen=True)
class Quilting:
    """Sizes of image quilting; the defaults are for textures of 224 pixels from 96.

    Attributes:
        block: side of a block in pixels, at most the exemplars'.
        overlap: pixels by which neighbouring blocks overlap, below ``block``; a quarter of it.
        tolerance: a block is drawn among the windows whose error is at most 1 + tolerance times the
            least; 0.1 in Efros and Freeman.
    """

    block: Pixels = 36
    overlap: Pixels = 9
    tolerance: NonNegative = 0.1

    def __post_init__(self) -> None:
        validate_fields(self)
        if self.overlap >= self.block:
            raise UserError(
                f"`overlap` must be below `block`, {self.block} pixels, got {self.overlap}. Use a "
                "quarter of the block."
            )

    def cells(self, size: int) -> int:
        """Return the number of blocks in a row of a texture of ``size`` pixels.

        >>> Quilting().cells(224)
        8
        """
        step = self.block - self.overlap
        return max(0, -(-(size - self.block) // step)) + 1


def quilt(
    exemplars: Tensor,
    size: int,
    rng_key: int,
    positions: Tensor | None = None,
    *,
    sizes: Quilting | None = None,
) -> Tensor:
    """Return textures uint8 (B, C, S, S) of ``size`` S.

    Args:
        exemplars: uint8 (B, E, C, e, e), E exemplars of each image, on any device.
        size: side of the textures in pixels.
        rng_key: random key of the draws.
        positions: (B,) int64 numbers of the images, the counters of the draws: a texture depends on
            its number, not on the batch that it is made in. 0 to B - 1 if None.
        sizes: sizes of blocks; None: the defaults of `Quilting`.

    Raises:
        UserError: the shapes do not fit, or a block is larger than the exemplars.
    """
    sizes = sizes or Quilting()
    check_shapes(Shaped("exemplars", exemplars, "B E C H H", kind="any"))
    check_rng_key(rng_key)
    positions = row_positions(positions, exemplars)
    side = exemplars.shape[-1]
    if exemplars.dtype != torch.uint8:
        raise UserError(f"`exemplars` must be uint8, got {exemplars.dtype}. Convert them.")
    if sizes.block > side:
        raise UserError(
            f"`block` must be at most the side of the exemplars, {side} pixels, got {sizes.block}. "
            "Make the blocks smaller or the exemplars larger."
        )
    cells, step = sizes.cells(size), sizes.block - sizes.overlap
    extent = sizes.block + (cells - 1) * step
    windows = _Windows(exemplars, sizes)
    canvas = exemplars.new_zeros(len(exemplars), exemplars.shape[2], extent, extent)
    for cell in range(cells * cells):
        row, column = cell // cells, cell % cells
        place = (
            slice(None),
            slice(None),
            slice(row * step, row * step + sizes.block),
            slice(column * step, column * step + sizes.block),
        )
        errors = windows.errors(canvas[place], left=column > 0, top=row > 0)
        counters = positions * (cells * cells) + cell
        chosen = windows.take(
            _draw(errors, sizes.tolerance, derive_key(rng_key, "blocks"), counters)
        )
        canvas[place] = _join(canvas[place], chosen, sizes.overlap, left=column > 0, top=row > 0)
    return canvas[:, :, :size, :size].contiguous()


class _Windows:
    """All windows of the exemplars, and their errors in the strips of a block.

    The error of a window u with colours c in a strip is |u|^2 - 2 u.c + |c|^2. The strips of all
    windows are copied once into the rows of two matrices, so that u.c is a matrix product.
    """

    def __init__(self, exemplars: Tensor, sizes: Quilting) -> None:
        block, overlap = sizes.block, sizes.overlap
        self.exemplars, self.block, self.overlap = exemplars, block, overlap
        self.per_side = exemplars.shape[-1] - block + 1
        values = exemplars.float() - 128
        views = values.unfold(3, block, 1).unfold(4, block, 1)  # (B, E, C, w, w, b, b)
        views = views.permute(0, 1, 3, 4, 2, 5, 6).flatten(1, 3)  # (B, W, C, b, b)
        self.left = views[..., :overlap].flatten(2)
        self.top = views[..., :overlap, :].flatten(2)
        square = views.square()
        corner = _whole(square[..., :overlap, :overlap])
        self.left_energy, self.top_energy = (
            _whole(square[..., :overlap]),
            _whole(square[..., :overlap, :]),
        )
        self.left_energy_below = self.left_energy - corner

    def errors(self, canvas: Tensor, *, left: bool, top: bool) -> Tensor:
        """Return the squared error of each window over the strips of a block, int64 (B, W)."""
        canvas = canvas.float() - 128  # (B, C, b, b)
        errors = torch.zeros_like(self.left_energy)
        if top:
            strip = canvas[:, :, : self.overlap]
            errors += self.top_energy - 2 * _products(self.top, strip.flatten(1))
            errors += _whole(strip.square())[:, None]
        if left:
            strip = canvas[..., : self.overlap].clone()
            if top:
                strip[:, :, : self.overlap] = 0  # the corner is part of the upper strip
            errors += self.left_energy_below if top else self.left_energy
            errors -= 2 * _products(self.left, strip.flatten(1))
            errors += _whole(strip.square())[:, None]
        return errors

    def take(self, numbers: Tensor) -> Tensor:
        """Return the windows with these numbers (B,): uint8 (B, C, b, b)."""
        per_exemplar = self.per_side**2
        exemplar, place = numbers // per_exemplar, numbers % per_exemplar
        image = torch.arange(len(numbers), device=numbers.device)
        views = self.exemplars.unfold(3, self.block, 1).unfold(4, self.block, 1)
        return views[image, exemplar, :, place // self.per_side, place % self.per_side]


def _whole(values: Tensor) -> Tensor:
    """Sum whole numbers (..., C, h, w) exactly, int64 (...)."""
    return values.to(torch.int64).sum(dim=(-3, -2, -1))


def _products(windows: Tensor, strip: Tensor) -> Tensor:
    """Return the inner products (B, W) of windows (B, W, n) with strips (B, n), exact int64."""
    parts = zip(*(torch.split(x, _EXACT, dim=-1) for x in (windows, strip)), strict=True)
    with torch.autocast(windows.device.type, enabled=False):
        return torch.stack(
            [
                torch.bmm(part, of_strip[..., None])[..., 0].to(torch.int64)
                for part, of_strip in parts
            ]
        ).sum(dim=0)


def _draw(errors: Tensor, tolerance: float, rng_key: int, counters: Tensor) -> Tensor:
    """Draw the number of a window (B,) among those of nearly the least error (B, W), uniformly."""
    least = errors.amin(dim=1, keepdim=True)
    good = errors <= least + (least * tolerance).to(torch.int64)
    ranks = good.cumsum(dim=1)
    wanted = 1 + integers(rng_key, counters, ranks[:, -1])
    # The first window that reaches the wanted rank is the good one with this rank.
    return torch.searchsorted(ranks, wanted[:, None])[:, 0]


def _join(canvas: Tensor, block: Tensor, overlap: int, *, left: bool, top: bool) -> Tensor:
    """Return the block (B, C, b, b) with the canvas kept before the paths of least error."""
    if not (left or top):
        return block
    difference = canvas.to(torch.int64) - block.to(torch.int64)
    errors = difference.square().sum(dim=1)  # (B, b, b)
    keep = torch.zeros_like(errors, dtype=torch.bool)
    if left:
        keep[:, :, :overlap] |= _before_path(errors[:, :, :overlap])
    if top:
        across = errors[:, :overlap].transpose(1, 2)
        keep[:, :overlap] |= _before_path(across).transpose(1, 2)
    return torch.where(keep[:, None], canvas, block)


def _before_path(errors: Tensor) -> Tensor:
    """Return which pixels lie before the path of least error from the first to the last row.

    Errors are int64 (B, b, o). A path has one pixel in each row, at most one column from that of
    the row before; of several with equal errors the one
    is taken that ends, and then comes from, furthest left.
    """
    infinite = torch.iinfo(torch.int64).max // 16
    rows = [errors[:, 0]]
    choices = []
    for number in range(1, errors.shape[1]):
        padded = F.pad(rows[-1], (1, 1), value=infinite)
        # The lowest bits tell the step, so that equal errors have one minimum on every device.
        steps = torch.stack([4 * padded[:, :-2], 4 * padded[:, 1:-1] + 1, 4 * padded[:, 2:] + 2])
        least = steps.amin(dim=0)
        rows.append(errors[:, number] + (least >> 2))
        choices.append((least & 3) - 1)
    column = rows[-1].argmin(dim=1, keepdim=True)
    columns = [column]
    for choice in reversed(choices):
        column = column + choice.gather(1, column)
        columns.append(column)
    path = torch.stack(columns[::-1], dim=1)  # (B, b, 1)
    return torch.arange(errors.shape[2], device=errors.device) < path
