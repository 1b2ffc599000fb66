"""Relative Patch Location: predict on which side of the central patch another patch lies.

Doersch, Gupta and Efros (ICCV 2015), as Kolesnikov et al. (CVPR 2019) train it: all pairs of a
neighbour and the centre, of every image and in every step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from retable.errors import UserError
from retable.methods.method import Batch
from retable.nn.checks import Shaped, check_shapes
from revisiting_ssl.patch_task import PatchTask, PatchTaskRecipe


def location_pairs(grid: int = 3) -> list[tuple[int, int]]:
    """Return the patches (neighbour, centre) of each class, of a grid's patches row by row.

    >>> location_pairs()
    [(0, 4), (1, 4), (2, 4), (3, 4), (5, 4), (6, 4), (7, 4), (8, 4)]
    """
    if grid % 2 == 0 or grid < 3:
        raise UserError(
            f"`patches.grid` must be an odd number of at least 3, got {grid}. One patch must be "
            "the centre."
        )
    centre = grid * grid // 2
    return [(patch, centre) for patch in range(grid * grid) if patch != centre]


def join_with_centre(vectors: Tensor) -> Tensor:
    """Join each embedding except the central one with the central one, in this order.

    (B, n, E), n odd, becomes (B, n - 1, 2 E), in the order of `location_pairs`.

    >>> join_with_centre(torch.tensor([[[5.0], [6.0], [7.0]]]))
    tensor([[[5., 6.],
             [7., 6.]]])
    """
    check_shapes(Shaped("vectors", vectors, "B N E"))
    if vectors.shape[1] % 2 == 0 or vectors.shape[1] == 1:
        raise UserError(
            f"`vectors` must have an odd number of at least 3 patches, got {vectors.shape[1]}. One "
            "patch must be the centre."
        )
    middle = vectors.shape[1] // 2
    neighbours = torch.cat([vectors[:, :middle], vectors[:, middle + 1 :]], dim=1)
    centre = vectors[:, middle : middle + 1].expand_as(neighbours)
    return torch.cat([neighbours, centre], dim=2)


@dataclass(frozen=True)
class RelativePatchLocationRecipe(PatchTaskRecipe):
    """Recipe of Relative Patch Location, with the fields of both patch tasks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        location_pairs(self.patches.grid)

    def build(self, encoder: nn.Module, rng_key: int) -> RelativePatchLocation:
        """Return the method; ``rng_key`` draws the weights."""
        return RelativePatchLocation(encoder, self, rng_key)


class RelativePatchLocation(PatchTask):
    """Predict where patches lie relative to the centre."""

    task = "Relative Patch Location"

    def __init__(
        self, encoder: nn.Module, recipe: RelativePatchLocationRecipe, rng_key: int
    ) -> None:
        classes = len(location_pairs(recipe.patches.grid))
        super().__init__(encoder, recipe, rng_key, joined=2, classes=classes)
        self.recipe = recipe

    def rows(self, vectors: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Join each neighbour's embedding with the centre's; return rows and places."""
        rows = join_with_centre(vectors)
        places = torch.arange(rows.shape[1], device=rows.device)
        return rows, places.expand(len(rows), -1)
