"""PASCAL VOC's objects, in the layout of its archives (Everingham et al., IJCV 2010)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import torch

from retable.data.decoding import by_threads
from retable.data.source import TEST, TRAIN, checksum
from retable.data.transfer.objects import ObjectFiles, Objects
from retable.data.transfer.pixel_classes import listed
from retable.errors import UserError
from retable.text import printable

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)

PARTS = {TRAIN: "2007_trainval+2012_trainval", TEST: "2007_test"}
"""Lists of images of each split, YEAR_LIST, as MoCo and most others train and test detectors."""


class Annotation(NamedTuple):
    """What the file of an image states: its height and width, and its objects."""

    size: tuple[int, int]
    objects: Objects


class VocObjects(ObjectFiles):
    """Images and boxes of VOC; every annotation is read, and checked, when the set is opened.

    A box of the annotations has its first pixel at 1 and contains its last one: the first is moved
    to 0, so that boxes end one beyond their last pixel. Difficult objects are trained on.
    """

    def __init__(self, root: Path, parts: Sequence[tuple[str, str]], facts: dict[str, str]) -> None:
        names = [
            os.path.join(f"VOC{year}", "JPEGImages", f"{name}.jpg")
            for year, part in parts
            for name in listed(root / f"VOC{year}" / "ImageSets" / "Main" / f"{part}.txt")
        ]
        self._annotations = list(by_threads(lambda name: _read(root, name), names, 16))
        super().__init__(root, names, torch.full((len(names),), -1), CLASSES, facts)
        stated = [f"{one.size} {one.objects.boxes.tolist()}" for one in self._annotations]
        self.description["objects"] = checksum(stated)

    def objects(self, index: int) -> Objects:
        """Return the objects of an image."""
        return self._annotations[index].objects

    def size_of(self, index: int) -> tuple[int, int]:
        """Return height and width of an image, as its annotation states them."""
        return self._annotations[index].size


def open_voc(root: str, split: str, *, parts: str | None = None) -> VocObjects:
    """Open VOC's objects from a folder that has VOC2007 and VOC2012.

    ``parts`` replaces those of `PARTS`: lists of ImageSets/Main as "2007_trainval+2012_trainval".

    Raises:
        UserError: a folder, list, image or annotation is missing or broken; it is named.
    """
    if parts is None and split not in PARTS:
        raise UserError(f"The data set 'voc' has no {split} split: use train or test.")
    chosen = parts or PARTS[split]
    pairs = []
    for part in chosen.split("+"):
        year, _, name = part.partition("_")
        if not (year.isdigit() and name):
            raise UserError(
                f"`parts` of voc must be YEAR_LIST joined by '+', such as "
                f"'2007_trainval+2012_trainval', got {chosen!r}."
            )
        pairs.append((year, name))
    folder = Path(root)
    if not (folder / f"VOC{pairs[0][0]}").is_dir():
        raise UserError(
            f"The folder {printable(root)} must hold VOC{pairs[0][0]} with Annotations, ImageSets "
            "and JPEGImages, as the archives of the PASCAL VOC challenge unpack "
            "(http://host.robots.ox.ac.uk/pascal/VOC). Name the folder VOCdevkit."
        )
    return VocObjects(folder, pairs, {"source": f"voc:{root}", "split": split, "parts": chosen})


def _read(root: Path, name: str) -> Annotation:
    path = root / Path(name).parents[1] / "Annotations" / f"{Path(name).stem}.xml"
    try:
        return parse(path.read_bytes())
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise UserError(
            f"The annotation {printable(str(path))} is broken ({printable(str(error))}). Unpack "
            "the archive again."
        ) from error


def parse(text: bytes) -> Annotation:
    """Read an annotation.

    Raises:
        ValueError: a part is missing or impossible.
        xml.etree.ElementTree.ParseError: it is no XML.
    """
    tree = ElementTree.fromstring(text)
    width, height = (_number(tree, f"size/{side}") for side in ("width", "height"))
    boxes, labels, difficult = [], [], []
    for found in tree.iter("object"):
        name = found.findtext("name", "").strip()
        if name not in CLASSES:
            raise ValueError(f"its class {name!r} is none of VOC's")
        left, top, right, bottom = (
            _number(found, f"bndbox/{end}") for end in ("xmin", "ymin", "xmax", "ymax")
        )
        if not (1 <= left <= right <= width and 1 <= top <= bottom <= height):
            raise ValueError(f"a {name} lies outside its {width:g} x {height:g} pixels or is empty")
        boxes.append((left - 1, top - 1, right, bottom))
        labels.append(CLASSES.index(name))
        difficult.append(found.findtext("difficult", "0").strip() == "1")
    none = torch.zeros(len(labels), dtype=torch.bool)
    objects = Objects(
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        None,
        torch.tensor(difficult, dtype=torch.bool),
        none,
    )
    return Annotation((int(height), int(width)), objects)


def _number(tree: ElementTree.Element, path: str) -> float:
    text = tree.findtext(path)
    if text is None:
        raise ValueError(f"it has no {path.replace('/', ' ')}")
    return float(text)
