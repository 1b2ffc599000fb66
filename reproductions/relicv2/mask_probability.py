r"""ReLICv2, probability of removing the background (appendix F.2.1).

    nox -s reproduce-relicv2-mask_probability
    nox -s reproduce-relicv2-mask_probability -- --scale paper \
        --data 'imagefolder:/imagenet?mask=/imagenet-masks'

1000 epochs with 4 large and 2 small views. Proxy scale: 5 trainings, 22 TFLOP, of which a first
command trains the 4 of the claims and of 0.2. Expected at paper scale: 77.1 with a probability of
0.1, 76.8 without masks, 76.7 with 0.25.
"""

from __future__ import annotations

import sys

from reproductions.relicv2.imagenet_table import BACKGROUNDS, TERMS, TOP1, imagenet_table, key
from reproductions.relicv2.recipes import relicv2
from retable.reproduce import main

PROBABILITIES = (0.0, 0.1, 0.15, 0.2, 0.25)

TRAININGS = {
    key("p", probability): relicv2(1000, mask_probability=probability)
    for probability in PROBABILITIES
}

TABLE = imagenet_table(
    __file__,
    TRAININGS,
    TOP1 | BACKGROUNDS | TERMS,
    first_rows=("p0", "p0_1", "p0_2", "p0_25"),
    check_rows=("p0", "p0_1"),
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
