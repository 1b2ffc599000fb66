"""Exemplar: bring the views of an image together, apart from those of other images.

Dosovitskiy et al. (NIPS 2014), as Kolesnikov et al. (CVPR 2019) train it: with a triplet loss among
the views of one device instead of a class for each image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from retable.domains import Count, Dim, Positive
from retable.errors import UserError
from retable.methods.method import Batch, Method, Metrics, StepOutput
from retable.methods.multi_crop import encode_crops
from retable.settings import validate_fields
from revisiting_ssl.task import output_layer
from revisiting_ssl.triplet import (
    Axis,
    Triplets,
    check_triplets,
    mine_semi_hard,
    normalised,
    squared_distances,
    triplet_loss,
)


@dataclass(frozen=True)
class ExemplarRecipe:
    """Recipe of Exemplar.

    Its views are two or more (8 in the paper) of `retable.views.inception`, standardised.

    Attributes:
        dim: dimensions of the embedding; ``embed_dim`` of the official code.
        margin: margin of the triplet loss, for squared distances.
        normalize_axis: axis of unit length, see `revisiting_ssl.triplet.normalised`.
        mining_group_images: number of consecutive images of the global batch that are mined for
            negatives together; the 512 / 32 of one TPU core in the paper.
    """

    dim: Dim = 1000
    margin: Positive = 0.5
    normalize_axis: Axis = "feature"
    mining_group_images: Count = 16

    def __post_init__(self) -> None:
        validate_fields(self)
        if self.mining_group_images < 2:
            raise UserError(
                f"`mining_group_images` must be at least 2, got {self.mining_group_images}."
            )

    def build(self, encoder: nn.Module, rng_key: int) -> Exemplar:
        """Return the method; ``rng_key`` draws the linear layer's weights."""
        return Exemplar(encoder, self, rng_key)


class Exemplar(Method):
    """Bring the views of an image together, within groups of images."""

    accumulates = True  # over parts that hold whole mining groups

    def __init__(self, encoder: nn.Module, recipe: ExemplarRecipe, rng_key: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.encoder = encoder
        self.embed = output_layer(encoder, recipe.dim, rng_key)

    def grouped(self, batch: Batch) -> Tensor:
        """Return embeddings (G, rows of a group, dim), the views of an image side by side."""
        views, images = len(batch.views), len(batch.positions)
        if views < 2:
            raise UserError(f"The `views` of Exemplar must be two or more, got {views}.")
        group = self.recipe.mining_group_images
        if images % group:
            raise UserError(
                f"The images of a process must be a multiple of `mining_group_images` = {group}, "
                f"got {images}. Change the batch, mining_group_images or the number of processes."
            )
        embeddings: Tensor = self.embed(encode_crops(self.encoder, batch.views))
        return embeddings.float().view(images // group, group * views, -1)

    def forward(self, batch: Batch) -> StepOutput:
        """Return the mean of the groups' semi-hard triplet losses."""
        embeddings = self.grouped(batch)
        images = torch.arange(self.recipe.mining_group_images, device=embeddings.device)
        labels = images.repeat_interleave(len(batch.views))
        with torch.autocast(embeddings.device.type, enabled=False):
            distances = squared_distances(normalised(embeddings, self.recipe.normalize_axis))
            triplets = mine_semi_hard(distances, labels)
            loss = triplet_loss(distances, triplets, self.recipe.margin).mean()
        return StepOutput(loss, triplet_metrics(distances.detach(), triplets))


@torch.no_grad()
def triplet_metrics(distances: Tensor, triplets: Triplets) -> Metrics:
    """Return metrics of the pairs, as means over all of them.

    ``fallback_share`` is the share of pairs whose positive is further away than every negative. If
    it is near 1 and the loss is at the margin, the embedding has collapsed.
    """
    check_triplets(distances, triplets)
    pairs = triplets.pairs
    count = pairs.sum()
    chosen = distances.gather(-1, triplets.negatives)
    return {
        "fallback_share": triplets.fallback.sum() / count,
        "positive_distance": torch.where(pairs, distances, 0.0).sum() / count,
        "negative_distance": torch.where(pairs, chosen, 0.0).sum() / count,
    }
