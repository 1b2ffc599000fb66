"""Detectors that several papers train on VOC and COCO, with MoCo's recipes, and their data sets.

Source: facebookresearch/moco, ``detection/configs``.
"""

from __future__ import annotations

from typing import Literal

from retable.evaluate.data import EvalData
from retable.evaluate.transfer.detection.evaluation import DetectionTransfer
from retable.evaluate.transfer.detection.inputs import InputRecipe
from retable.evaluate.transfer.detection.recipe import DetectorRecipe
from retable.reproduce import Metric

VOC = DetectionTransfer(data=EvalData("voc"), name="voc")
"""Faster R-CNN C4, trained on VOC's trainval lists of 2007 and 2012 for 24,000 steps."""

VOC_DATA = {"voc": "PASCAL VOC in a folder with VOC2007 and VOC2012"}
COCO_DATA = {"coco": "COCO in a folder with annotations, train2017 and val2017"}
SEGMENTATION_DATA = {
    "voc-segmentation": "PASCAL VOC in a folder with VOC2012; voc-segmentation:DIR?sbd=DIR adds "
    "the Semantic Boundaries Dataset"
}

VOC_COLUMNS = {f"voc_{name}": Metric(f"voc.{name}") for name in ("ap50", "ap", "ap75")}


def coco(kind: Literal["c4", "fpn"], schedule: int, name: str = "coco") -> DetectionTransfer:
    """Return Mask R-CNN trained on COCO for ``schedule`` times 90,000 steps."""
    return DetectionTransfer(
        detector=DetectorRecipe(kind=kind, masks=True),
        inputs=InputRecipe(sides=tuple(range(640, 801, 32))),
        steps=90_000 * schedule,
        milestones=(60_000, 80_000) if schedule == 1 else (120_000, 160_000),
        warmup=1000,
        metric="coco",
        data=EvalData("coco"),
        name=name,
    )
