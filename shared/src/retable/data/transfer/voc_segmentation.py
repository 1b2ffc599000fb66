"""Segmentation of PASCAL VOC 2012, with the images of the Semantic Boundaries Dataset.

Everingham et al., IJCV 2010; Hariharan et al., ICCV 2011. ``train_aug2012`` are all images of both
but those of VOC's val list: 10,582, of which VOC's own train list has 1,464. The test images are
the 1,449 of the val list.
"""

from __future__ import annotations

import os
from pathlib import Path

from retable.data.source import TEST, TRAIN
from retable.data.transfer.pixel_classes import LabelledImage, PixelClassFiles, listed
from retable.data.transfer.voc import CLASSES
from retable.errors import UserError
from retable.text import printable

_VOC = "VOC2012"


def open_voc_segmentation(root: str, split: str, *, sbd: str | None = None) -> PixelClassFiles:
    """Open the images of a folder that has VOC2012.

    ``sbd`` is the folder "dataset" of the Semantic Boundaries Dataset, with img, cls, train.txt and
    val.txt, for ``train_aug2012``; without it VOC's own train list is the train split.

    Raises:
        UserError: a folder, list or file is missing; it is named.
    """
    if split not in (TRAIN, TEST):
        raise UserError(f"The data set 'voc-segmentation' has no {split} split: use train or test.")
    folder = Path(root)
    if not (folder / _VOC).is_dir():
        raise UserError(
            f"The folder {printable(root)} must hold {_VOC} with ImageSets, JPEGImages and "
            "SegmentationClass, as the archive of the PASCAL VOC challenge unpacks "
            "(http://host.robots.ox.ac.uk/pascal/VOC). Name the folder VOCdevkit."
        )
    train, test = (_list(folder, name) for name in ("train", "val"))
    names = train if split == TRAIN else test
    files = [_of_voc(name) for name in names]
    if split == TRAIN and sbd is not None:
        files += _of_boundaries(folder, Path(sbd), {*train, *test})
    facts = {"source": f"voc-segmentation:{root}", "split": split, "sbd": sbd or "none"}
    return PixelClassFiles(folder, files, ("background", *CLASSES), facts)


def _list(folder: Path, name: str) -> list[str]:
    return listed(folder / _VOC / "ImageSets" / "Segmentation" / f"{name}.txt")


def _of_voc(name: str) -> LabelledImage:
    return LabelledImage(
        os.path.join(_VOC, "JPEGImages", f"{name}.jpg"),
        os.path.join(_VOC, "SegmentationClass", f"{name}.png"),
    )


def _of_boundaries(folder: Path, sbd: Path, known: set[str]) -> list[LabelledImage]:
    """Return the images of the Semantic Boundaries Dataset that VOC's lists do not have."""
    if not (sbd / "cls").is_dir():
        raise UserError(
            f"`sbd` must hold img, cls, train.txt and val.txt, got {printable(str(sbd))}. Name the "
            "folder benchmark_RELEASE/dataset of the Semantic Boundaries Dataset "
            "(http://home.bharathh.info/pubs/codes/SBD)."
        )
    names = sorted({*listed(sbd / "train.txt"), *listed(sbd / "val.txt")} - known)
    below = os.path.relpath(sbd, folder)
    return [
        LabelledImage(
            os.path.join(below, "img", f"{name}.jpg"), os.path.join(below, "cls", f"{name}.mat")
        )
        for name in names
    ]
