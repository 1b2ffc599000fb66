r"""ReLICv2, Table 2: linear evaluation of larger ResNets on ImageNet.

    nox -s reproduce-relicv2-table2
    nox -s reproduce-relicv2-table2 -- --scale paper \
        --data 'imagefolder:/imagenet?mask=/imagenet-masks'

1000 epochs. Expected at paper scale: 77.1 with ResNet-50, 79.8 with ResNet-200 and 80.6 with one of
twice the width. At proxy scale ResNet-200 has the small network's depth 14. The wide one takes 36
TFLOP there, and is trained if ``--rows`` names it.
"""

from __future__ import annotations

import sys

from reproductions.relicv2.imagenet_table import TOP1, imagenet_table
from reproductions.relicv2.recipes import relicv2
from retable.encoders import ResNetRecipe
from retable.reproduce import main

ENCODERS = {
    "relicv2_resnet50": ResNetRecipe("resnet50"),
    "relicv2_resnet200": ResNetRecipe("resnet200"),
    "relicv2_resnet200_2x": ResNetRecipe("resnet200", width=2.0),
}

TRAININGS = {name: relicv2(1000, encoder=encoder) for name, encoder in ENCODERS.items()}

TABLE = imagenet_table(
    __file__, TRAININGS, TOP1, first_rows=("relicv2_resnet50", "relicv2_resnet200")
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
