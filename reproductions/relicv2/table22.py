r"""ReLICv2, Table 22: momentum of the target network.

    nox -s reproduce-relicv2-table22
    nox -s reproduce-relicv2-table22 -- --scale paper \
        --data 'imagefolder:/imagenet?mask=/imagenet-masks'

300 epochs. The ends 0 and 1 are constant, the others rise to 1; 0.993 is the momentum of tables 18
to 21. Proxy scale: 7 trainings, 30 TFLOP, of which a first command trains those of 0, 0.99, 0.996
and 1. Expected at paper scale: best at 0.99 to 0.993, 39.6 with a target that never moves.
"""

from __future__ import annotations

import sys

from reproductions.relicv2.imagenet_table import imagenet_table
from reproductions.relicv2.recipes import relicv2
from retable.reproduce import main

MOMENTA = {
    "g0": 0.0,
    "g0_9": 0.9,
    "g0_99": 0.99,
    "g0_993": 0.993,
    "g0_996": 0.996,
    "g0_999": 0.999,
    "g1_0": 1.0,
}

TRAININGS = {
    name: relicv2(300, momentum=momentum, constant=momentum in (0.0, 1.0))
    for name, momentum in MOMENTA.items()
}

TABLE = imagenet_table(
    __file__,
    TRAININGS,
    first_rows=("g0", "g0_99", "g0_996", "g1_0"),
    check_rows=("g0_99", "g1_0"),
    small_momentum=None,
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
