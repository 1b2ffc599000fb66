r"""Feature transformation, Table 1: COCO detection and segmentation with MoCo v1 and v2 backbones.

    nox -s reproduce-feature_transform-table1
    nox -s reproduce-feature_transform-table1 -- --scale paper --data /data/imagenet \
        --coco /data/coco

Mask R-CNN C4 with the 2x schedule, whose level the printed baselines have. The caption says FPN,
which ``--set coco.detector.kind=fpn`` trains. The backbones are those of the released models
(main_models). Proxy scale: 4 trainings, 17 TFLOP, and detectors of built-in scenes. Expected at
paper scale: 40.7 and 40.9 AP of boxes for MoCo v1 and v2, 0.8 and 0.4 more with the transformation.
"""

from __future__ import annotations

import sys
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.baselines.detectors import COCO_DATA, coco
from reproductions.feature_transform.recipes import IMAGENET1K_IMAGES, MODELS
from reproductions.feature_transform.scales import proxy, smoke
from retable.reproduce import Metric, Table, TableRow, main
from retable.reproduce.predictions import show_predictions

TABLE = Table(
    script=Path(__file__),
    rows={name: TableRow(recipe, (coco("c4", schedule=2),)) for name, recipe in MODELS.items()},
    columns={
        f"ap_{kind}{end}": Metric(f"coco.{prefix}ap{end.strip('_')}")
        for kind, prefix in (("bb", ""), ("mk", "mask_"))
        for end in ("", "_50", "_75")
    },
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET1K_IMAGES,
    optional_data=COCO_DATA,
    facts=FACTS,
    plots=(show_predictions,),
    seeds={"paper": (0,), "proxy": (0,), "smoke": (0,)},
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
