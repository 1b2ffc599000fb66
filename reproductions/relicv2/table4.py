r"""ReLICv2, Table 4: segmentation with the encoder of Table 1.

    nox -s reproduce-relicv2-table4
    nox -s reproduce-relicv2-table4 -- --scale paper \
        --data 'imagefolder:/imagenet?mask=/imagenet-masks'

Pretrains the encoder of Table 1; every cell says `not run: needs segmentation fine-tuning`.
``retable export`` writes an encoder for a segmentation network.
"""

from __future__ import annotations

import sys

from reproductions.relicv2.imagenet_table import imagenet_table
from reproductions.relicv2.recipes import relicv2
from retable.reproduce import main

TABLE = imagenet_table(__file__, {"relicv2": relicv2(1000)}, {}, evaluations=())

if __name__ == "__main__":
    sys.exit(main(TABLE))
