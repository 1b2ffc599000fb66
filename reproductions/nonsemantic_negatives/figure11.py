r"""Non-semantic negatives, Figure 11: accuracy by the range of patch sizes.

    nox -s reproduce-nonsemantic_negatives-figure11 -- --scale paper --data /imagenet \
        --ood sketch=/imagenet-sketch

Paper scale only: at 32 pixels the smallest patches would have one pixel and the largest would show
half of the object. The proxy scale trains the usual range alone. The figure prints neither numbers
nor the bounds of its ranges, so that the grid is ours. Expected at paper scale: 79.4 in domain with
16 to 72, less with smaller and with larger patches, which are better on sketches.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.baselines.recipes import IMAGENET100_IMAGES
from reproductions.nonsemantic_negatives.recipes import ROBUSTNESS, with_patches
from reproductions.nonsemantic_negatives.scales import proxy, smoke
from reproductions.nonsemantic_negatives.table1 import TABLE as TABLE_1
from retable.evaluate.ood_sets import OodSet
from retable.reproduce import Table, TableRow, main

RANGES = ((8, 28), (16, 40), (16, 72), (16, 112), (40, 72), (72, 112))
SKETCHES = replace(ROBUSTNESS, sets=(OodSet("sketch"),))

TABLE = Table(
    script=Path(__file__),
    rows={
        f"patch_{low}_{high}": TableRow(with_patches(2.0, low=low, high=high), (SKETCHES,))
        for low, high in RANGES
    },
    columns={column: TABLE_1.columns[column] for column in ("imagenet100", "imagenet_s")},
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET100_IMAGES,
    subset="imagenet100",
    facts=FACTS,
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
