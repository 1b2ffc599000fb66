"""SimCLR with transformed pairs (supplement, section E.1; no code was released for it).

Each image's two embeddings are extrapolated; the 2 N embeddings of the global batch are
interpolated among themselves, with their gradient, and are the negatives. A mixed column that
contains the anchor's own image, as itself or as its partner, is masked for that anchor.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from feature_transform.draws import check_draw_group, draw_groups, mixture
from feature_transform.logits import transformed_pair
from feature_transform.negatives import mix_negatives
from feature_transform.recipe import TransformRecipe
from retable.errors import UserError
from retable.methods.method import Batch, Metrics
from retable.methods.simclr import SimCLR, SimCLRRecipe
from retable.nn.checks import Shaped, check_shapes
from retable.nn.losses import Pairs
from retable.nn.scores import score_statistics
from retable.random import derive_key


def transformed_pairs_logits(
    pairs: Pairs, transform: TransformRecipe, rng_key: int, positions: Tensor
) -> Tensor:
    """Return SimCLR's scores of transformed pairs, as `retable.methods.SimCLR.logits` does.

    Without transformation they are those of NT-Xent. With weights of 1 they differ from these only
    by the masked columns whose partner is of the anchor's own image. Both views of an image share a
    weight.

    Args:
        pairs: result of `retable.nn.losses.view_pairs`.
        transform: the transformation.
        rng_key: random key of the step, equal on all processes.
        positions: (B_r,) int64 positions of the images in the global batch.
    """
    check_shapes(Shaped("positions", positions, "B", kind="whole"))
    pairs.check(A=2 * len(positions))
    first, second = pairs.anchors.chunk(2)
    moved = torch.cat(transformed_pair(first, second, transform, rng_key, positions))
    positives = (moved * moved.roll(len(first), 0)).sum(dim=1, keepdim=True)
    scored = moved if transform.score_against == "extrapolated" else pairs.anchors
    if transform.negatives == "none":
        negatives = (scored @ pairs.columns.T).masked_fill(pairs.masked, -torch.inf)
    else:
        negatives = _mixed_scores(pairs, scored, transform, rng_key, positions)
    return torch.cat([positives, negatives], dim=1)


def _mixed_scores(
    pairs: Pairs, scored: Tensor, transform: TransformRecipe, rng_key: int, positions: Tensor
) -> Tensor:
    """Score anchors (2 B_r, D) against columns that are mixed for each group of images."""
    (count, dim), images = pairs.columns.shape, len(positions)
    scores = []
    for number, own in draw_groups(positions, transform.draw_group):
        partners, weight = mixture(transform, rng_key, number, count, dim)
        columns = mix_negatives(
            pairs.columns, partners, weight, renormalise=transform.renormalise, rows="unchecked"
        )
        for view in (own, slice(own.start + images, own.stop + images)):
            masked = pairs.masked[view]
            masked = masked | masked[:, partners]
            scores.append((scored[view] @ columns.T).masked_fill(masked, -torch.inf))
    return torch.cat(scores[::2] + scores[1::2])


@dataclass(frozen=True)
class SimCLRFTRecipe(SimCLRRecipe):
    """SimCLR with feature transformation.

    Attributes:
        transform: transformation of the features; without "hard" negatives.
    """

    transform: TransformRecipe = field(default_factory=TransformRecipe)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.transform.negatives == "hard":
            raise UserError(
                "`transform.negatives` must be interpolate, extrapolate or none, got hard. Use "
                "hard negatives with MoCo, where the paper mixes queries into a queue."
            )

    def build(self, encoder: nn.Module, rng_key: int) -> SimCLRFT:
        """Return the method; ``rng_key`` draws the head's weights."""
        return SimCLRFT(encoder, self, rng_key)


class SimCLRFT(SimCLR):
    """Contrast extrapolated views of an image with each other and with mixtures of all others."""

    def __init__(self, encoder: nn.Module, recipe: SimCLRFTRecipe, rng_key: int) -> None:
        super().__init__(encoder, recipe, rng_key)
        self.transform = recipe.transform

    def logits(self, pairs: Pairs, batch: Batch) -> Tensor:
        """Return scores (2 B_r, 1 + 2 B) of the transformed pairs, the positive first."""
        check_draw_group(len(batch.positions), self.transform.draw_group)
        if not self.transform.active(batch.progress):
            return super().logits(pairs, batch)
        rng_key = derive_key(batch.rng_key, "transform")
        return transformed_pairs_logits(pairs, self.transform, rng_key, batch.positions)

    @torch.no_grad()
    def metrics(self, logits: Tensor, pairs: Pairs, batch: Batch) -> Metrics:
        """Return SimCLR's scalars; the chance level is that of the columns that are not masked."""
        ways = (logits != -torch.inf).sum(dim=1)
        return super().metrics(logits, pairs, batch) | {"chance_loss": ways.log().mean()}

    @torch.no_grad()
    def step_metrics(self, logits: Tensor, pairs: Pairs, batch: Batch) -> Metrics:
        """Return the score statistics of raw pairs and, while active, of transformed ones."""
        if not self.transform.active(batch.progress):
            return super().step_metrics(logits, pairs, batch)
        raw = super().step_metrics(pairs.logits(), pairs, batch)
        return raw | score_statistics(logits[:, 0], logits[:, 1:]).named("transformed_")
