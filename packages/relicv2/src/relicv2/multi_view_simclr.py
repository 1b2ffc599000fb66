"""SimCLR on large and small views: what ReLICv2's invariance is compared with (section 3.1).

The paper trains SimCLR with its own views and masks and does not state the loss of more than two
views. Here it is the mean of SimCLR's loss over all pairs of views of which one is large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from retable.domains import Count
from retable.errors import UserError
from retable.methods.method import Batch, StepOutput
from retable.methods.simclr import SimCLR, SimCLRRecipe
from retable.nn.batch_norm import without_running_statistics
from retable.nn.losses import nt_xent, view_pairs
from retable.settings import validate_fields


@dataclass(frozen=True)
class MultiViewSimCLRRecipe(SimCLRRecipe):
    """SimCLR of more than two views.

    Attributes:
        large: L, number of large views, which come first; all others are small.
    """

    large: Count = 4

    def __post_init__(self) -> None:
        validate_fields(self)

    def build(self, encoder: nn.Module, rng_key: int) -> MultiViewSimCLR:
        """Return the method; ``rng_key`` draws the head's weights."""
        return MultiViewSimCLR(encoder, self, rng_key)


def multi_view_nt_xent(embeddings: Sequence[Tensor], large: int, temperature: float) -> Tensor:
    """Return the mean NT-Xent loss over all pairs of views of which at least one is large.

    Args:
        embeddings: V unit vectors (B_r, D) of each image, those of large views first.
        large: L, number of large views.
        temperature: tau.

    Raises:
        UserError: there are fewer than two views or fewer than ``large``.
    """
    if len(embeddings) < max(2, large):
        raise UserError(
            f"`large` must be at most the number of views, and that at least 2, got {large} and "
            f"{len(embeddings)}. Add views."
        )
    losses = [
        nt_xent(embeddings[one], embeddings[other], temperature)
        for one, other in combinations(range(len(embeddings)), 2)
        if one < large
    ]
    return torch.stack(losses).mean()


class MultiViewSimCLR(SimCLR):
    """Contrast every large view of an image with each of its other views."""

    def __init__(self, encoder: nn.Module, recipe: MultiViewSimCLRRecipe, rng_key: int) -> None:
        super().__init__(encoder, recipe, rng_key)
        self.large = recipe.large

    def embeddings(self, views: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Embed large views in one pass and small ones in another: unit vectors (B_r, D) each.

        The second stays out of the running statistics, as in ReLICv2.
        """
        large = super().embeddings(views[: self.large])
        if len(views) <= self.large:
            return large
        with without_running_statistics(self):
            return (*large, *super().embeddings(views[self.large :]))

    def forward(self, batch: Batch) -> StepOutput:
        """Return the loss of all pairs, and the metrics of the first two views."""
        embeddings = self.embeddings(batch.views)
        with torch.autocast(embeddings[0].device.type, enabled=False):
            loss = multi_view_nt_xent(embeddings, self.large, self.temperature)
            first, second = (view.detach() for view in embeddings[:2])
            pairs = view_pairs(first, second, rows="unchecked")
            logits = pairs.logits()
        return StepOutput(
            loss, self.metrics(logits, pairs, batch), self.step_metrics(logits, pairs, batch)
        )
