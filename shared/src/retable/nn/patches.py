"""Images cut into patches: one out of each cell of a grid, standardised one by one.

Of Jigsaw and Relative Patch Location (Noroozi & Favaro 2016, Doersch et al. 2015), with the sizes
of Kolesnikov et al. 2019. A patch is smaller than its cell and lies anywhere within it, so that the
edges of neighbours do not continue each other; that each has mean 0 and deviation 1 takes away
brightness and contrast, which would give neighbours away as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from retable.errors import UserError
from retable.random import integers

# So many values are cut at once on a CPU: what lies between images and patches stays in its cache.
_CPU_PIECE = 1 << 19


@dataclass(frozen=True)
class PatchGrid:
    """How an image is cut into patches.

    Attributes:
        grid: cells in a row and in a column.
        cell: side of a cell in pixels.
        patch: side of a patch in pixels, at most the cell's.
        standardise: whether each patch is standardised, see `standardise`.

    The defaults are those to train with; the same encoders are evaluated on
    ``PatchGrid(cell=64, patch=64)``, which leaves no choice of place.

    Raises:
        UserError: sizes that do not fit together.

    >>> PatchGrid().side, PatchGrid().count
    (255, 9)
    """

    grid: int = 3
    cell: int = 85
    patch: int = 64
    standardise: bool = True

    def __post_init__(self) -> None:
        if not (self.grid >= 1 and 1 <= self.patch <= self.cell):
            raise UserError(
                f"The patch grid has {self.grid} x {self.grid} cells of {self.cell} pixels and "
                f"patches of {self.patch}: expected at least one cell and patches of 1 pixel to a "
                "cell's side."
            )

    @property
    def side(self) -> int:
        """The side of the images that are cut, in pixels."""
        return self.grid * self.cell

    @property
    def count(self) -> int:
        """Patches of an image."""
        return self.grid * self.grid

    def check(self, height: int, width: int) -> None:
        """Check that images are what the grid covers.

        Raises:
            UserError: they are not; the sentence says what they should be.
        """
        if (height, width) != (self.side, self.side):
            raise UserError(
                f"Images of {height} x {width} pixels are to be cut into patches: expected "
                f"{self.side} x {self.side}, {self.grid} cells of {self.cell} pixels each way; "
                f"make the view's size {self.side}."
            )


def cut_patches(
    images: Tensor, grid: PatchGrid, rng_key: int | None = None, positions: Tensor | None = None
) -> Tensor:
    """Cut one patch out of each cell, at a place drawn for each image and cell or in its middle.

    Args:
        images: (B, C, S, S) with S = ``grid.side``, on any device; nothing waits for that device.
        grid: how they are cut.
        rng_key: of the step's draws, equal on all processes; None takes the middle, rounded down:
            the same every time, to evaluate.
        positions: (B,) int64 places of the images in the global batch, on their device; counters of
            the draws and needed with a key only.

    Returns:
        (B, n, C, P, P) with n = ``grid.count``, the cells of an image row by row, contiguous; of
        the images' dtype, float32 where the patches are standardised.

    Raises:
        UserError: images of another size.
        ValueError: a key without positions.

    >>> cut_patches(torch.zeros(2, 3, 33, 33), PatchGrid(cell=11, patch=8)).shape
    torch.Size([2, 9, 3, 8, 8])
    """
    grid.check(*images.shape[-2:])
    count, channels = images.shape[:2]
    piece = max(1, _CPU_PIECE // (channels * grid.side**2))
    if images.device.type == "cpu" and count > piece:
        pieces = (slice(first, first + piece) for first in range(0, count, piece))
        return torch.cat(
            [
                cut_patches(
                    images[rows], grid, rng_key, None if positions is None else positions[rows]
                )
                for rows in pieces
            ]
        )
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
    elif positions is None:
        raise ValueError("patches at drawn places: expected the images' positions beside the key")
    else:
        counters = positions[:, None, None] * (2 * grid.count) + 2 * cells[:, None]
        counters = counters + torch.arange(2, device=images.device)
        corners = corners + integers(rng_key, counters, free + 1)
    rows, columns = corners.unbind(dim=2)
    return rows, columns


def standardise(images: Tensor) -> Tensor:
    """Give each image mean 0 and standard deviation 1, over channels and pixels jointly.

    (x - mean) / max(deviation, floor) with the population's deviation over all n values. The floor
    is 1 / sqrt(n) of one of 255 grey levels, that of TensorFlow's ``per_image_standardization``,
    which Kolesnikov et al. 2019 apply to patches of such levels; here they are in [0, 1]. Constant
    images become zeros exactly. All others with a deviation above the floor (at 12 pixels a
    twentieth of a grey level) are the same after a shift and after a positive factor.

    Args:
        images: (..., C, H, W), at least one value each, of any real dtype.

    Returns:
        (..., C, H, W) float32, contiguous.

    >>> standardise(torch.tensor([[[0.0, 3.0], [3.0, 6.0]]]))
    tensor([[[-1.4142,  0.0000],
             [ 0.0000,  1.4142]]])
    """
    values = images.float().flatten(-3)
    # Relative to one of them, else the mean of equal values would differ from them by rounding.
    values = values - values[..., :1]
    values = values - values.mean(dim=-1, keepdim=True)
    # The deviation is the norm over sqrt(n); a norm takes a third of the time.
    norms = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    scaled: Tensor = values * (values.shape[-1] ** 0.5 / norms.clamp(min=1 / 255))
    return scaled.view(images.shape)
