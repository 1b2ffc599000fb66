"""Defects planted in ReLICv2 that its tables should detect at proxy scale.

    python studies/relicv2/planted_defects.py

Trains one row of the table of mask probabilities with seed 0 for each defect and prints the verdict
of every cell against the recorded reference. Only the unit tests can detect a defect without a
miss.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from relicv2 import ReLICv2, ReLICv2Recipe, draw_candidates
from relicv2.loss import PairLosses, divergence, predictions
from reproductions.relicv2.mask_probability import TABLE
from retable.methods import Batch, Progress
from retable.methods.method import StepOutput
from retable.random import derive_key, uniform
from retable.reproduce.command import guarded
from retable.reproduce.plan import TableSelection, resolve_rows
from retable.reproduce.table import TableRow
from retable.views import ViewRecipe
from studies.planted import run_planted

ROW, MASKED = "p0_1", 0.1
"""The row with masks, and their probability."""
SHARD = 16


class TargetFirst(ReLICv2):
    """Updates the target network by the online weights of before the optimizer's step."""

    def forward(self, batch: Batch) -> StepOutput:
        """Update once the loss is computed."""
        output = super().forward(batch)
        super().after_step(batch.progress)
        return output

    def after_step(self, progress: Progress) -> None:
        """Update nothing."""


class LocalNegatives(ReLICv2):
    """Draws negatives from a process's 16 images instead of the global batch."""

    def candidates(self, batch: Batch) -> Tensor:
        """Draw from each shard by itself."""
        shards = batch.positions // SHARD * SHARD
        count = min(self.recipe.negatives, SHARD - 1)
        within = draw_candidates(batch.rng_key, batch.positions - shards, SHARD, negatives=count)
        return within + shards[:, None]


class OtherCandidates(ReLICv2):
    """Compares distributions over different images."""

    def losses(self, online: Tensor, targets: Tensor, batch: Batch) -> PairLosses:
        """Draw negatives again for what a prediction is compared with."""
        found = super().losses(online, targets, batch)
        other = replace(batch, rng_key=derive_key(batch.rng_key, "other"))
        log_p, log_q = (
            predictions(online, targets, self.candidates(drawn), self.recipe.temperature)
            for drawn in (batch, other)
        )
        large = len(targets)
        swapped = divergence(log_p[:large], log_q[:large].transpose(0, 1))
        anchors = log_q[:large].diagonal(dim1=0, dim2=1).movedim(2, 0).expand_as(log_p[large:])
        small = divergence(log_p[large:], anchors, "second")
        return found._replace(invariance=torch.cat([swapped, small]))


class MaskedAfterwards(ReLICv2):
    """Replaces the background by a grey level after the view was normalised."""

    def forward(self, batch: Batch) -> StepOutput:
        """Mask the large views that have their masks as a layer."""
        views = [*batch.views]
        for place in range(self.recipe.large):
            key = derive_key(batch.rng_key, "masked", place)
            chosen = uniform(key, batch.positions) < MASKED
            grey = uniform(derive_key(key, "grey"), batch.positions)[:, None, None, None]
            background = (batch.layers[place]["mask"] == 0) & chosen[:, None, None, None]
            views[place] = torch.where(background, grey, views[place])
        return super().forward(replace(batch, views=tuple(views)))


METHODS: dict[str, type[ReLICv2]] = {
    "target updated before the step": TargetFirst,
    "negatives from the local shard": LocalNegatives,
    "divergence of distributions over different images": OtherCandidates,
    "mask after normalisation": MaskedAfterwards,
}


def small_views_masked(views: tuple[ViewRecipe, ...]) -> tuple[ViewRecipe, ...]:
    """Mask the small views like the large ones."""
    of = {"mask": views[0].mask, "mask_probability": views[0].mask_probability}
    return tuple(replace(view, **of) for view in views)  # type: ignore[arg-type]


def masks_as_layers(views: tuple[ViewRecipe, ...]) -> tuple[ViewRecipe, ...]:
    """Give the large views their masks as layers and mask none."""
    return tuple(
        replace(view, mask="", mask_probability=0.0, least_foreground=0.0, layers=("mask",))
        if view.mask
        else view
        for view in views
    )


VIEWS = {
    "small views masked": small_views_masked,
    "mask after normalisation": masks_as_layers,
}


@dataclass(frozen=True)
class DefectiveRecipe(ReLICv2Recipe):
    """ReLICv2 with a defect."""

    defect: str = ""

    def build(self, encoder: nn.Module, rng_key: int) -> ReLICv2:
        """Build the defective method."""
        return METHODS.get(self.defect, ReLICv2)(encoder, self, rng_key)


def plant(row: TableRow, defect: str) -> TableRow:
    """Return the row with the defect in its method or its views."""
    pretrain = row.pretrain
    views = VIEWS[defect](pretrain.views) if defect in VIEWS else pretrain.views
    method = DefectiveRecipe(**vars(pretrain.method), defect=defect)
    return replace(row, pretrain=replace(pretrain, method=method, views=views))


def main() -> int:
    """Run every defect and print the verdicts of the table of mask probabilities."""
    rows = resolve_rows(TABLE, TableSelection(rows=(ROW,)))
    planted = {
        defect: {key: plant(row, defect) for key, row in rows.items()}
        for defect in dict.fromkeys((*METHODS, *VIEWS))
    }
    return run_planted(TABLE, planted, __doc__.splitlines()[0])


if __name__ == "__main__":
    sys.exit(guarded(main))
