r"""ReLICv2, Table 3: robustness and out-of-distribution accuracy of the linear classifier.

    nox -s reproduce-relicv2-table3
    nox -s reproduce-relicv2-table3 -- --scale paper \
        --data 'imagefolder:/imagenet?mask=/imagenet-masks' --ood v2=/v2/matched-frequency \
        --ood v2_threshold=/v2/threshold --ood v2_top=/v2/top --ood c=/imagenet-c \
        --ood r=/imagenet-r --ood sketch=/imagenet-sketch --ood objectnet=/objectnet

Accuracy among all classes; the results also have that among the classes of -R and of ObjectNet
(``r_masked``, ``objectnet_masked``). ImageNet-C is the mean over 15 kinds and 5 severities.
Expected at paper scale: 65.3, 74.5 and 79.4 on ImageNet-V2, 44.8 on ImageNet-C, 23.9 on -R, 9.9 on
-Sketch, 25.9 on ObjectNet.

All claims compare with numbers of others, which only runs at the paper's scale can test.
"""

from __future__ import annotations

import sys

from reproductions.relicv2.imagenet_table import ROBUSTNESS, SHIFTED, imagenet_table
from reproductions.relicv2.recipes import OTHER_IMAGES, relicv2
from retable.reproduce import main

TRAININGS = {"relicv2": relicv2(1000)}

TABLE = imagenet_table(__file__, TRAININGS, ROBUSTNESS | SHIFTED, evaluations=(OTHER_IMAGES,))

if __name__ == "__main__":
    sys.exit(main(TABLE))
