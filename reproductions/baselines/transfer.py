"""Facts of transfer: a pretrained encoder against a random one, in what papers transfer to.

    nox -s reproduce-baselines-transfer

Detection, segmentation, few labels, and linear classifiers on other images. Papers print how much
better their encoders are than others; a difference between two pretrained ones can only show where
pretraining itself does. At paper scale the same rows train on ImageNet-100 and need VOC, VOC's
segmentation and Food-101; no numbers are stored for them. `transfer_coco` has the pyramid.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from reproductions.baselines.arms import ARMS
from reproductions.baselines.detectors import (
    SEGMENTATION_DATA,
    VOC,
    VOC_COLUMNS,
    VOC_DATA,
)
from reproductions.baselines.recipes import IMAGENET100_IMAGES
from reproductions.baselines.scales import shrink_row
from retable.evaluate.data import EvalData
from retable.evaluate.protocol import Evaluation
from retable.evaluate.transfer.classification import linear_transfer
from retable.evaluate.transfer.finetune import FineTuning
from retable.evaluate.transfer.segmentation.evaluation import SegmentationTransfer
from retable.reproduce import Metric, Table, TableRow, main
from retable.reproduce.predictions import show_predictions
from retable.reproduce.shrinking import PROXY, SMOKE, SmallScale

EVALUATIONS: tuple[Evaluation, ...] = (
    VOC,
    SegmentationTransfer(data=EvalData("voc-segmentation")),
    FineTuning(name="finetune_10"),
    linear_transfer().with_data(EvalData("food101")),
)
ROWS = {name: TableRow(ARMS[name].recipe, EVALUATIONS) for name in ("untrained", "moco_v2")}


def at(scale: SmallScale, row: TableRow) -> TableRow:
    """Return a row on small images: its base is shrunk, then changed as at the paper's scale."""
    arm = next(arm for arm in ARMS.values() if arm.recipe == row.pretrain)
    small = shrink_row(TableRow(arm.base, row.evaluations), scale)
    return replace(small, pretrain=arm.change(small.pretrain))


TABLE = Table(
    script=Path(__file__),
    rows=ROWS,
    columns={
        **VOC_COLUMNS,
        "miou": Metric("segmentation.miou"),
        "finetune_10": Metric("finetune_10.top1"),
        "linear_other": Metric("transfer.top1"),
    },
    proxy=lambda row: at(PROXY, row),
    smoke=lambda row: at(SMOKE, row),
    images=IMAGENET100_IMAGES,
    subset="imagenet100",
    plots=(show_predictions,),
    optional_data={
        **VOC_DATA,
        **SEGMENTATION_DATA,
        "food101": "Food-101 in a folder with food-101, or food101:hub",
    },
    check_rows=tuple(ROWS),
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
