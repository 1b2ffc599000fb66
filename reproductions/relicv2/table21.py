r"""ReLICv2, Table 21: number of negatives.

    nox -s reproduce-relicv2-table21
    nox -s reproduce-relicv2-table21 -- --scale paper \
        --data 'imagefolder:/imagenet?mask=/imagenet-masks'

300 epochs. Proxy scale: 10 trainings, 43 TFLOP, of which a first command trains those of 1, 10 and
all negatives. Expected at paper scale: all within 0.4 points, 10 are enough.
"""

from __future__ import annotations

import sys

from reproductions.relicv2.imagenet_table import imagenet_table
from reproductions.relicv2.recipes import ABLATIONS, relicv2
from retable.reproduce import main

NEGATIVES = (1, 5, 10, 20, 50, 100, 500, 1000, 2000, 4096)

TRAININGS = {
    f"n{negatives}": relicv2(300, negatives=negatives, momentum=ABLATIONS)
    for negatives in NEGATIVES
}

TABLE = imagenet_table(__file__, TRAININGS, first_rows=("n1", "n10", "n4096"))

if __name__ == "__main__":
    sys.exit(main(TABLE))
