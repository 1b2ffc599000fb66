r"""ReLICv2, Figure 7: nearest neighbours among images of two breeds of dogs and two of cats.

    nox -s reproduce-relicv2-figure7
    nox -s reproduce-relicv2-figure7 -- --scale paper \
        --data 'imagefolder:/imagenet?mask=/imagenet-masks'

The encoder of Table 1 compared with BYOL, each of 1000 epochs. The paper does not name the breeds:
here they are two terriers and two domestic cats. On the built-in images they are two trees and two
perforated discs. Proxy scale: 2 trainings, 6.3 TFLOP. Expected at paper scale: fewer neighbours of
another class than BYOL's.
"""

from __future__ import annotations

import sys

from relicv2.evaluations import NeighbourConfusion
from reproductions.relicv2.geometry_plots import draw_neighbours
from reproductions.relicv2.imagenet_table import imagenet_table
from reproductions.relicv2.recipes import byol, relicv2
from retable.reproduce import Metric, main

CLASSES = (185, 186, 281, 283)
"""Norfolk terrier, Norwich terrier; tabby, Persian cat, in the order of ImageNet's WordNet ids."""

TRAININGS = {"relicv2": relicv2(1000), "byol": byol(1000, mask_probability=0.0)}

TABLE = imagenet_table(
    __file__,
    TRAININGS,
    {"same_class": Metric("confusion.same_class"), "same_group": Metric("confusion.same_group")},
    evaluations=(NeighbourConfusion(CLASSES, groups=(0, 0, 1, 1)),),
    plots=(draw_neighbours,),
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
