"""SwAV (Caron et al., NeurIPS 2020), with positive extrapolation of its two large crops.

Each of the first two views is assigned to prototypes, and every other view predicts the
assignment. The paper's transformation (supplement, section E) moves the features of the two large
crops apart before they are compared with the prototypes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feature_transform.draws import positive_weights
from feature_transform.positives import extrapolate_positives
from feature_transform.recipe import UNTRANSFORMED, TransformRecipe
from feature_transform.sinkhorn import sinkhorn
from retable import distributed
from retable.domains import Count, CountOrZero, Dim, Positive
from retable.errors import UserError
from retable.methods.method import Batch, Method, Metrics, Progress, StepOutput
from retable.methods.metrics import embedding_spread
from retable.methods.multi_crop import by_image, encode_crops
from retable.nn.checks import Shaped, check_shapes, check_temperature
from retable.nn.queues import KeyQueue
from retable.random import derive_key, initialising
from retable.settings import validate_fields

ASSIGNING = 2
"""Number of first views that are assigned to prototypes; the official ``crops_for_assign``."""


@dataclass(frozen=True)
class SwAVRecipe:
    """SwAV without encoder and crops; defaults from ``swav_200ep_bs256_pretrain.sh``.

    Attributes:
        prototypes: P, number of prototypes.
        temperature: tau of the predictions.
        epsilon: temperature of the assignments. The official README advises 0.03 where the loss
            stays at log P.
        sinkhorn_iterations: iterations of `feature_transform.sinkhorn.sinkhorn`.
        queue: images of earlier batches, over all processes, whose two large crops take part in the
            assignment; 0: none. The official code rounds it down to a multiple of the batch.
        queue_start_epoch: first epoch, from 0, whose features are enqueued; they are used once the
            queue is full.
        frozen_prototype_steps: first steps in which the prototypes stay fixed; one epoch of
            ImageNet in batches of 256.
        hidden_dim: width of the projection head's hidden layer.
        dim: D of the features.
        transform: transformation of the large crops' features, without negatives.
    """

    prototypes: Dim = 3000
    temperature: Positive = 0.1
    epsilon: Positive = 0.05
    sinkhorn_iterations: Count = 3
    queue: CountOrZero = 3840
    queue_start_epoch: CountOrZero = 15
    frozen_prototype_steps: CountOrZero = 5005
    hidden_dim: Dim = 2048
    dim: Dim = 128
    transform: TransformRecipe = UNTRANSFORMED

    def __post_init__(self) -> None:
        validate_fields(self)
        if self.prototypes < 2:
            raise UserError(f"`prototypes` must be at least 2, got {self.prototypes}. Enlarge it.")
        if self.transform.negatives != "none":
            raise UserError(
                f"`transform.negatives` must be none, got {self.transform.negatives}. SwAV has no "
                "negatives to transform."
            )

    def build(self, encoder: nn.Module, rng_key: int) -> SwAV:
        """Return the method; ``rng_key`` draws the head's weights and the prototypes."""
        return SwAV(encoder, self, rng_key)


def prediction_losses(scores: Tensor, codes: Tensor, temperature: float) -> Tensor:
    """Return the cross-entropies (A, V) of each view's prediction and each assignment.

    Means over images, of scores (B, V, P) with the prototypes, whose predictions are
    softmax(scores / temperature), and of codes (B, A, P), rows that sum to one.
    """
    check_shapes(Shaped("scores", scores, "B V P"), Shaped("codes", codes, "B A P"))
    check_temperature(temperature)
    log_predictions = (scores / temperature).log_softmax(dim=2)
    return -torch.bmm(codes, log_predictions.mT).mean(dim=0)


