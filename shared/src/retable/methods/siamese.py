"""Siamese methods without negatives: the prediction of one view matches the target of the other.

BYOL and SimSiam differ in the source of the targets and in the constants of their losses. A
subclass overrides `Siamese.similarity` to compare predictions and targets differently, and
`Siamese.metrics` or `Siamese.step_metrics` to log more.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from retable.methods.method import Batch, Method, Metrics, StepOutput
from retable.methods.metrics import embedding_spread, quantiles


class Siamese(Method):
    """Base class of methods that predict one view's target from the other view, both ways."""

    accumulates = True

    def branches(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """Return predictions (B_r, D), and targets (B_r, D) without gradient, of one view."""
        raise NotImplementedError

    def loss(self, similarities: Tensor) -> Tensor:
        """Return the scalar loss of similarities (2, B_r), one row for each term."""
        raise NotImplementedError

    def similarity(self, predictions: Tensor, targets: Tensor, batch: Batch, term: int) -> Tensor:
        """Return the similarities (B_r,) of predictions and targets; by default their cosines.

        Both are unit vectors (B_r, D), float32, the targets without gradient. ``term`` is 0 where
        the first view predicts the second, 1 where the second predicts the first.
        """
        return (predictions * targets).sum(dim=1)

    @torch.no_grad()
    def metrics(self, cosines: Tensor, targets: Tensor, batch: Batch) -> Metrics:
        """Return the scalars to log, from raw cosines (2, B_r) and unit targets (2, B_r, D).

        ``embedding_spread`` is near 0 where all images have one target: a collapse, which the loss
        does not distinguish from a perfect prediction.
        """
        return {
            **quantiles("positive_score", cosines.flatten()),
            "positive_score": cosines.mean(),
            "embedding_spread": embedding_spread(targets.flatten(0, 1)),
        }

    @torch.no_grad()
    def step_metrics(self, similarities: Tensor, cosines: Tensor, batch: Batch) -> Metrics:
        """Return the scalars to store for every step: the mean of the raw cosines (2, B_r).

        A subclass that changes the loss's similarities (2, B_r) adds their mean as
        ``transformed_positive_mean``.
        """
        return {"positive_mean": cosines.mean()}

    def forward(self, batch: Batch) -> StepOutput:
        """Return the symmetric loss of two views.

        The views pass through the networks one after the other, so that each has its own batch-norm
        statistics.
        """
        first_view, second_view = batch.views
        first, second = self.branches(first_view), self.branches(second_view)
        with torch.autocast(first_view.device.type, enabled=False):
            predictions = [F.normalize(branch[0].float(), dim=1) for branch in (first, second)]
            targets = [F.normalize(branch[1].float(), dim=1) for branch in (second, first)]
            terms = list(zip(predictions, targets, strict=True))
            found = [self.similarity(*pair, batch, term) for term, pair in enumerate(terms)]
            similarities = torch.stack(found)
            loss = self.loss(similarities)
            with torch.no_grad():
                cosines = torch.stack([(one * other).sum(dim=1) for one, other in terms])
        metrics = self.metrics(cosines, torch.stack(targets[::-1]), batch)
        return StepOutput(loss, metrics, self.step_metrics(similarities.detach(), cosines, batch))
