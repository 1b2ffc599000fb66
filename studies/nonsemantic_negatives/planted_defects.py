"""Defects planted in MoCo with patch-based negatives that tables should detect at proxy scale.

    python studies/nonsemantic_negatives/planted_defects.py

Trains one row of Figure 13 with seed 0 for each defect and prints the verdict of every cell against
the recorded reference. Only the unit tests can detect a defect without a miss.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nonsemantic_negatives import MoCoNS, MoCoNSRecipe, PatchNegatives, patch_negatives
from nonsemantic_negatives.patches import PatchDraws, assemble_patches, draw_patches
from reproductions.nonsemantic_negatives.figure13 import TABLE
from retable import distributed
from retable.methods import Batch, Progress
from retable.methods.method import StepOutput
from retable.random import derive_key
from retable.reproduce.command import guarded
from retable.reproduce.plan import TableSelection, resolve_rows
from retable.reproduce.table import TableRow
from studies.planted import run_planted

ROWS = ("alpha_2", "alpha_3")


class AlphaOutside(MoCoNS):
    """Weighs the exponentials instead of the cosines: L_out."""

    def __init__(self, encoder: nn.Module, recipe: MoCoNSRecipe, rng_key: int) -> None:
        super().__init__(encoder, replace(recipe, placement="outside"), rng_key)


class NegativesInTheQueue(MoCoNS):
    """Enqueues the negatives behind the keys."""

    def negative_keys(self, batch: Batch) -> Tensor:
        """Keep the negatives for the queue."""
        negatives = super().negative_keys(batch)
        self._kept = negatives[:, 0], batch.labels
        return negatives

    def after_step(self, progress: Progress) -> None:
        """Enqueue keys and negatives."""
        super().after_step(progress)
        self.queue.enqueue(*(distributed.gather(rows) for rows in self._kept))


class ThroughTheQueryEncoder(MoCoNS):
    """Embeds the negatives by the query encoder, with gradient."""

    def negative_keys(self, batch: Batch) -> Tensor:
        """Return embeddings with gradient."""
        images = self.recipe.negatives.images(batch, view=0)
        with torch.enable_grad():
            return torch.stack([self.queries(one) for one in images], dim=1)

    def contrastive_loss(self, queries: Tensor, keys: Tensor, batch: Batch) -> StepOutput:
        """Contrast with negatives that have a gradient."""
        negatives = self.negative_keys(batch)[:, 0]
        columns = self.recipe.alpha * (queries * negatives).sum(dim=1, keepdim=True)
        logits = torch.cat([self.logits(queries, keys, batch), columns], dim=1)
        return self.step_output(logits, queries, keys, batch)


@dataclass(frozen=True)
class OneSizeForAll(PatchNegatives):
    """Patches of one size for the whole batch."""

    def images(self, batch: Batch, view: int) -> Tensor:
        """Give all images the first image's size."""
        made = batch.views[view]
        draws = draw_patches(
            derive_key(batch.rng_key, "negatives", view, 0),
            batch.positions,
            (made.shape[2], made.shape[3]),
            low=self.low,
            high=self.high,
        )
        side = draws.side[:1].expand(len(made))
        room = made.shape[-1] - side[:, None, None]
        same = PatchDraws(side, draws.top.minimum(room), draws.left.minimum(room))
        return assemble_patches(made, same)[None]


@dataclass(frozen=True)
class OfTheOtherView(PatchNegatives):
    """Patches of the key's view, whose colours are not the query's."""

    def images(self, batch: Batch, view: int) -> Tensor:
        """Cut the other view."""
        key = derive_key(batch.rng_key, "negatives", view, 0)
        other = batch.views[1 - view]
        return patch_negatives(other, key, batch.positions, low=self.low, high=self.high)[None]


METHODS: dict[str, type[MoCoNS]] = {
    "alpha on the wrong side of the exponential": AlphaOutside,
    "negatives in the queue": NegativesInTheQueue,
    "negatives through the query encoder": ThroughTheQueryEncoder,
}
NEGATIVES: dict[str, type[PatchNegatives]] = {
    "one patch size for the whole batch": OneSizeForAll,
    "patches of another view than the query's": OfTheOtherView,
}


@dataclass(frozen=True)
class DefectiveRecipe(MoCoNSRecipe):
    """MoCo with patches and a defect."""

    defect: str = ""

    def build(self, encoder: nn.Module, rng_key: int) -> MoCoNS:
        """Build the defective method."""
        return METHODS.get(self.defect, MoCoNS)(encoder, self, rng_key)


def plant(row: TableRow, defect: str) -> TableRow:
    """Return the row with the defect in its method."""
    method = row.pretrain.method
    assert isinstance(method, MoCoNSRecipe)
    fields = dict(vars(method))
    if defect in NEGATIVES:
        fields["negatives"] = NEGATIVES[defect](**vars(method.negatives))
    return replace(
        row, pretrain=replace(row.pretrain, method=DefectiveRecipe(**fields, defect=defect))
    )


def main() -> int:
    """Run every defect and print the verdicts of Figure 13."""
    rows = resolve_rows(TABLE, TableSelection(rows=ROWS))
    planted = {
        defect: {key: plant(row, defect) for key, row in rows.items()}
        for defect in (*METHODS, *NEGATIVES)
    }
    return run_planted(TABLE, planted, __doc__.splitlines()[0])


if __name__ == "__main__":
    sys.exit(guarded(main))
