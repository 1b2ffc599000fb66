r"""Feature transformation, released models: ImageNet-1K linear accuracy, VOC and COCO detection.

    nox -s reproduce-feature_transform-main_models
    nox -s reproduce-feature_transform-main_models -- --scale paper --data /data/imagenet \
        --voc /data/VOCdevkit --coco /data/coco

Detectors are Faster R-CNN C4 for VOC and Mask R-CNN C4 with the 1x schedule for COCO; without
their folders the columns are left out. The row on ImageNet-100 is Table 6's "both". Proxy scale: 4
trainings, 17 TFLOP, and detectors of built-in scenes. Expected at paper scale: 60.6 and 61.9 (MoCo
v1), 67.5 and 69.6 (v2) % linear accuracy; 81.5, 82.0, 82.4 and 83.3 AP50 on VOC.
"""

from __future__ import annotations

import sys
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.baselines.detectors import COCO_DATA, VOC, VOC_DATA, coco
from reproductions.feature_transform.recipes import IMAGENET1K_IMAGES, LINEAR_1K, MODELS
from reproductions.feature_transform.scales import proxy, smoke
from retable.reproduce import Metric, Table, TableRow, main
from retable.reproduce.predictions import show_predictions

EVALUATIONS = (LINEAR_1K, VOC, coco("c4", schedule=1))

TABLE = Table(
    script=Path(__file__),
    rows={name: TableRow(recipe, EVALUATIONS) for name, recipe in MODELS.items()},
    columns={
        "in1k_top1": Metric("linear.top1"),
        "voc_ap50": Metric("voc.ap50"),
        "coco_ap": Metric("coco.ap"),
    },
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET1K_IMAGES,
    optional_data=VOC_DATA | COCO_DATA,
    facts=FACTS,
    plots=(show_predictions,),
    not_run={"moco_v1_ft_in100": "trained on ImageNet-100: row 'both' of table6"},
    seeds={"paper": (0,), "proxy": (0,), "smoke": (0,)},
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
