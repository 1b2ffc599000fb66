r"""Feature transformation, released models: ImageNet-1K linear accuracy of MoCo v1 and v2.

    nox -s reproduce-feature_transform-main_models
    nox -s reproduce-feature_transform-main_models -- --scale paper \
        --data imagefolder:/data/imagenet

The detection columns say `not run: needs detection fine-tuning`. The row on ImageNet-100 is Table
6's "both". Proxy scale: 4 trainings, 16 TFLOP. Expected at paper scale: 60.6 and 61.9 (MoCo v1),
67.5 and 69.6 (v2).
"""

from __future__ import annotations

import sys
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.feature_transform.recipes import IMAGENET1K_IMAGES, LINEAR_1K, MODELS
from reproductions.feature_transform.scales import proxy, smoke
from retable.reproduce import Metric, Table, TableRow, main

TABLE = Table(
    script=Path(__file__),
    rows={name: TableRow(recipe, (LINEAR_1K,)) for name, recipe in MODELS.items()},
    columns={"in1k_top1": Metric("linear.top1")},
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET1K_IMAGES,
    facts=FACTS,
    not_run={"moco_v1_ft_in100": "trained on ImageNet-100: row 'both' of table6"},
    seeds={"paper": (0,), "proxy": (0,), "smoke": (0,)},
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
