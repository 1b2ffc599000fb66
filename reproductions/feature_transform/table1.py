"""Feature transformation, Table 1: COCO detection and segmentation with MoCo v1 and v2 backbones.

    nox -s reproduce-feature_transform-table1
    nox -s reproduce-feature_transform-table1 -- --scale paper --data imagefolder:/data/imagenet

Pretrains the four backbones, which are those of the released models (main_models); every cell says
`not run: needs detection fine-tuning`. ``retable export --layout detectron2`` writes a backbone for
a detector. Proxy scale: 4 trainings, 16 TFLOP.
"""

from __future__ import annotations

import sys
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.feature_transform.recipes import IMAGENET1K_IMAGES, MODELS
from reproductions.feature_transform.scales import proxy, smoke
from retable.reproduce import Table, TableRow, main

TABLE = Table(
    script=Path(__file__),
    rows={name: TableRow(recipe, ()) for name, recipe in MODELS.items()},
    columns={},
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET1K_IMAGES,
    facts=FACTS,
    seeds={"paper": (0,), "proxy": (0,), "smoke": (0,)},
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