class SwAV(Method):
    """Predict from each view the assignment of another view of the image.

    Attributes:
        head: projection head, (n, F) -> (n, D).
        prototypes: linear layer without bias, rows of unit length at each step.
        queue: raw features of the two large crops of earlier images, one image a row; None without
            queue.
    """

    def __init__(self, encoder: nn.Module, recipe: SwAVRecipe, rng_key: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.encoder = encoder
        features = int(encoder.feature_dim)  # type: ignore[arg-type]
        with initialising(derive_key(rng_key, "head")):
            self.head = nn.Sequential(
                nn.Linear(features, recipe.hidden_dim),
                nn.BatchNorm1d(recipe.hidden_dim),
                nn.ReLU(inplace=True),
                nn.Linear(recipe.hidden_dim, recipe.dim),
            )
        with initialising(derive_key(rng_key, "prototypes")):
            self.prototypes = nn.Linear(recipe.dim, recipe.prototypes, bias=False)
        width = ASSIGNING * recipe.dim
        self.queue = (
            KeyQueue(recipe.queue, width, derive_key(rng_key, "queue")) if recipe.queue else None
        )
        self._unqueued: Tensor | None = None

    def features(self, views: Sequence[Tensor]) -> Tensor:
        """Embed V views (B_r, 3, H, W) as unit features (B_r, V, D), float32."""
        return F.normalize(by_image(self.head, encode_crops(self.encoder, views)).float(), dim=2)

    def transformed(self, features: Tensor, batch: Batch) -> Tensor:
        """Extrapolate the features (B_r, V, D) of the two large crops, from the start epoch on.

        Prototypes are linear: moving scores instead would be equivalent, for P/D times the work.
        """
        transform = self.recipe.transform
        if not transform.active(batch.progress):
            return features
        rng_key = derive_key(batch.rng_key, "transform")
        weight = positive_weights(transform, rng_key, batch.positions, features.shape[2])
        large = extrapolate_positives(
            features[:, 0],
            features[:, 1],
            weight,
            renormalise=transform.renormalise,
            rows="unchecked",  # they are unit vectors
        )
        return torch.cat([torch.stack(large, dim=1), features[:, ASSIGNING:]], dim=1)

    def normalised_prototypes(self, progress: Progress) -> Tensor:
        """Scale the prototypes (P, D) to unit length, in place, and return them for this step.

        While they are frozen their gradient is zero, not None as in the official code: DDP waits
        for every parameter's gradient. Weight decay then shortens them, which the next step undoes.
        """
        with torch.no_grad():
            self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))
        weight = self.prototypes.weight.view_as(self.prototypes.weight)
        if progress.step < self.recipe.frozen_prototype_steps and weight.requires_grad:
            weight.register_hook(torch.zeros_like)  # type: ignore[no-untyped-call]
        return weight

    @torch.no_grad()
    def codes(self, scores: Tensor, prototypes: Tensor) -> Tensor:
        """Assign the large crops, given all views' scores (B_r, V, P); return (B_r, 2, P).

        Each crop is assigned separately, together with its part of the queue once that is full;
        each process takes an equal share of the queue.
        """
        recipe, count = self.recipe, len(scores)
        assigned = []
        for crop in range(ASSIGNING):
            rows = self.queued(crop) @ prototypes.T
            together = torch.cat([rows, scores[:, crop]])
            iterations = recipe.sinkhorn_iterations
            codes = sinkhorn(together, epsilon=recipe.epsilon, iterations=iterations)
            assigned.append(codes[-count:])
        return torch.stack(assigned, dim=1)

    def queued(self, crop: int) -> Tensor:
        """Return this process's share (n, D) of a large crop's queue; n = 0 until it is full."""
        if self.queue is None:
            return self.prototypes.weight.new_empty(0, self.recipe.dim)
        rows = self.queue.rows if self.queue.filled == self.queue.size else self.queue.rows[:0]
        own = rows.tensor_split(distributed.process_count())[distributed.process_index()]
        return own.view(len(own), ASSIGNING, self.recipe.dim)[:, crop]

    def forward(self, batch: Batch) -> StepOutput:
        """Return the loss of V views, of which the first two are large and of one size."""
        _check_views(batch.views)
        features = self.features(batch.views)
        # Sums over thousands of prototypes, and scores / 0.05, need float32.
        with torch.autocast(features.device.type, enabled=False):
            prototypes = self.normalised_prototypes(batch.progress)
            moved = self.transformed(features, batch)
            scores = moved @ prototypes.T
            codes = self.codes(scores.detach(), prototypes.detach())
            losses = prediction_losses(scores, codes, self.recipe.temperature)
            # No view predicts its own assignment.
            others = ~torch.eye(*losses.shape, dtype=torch.bool, device=losses.device)
            loss = (losses * others).sum() / (ASSIGNING * (len(batch.views) - 1))
        metrics = self.metrics(losses.detach(), codes, features.detach())
        if self.queue is not None and batch.progress.epoch >= self.recipe.queue_start_epoch:
            if self._unqueued is not None:
                raise RuntimeError(
                    "`after_step` must be called between two steps. It fills the queue."
                )
            self._unqueued = features[:, :ASSIGNING].detach().flatten(1)
        trace = self.step_metrics(features.detach(), moved.detach(), batch)
        return StepOutput(loss, metrics, trace)

    def after_step(self, progress: Progress) -> None:
        """Enqueue the raw features of the step, if any, all processes' in rank order."""
        if self.queue is not None and self._unqueued is not None:
            self.queue.enqueue(distributed.gather(self._unqueued))
            self._unqueued = None

    @torch.no_grad()
    def metrics(self, losses: Tensor, codes: Tensor, features: Tensor) -> Metrics:
        """Return the scalars to log, from losses (2, V), codes (B_r, 2, P), features (B_r, V, D).

        ``prototype_usage`` is the entropy of the global batch's mean assignment, as a share of the
        maximum: 1 if all prototypes are used equally. ``assignment_sharpness`` is the mean of an
        image's largest share: 1 if each image is assigned to one prototype.
        """
        count = codes.shape[2]
        usage = distributed.mean(codes.mean(dim=(0, 1)))
        metrics: Metrics = {
            "loss_large_crops": (losses[0, 1] + losses[1, 0]) / 2,
            "prototype_usage": torch.special.entr(usage).sum() / math.log(count),
            "assignment_sharpness": codes.amax(dim=2).mean(),
            "embedding_spread": embedding_spread(features[:, 0]),
            "chance_loss": math.log(count),
            "queue_used": float(self.queue is not None and self.queue.filled == self.queue.size),
        }
        if losses.shape[1] > ASSIGNING:
            metrics["loss_small_crops"] = losses[:, ASSIGNING:].mean()
        return metrics

    @torch.no_grad()
    def step_metrics(self, features: Tensor, moved: Tensor, batch: Batch) -> Metrics:
        """Return the mean score of the two large crops, raw and, while active, transformed."""
        raw: Metrics = {"positive_mean": _mean_score(features)}
        if not self.recipe.transform.active(batch.progress):
            return raw
        return raw | {"transformed_positive_mean": _mean_score(moved)}


def _mean_score(features: Tensor) -> Tensor:
    return (features[:, 0] * features[:, 1]).sum(dim=1).mean()


def _check_views(views: Sequence[Tensor]) -> None:
    sizes = [view.shape[-1] for view in views]
    if len(sizes) < ASSIGNING or sizes[0] != sizes[1]:
        raise UserError(
            f"`views` of SwAV must be at least two, the first two of one size, got {sizes} pixels. "
            "Use retable.views.swav."
        )
