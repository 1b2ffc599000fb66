"""Cityscapes with fine annotations (Cordts et al., arXiv 1604.01685): 2,975 and 500 images."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from retable.data.source import TEST, TRAIN
from retable.data.transfer.pixel_classes import IGNORED, LabelledImage, PixelClassFiles
from retable.errors import UserError
from retable.text import printable

CLASSES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
"""The 19 classes that count, and their numbers in the files of label ids."""

FOLDERS = {TRAIN: "train", TEST: "val"}

_IMAGE, _CLASSES = "_leftImg8bit.png", "_gtFine_labelIds.png"


def open_cityscapes(root: str, split: str) -> PixelClassFiles:
    """Open the images of a folder that has leftImg8bit and gtFine.

    Raises:
        UserError: a folder or a file is missing; it is named.
    """
    if split not in FOLDERS:
        raise UserError(f"The data set 'cityscapes' has no {split} split: use train or test.")
    folder = Path(root)
    images = folder / "leftImg8bit" / FOLDERS[split]
    found = sorted(images.glob(f"*/*{_IMAGE}"))
    if not found:
        raise UserError(
            f"The folder {printable(str(images))} must hold CITY/NAME{_IMAGE}, and gtFine beside "
            f"leftImg8bit CITY/NAME{_CLASSES}, as the archives of www.cityscapes-dataset.com "
            "unpack. Name the folder above both."
        )
    files = []
    for path in found:
        name = path.name.removesuffix(_IMAGE)
        place = os.path.join(FOLDERS[split], path.parent.name)
        files.append(
            LabelledImage(
                os.path.join("leftImg8bit", place, path.name),
                os.path.join("gtFine", place, f"{name}{_CLASSES}"),
            )
        )
    numbers = torch.full((256,), IGNORED, dtype=torch.uint8)
    numbers[list(CLASSES.values())] = torch.arange(len(CLASSES), dtype=torch.uint8)
    facts = {"source": f"cityscapes:{root}", "split": split}
    return PixelClassFiles(folder, files, list(CLASSES), facts, numbers)
