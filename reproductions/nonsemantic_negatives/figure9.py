r"""Non-semantic negatives, Figure 9: what a supervised network recognises from texture alone.

    nox -s reproduce-nonsemantic_negatives-figure9
    nox -s reproduce-nonsemantic_negatives-figure9 -- --scale paper \
        --data 'imagefolder:/imagenet' --ood texture=/imagenet-texture/val

ResNet-50 by torchvision's recipe, whose published weights the paper evaluates, and a linear probe
on its features, tested on texture twins of the validation images. Of the rows one has the accuracy,
two count the classes that are hardly and mostly recognised. At proxy scale the twin is the object's
texture alone, and 16 classes share 8 textures.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.baselines.recipes import IMAGENET1K_IMAGES, LINEAR_1K, supervised_bound
from reproductions.nonsemantic_negatives.scales import proxy, smoke
from retable.evaluate.ood import OutOfDistribution
from retable.evaluate.ood_sets import FEW, MANY, OodSet
from retable.reproduce import FinishedRuns, Table, TableRow, main

EVALUATION = OutOfDistribution(LINEAR_1K, sets=(OodSet("texture"),))


@dataclass(frozen=True)
class OfRows:
    """Metric of one training for some rows, by row."""

    names: tuple[tuple[str, str], ...]

    def value(self, row: str, seed: int, runs: FinishedRuns) -> float | None:
        """Return the row's metric; None if it has none or has not run."""
        name = dict(self.names).get(row)
        run = runs.get(row, {}).get(seed)
        return run.metrics.get(name) if run and name else None

    def reads(self, row: str) -> tuple[str, ...]:
        """Return the row as the training that it reads."""
        return (row,)


TRAINING = TableRow(supervised_bound(1000), (EVALUATION,))

TABLE = Table(
    script=Path(__file__),
    rows=dict.fromkeys(("resnet50", "classes_below_2_5", "classes_above_50"), TRAINING),
    columns={
        "texture_top1": OfRows((("resnet50", "ood.texture"),)),
        "classes": OfRows(
            (
                ("classes_below_2_5", f"ood.texture_{FEW}"),
                ("classes_above_50", f"ood.texture_{MANY}"),
            )
        ),
    },
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET1K_IMAGES,
    facts=FACTS,
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
