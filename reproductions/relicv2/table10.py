r"""ReLICv2, Table 10: fine-tuning of larger ResNets on 1 % and 10 % of ImageNet's labels.

    nox -s reproduce-relicv2-table10
    nox -s reproduce-relicv2-table10 -- --scale paper \
        --data 'imagefolder:/imagenet?mask=/imagenet-masks' --simclr-lists /imagenet_subsets

1000 epochs. Expected at paper scale with 1 % and 10 %: 64.7 and 73.7 with twice the width, 69.5 and
74.6 with four times, 72.1 and 76.4 with ResNet-200 of twice the width. At proxy scale 1 % is one
image of each class, and ResNet-200 has the small network's depth 14; only the first row is trained
unless ``--rows`` names others, which take 36 and 68 TFLOP.

All claims compare with numbers of others, which only runs at the paper's scale can test.
"""

from __future__ import annotations

import sys

from reproductions.relicv2.few_labels import FEW_LABELS, FEW_LABELS_COLUMNS, SIMCLR_LISTS
from reproductions.relicv2.imagenet_table import imagenet_table
from reproductions.relicv2.recipes import relicv2
from retable.encoders import ResNetRecipe
from retable.reproduce import main

ENCODERS = {
    "relicv2_resnet50_2x": ResNetRecipe("resnet50", width=2.0),
    "relicv2_resnet50_4x": ResNetRecipe("resnet50", width=4.0),
    "relicv2_resnet200_2x": ResNetRecipe("resnet200", width=2.0),
}

TRAININGS = {name: relicv2(1000, encoder=encoder) for name, encoder in ENCODERS.items()}

TABLE = imagenet_table(
    __file__,
    TRAININGS,
    FEW_LABELS_COLUMNS,
    evaluations=FEW_LABELS,
    label_lists=SIMCLR_LISTS,
    first_rows=("relicv2_resnet50_2x",),
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
