"""MoCHi, Table 1: linear classification top-1 on ImageNet-100 for MoCo variants and MoCHi.

    nox -s reproduce-mochi-table1
    nox -s reproduce-mochi-table1 -- --scale paper --data imagefolder:/data/imagenet

Paper scale: 200 epochs of ResNet-50 on 126,689 images at 224 px for each row and seed. Proxy scale:
9 trainings, 35 TFLOP. Expected at paper scale: MoCo-v2 78.0, MoCHi 78.9 to 79.0, MoCo v1 at most
75.9.
"""

from __future__ import annotations

import sys
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.baselines.recipes import (
    IMAGENET100_IMAGES,
    LINEAR_100,
    imagenet100,
    supervised_bound,
)
from reproductions.mochi.recipes import mochi
from reproductions.mochi.scales import proxy, smoke
from retable.methods import moco_v1, moco_v2
from retable.reproduce import Difference, Gain, Metric, Table, TableRow, main

QUEUE = 16384
TOP1 = Metric("linear.top1")

ROWS = {
    "moco_t007": imagenet100(moco_v1(queue=QUEUE, temperature=0.07), version=1),
    "moco_t02": imagenet100(moco_v1(queue=QUEUE, temperature=0.2), version=1),
    "moco_v2": imagenet100(moco_v2(queue=QUEUE)),
    "mochi_1024_1024_128": imagenet100(mochi(1024, 1024, 128)),
    "mochi_1024_256_512": imagenet100(mochi(1024, 256, 512)),
    "mochi_1024_128_256": imagenet100(mochi(1024, 128, 256)),
    "moco_v2_oracle": imagenet100(moco_v2(queue=QUEUE, oracle=True)),
    "mochi_1024_1024_128_oracle": imagenet100(mochi(1024, 1024, 128, oracle=True)),
    "supervised": supervised_bound(100),
}

ALL = Metric("pretrain.proxy_accuracy", 100.0)
QUEUE_ONLY = Metric("pretrain.proxy_accuracy_real", 100.0, otherwise="pretrain.proxy_accuracy")
"""MoCo-v2 has no other negatives than the queue's."""

TABLE = Table(
    script=Path(__file__),
    rows={name: TableRow(recipe, (LINEAR_100,)) for name, recipe in ROWS.items()},
    columns={
        "top1": TOP1,
        "diff": Gain(TOP1, over="moco_v2"),
        "knn_halfway": Metric("monitor_halfway.top1"),
        "proxy_queue": QUEUE_ONLY,
        "proxy_gap": Difference(QUEUE_ONLY, ALL),
        "harder_query_mixed": Metric("pretrain.harder_than_real_query_mixed", 100.0),
        "harder_pairs": Metric("pretrain.harder_than_real_pairs", 100.0),
    },
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET100_IMAGES,
    facts=FACTS,
    subset="imagenet100",
    check_rows=("moco_v2", "mochi_1024_1024_128"),
    first_rows=("moco_t007", "moco_t02", "moco_v2", "mochi_1024_1024_128"),
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
