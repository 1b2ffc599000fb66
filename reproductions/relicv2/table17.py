r"""ReLICv2, Table 17: BYOL with masks of its two views.

    nox -s reproduce-relicv2-table17
    nox -s reproduce-relicv2-table17 -- --scale paper \
        --data 'imagefolder:/imagenet?mask=/imagenet-masks'

300 epochs. Proxy scale: 6 trainings, 12 TFLOP. Expected at paper scale: 73.4 with a probability of
0.1, 73.1 without masks, 71.8 with 0.3.
"""

from __future__ import annotations

import sys

from reproductions.relicv2.imagenet_table import BACKGROUNDS, TOP1_AND_TOP5, imagenet_table, key
from reproductions.relicv2.recipes import byol
from retable.reproduce import main

PROBABILITIES = (0.0, 0.1, 0.15, 0.2, 0.25, 0.3)

TRAININGS = {
    key("p", probability): byol(300, mask_probability=probability) for probability in PROBABILITIES
}

TABLE = imagenet_table(__file__, TRAININGS, TOP1_AND_TOP5 | BACKGROUNDS)

if __name__ == "__main__":
    sys.exit(main(TABLE))
