r"""ReLICv2, Table 9: fine-tuning of ResNet-50 on 1 % and 10 % of ImageNet's labels.

    nox -s reproduce-relicv2-table9
    nox -s reproduce-relicv2-table9 -- --scale paper \
        --data 'imagefolder:/imagenet?mask=/imagenet-masks' --simclr-lists /imagenet_subsets

The encoder of Table 1. Expected at paper scale: 58.1 with 1 %, 72.4 with 10 %. At proxy scale 1 %
is one image of each class.

All claims compare with numbers of others, which only runs at the paper's scale can test.
"""

from __future__ import annotations

import sys

from reproductions.relicv2.few_labels import FEW_LABELS, FEW_LABELS_COLUMNS, SIMCLR_LISTS
from reproductions.relicv2.imagenet_table import imagenet_table
from reproductions.relicv2.recipes import relicv2
from retable.reproduce import main

TRAININGS = {"relicv2": relicv2(1000)}

TABLE = imagenet_table(
    __file__,
    TRAININGS,
    FEW_LABELS_COLUMNS,
    evaluations=FEW_LABELS,
    label_lists=SIMCLR_LISTS,
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
