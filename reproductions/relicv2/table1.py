r"""ReLICv2, Table 1: linear evaluation of ResNet-50 on ImageNet.

    nox -s reproduce-relicv2-table1
    nox -s reproduce-relicv2-table1 -- --scale paper \
        --data 'imagefolder:/imagenet?mask=/imagenet-masks'

1000 epochs. Proxy scale: 1 training, 4.3 TFLOP. Expected at paper scale: 77.1.

All claims compare with numbers of others, which only runs at the paper's scale can test.
"""

from __future__ import annotations

import sys

from reproductions.relicv2.imagenet_table import TOP1, imagenet_table
from reproductions.relicv2.recipes import relicv2
from retable.reproduce import main

TRAININGS = {"relicv2": relicv2(1000)}

TABLE = imagenet_table(__file__, TRAININGS, TOP1)

if __name__ == "__main__":
    sys.exit(main(TABLE))
