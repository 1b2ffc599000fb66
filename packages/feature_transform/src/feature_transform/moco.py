"""MoCo, version 1 or 2, whose pairs are transformed between the heads and the loss."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feature_transform.draws import check_draw_group
from feature_transform.logits import transformed_logits
from feature_transform.recipe import TransformRecipe
from retable.domains import Probability
from retable.errors import UserError
from retable.methods.method import Batch, Metrics
from retable.methods.moco import MoCo, MoCoRecipe
from retable.nn.scores import score_statistics
from retable.random import derive_key


@dataclass(frozen=True)
class MoCoFTRecipe(MoCoRecipe):
    """MoCo with feature transformation; MoCo's defaults are version 1's, as in the paper's tables.

    Attributes:
        momentum: 0.99 on ImageNet-100, 0.999 on ImageNet-1K (supplement, sections B.2 to B.4).
        transform: transformation of the features.
        unit_sphere: whether to project the heads' outputs to the unit sphere. Otherwise features
            are compared by inner products, and the training collapses (supplement, section F.1 and
            table 5).
    """

    momentum: Probability = 0.99
    transform: TransformRecipe = field(default_factory=TransformRecipe)
    unit_sphere: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        transformed = (self.transform.positives, self.transform.negatives) != ("none", "none")
        if self.oracle and transformed:
            raise UserError(
                "`oracle` must be False with a transformation, got True: it masks raw negatives "
                "by class. Disable one of them."
            )

    def build(self, encoder: nn.Module, rng_key: int) -> MoCoFT:
        """Return the method; ``rng_key`` draws the head's weights and the first queue."""
        return MoCoFT(encoder, self, rng_key)


class MoCoFT(MoCo):
    """Contrast transformed queries with transformed keys and with transformed negatives.

    Raw keys are enqueued. Before the start epoch nothing is drawn and the run is plain MoCo.
    """

    def __init__(self, encoder: nn.Module, recipe: MoCoFTRecipe, rng_key: int) -> None:
        super().__init__(encoder, recipe, rng_key)
        self.transform = recipe.transform
        self.unit_sphere = recipe.unit_sphere

    def project(self, raw: Tensor) -> Tensor:
        """Return heads' outputs (B_r, D) in float32, on the unit sphere if the recipe says so."""
        return super().project(raw) if self.unit_sphere else raw.float()

    def logits(self, queries: Tensor, keys: Tensor, batch: Batch) -> Tensor:
        """Return scores (B_r, 1 + K) of the transformed features, the positive first."""
        check_draw_group(len(queries), self.transform.draw_group)
        if not self.transform.active(batch.progress):
            return super().logits(queries, keys, batch)
        rng_key, queue = derive_key(batch.rng_key, "transform"), self.queue.rows
        # They are unit vectors, or of any length without the unit sphere.
        return transformed_logits(
            queries, keys, queue, self.transform, rng_key, batch.positions, rows="unchecked"
        )

    @torch.no_grad()
    def metrics(self, logits: Tensor, queries: Tensor, keys: Tensor, batch: Batch) -> Metrics:
        """Return MoCo's scalars, of normalised features."""
        if not self.unit_sphere:
            queries, keys = F.normalize(queries, dim=1), F.normalize(keys, dim=1)
        return super().metrics(logits, queries, keys, batch)

    @torch.no_grad()
    def step_metrics(self, logits: Tensor, queries: Tensor, keys: Tensor, batch: Batch) -> Metrics:
        """Return the score statistics of raw pairs and, while active, of transformed ones."""
        raw = super().step_metrics(logits, queries, keys, batch)
        if not self.transform.active(batch.progress):
            return raw
        return raw | score_statistics(logits[:, 0], logits[:, 1:]).named("transformed_")
