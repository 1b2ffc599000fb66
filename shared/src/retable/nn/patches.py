"""Images cut into patches: one from each cell of a grid, standardised one by one.

For Jigsaw and Relative Patch Location (Noroozi & Favaro 2016, Doersch et al. 2015). A patch is cut
anywhere within its larger cell, so that the edges of neighbours do not continue each other. Each
gets mean 0 and deviation 1, since brightness and contrast would also identify neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from retable.domains import Pixels, Small
from retable.errors import UserError
from retable.nn.checks import Shaped, check_rng_key, check_shapes, row_positions
from retable.random import integers
from retable.settings import validate_fields

# Values that a CPU cuts at a time, so that intermediate results stay in its cache.
_CPU_PIECE = 1 << 19


@dataclass(frozen=True)
class PatchGrid:
    """Sizes of the grid and of the patches of an image.

    The defaults are those of training by Kolesnikov et al. (2019), who evaluate the same encoders
    on ``PatchGrid(cell=64, patch=64)``, where a patch fills its cell.

    Attributes:
        grid: cells in a row and in a column.
        cell: side of a cell in pixels.
        patch: side of a patch in pixels, at most the cell's.
        standardise: whether each patch is standardised, see `standardise`.
    """

    grid: Small = 3
    cell: Pixels = 85
    patch: Pixels = 64
    standardise: bool = True

    def __post_init__(self) -> None:
        validate_fields(self)
        if self.patch > self.cell:
            raise UserError(
                f"`patch` must be at most `cell`, {self.cell} pixels, got {self.patch}. Change one."
            )

    @property
    def side(self) -> int:
        """Side in pixels of the images that are cut."""
        return self.grid * self.cell

    @property
    def count(self) -> int:
        """Number of patches of an image."""
        return self.grid * self.grid

    def check(self, height: int, width: int) -> None:
        """Raise a UserError unless images have the size that the grid covers."""
        if (height, width) != (self.side, self.side):
            raise UserError(
                f"Images cut into {self.grid} x {self.grid} cells of {self.cell} pixels must be "
                f"{self.side} x {self.side} pixels, got {height} x {width}. Set the view's size to "
                f"{self.side}."
            )


def cut_patches(
    images: Tensor, grid: PatchGrid, rng_key: int | None = None, positions: Tensor | None = None
) -> Tensor:
    """Cut one patch from each cell, at a place drawn for each image and cell or in the middle.

    Args:
        images: (B, C, S, S) with S = ``grid.side``, on any device; the host does not wait for it.
        grid: sizes of cells and patches.
        rng_key: random key of the step, equal on all processes; None cuts the middle, rounded down,
            for evaluation.
        positions: (B,) int64 positions of the images in the global batch, on their device; counters
            of the draws. 0 to B - 1 if None.

    Returns:
        (B, n, C, P, P) with n = ``grid.count``, the cells of an image row by row, contiguous; of
        the images' dtype, float32 where the patches are standardised.
    """
    check_shapes(Shaped("images", images, "b C H W", kind="any"))
    grid.check(*images.shape[-2:])
    if rng_key is not None:
        check_rng_key(rng_key)
        positions = row_positions(positions, images)
    count, channels = images.shape[:2]
    piece = max(1, _CPU_PIECE // (channels * grid.side**2))
    if images.device.type == "cpu" and count > piece:
        parts = torch.split(images, piece)
        places = [None] * len(parts) if positions is None else torch.split(positions, piece)
        pairs = zip(parts, places, strict=True)
        return torch.cat([cut_patches(part, grid, rng_key, place) for part, place in pairs])
    rows, columns = _corners(images, grid, rng_key, positions)
    # All windows of an image, without a copy: (B, C, first rows, first columns, P, P).
    windows = images.unfold(2, grid.patch, 1).unfold(3, grid.patch, 1)
    image = torch.arange(count, device=images.device)[:, None]
    patches = windows[image, :, rows, columns]
    return standardise(patches) if grid.standardise else patches.contiguous()


def _corners(
    images: Tensor, grid: PatchGrid, rng_key: int | None, positions: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the patches' first rows and columns, each (B, n) int64, or (1, n) for the middle."""
    cells = torch.arange(grid.count, device=images.device)
    corners = torch.stack([cells // grid.grid, cells % grid.grid], dim=1)[None] * grid.cell
    free = grid.cell - grid.patch
    if rng_key is None:
        corners = corners + free // 2
    else:
        assert positions is not None
        counters = positions[:, None, None] * (2 * grid.count) + 2 * cells[:, None]
        counters = counters + torch.arange(2, device=images.device)
        corners = corners + integers(rng_key, counters, free + 1)
    rows, columns = corners.unbind(dim=2)
    return rows, columns


def standardise(images: Tensor) -> Tensor:
    """Give each image mean 0 and standard deviation 1, over channels and pixels jointly.

    (x - mean) / max(deviation, floor) with the population's deviation over all n values. The floor
    is that of TensorFlow's ``per_image_standardization``, 1 / sqrt(n), which Kolesnikov et al. 2019
    apply to patches of 255 grey levels, scaled to values in [0, 1]. Constant images become exact
    zeros. Images whose deviation is above the floor (at 12 pixels a twentieth of a grey level) are
    invariant to a shift and to a positive factor. ``images`` are (..., C, H, W) of any real dtype,
    the result is float32 and contiguous.

    >>> standardise(torch.tensor([[[0.0, 3.0], [3.0, 6.0]]]))
    tensor([[[-1.4142,  0.0000],
             [ 0.0000,  1.4142]]])
    """
    check_shapes(Shaped("images", images, "... C H W", kind="any"))
    values = images.float().flatten(-3)
    # Relative to one of them: otherwise the mean of equal values differs from them by rounding.
    values = values - values[..., :1]
    values = values - values.mean(dim=-1, keepdim=True)
    # The deviation is the norm over sqrt(n); a norm takes a third of the time.
    norms = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    scaled: Tensor = values * (values.shape[-1] ** 0.5 / norms.clamp(min=1 / 255))
    return scaled.view(images.shape)
