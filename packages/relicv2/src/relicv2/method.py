"""ReLICv2 as a training method (arXiv 2201.05119, section 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relicv2.candidates import draw_candidates
from relicv2.loss import PairLosses, Reference, StopGradient, pair_losses
from retable import distributed
from retable.domains import Count, NonNegative, Positive
from retable.errors import UserError
from retable.methods.byol import BYOL, BYOLRecipe
from retable.methods.method import Batch, Metrics, StepOutput
from retable.methods.metrics import embedding_spread
from retable.nn.batch_norm import without_running_statistics
from retable.settings import validate_fields


@dataclass(frozen=True)
class ReLICv2Recipe(BYOLRecipe):
    """ReLICv2 without its encoder; heads and target network are BYOL's (section 3.1).

    The first ``large`` views are large ones, all others small. The ablations have a momentum of
    0.993 (table 22).

    Attributes:
        large: L, number of large views; 4, with 2 small ones (section F.1).
        temperature: tau. The paper's value is not known; a third party's code of the loss in the
            group's next paper (JuergenThann/MAE-CT_SemPPL) has 0.2 and 0.15.
        contrast_scale: weight of the contrastive term; not known, 0.3 in the same code.
        invariance_scale: weight of the invariance term; not known, 5 in the same code.
        negatives: number of negatives of each image; 10 (table 21).
        same_view_pairs: whether large views are also paired with themselves (the paper's listing).
        reference: what a prediction is compared with, see `relicv2.loss.Reference`.
        stop_gradient: where the invariance term has no gradient, see `relicv2.loss.divergence`.
    """

    large: Count = 4
    temperature: Positive = 0.2
    contrast_scale: NonNegative = 0.3
    invariance_scale: NonNegative = 1.5
    negatives: Count = 10
    same_view_pairs: bool = True
    reference: Reference = "swap"
    stop_gradient: StopGradient = "entropy"

    def __post_init__(self) -> None:
        validate_fields(self)

    def build(self, encoder: nn.Module, rng_key: int) -> ReLICv2:
        """Return the method; ``rng_key`` draws the heads' weights."""
        return ReLICv2(encoder, self, rng_key)


class ReLICv2(BYOL):
    """Every view predicts which of a few images a large view is of, as the other view does.

    Every view passes through a network by itself, so that each has its own batch-norm statistics.
    Small views stay out of the running ones, which evaluation uses on whole images.
    """

    accumulates = False  # negatives are drawn from the whole batch

    def __init__(self, encoder: nn.Module, recipe: ReLICv2Recipe, rng_key: int) -> None:
        super().__init__(encoder, recipe, rng_key)
        self.recipe = recipe

    def encoder_inputs(self, sizes: Sequence[int]) -> tuple[tuple[int, float], ...]:
        """Return the online network's passes (forward and backward) and the target's."""
        self._check_views(len(sizes))
        large = self.recipe.large
        return tuple((size, 4.0 if view < large else 3.0) for view, size in enumerate(sizes))

    def outputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return online outputs (V, B_r, D) and targets (L, B_r, D), unit rows.

        Targets have no gradient.
        """
        self._check_views(len(batch.views))
        large = self.recipe.large
        online = [self._online(view) for view in batch.views[:large]]
        with without_running_statistics(self):
            online += [self._online(view) for view in batch.views[large:]]
        with torch.no_grad():
            targets = [self.target_encoder(view) for view in batch.views[:large]]
        return _unit(online), _unit(targets)

    def _check_views(self, count: int) -> None:
        large = self.recipe.large
        if count < large:
            raise UserError(
                f"`large` must be at most the number of views, {count}, got {large}. Add views."
            )
        if count == 1 and not self.recipe.same_view_pairs:
            raise UserError(
                "`same_view_pairs` must be true for a single view, got False. Add a view."
            )

    def _online(self, view: Tensor) -> Tensor:
        output: Tensor = self.predictor(self.projector(self.encoder(view)))
        return output

    def candidates(self, batch: Batch) -> Tensor:
        """Draw what each image is told from: (B_r, 1 + n) positions in the global batch."""
        size = len(batch.positions) * distributed.process_count()
        count = self.recipe.negatives
        return draw_candidates(batch.rng_key, batch.positions, size, negatives=count)

    def losses(self, online: Tensor, targets: Tensor, batch: Batch) -> PairLosses:
        """Return the terms of all pairs of views, for outputs as `outputs` returns them."""
        recipe = self.recipe
        return pair_losses(
            online,
            targets,
            self.candidates(batch),
            temperature=recipe.temperature,
            same_view_pairs=recipe.same_view_pairs,
            reference=recipe.reference,
            stop_gradient=recipe.stop_gradient,
            rows="unchecked",
        )

    def forward(self, batch: Batch) -> StepOutput:
        """Return the loss of all pairs of views (equation 4)."""
        online, targets = self.outputs(batch)
        losses = self.losses(online, targets, batch)
        loss = losses.total(self.recipe.contrast_scale, self.recipe.invariance_scale)
        size = len(batch.positions) * distributed.process_count()
        return StepOutput(loss, self.pair_metrics(losses, online, targets, size))

    @torch.no_grad()
    def pair_metrics(
        self, losses: PairLosses, online: Tensor, targets: Tensor, batch: int
    ) -> Metrics:
        """Return the scalars to log.

        ``contrastive`` and ``invariance`` are the terms before they are scaled; the latter need not
        fall while training succeeds. ``invariance_small`` is that of small views alone,
        ``positive_score`` the mean cosine of different large views, ``contrastive_chance`` the
        contrastive term of equal embeddings.
        """
        contrastive, invariance = losses.means()
        with torch.autocast(online.device.type, enabled=False):
            cosines = torch.einsum("vbd,lbd->vlb", online[: len(targets)], targets).mean(dim=2)
            spread = embedding_spread(targets.flatten(0, 1))
        different = ~torch.eye(len(targets), dtype=torch.bool, device=cosines.device)
        found: Metrics = {
            "contrastive": contrastive,
            "invariance": invariance,
            "contrastive_chance": math.log(1 + min(self.recipe.negatives, batch - 1)),
            "embedding_spread": spread,
        }
        if len(targets) > 1:
            found["positive_score"] = (cosines * different).sum() / different.sum()
        if len(online) > len(targets):
            found["invariance_small"] = losses.invariance[len(targets) :].mean()
        return found


def _unit(outputs: list[Tensor]) -> Tensor:
    with torch.autocast(outputs[0].device.type, enabled=False):
        return F.normalize(torch.stack(outputs).float(), dim=2)
