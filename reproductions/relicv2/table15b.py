r"""ReLICv2, Table 15b: out-of-distribution accuracy after pretraining on JFT-300M.

    nox -s reproduce-relicv2-table15b
    nox -s reproduce-relicv2-table15b -- --scale paper \
        --data 'imagefolder:/imagenet?mask=/imagenet-masks' \
        --ood r=DIR \
        --ood sketch=DIR \
        --ood objectnet=DIR

JFT-300M is not public, so that its rows are cited. The encoder of Table 3, which was pretrained on
ImageNet, is added for comparison.

All claims compare with numbers of others, which only runs at the paper's scale can test.
"""

from __future__ import annotations

import sys

from reproductions.relicv2.imagenet_table import SHIFTED, imagenet_table
from reproductions.relicv2.recipes import OTHER_IMAGES, relicv2
from retable.reproduce import main

TRAININGS = {"imagenet": relicv2(1000)}

TABLE = imagenet_table(__file__, TRAININGS, SHIFTED, evaluations=(OTHER_IMAGES,))

if __name__ == "__main__":
    sys.exit(main(TABLE))
