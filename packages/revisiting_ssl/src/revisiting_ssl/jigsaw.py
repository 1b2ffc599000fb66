"""Jigsaw: predict the permutation in which an image's patches are joined.

Noroozi and Favaro (ECCV 2016), as Kolesnikov et al. (CVPR 2019) train it: each patch is embedded
once, and the embeddings are joined in many orders, each a row of the batch of the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from retable import random
from retable.domains import Count, Dim
from retable.errors import UserError
from retable.methods.method import Batch
from retable.nn.checks import Shaped, check_rng_key, check_shapes
from retable.random import derive_key
from revisiting_ssl.patch_task import PatchTask, PatchTaskRecipe
from revisiting_ssl.permutations import Selection, permutation_set


def draw_permutations(rng_key: int, positions: Tensor, count: int, chosen: int) -> Tensor:
    """Draw ``count`` distinct permutations of a set of ``chosen`` ones for each image.

    Args:
        rng_key: key of the step's draws, equal on all processes.
        positions: (B,) int64 places of the images in the global batch.
        count: permutations for each image, at most ``chosen``.
        chosen: permutations in the set.

    Returns:
        (B, count) int64 in [0, chosen), the entries of a row distinct and in random order.
    """
    check_rng_key(rng_key)
    check_shapes(Shaped("positions", positions, "B", kind="whole"))
    if not 1 <= count <= chosen:
        raise UserError(
            f"`count` must be in [1, {chosen}], the permutations of the set, got {count}. Draw "
            "fewer."
        )
    counters = positions[:, None] * chosen + torch.arange(chosen, device=positions.device)
    return random.bits(rng_key, counters).argsort(dim=1)[:, :count]


def join(vectors: Tensor, orders: Tensor) -> Tensor:
    """Join an image's embeddings in several orders.

    Args:
        vectors: (B, n, E), one embedding for each patch.
        orders: (B, R, n) int64, permutations of range(n).

    Returns:
        (B, R, n E): place j of row r holds the embedding of patch orders[b, r, j].

    >>> join(torch.tensor([[[5.0], [6.0], [7.0]]]), torch.tensor([[[2, 0, 1]]]))
    tensor([[[7., 5., 6.]]])
    """
    check_shapes(
        Shaped("vectors", vectors, "B n E"), Shaped("orders", orders, "B R n", kind="whole")
    )
    images = torch.arange(len(vectors), device=vectors.device)[:, None, None]
    return vectors[images, orders].flatten(2)


@dataclass(frozen=True)
class JigsawRecipe(PatchTaskRecipe):
    """Recipe of Jigsaw.

    The other fields are those of `revisiting_ssl.patch_task.PatchTaskRecipe`.

    Attributes:
        permutations: number of classes, see `revisiting_ssl.permutations.permutation_set`.
        permutations_per_image: number of permutations drawn for each image and step; the official
            code's default is 8, shared by all images of a step and device.
        selection: criterion by which the set is chosen.
    """

    permutations: Dim = 100
    permutations_per_image: Count = 16
    selection: Selection = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.permutations_per_image <= self.permutations:
            raise UserError(
                f"`permutations_per_image` must be in [1, {self.permutations}], got "
                f"{self.permutations_per_image}."
            )

    def build(self, encoder: nn.Module, rng_key: int) -> Jigsaw:
        """Return the method; ``rng_key`` draws weights, and not the set of permutations."""
        return Jigsaw(encoder, self, rng_key)


class Jigsaw(PatchTask):
    """Predict the permutation in which patches are joined.

    Attributes:
        permutations: (classes, n) int64, the set.
    """

    permutations: Tensor
    task = "Jigsaw"

    def __init__(self, encoder: nn.Module, recipe: JigsawRecipe, rng_key: int) -> None:
        chosen = permutation_set(recipe.patches.count, recipe.permutations, recipe.selection)
        super().__init__(encoder, recipe, rng_key, joined=recipe.patches.count, classes=len(chosen))
        self.recipe = recipe
        self.register_buffer("permutations", chosen)

    def draw(self, batch: Batch) -> Tensor:
        """Return the permutations (B_r, R) of each image in this step, as classes."""
        rng_key = derive_key(batch.rng_key, "permutations")
        count, chosen = self.recipe.permutations_per_image, len(self.permutations)
        return draw_permutations(rng_key, batch.positions, count, chosen)

    def rows(self, vectors: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Join the embeddings in each drawn order; return rows and the orders' numbers."""
        drawn = self.draw(batch)
        return join(vectors, self.permutations[drawn]), drawn
