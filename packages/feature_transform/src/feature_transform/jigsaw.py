"""The jigsaw branch of PIRL and InfoMin: an image as a shuffled set of patches.

A view is divided into grid x grid cells, a smaller crop is cut from each at random, the crops are
embedded separately, and their embeddings, in random order, are combined into one feature (Misra &
van der Maaten, CVPR 2020; sizes and head as in PyContrast, InfoMin's official code).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from retable.nn.checks import Shaped, check_least, check_rng_key, check_shapes
from retable.nn.heads import linear_head, mlp_head
from retable.nn.patches import PatchGrid, cut_patches
from retable.random import derive_key, initialising, uniform


def cut_jigsaw(
    views: Tensor,
    rng_key: int,
    positions: Tensor | None = None,
    *,
    grid: int = 3,
    cell: int = 85,
    crop: int = 64,
) -> Tensor:
    """Cut one crop from each cell of views (B, 3, S, S), at a place drawn for each sample and cell.

    The sizes are those of `retable.nn.patches.PatchGrid`, S = grid * cell; the other arguments and
    errors are those of `retable.nn.patches.cut_patches`.

    Returns:
        (B, grid^2, 3, crop, crop), the cells of a view row by row, contiguous.
    """
    check_rng_key(rng_key)
    return cut_patches(views, PatchGrid(grid, cell, crop, standardise=False), rng_key, positions)


def shuffled_orders(rng_key: int, positions: Tensor, count: int) -> Tensor:
    """Draw a permutation of ``count`` crops for each sample: (B, count) int64."""
    check_rng_key(rng_key)
    check_least(1, count=count)
    check_shapes(Shaped("positions", positions, "B", kind="whole"))
    counters = positions[:, None] * count + torch.arange(count, device=positions.device)
    return uniform(rng_key, counters).argsort(dim=1, stable=True)


class JigsawHead(nn.Module):
    """Features of an image's crops (B, n, F) to one embedding (B, D), not yet normalised.

    Each crop's features pass through a head like MoCo's, "linear" (PIRL) or "mlp" (InfoMin); the
    outputs are concatenated in the given order and pass through one linear layer.
    """

    def __init__(
        self,
        in_dim: int,
        crops: int,
        out_dim: int = 128,
        *,
        head: Literal["linear", "mlp"] = "mlp",
        rng_key: int,
    ) -> None:
        super().__init__()
        check_rng_key(rng_key)
        check_least(1, in_dim=in_dim, crops=crops, out_dim=out_dim)
        self.crops, self.in_dim = crops, in_dim
        build_head = linear_head if head == "linear" else mlp_head
        self.each = build_head(in_dim, out_dim, rng_key=derive_key(rng_key, "each"))
        with initialising(derive_key(rng_key, "joined")):
            self.joined = nn.Linear(crops * out_dim, out_dim)

    def forward(self, features: Tensor, orders: Tensor) -> Tensor:
        """Embed crops' features (B, n, F); crop ``orders[:, i]`` is at place i, (B, n) int64."""
        check_shapes(
            Shaped("features", features, "B n F"),
            Shaped("orders", orders, "B n", kind="whole"),
            n=self.crops,
            F=self.in_dim,
        )
        embedded = self.each(features)
        chosen = embedded.gather(1, orders[..., None].expand_as(embedded))
        joined: Tensor = self.joined(chosen.flatten(1))
        return joined
