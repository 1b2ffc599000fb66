r"""ReLICv2, Figure 4: how far classes are apart in units of their own size.

    nox -s reproduce-relicv2-figure4
    nox -s reproduce-relicv2-figure4 -- --scale paper \
        --data 'imagefolder:/imagenet?mask=/imagenet-masks'

The encoder of Table 1 compared with supervised training, and a picture of the distributions over
classes. Proxy scale: 2 trainings, 5.1 TFLOP. Expected at paper scale: those of ReLICv2 lie to the
right.
"""

from __future__ import annotations

import sys

from relicv2.evaluations import ClassConcentration
from reproductions.baselines.recipes import supervised_bound
from reproductions.relicv2.geometry_plots import draw_ratios
from reproductions.relicv2.imagenet_table import imagenet_table
from reproductions.relicv2.recipes import relicv2
from retable.reproduce import Metric, main

TRAININGS = {"relicv2": relicv2(1000), "supervised": supervised_bound(1000)}

TABLE = imagenet_table(
    __file__,
    TRAININGS,
    {"ratio": Metric("concentration.ratio"), "unit_ratio": Metric("concentration.unit_ratio")},
    evaluations=(ClassConcentration(),),
    plots=(draw_ratios,),
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
