"""MoCHi, Table 2: ImageNet-1K linear top-1 and VOC detection after 100, 200 and 800 epochs.

    nox -s reproduce-mochi-table2
    nox -s reproduce-mochi-table2 -- --scale paper --data /data/imagenet --voc /data/VOCdevkit

Without ``--voc`` the columns of detection are left out. Proxy scale: 13 trainings, 70 TFLOP, and
detectors of built-in scenes; a first command trains MoCo-v2 and the best MoCHi after 100 and 200
epochs. Expected at paper scale: MoCo-v2 63.6, 67.9 and 69.0 % and 53.7, 56.8 and 56.8 AP after
100, 200 and 800 epochs, MoCHi within a point of it in accuracy and up to a point above in AP.
"""

from __future__ import annotations

import sys
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.baselines.detectors import VOC, VOC_COLUMNS, VOC_DATA
from reproductions.baselines.recipes import IMAGENET1K_IMAGES, LINEAR_1K, imagenet1k
from reproductions.mochi.recipes import mochi
from reproductions.mochi.scales import proxy, smoke
from retable.methods import MoCoRecipe, moco_v2
from retable.reproduce import Metric, Table, TableRow, main
from retable.reproduce.predictions import show_predictions

BASELINE = moco_v2(queue=65536)


def mixed(n_hard: int, s: int, s_prime: int) -> MoCoRecipe:
    """Return MoCHi on ImageNet-1K: mixing from epoch 15 on (unverified)."""
    return mochi(n_hard, s, s_prime, queue=65536, mixing_warmup_epochs=15)


ROWS = {
    "e100_moco_v2_rerun": imagenet1k(BASELINE, epochs=100),
    "e100_mochi_256_512_0": imagenet1k(mixed(256, 512, 0), epochs=100),
    "e100_mochi_256_512_256": imagenet1k(mixed(256, 512, 256), epochs=100),
    "e100_mochi_128_1024_512": imagenet1k(mixed(128, 1024, 512), epochs=100),
    "e200_moco_v2_rerun": imagenet1k(BASELINE, epochs=200),
    "e200_mochi_1024_512_256": imagenet1k(mixed(1024, 512, 256), epochs=200),
    "e200_mochi_512_1024_512": imagenet1k(mixed(512, 1024, 512), epochs=200),
    "e200_mochi_256_512_0": imagenet1k(mixed(256, 512, 0), epochs=200),
    "e200_mochi_256_512_256": imagenet1k(mixed(256, 512, 256), epochs=200),
    "e200_mochi_256_2048_2048": imagenet1k(mixed(256, 2048, 2048), epochs=200),
    "e200_mochi_128_1024_512": imagenet1k(mixed(128, 1024, 512), epochs=200),
    "e800_moco_v2_rerun": imagenet1k(BASELINE, epochs=800),
    "e800_mochi_128_1024_512": imagenet1k(mixed(128, 1024, 512), epochs=800),
}


TABLE = Table(
    script=Path(__file__),
    rows={name: TableRow(recipe, (LINEAR_1K, VOC)) for name, recipe in ROWS.items()},
    columns={"in1k_top1": Metric("linear.top1")} | VOC_COLUMNS,
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET1K_IMAGES,
    optional_data=VOC_DATA,
    first_rows=(
        "e100_moco_v2_rerun",
        "e100_mochi_128_1024_512",
        "e200_moco_v2_rerun",
        "e200_mochi_128_1024_512",
    ),
    facts=FACTS,
    plots=(show_predictions,),
    seeds={"paper": (0,), "proxy": (0,), "smoke": (0,)},
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
