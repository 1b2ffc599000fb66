r"""ReLICv2, Table 20: saliency masks with a rectangle added or removed.

    nox -s reproduce-relicv2-table20
    nox -s reproduce-relicv2-table20 -- --scale paper \
        --data 'imagefolder:/imagenet?mask=/imagenet-masks'

300 epochs; the rectangle lies in the middle of the image and has 10 to 100 % of the mask's area.
Proxy scale: 22 trainings, 95 TFLOP, of which a first command trains 5. Expected at paper scale:
removing costs more (72.6 at 100 %) than adding (74.6), and up to 20 % costs at most 0.3 points. The
two rows of Table 18 are added for comparison.
"""

from __future__ import annotations

import sys

from reproductions.relicv2.imagenet_table import BACKGROUNDS, TOP1_AND_TOP5, imagenet_table
from reproductions.relicv2.recipes import ABLATIONS, compared_masks, relicv2
from retable.reproduce import main

CHANGES = {"add": "added", "remove": "removed"}

TRAININGS = compared_masks() | {
    f"{name}_{percent}": relicv2(300, mask_change=(change, percent / 100), momentum=ABLATIONS)
    for percent in range(10, 110, 10)
    for name, change in CHANGES.items()
}

TABLE = imagenet_table(
    __file__,
    TRAININGS,
    TOP1_AND_TOP5 | BACKGROUNDS,
    first_rows=("none", "saliency", "add_100", "remove_50", "remove_100"),
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
