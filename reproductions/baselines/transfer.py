"""Facts of transfer: a pretrained encoder against a random one, in detection and segmentation.

    nox -s reproduce-baselines-transfer

Papers print how much better their encoders are than others; a difference between two pretrained
ones can only show where pretraining itself does. At paper scale the same rows train on ImageNet-100
and need VOC, COCO and VOC's segmentation; no numbers are stored for them.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from reproductions.baselines.arms import ARMS
from reproductions.baselines.detectors import (
    COCO_DATA,
    SEGMENTATION_DATA,
    VOC,
    VOC_COLUMNS,
    VOC_DATA,
    coco,
)
from reproductions.baselines.recipes import IMAGENET100_IMAGES
from reproductions.baselines.scales import shrink_row
from retable.evaluate.data import EvalData
from retable.evaluate.protocol import Evaluation
from retable.evaluate.transfer.finetune import FineTuning
from retable.evaluate.transfer.segmentation.evaluation import SegmentationTransfer
from retable.reproduce import Metric, Table, TableRow, main
from retable.reproduce.predictions import show_predictions
from retable.reproduce.shrinking import PROXY, SMOKE, SmallScale

EVALUATIONS: tuple[Evaluation, ...] = (
    VOC,
    coco("fpn", schedule=1),
    SegmentationTransfer(data=EvalData("voc-segmentation")),
    FineTuning(name="finetune_10"),
)
ROWS = ("untrained", "moco_v2")


def at(scale: SmallScale, row: TableRow) -> TableRow:
    """Return a row on small images: its base is shrunk, then changed as at the paper's scale."""
    arm = next(arm for arm in ARMS.values() if arm.recipe == row.pretrain)
    small = shrink_row(TableRow(arm.base, row.evaluations), scale)
    return replace(small, pretrain=arm.change(small.pretrain))


TABLE = Table(
    script=Path(__file__),
    rows={name: TableRow(ARMS[name].recipe, EVALUATIONS) for name in ROWS},
    columns={
        **VOC_COLUMNS,
        "coco_ap": Metric("coco.ap"),
        "coco_mask_ap": Metric("coco.mask_ap"),
        "miou": Metric("segmentation.miou"),
        "finetune_10": Metric("finetune_10.top1"),
    },
    proxy=lambda row: at(PROXY, row),
    smoke=lambda row: at(SMOKE, row),
    images=IMAGENET100_IMAGES,
    subset="imagenet100",
    plots=(show_predictions,),
    optional_data=VOC_DATA | COCO_DATA | SEGMENTATION_DATA,
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
