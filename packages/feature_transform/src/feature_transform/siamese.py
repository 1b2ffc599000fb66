"""SimSiam and BYOL with positive extrapolation, and the control experiment for it.

Predictions and targets are extrapolated before their score is computed (supplement, section E.2).
Without re-normalisation and with one weight w in a row, the score of a pair falls from S to
S - 2 w (w - 1) (1 - S): the loss is multiplied by 1 + 2 w (w - 1) and shifted by a constant. This
is a random loss weight of mean 2.6 for Beta(2, 2), so the fair baseline is not the plain method
but the method with a loss weight of 2.6. With re-normalisation the change is not linear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from feature_transform.logits import transformed_pair
from feature_transform.recipe import TransformRecipe
from retable.domains import Positive
from retable.errors import UserError
from retable.methods.byol import BYOL, BYOLRecipe
from retable.methods.method import Batch, Metrics, StepOutput
from retable.methods.siamese import Siamese
from retable.methods.simsiam import SimSiam, SimSiamRecipe
from retable.random import derive_key


def mean_loss_weight(alpha: float) -> float:
    """Return the mean of 1 + 2 w (w - 1) for w = 1 + Beta(alpha, alpha): 2.6 for alpha = 2."""
    if not 0 < alpha < math.inf:
        raise UserError(f"`alpha` must be positive, got {alpha}. Use 2, the paper's value.")
    return 1 + 2 * (0.75 + 0.25 / (2 * alpha + 1))


_POSITIVES = TransformRecipe(negatives="none")


def _check(transform: TransformRecipe, name: str) -> None:
    if transform.negatives != "none":
        raise UserError(
            f"`transform.negatives` must be none, got {transform.negatives}. {name} has no "
            "negatives to transform."
        )


@dataclass(frozen=True)
class SimSiamFTRecipe(SimSiamRecipe):
    """SimSiam with positive extrapolation, or with a weighted loss.

    Attributes:
        transform: transformation of predictions and targets.
        loss_weight: factor of the loss; `mean_loss_weight` with ``transform.positives`` none is
            the control.
    """

    transform: TransformRecipe = _POSITIVES
    loss_weight: Positive = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.transform, "SimSiam")

    def build(self, encoder: nn.Module, rng_key: int) -> SimSiamFT:
        """Return the method; ``rng_key`` draws the heads' weights."""
        return SimSiamFT(encoder, self, rng_key)


@dataclass(frozen=True)
class BYOLFTRecipe(BYOLRecipe):
    """BYOL with positive extrapolation, or with a weighted loss.

    The fields ``transform`` and ``loss_weight`` are those of `SimSiamFTRecipe`.
    """

    transform: TransformRecipe = _POSITIVES
    loss_weight: Positive = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.transform, "BYOL")

    def build(self, encoder: nn.Module, rng_key: int) -> BYOLFT:
        """Return the method; ``rng_key`` draws the heads' weights."""
        return BYOLFT(encoder, self, rng_key)


class _Extrapolated(Siamese):
    """The part of the Siamese step that both methods change."""

    transform: TransformRecipe
    loss_weight: float

    def similarity(self, predictions: Tensor, targets: Tensor, batch: Batch, term: int) -> Tensor:
        """Return the scores (B_r,) of extrapolated predictions and targets."""
        if not self.transform.active(batch.progress):
            return super().similarity(predictions, targets, batch, term)
        rng_key = derive_key(batch.rng_key, "transform", term)
        pair = transformed_pair(predictions, targets, self.transform, rng_key, batch.positions)
        return super().similarity(*pair, batch, term)

    @torch.no_grad()
    def step_metrics(self, similarities: Tensor, cosines: Tensor, batch: Batch) -> Metrics:
        """Return the mean raw cosine and, while active, that of transformed pairs."""
        raw = super().step_metrics(similarities, cosines, batch)
        if not self.transform.active(batch.progress):
            return raw
        return raw | {"transformed_positive_mean": similarities.mean()}

    def forward(self, batch: Batch) -> StepOutput:
        """Return the weighted loss of one step."""
        output = super().forward(batch)
        return output._replace(loss=self.loss_weight * output.loss)


class SimSiamFT(_Extrapolated, SimSiam):
    """Predict each view's projection; both are moved apart before they are compared."""

    def __init__(self, encoder: nn.Module, recipe: SimSiamFTRecipe, rng_key: int) -> None:
        super().__init__(encoder, recipe, rng_key)
        self.transform, self.loss_weight = recipe.transform, recipe.loss_weight


class BYOLFT(_Extrapolated, BYOL):
    """Predict each view's target projection; both are moved apart before they are compared."""

    def __init__(self, encoder: nn.Module, recipe: BYOLFTRecipe, rng_key: int) -> None:
        super().__init__(encoder, recipe, rng_key)
        self.transform, self.loss_weight = recipe.transform, recipe.loss_weight
