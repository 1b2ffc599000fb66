"""Defects planted in MoCHi that Table 1 should detect at proxy scale.

    python studies/mochi/planted_defects.py

Runs MoCo-v2 and MoCHi (1024, 256, 512) with seed 0 for each defect and prints the verdict of every
cell against the recorded reference. Only the unit tests can detect a defect without a miss.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mochi import MoCHi, MoCHiRecipe
from mochi.draws import MixingDraws
from mochi.pool import HardPool
from reproductions.mochi.table1 import TABLE
from retable.methods import Batch, MoCoRecipe, Progress
from retable.reproduce.command import guarded
from retable.reproduce.plan import TableSelection, resolve_rows
from retable.reproduce.table import TableRow
from studies.planted import run_planted

ROWS = ("moco_v2", "mochi_1024_256_512")


class PositiveAmongNegatives(MoCHi):
    """Enqueues the keys before the contrast, so that each positive is also a negative."""

    def logits(self, queries: Tensor, keys: Tensor, batch: Batch) -> Tensor:
        """Compute logits against a queue that already contains this batch."""
        self.queue.enqueue(keys, batch.labels)
        return super().logits(queries, keys, batch)


class StaleQueue(MoCHi):
    """Never refills the queue; the negatives remain the initial random directions."""

    def after_step(self, progress: Progress) -> None:
        """Drop the keys."""
        self._unqueued = None


class FrozenKeyEncoder(MoCHi):
    """Keeps the key encoder at its initialisation."""

    def __init__(self, encoder: nn.Module, recipe: MoCHiRecipe, rng_key: int) -> None:
        super().__init__(encoder, replace(recipe, momentum=1.0), rng_key)


class PoolOfQueryZero(MoCHi):
    """Mixes negatives for every query from the pool of the first query of the batch."""

    def pool_and_draws(self, cosines: Tensor, batch: Batch) -> tuple[HardPool, MixingDraws]:
        """Replace every pool by that of the first query."""
        pool, draws = super().pool_and_draws(cosines, batch)
        first = torch.zeros(len(cosines), dtype=torch.int64, device=cosines.device)
        return HardPool(pool.rows[first], pool.sizes[first]), draws


DEFECTS = {
    "positive among the negatives": PositiveAmongNegatives,
    "queue never refilled": StaleQueue,
    "key encoder never moves": FrozenKeyEncoder,
    "every query mixes query 0's pool": PoolOfQueryZero,
}


@dataclass(frozen=True)
class DefectiveRecipe(MoCHiRecipe):
    """MoCHi with a defect; MoCo-v2 with the same defect if s = s' = 0."""

    defect: str = ""

    def build(self, encoder: nn.Module, rng_key: int) -> MoCHi:
        """Build the defective method."""
        return DEFECTS[self.defect](encoder, self, rng_key)


def plant(row: TableRow, defect: str) -> TableRow:
    """Return the row with the defect in its method."""
    method = row.pretrain.method
    assert isinstance(method, MoCoRecipe)
    fields = dict(vars(method))
    if not isinstance(method, MoCHiRecipe):
        fields |= {"s": 0, "s_prime": 0, "n_hard": 1}
    return replace(
        row, pretrain=replace(row.pretrain, method=DefectiveRecipe(**fields, defect=defect))
    )


def main() -> int:
    """Run every defect and print the verdicts of Table 1."""
    rows = resolve_rows(TABLE, TableSelection(rows=ROWS))
    planted = {defect: {key: plant(row, defect) for key, row in rows.items()} for defect in DEFECTS}
    # The last defect does not change MoCo-v2, which mixes no negatives.
    del planted["every query mixes query 0's pool"]["moco_v2"]
    return run_planted(TABLE, planted, __doc__.splitlines()[0])


if __name__ == "__main__":
    sys.exit(guarded(main))
