r"""ReLICv2, Table 4: segmentation of PASCAL VOC and Cityscapes with the encoder of Table 1.

    nox -s reproduce-relicv2-table4
    nox -s reproduce-relicv2-table4 -- --scale paper \
        --data 'imagefolder:/imagenet?mask=/imagenet-masks' \
        --voc-segmentation 'voc-segmentation:/VOCdevkit?sbd=/benchmark_RELEASE/dataset' \
        --cityscapes /cityscapes

MoCo's fully convolutional network, 45 epochs of train_aug2012 and 160 of Cityscapes' fine
annotations; a column without its folder is left out. Expected at paper scale: 77.9 and 75.2. At
proxy scale both are built-in scenes.
"""

from __future__ import annotations

import sys

from reproductions.baselines.detectors import SEGMENTATION_DATA
from reproductions.relicv2.imagenet_table import imagenet_table
from reproductions.relicv2.recipes import relicv2
from retable.evaluate.data import EvalData
from retable.evaluate.transfer.segmentation.evaluation import SegmentationTransfer
from retable.evaluate.transfer.segmentation.inputs import CropRecipe
from retable.reproduce import Metric, main
from retable.reproduce.predictions import show_predictions

PASCAL = SegmentationTransfer(
    epochs=45, milestones=(31, 40), data=EvalData("voc-segmentation"), name="pascal"
)
CITYSCAPES = SegmentationTransfer(
    epochs=160,
    milestones=(112, 144),
    crops=CropRecipe(size=769),
    images=2_975,
    data=EvalData("cityscapes"),
    name="cityscapes",
)

TABLE = imagenet_table(
    __file__,
    {"relicv2": relicv2(1000)},
    {f"{each.name}_miou": Metric(f"{each.name}.miou") for each in (PASCAL, CITYSCAPES)},
    evaluations=(PASCAL, CITYSCAPES),
    plots=(show_predictions,),
    optional_data={
        **SEGMENTATION_DATA,
        "cityscapes": "Cityscapes in a folder with leftImg8bit and gtFine",
    },
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
