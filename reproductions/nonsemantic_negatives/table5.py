"""Non-semantic negatives, Table 5: accuracy on ImageNet-C-100 by severity.

    nox -s reproduce-nonsemantic_negatives-table5

The trainings and the evaluation are those of Table 1. Expected at paper scale: patches with alpha 2
are above MoCo v2 at every severity, by 2.3 to 1.2 points.
"""

from __future__ import annotations

import sys
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.baselines.recipes import IMAGENET100_IMAGES
from reproductions.nonsemantic_negatives.scales import proxy, smoke
from reproductions.nonsemantic_negatives.table1 import ROWS
from retable.reproduce import Metric, Table, main

TABLE = Table(
    script=Path(__file__),
    rows=ROWS,
    columns={f"severity_{k}": Metric(f"ood.c_severity_{k}") for k in range(1, 6)},
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET100_IMAGES,
    subset="imagenet100",
    facts=FACTS,
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
