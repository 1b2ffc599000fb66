"""BYOL whose predictions are also pushed away from non-semantic or from regular negatives.

The supplement (section C.1) says that negatives pass through the target network and that the loss
has a weight alpha; its formula stands in the main paper alone. Here each term of BYOL's loss,
|p - t|^2 with the prediction p of one view and the target projection t of the other, all of unit
length, becomes

    |p - t|^2 - alpha sum |p - n|^2  =  2 - 2 p.t - alpha sum (2 - 2 p.n)

which is one formula that keeps BYOL's regression. The constant 2 alpha of each negative is left
out, since no gradient depends on it: `BYOLNS` returns 2 - 2 (p.t - alpha sum p.n) for each term.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nonsemantic_negatives.negatives import PatchNegatives
from retable import distributed
from retable.domains import Positive
from retable.errors import UserError
from retable.methods.byol import BYOL, BYOLRecipe
from retable.methods.method import Batch, Metrics, StepOutput
from retable.nn.momentum import MomentumRecipe
from retable.random import derive_key, integers
from retable.settings import validate_fields

_AT_200_EPOCHS = MomentumRecipe(0.99, "cosine")


@dataclass(frozen=True)
class BYOLNSRecipe(BYOLRecipe):
    """BYOL with negatives (table 7).

    Attributes:
        momentum: 0.99, the official code's base for 300 epochs and fewer; the paper does not state
            its own.
        alpha: weight of each negative. The paper's value for BYOL is unknown.
        negatives: recipe of the non-semantic negatives, see `nonsemantic_negatives.negatives`; None
            for none.
        regular: whether each prediction is also pushed away from the target projection of another
            sample of the global batch, drawn at random ("regular negative").
    """

    momentum: MomentumRecipe = _AT_200_EPOCHS
    alpha: Positive = 1.0
    negatives: Any = field(default_factory=PatchNegatives)
    regular: bool = False

    def __post_init__(self) -> None:
        validate_fields(self)
        if self.negatives is None and not self.regular:
            raise UserError(
                "`negatives` must be a recipe unless `regular` is True, got None. Use "
                "retable.methods.BYOLRecipe for BYOL without negatives."
            )

    def build(self, encoder: nn.Module, rng_key: int) -> BYOLNS:
        """Return the method; ``rng_key`` draws the heads' weights."""
        return BYOLNS(encoder, self, rng_key)


def other_samples(rng_key: int, positions: Tensor, batch: int) -> Tensor:
    """Draw for each sample of a global batch another one, uniformly; never itself.

    ``positions`` are (B_r,) int64 in the global batch of ``batch`` samples; so is the result.
    """
    if batch < 2:
        raise UserError(
            f"A regular negative needs another sample in the batch, got a batch of {batch}. "
            "Enlarge the batch."
        )
    return (positions + 1 + integers(rng_key, positions, batch - 1)) % batch


class BYOLNS(BYOL):
    """Predict each view's target projection from the other view, away from negatives.

    The negatives of the first view belong to the prediction of the first view, and so on. They pass
    through the target network by themselves, without gradient.
    """

    def __init__(self, encoder: nn.Module, recipe: BYOLNSRecipe, rng_key: int) -> None:
        super().__init__(encoder, recipe, rng_key)
        self.recipe = recipe
        self._negatives: tuple[Tensor, ...] = ()

    def encoder_inputs(self, sizes: Any) -> tuple[tuple[int, float], ...]:
        """Return BYOL's passes and those of the negatives (forward)."""
        negatives = self.recipe.negatives
        if negatives is None:
            return super().encoder_inputs(sizes)
        passes = tuple((size, float(negatives.count)) for size in sizes)
        return (*super().encoder_inputs(sizes), *passes)

    @torch.no_grad()
    def negative_targets(self, batch: Batch, view: int) -> Tensor:
        """Embed the negatives of a view as unit vectors (n, B_r, D), float32."""
        images = self.recipe.negatives.images(batch, view)
        targets = torch.stack([self.target_encoder(of_view) for of_view in images])
        return F.normalize(targets.float(), dim=2)

    def similarity(self, predictions: Tensor, targets: Tensor, batch: Batch, term: int) -> Tensor:
        """Return p.t - alpha sum p.n for each sample, (B_r,)."""
        similarities = super().similarity(predictions, targets, batch, term)
        negatives = [*self._negatives[term]] if self._negatives else []
        if self.recipe.regular:
            everything = distributed.gather(targets)
            rng_key = derive_key(batch.rng_key, "regular negative", term)
            negatives.append(everything[other_samples(rng_key, batch.positions, len(everything))])
        for negative in negatives:
            similarities = similarities - self.recipe.alpha * (predictions * negative).sum(dim=1)
        return similarities

    @torch.no_grad()
    def step_metrics(self, similarities: Tensor, cosines: Tensor, batch: Batch) -> Metrics:
        """Return the mean raw cosine of positives and the mean over the negatives' cosines."""
        count = int(self.recipe.regular) + (len(self._negatives[0]) if self._negatives else 0)
        negative = (cosines - similarities).mean() / (self.recipe.alpha * count)
        return super().step_metrics(similarities, cosines, batch) | {"negative_mean": negative}

    def forward(self, batch: Batch) -> StepOutput:
        """Return the symmetric loss of two views with their negatives."""
        if self.recipe.negatives is not None:
            # Here, under the step's autocast: similarities are computed outside it.
            self._negatives = tuple(self.negative_targets(batch, view) for view in (0, 1))
        output = super().forward(batch)
        self._negatives = ()
        return output
