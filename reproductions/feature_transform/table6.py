"""Feature transformation, Table 6: each transformation on MoCo v1, re-normalised or not.

    nox -s reproduce-feature_transform-table6
    nox -s reproduce-feature_transform-table6 -- --scale paper --data imagefolder:/data/imagenet

Paper scale: 200 epochs of ResNet-50 on 126,689 images at 224 px for each row and seed. Proxy scale:
9 trainings, 36 TFLOP. Expected at paper scale: MoCo v1 71.1, positives 72.8, negatives 74.6, both
76.9, extrapolated negatives 71.8.
"""

from __future__ import annotations

import sys
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.feature_transform.recipes import (
    IMAGENET100_IMAGES,
    LINEAR_R50,
    SCORES,
    moco,
    resnet50,
    transform,
)
from reproductions.feature_transform.scales import proxy, smoke
from retable.reproduce import Gain, Metric, Table, TableRow, main

TOP1 = Metric("linear.top1")

METHODS = {
    "moco_v1": moco(),
    "pos_ex": moco(transform(negatives="none")),
    "pos_ex_norm": moco(transform(negatives="none", renormalise=True)),
    "neg_in": moco(transform(positives=False)),
    "neg_in_norm": moco(transform(positives=False, renormalise=True)),
    "both": moco(transform()),
    "both_norm": moco(transform(renormalise=True)),
    "neg_ex": moco(transform(positives=False, negatives="extrapolate")),
    "neg_ex_norm": moco(transform(positives=False, negatives="extrapolate", renormalise=True)),
}

TABLE = Table(
    script=Path(__file__),
    rows={name: TableRow(resnet50(method), (LINEAR_R50,)) for name, method in METHODS.items()},
    columns={"top1": TOP1, "diff": Gain(TOP1, over="moco_v1"), **SCORES},
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET100_IMAGES,
    facts=FACTS,
    subset="imagenet100",
    check_rows=("moco_v1", "both"),
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
