"""Non-semantic negatives, Table 7: BYOL with patches, with regular negatives, and with both.

    nox -s reproduce-nonsemantic_negatives-table7
    nox -s reproduce-nonsemantic_negatives-table7 -- --scale paper --data /imagenet --ood c=/c

BYOL's formula with negatives, its alpha and its epochs are decisions (`nonsemantic_negatives.byol`,
`recipes.with_negatives`), so that only the harm of a regular negative, 21.5 points in the paper, is
a test of the paper's claim and not of ours.
"""

from __future__ import annotations

import sys
from pathlib import Path

from nonsemantic_negatives import BYOLNSRecipe
from reproductions.baselines import FACTS
from reproductions.baselines.recipes import IMAGENET100_IMAGES
from reproductions.nonsemantic_negatives.recipes import ROBUSTNESS, with_negatives
from reproductions.nonsemantic_negatives.scales import proxy, smoke
from reproductions.nonsemantic_negatives.table1 import TABLE as TABLE_1
from retable.methods import BYOLRecipe
from retable.nn.momentum import MomentumRecipe
from retable.reproduce import Table, TableRow, main

METHODS: dict[str, BYOLRecipe] = {
    "byol": BYOLRecipe(momentum=MomentumRecipe(0.99, "cosine")),
    "byol_patch": BYOLNSRecipe(),
    "byol_regular": BYOLNSRecipe(negatives=None, regular=True),
    "byol_patch_regular": BYOLNSRecipe(regular=True),
}

TABLE = Table(
    script=Path(__file__),
    rows={
        name: TableRow(with_negatives(method), (ROBUSTNESS,)) for name, method in METHODS.items()
    },
    columns=TABLE_1.columns,
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET100_IMAGES,
    subset="imagenet100",
    facts=FACTS,
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
