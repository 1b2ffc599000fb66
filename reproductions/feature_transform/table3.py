"""Feature transformation, Table 3: SimCLR with each transformation, both, both by dimension.

    nox -s reproduce-feature_transform-table3
    nox -s reproduce-feature_transform-table3 -- --scale paper --data imagefolder:/data/imagenet

Temperature and head of SimCLR are not printed: 0.1 and Linear-ReLU-Linear are decisions, batch 256
and SGD at 0.03 are the supplement's (section B.3), with batch norm over all GPUs as in SimCLR.
Proxy scale: 5 trainings, 29 TFLOP. Expected at paper scale: from 74.3 to 78.3, 78.8 by dimension.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from feature_transform import SimCLRFTRecipe
from reproductions.baselines import FACTS
from reproductions.feature_transform.recipes import (
    IMAGENET100_IMAGES,
    LINEAR_R50,
    SCORES,
    resnet50,
    transform,
)
from reproductions.feature_transform.scales import shrink, smoke
from retable import views
from retable.methods import SimCLRRecipe
from retable.reproduce import Gain, Metric, Table, TableRow, main
from retable.reproduce.shrinking import PROXY
from retable.train.recipe import PretrainRecipe

TOP1 = Metric("linear.top1")

METHODS = {
    "simclr": SimCLRRecipe(),
    "simclr_pos_ex": SimCLRFTRecipe(transform=transform(negatives="none")),
    "simclr_neg_in": SimCLRFTRecipe(transform=transform(positives=False)),
    "simclr_both": SimCLRFTRecipe(transform=transform()),
    "simclr_both_dimension": SimCLRFTRecipe(transform=transform(level="dimension")),
}


def imagenet100(method: SimCLRRecipe) -> PretrainRecipe:
    """Pretrain with the augmentation of MoCo v2, which section B.1 gives SimCLR too."""
    view = views.moco_v2(224)
    return replace(resnet50(method), views=(view, view), bn_group=256)


def proxy(row: TableRow) -> TableRow:
    """Shrink a row as the other tables, but for the batch: SimCLR's negatives are its, 256."""
    return shrink(row, replace(PROXY, batch=256))


TABLE = Table(
    script=Path(__file__),
    rows={name: TableRow(imagenet100(method), (LINEAR_R50,)) for name, method in METHODS.items()},
    columns={"top1": TOP1, "diff": Gain(TOP1, over="simclr"), **SCORES},
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET100_IMAGES,
    facts=FACTS,
    subset="imagenet100",
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
