r"""ReLICv2, Table 19: masks of random pixels and of rectangles in place of saliency masks.

    nox -s reproduce-relicv2-table19
    nox -s reproduce-relicv2-table19 -- --scale paper \
        --data 'imagefolder:/imagenet?mask=/imagenet-masks'

300 epochs; each mask keeps 10 to 90 % of the image. Only the sizes of the saliency masks are read:
an image with too little foreground is never masked. The probability of masking is not stated; 0.1
is a decision. Proxy scale: 29 trainings, 126 TFLOP, of which a first command trains 5. Expected at
paper scale: every one of them is below training without masks, 75.2; that masks of one view in ten
cost up to 4.4 points is hard to explain, so that no claim compares them. The two rows of Table 18
are added for comparison.
"""

from __future__ import annotations

import sys

from reproductions.relicv2.imagenet_table import BACKGROUNDS, TOP1_AND_TOP5, imagenet_table
from reproductions.relicv2.recipes import ABLATIONS, compared_masks, relicv2
from retable.reproduce import main

CHANGES = {"random": "pixels", "rectangle": "rectangle", "centered": "centered"}

TRAININGS = compared_masks() | {
    f"{name}_{percent}": relicv2(300, mask_change=(change, percent / 100), momentum=ABLATIONS)
    for percent in range(10, 100, 10)
    for name, change in CHANGES.items()
}

TABLE = imagenet_table(
    __file__,
    TRAININGS,
    TOP1_AND_TOP5 | BACKGROUNDS,
    first_rows=("none", "saliency", "random_20", "rectangle_20", "centered_20"),
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
