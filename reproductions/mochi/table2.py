"""MoCHi, Table 2: ImageNet-1K linear top-1 after 100, 200 and 800 epochs of pretraining.

    nox -s reproduce-mochi-table2
    nox -s reproduce-mochi-table2 -- --scale paper --data imagefolder:/data/imagenet

The detection columns (PASCAL VOC) say `not run: needs detection fine-tuning`. Proxy scale: 13
trainings, 68 TFLOP. Expected at paper scale: MoCo-v2 63.6, 67.9 and 69.0 after 100, 200 and 800
epochs, MoCHi within a point of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.baselines.recipes import IMAGENET1K_IMAGES, LINEAR_1K, imagenet1k
from reproductions.mochi.recipes import mochi
from reproductions.mochi.scales import proxy, smoke
from retable.methods import MoCoRecipe, moco_v2
from retable.reproduce import Metric, Table, TableRow, main

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
    rows={name: TableRow(recipe, (LINEAR_1K,)) for name, recipe in ROWS.items()},
    columns={"in1k_top1": Metric("linear.top1")},
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET1K_IMAGES,
    facts=FACTS,
    seeds={"paper": (0,), "proxy": (0,), "smoke": (0,)},
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
