r"""ReLICv2, Table 15a: robustness after pretraining on JFT-300M.

    nox -s reproduce-relicv2-table15a
    nox -s reproduce-relicv2-table15a -- --scale paper \
        --data 'imagefolder:/imagenet?mask=/imagenet-masks' \
        --ood v2=DIR \
        --ood v2_threshold=DIR \
        --ood v2_top=DIR \
        --ood c=DIR

JFT-300M is not public, so that its rows are cited. The encoder of Table 3, which was pretrained on
ImageNet, is added for comparison.
"""

from __future__ import annotations

import sys

from reproductions.relicv2.imagenet_table import ROBUSTNESS, imagenet_table
from reproductions.relicv2.recipes import OTHER_IMAGES, relicv2
from retable.reproduce import main

TRAININGS = {"imagenet": relicv2(1000)}

TABLE = imagenet_table(__file__, TRAININGS, ROBUSTNESS, evaluations=(OTHER_IMAGES,))

if __name__ == "__main__":
    sys.exit(main(TABLE))
