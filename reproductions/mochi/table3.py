"""MoCHi, Table 3: COCO detection and instance segmentation after 100 and 200 epochs of pretraining.

    nox -s reproduce-mochi-table3
    nox -s reproduce-mochi-table3 -- --scale paper --data /data/imagenet --coco /data/coco

Mask R-CNN C4 with the 1x schedule. Proxy scale: 7 trainings, 34 TFLOP, and detectors of built-in
scenes; a first command trains MoCo-v2 and one MoCHi after 100 and 200 epochs. Expected at paper
scale: MoCo-v2 37.0 and 39.0 AP of boxes, MoCHi up to 0.8 and 0.4 above.
"""

from __future__ import annotations

import sys
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.baselines.detectors import COCO_DATA, coco
from reproductions.baselines.recipes import IMAGENET1K_IMAGES
from reproductions.mochi.scales import proxy, smoke
from reproductions.mochi.table2 import ROWS
from retable.reproduce import Metric, Table, TableRow, main
from retable.reproduce.predictions import show_predictions

NAMES = {
    "e100_moco_v2": "e100_moco_v2_rerun",
    "e100_mochi_256_512_0": "e100_mochi_256_512_0",
    "e100_mochi_128_1024_512": "e100_mochi_128_1024_512",
    "e200_moco_v2": "e200_moco_v2_rerun",
    "e200_mochi_256_512_0": "e200_mochi_256_512_0",
    "e200_mochi_128_1024_512": "e200_mochi_128_1024_512",
    "e200_mochi_512_1024_512": "e200_mochi_512_1024_512",
}
"""Rows of this table and of Table 2, whose encoders they are."""

TABLE = Table(
    script=Path(__file__),
    rows={name: TableRow(ROWS[other], (coco("c4", schedule=1),)) for name, other in NAMES.items()},
    columns={
        f"{printed}_{kind}": Metric(f"coco.{prefix}{printed}")
        for kind, prefix in (("bb", ""), ("mk", "mask_"))
        for printed in ("ap", "ap50", "ap75")
    },
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET1K_IMAGES,
    optional_data=COCO_DATA,
    first_rows=(
        "e100_moco_v2",
        "e100_mochi_128_1024_512",
        "e200_moco_v2",
        "e200_mochi_512_1024_512",
    ),
    facts=FACTS,
    plots=(show_predictions,),
    seeds={"paper": (0,), "proxy": (0,), "smoke": (0,)},
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
