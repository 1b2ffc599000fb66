"""Feature transformation, Table 2: accuracy against the epoch from which pairs are transformed.

    nox -s reproduce-feature_transform-table2
    nox -s reproduce-feature_transform-table2 -- --scale paper --data imagefolder:/data/imagenet

A row is two trainings, ResNet-18 for 100 epochs and ResNet-50 for 200. Those of ResNet-50 from
epoch 0 and without transformation are Table 6's, those of ResNet-18 are Figure 3's. Proxy scale: 12
trainings, 31 TFLOP. Expected at paper scale: early starts gain most; from 56.2 without to
63.3 (epoch 2) with ResNet-18, from 71.1 to 76.9 (epoch 0) with ResNet-50.
"""

from __future__ import annotations

import sys
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.feature_transform.recipes import (
    IMAGENET100_IMAGES,
    LINEAR_R18,
    LINEAR_R50,
    moco,
    resnet18,
    resnet50,
    transform,
)
from reproductions.feature_transform.scales import proxy, smoke
from retable.methods import MoCoRecipe
from retable.reproduce import Metric, Table, TableRow, main


def both_encoders(method: MoCoRecipe) -> dict[str, TableRow]:
    """Return the two trainings of a row."""
    return {
        "res18": TableRow(resnet18(method), (LINEAR_R18,)),
        "res50": TableRow(resnet50(method), (LINEAR_R50,)),
    }


METHODS = {f"start_{epoch}": moco(transform(start_epoch=epoch)) for epoch in (0, 2, 30, 50, 80)}

TABLE = Table(
    script=Path(__file__),
    rows={name: both_encoders(method) for name, method in {**METHODS, "no_ft": moco()}.items()},
    columns={name: Metric("linear.top1", variant=name) for name in ("res18", "res50")},
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET100_IMAGES,
    facts=FACTS,
    subset="imagenet100",
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
