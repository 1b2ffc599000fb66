r"""ReLICv2, Table 18: probability of removing the background, at 300 epochs.

    nox -s reproduce-relicv2-table18
    nox -s reproduce-relicv2-table18 -- --scale paper \
        --data 'imagefolder:/imagenet?mask=/imagenet-masks'

The left half of the table, for a saliency network trained on ImageNet; masks of one trained on
MSRA-B are another folder, for which the same command runs again. Without masks both are one run.
Proxy scale: 14 trainings, 61 TFLOP, of which a first command trains those of 0, 0.1, 0.5 and 1.
Expected at paper scale: 75.2 without masks, 75.0 to 75.4 up to a probability of 0.3, 73.7 with
masks always.
"""

from __future__ import annotations

import sys

from reproductions.relicv2.imagenet_table import BACKGROUNDS, TOP1_AND_TOP5, imagenet_table, key
from reproductions.relicv2.recipes import ABLATIONS, relicv2
from retable.reproduce import main

PROBABILITIES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

TRAININGS = {
    key("imagenet_p", probability): relicv2(300, mask_probability=probability, momentum=ABLATIONS)
    for probability in PROBABILITIES
}
TRAININGS["msrab_p0"] = TRAININGS["imagenet_p0"]

MSRA_B = "masks of a network trained on MSRA-B: run the left half with their folder"

NOT_RUN = {key("msrab_p", probability): MSRA_B for probability in PROBABILITIES[1:]}

TABLE = imagenet_table(
    __file__,
    TRAININGS,
    TOP1_AND_TOP5 | BACKGROUNDS,
    not_run=NOT_RUN,
    first_rows=("imagenet_p0", "imagenet_p0_1", "imagenet_p0_5", "imagenet_p1"),
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
