"""Lists of images in the archives that no reader of torchvision splits as papers do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from retable import random
from retable.data.decoding import by_threads
from retable.data.image_files import ImageFiles
from retable.data.source import TRAIN
from retable.data.walk import Walk, class_folders
from retable.errors import UserError
from retable.text import printable

CALTECH_IMAGES = 30
"""Images of each class of Caltech-101 to train on (Kornblith et al., arXiv:1805.08974)."""


class Lists(NamedTuple):
    """The files of a split with their classes, all below ``folder``, and the classes' names."""

    folder: Path
    files: Sequence[str]
    labels: Sequence[int]
    class_names: Sequence[str]

    def open(self, facts: Mapping[str, Any], *, skip_unreadable: bool) -> ImageFiles:
        """Return the images.

        Raises:
            UserError: the lists name no image, or one that is missing.
        """
        if not self.files:
            raise _broken(self.folder, "it names no image")
        paths = [os.path.join(self.folder, name) for name in self.files]
        for path, present in zip(paths, by_threads(os.path.isfile, paths, 16), strict=True):
            if not present:
                raise UserError(
                    f"The file {printable(path)} is listed but missing. Unpack the archive again."
                )
        return ImageFiles(
            self.folder,
            self.files,
            torch.tensor(self.labels),
            self.class_names,
            facts,
            skip_unreadable=skip_unreadable,
        )


def sun397(root: Path, split: str) -> Lists:
    """Read split 1 of SUN397 in root/SUN397."""
    folder = root / "SUN397"
    classes = list(_lines(folder / "ClassName.txt"))
    numbers = {name: number for number, name in enumerate(classes)}
    path = folder / f"{'Training' if split == TRAIN else 'Testing'}_01.txt"
    files = list(_lines(path))
    labels = [_known(numbers, file.rpartition("/")[0], path) for file in files]
    return Lists(folder, [file.lstrip("/") for file in files], labels, classes)


def caltech101(root: Path, split: str) -> Lists:
    """Draw `CALTECH_IMAGES` of each folder of root/caltech101/101_ObjectCategories to train on.

    The draw is the same for everybody; its official part is the number alone.
    """
    folder = root / "caltech101" / "101_ObjectCategories"
    if not folder.is_dir():
        raise _broken(folder, "it does not exist")
    classes = class_folders(folder)
    walk = Walk({os.path.realpath(folder)})
    files, labels = [], []
    for label, name in enumerate(classes):
        found = list(walk.images(str(folder / name), name))
        order = random.permutation(random.derive_key(0, "Caltech-101", name), len(found))
        kept = order[:CALTECH_IMAGES] if split == TRAIN else order[CALTECH_IMAGES:]
        files += [found[row] for row in sorted(kept.tolist())]
        labels += [label] * len(kept)
    return Lists(folder, files, labels, classes)


def cub200(root: Path, split: str) -> Lists:
    """Read CUB-200-2011 in root/CUB_200_2011."""
    folder = root / "CUB_200_2011"
    classes, names, labels, parts = (
        dict(_pairs(folder / f"{name}.txt"))
        for name in ("classes", "images", "image_class_labels", "train_test_split")
    )
    numbers = {number: place for place, number in enumerate(classes)}
    wanted = "1" if split == TRAIN else "0"
    kept = [number for number in names if parts.get(number) == wanted]
    found = [_known(numbers, labels.get(number, ""), folder / "images.txt") for number in kept]
    files = [os.path.join("images", names[number]) for number in kept]
    return Lists(folder, files, found, list(classes.values()))


def inaturalist2018(root: Path, split: str) -> Lists:
    """Read the train and the validation list of iNaturalist 2018 in root.

    The test images' classes were never published: papers report on the validation images.
    """
    train = _annotations(root / "train2018.json")
    classes = [str(category["id"]) for category in train["categories"]]
    numbers = {name: number for number, name in enumerate(classes)}
    path = root / ("train2018.json" if split == TRAIN else "val2018.json")
    found = train if split == TRAIN else _annotations(path)
    names = {image["id"]: str(image["file_name"]) for image in found["images"]}
    pairs = [(one["image_id"], str(one["category_id"])) for one in found["annotations"]]
    labels = [_known(numbers, category, path) for _, category in pairs]
    return Lists(root, [_known(names, image, path) for image, _ in pairs], labels, classes)


LAYOUTS: Mapping[str, Callable[[Path, str], Lists]] = {
    "sun397": sun397,
    "caltech101": caltech101,
    "cub200": cub200,
    "inaturalist2018": inaturalist2018,
}
"""Readers of "train" and "test" by the name of the data set."""


def _known(numbers: Mapping[Any, Any], key: Any, path: Path) -> Any:
    if key not in numbers:
        raise _broken(path, f"{key!r} is listed nowhere else")
    return numbers[key]


def _lines(path: Path) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise _broken(path, str(error.strerror)) from error
    return filter(None, map(str.strip, text.splitlines()))


def _pairs(path: Path) -> Iterable[tuple[str, str]]:
    """Yield the number that a line begins with, and the rest of the line."""
    for line in _lines(path):
        number, _, rest = line.partition(" ")
        if not rest:
            raise _broken(path, f"the line {line!r} has one word")
        yield number, rest.strip()


def _annotations(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
        needed = {
            "categories": ("id",),
            "images": ("id", "file_name"),
            "annotations": ("image_id", "category_id"),
        }
        for name, fields in needed.items():
            for entry in found[name]:
                _ = [entry[field] for field in fields]
    except OSError as error:
        raise _broken(path, str(error.strerror)) from error
    except (ValueError, TypeError, KeyError) as error:
        raise _broken(path, f"{type(error).__name__} {error}") from error
    return dict(found)


def _broken(path: Path, fault: str) -> UserError:
    return UserError(
        f"The list {printable(str(path))} cannot be used ({printable(fault)}). Unpack its archive "
        "again."
    )
