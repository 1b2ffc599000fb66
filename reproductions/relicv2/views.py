r"""ReLICv2, numbers of large and small views (section 3.1).

    nox -s reproduce-relicv2-views
    nox -s reproduce-relicv2-views -- --scale paper --data '/imagenet'

1000 epochs without masks. Proxy scale: 7 trainings, 30 TFLOP, of which a first command trains those
of at most 4 large and 2 small views. Expected at paper scale: 76.8 with 4 large and 2 small views,
75.5 with 4 large, 74.8 with 2. Rows have equal numbers of steps, not of operations.
"""

from __future__ import annotations

import sys

from reproductions.relicv2.imagenet_table import TOP1, imagenet_table
from reproductions.relicv2.recipes import relicv2
from retable.reproduce import main

VIEWS = ((2, 0), (2, 2), (2, 6), (4, 0), (4, 2), (6, 2), (8, 2))

TRAININGS = {
    f"l{large}_s{small}": relicv2(1000, large=large, small=small, mask_probability=0.0)
    for large, small in VIEWS
}

TABLE = imagenet_table(__file__, TRAININGS, TOP1, first_rows=("l2_s0", "l2_s2", "l4_s0", "l4_s2"))

if __name__ == "__main__":
    sys.exit(main(TABLE))
