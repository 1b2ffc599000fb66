"""SimCLR whose pairs are transformed: the supplement's section E.1, for which no code was released.

Each image's two embeddings are extrapolated; the 2 N embeddings of the global batch are
interpolated among themselves and stand in for the negatives, with their gradient. A mixed column
that holds a part of the anchor's own image, as itself or as its partner, is no negative of it.
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
from retable.nn.losses import Pairs
from retable.nn.scores import score_statistics
from retable.random import derive_key


def transformed_pairs_logits(
    pairs: Pairs, transform: TransformRecipe, rng_key: int, positions: Tensor
) -> Tensor:
    """Return SimCLR's scores of transformed pairs.

    Where nothing is transformed they are those of NT-Xent; with weights of 1 too, less the columns
    whose partner is of the anchor's own image.

    Args:
        pairs: of `retable.nn.losses.view_pairs`: 2 B_r anchors, first views before second ones, and
            2 B columns.
        transform: what is done; a weight belongs to an image, so both of its views share it.
        rng_key: key of the step's draws, equal on all processes.
        positions: (B_r,) int64 places of the images in the global batch.

    Returns:
        (2 B_r, 1 + 2 B), the positive first, -inf where an anchor does not see a column.

    >>> from retable.nn.losses import view_pairs
    >>> pairs = view_pairs(*torch.nn.functional.normalize(torch.randn(2, 3, 8), dim=2))
    >>> transformed_pairs_logits(pairs, TransformRecipe(), 5, torch.arange(3)).shape
    torch.Size([6, 7])
    """
    first, second = pairs.anchors.chunk(2)
    moved = torch.cat(transformed_pair(first, second, transform, rng_key, positions))
    positives = (moved * moved.roll(len(first), 0)).sum(dim=1, keepdim=True)
    scored = moved if transform.score_against == "extrapolated" else pairs.anchors
    if transform.negatives == "none":
        negatives = (scored @ pairs.columns.T).masked_fill(pairs.barred, -torch.inf)
    else:
        negatives = _mixed_scores(pairs, scored, transform, rng_key, positions)
    return torch.cat([positives, negatives], dim=1)


def _mixed_scores(
    pairs: Pairs, scored: Tensor, transform: TransformRecipe, rng_key: int, positions: Tensor
) -> Tensor:
    """Score anchors (2 B_r, D) against columns that are mixed anew for each group of images."""
    (count, dim), images = pairs.columns.shape, len(positions)
    scores = []
    for number, own in draw_groups(positions, transform.draw_group):
        partners, weight = mixture(transform, rng_key, number, count, dim)
        columns = mix_negatives(pairs.columns, partners, weight, renormalise=transform.renormalise)
        for view in (own, slice(own.start + images, own.stop + images)):
            barred = pairs.barred[view]
            barred = barred | barred[:, partners]
            scores.append((scored[view] @ columns.T).masked_fill(barred, -torch.inf))
    return torch.cat(scores[::2] + scores[1::2])


@dataclass(frozen=True)
class SimCLRFTRecipe(SimCLRRecipe):
    """SimCLR with feature transformation.

    Attributes:
        transform: what is done to the features; "hard" negatives are MoCo's alone.

    Raises:
        UserError: the transformation asks for hard negatives.
    """

    transform: TransformRecipe = field(default_factory=TransformRecipe)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.transform.negatives == "hard":
            raise UserError(
                "SimCLR's transform.negatives is hard: expected interpolate, extrapolate or none, "
                "since the paper mixes queries into a queue only."
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
        """Return scores (2 B_r, 1 + 2 B) of the transformed pairs, the positive first.

        Raises:
            UserError: `TransformRecipe.draw_group` does not fit B_r; also before the start epoch.
        """
        check_draw_group(len(batch.positions), self.transform.draw_group)
        if not self.transform.active(batch.progress):
            return super().logits(pairs, batch)
        rng_key = derive_key(batch.rng_key, "transform")
        return transformed_pairs_logits(pairs, self.transform, rng_key, batch.positions)

    @torch.no_grad()
    def metrics(self, logits: Tensor, pairs: Pairs, batch: Batch) -> Metrics:
        """Return SimCLR's scalars; chance is that of the columns which an anchor still sees."""
        ways = (logits != -torch.inf).sum(dim=1)
        return super().metrics(logits, pairs, batch) | {"chance_loss": ways.log().mean()}

    @torch.no_grad()
    def step_metrics(self, logits: Tensor, pairs: Pairs, batch: Batch) -> Metrics:
        """Return the score statistics of raw pairs and, while they are transformed, of those."""
        if not self.transform.active(batch.progress):
            return super().step_metrics(logits, pairs, batch)
        raw = super().step_metrics(pairs.logits(), pairs, batch)
        return raw | score_statistics(logits[:, 0], logits[:, 1:]).named("transformed_")
