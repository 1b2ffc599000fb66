"""Images in folders, one folder for each class: the layout of ImageNet."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retable.data.decoding import (
    UnreadableImageError,
    decode,
    decode_map,
    first_faults,
    read_image_file,
    stamps,
)
from retable.data.image_files import ImageFiles, PackedNames
from retable.data.skipped import left_out
from retable.data.source import TEST, TRAIN, VAL, checksum, find_split
from retable.data.walk import EXTENSIONS, Walk, class_folders, open_walk
from retable.errors import UserError
from retable.text import printable

_LAYOUT = "expected DIR/train/CLASS/IMAGE and DIR/val/CLASS/IMAGE"


class FolderSource(ImageFiles):
    """Images as DIR/SPLIT/CLASS/.../IMAGE, classes numbered in sorted order.

    The classes are those of the train folder for all splits, so that labels mean the same.
    ``names`` holds each image's CLASS/.../IMAGE. ``split`` is the folder that serves as ``role``,
    whichever that is; None: see `find_split`. ``wanted_classes`` are the class folders to read
    (ImageNet has ten times as many as ImageNet-100); None: all. ``skip_unreadable`` leaves out and
    counts files that are no images instead of refusing them. `retable.data.walk.Walk` decides which
    files are images; the description counts under "skipped" what it leaves out.

    ``mask`` is a folder with a file MASKS/SPLIT/CLASS/.../STEM.* for each image: the layer "mask",
    uint8 (1, H, W), the first channel of the file's values; ``companion`` likewise, the layer
    "companion", an RGB image of any size. Other splits than train lack a layer whose folder has no
    folder for them.

    Raises:
        UserError: a folder is missing or laid out otherwise, has an empty or unknown class, or
            holds a file that is no image, or an image lacks a layer's file.
    """

    def __init__(
        self,
        directory: str,
        role: str,
        *,
        split: str | None = None,
        mask: str | None = None,
        companion: str | None = None,
        wanted_classes: Iterable[str] | None = None,
        skip_unreadable: bool = False,
    ) -> None:
        root = Path(directory)
        self.directory = _split_folder(root, role, split)
        walk = open_walk(self.directory, _other_splits(root, self.directory), wanted_classes)
        class_names = _class_names(root, self.directory, wanted_classes)
        names, numbers = _images_of(walk, self.directory, class_names)
        kept, left_out = self._readable(names, skip_unreadable)
        labels = torch.tensor(numbers)[kept]
        for label in sorted(set(numbers) - set(labels.tolist())):
            raise UserError(
                f"The class folder {self._shown(class_names[label])} holds no readable image: "
                "replace its files or remove the folder."
            )
        names = [names[i] for i in kept]
        folders = {"mask": mask, "companion": companion}
        self._layer_names = {
            layer: PackedNames(_files_of(Path(folder) / self.directory.name, names))
            for layer, folder in folders.items()
            if folder is not None and not self._only_for_training(Path(folder), role)
        }
        self.layers = {layer: "map" if layer == "mask" else "image" for layer in self._layer_names}
        facts: dict[str, Any] = {
            "source": f"imagefolder:{directory}",
            "split": role,
            "part": self.directory.name,
            "unreadable": len(left_out),
            "unreadable_first": [printable(name) for name in left_out[:10]],
            "skipped": walk.skipped.facts(),
        }
        for layer, files in self._layer_names.items():
            facts[layer] = checksum(stamps(list(files)))
        super().__init__(
            self.directory, names, labels, class_names, facts, skip_unreadable=skip_unreadable
        )

    def _only_for_training(self, folder: Path, role: str) -> bool:
        """Return whether a layer's folder has no part for this split, which is not trained on."""
        return role != TRAIN and folder.is_dir() and not (folder / self.directory.name).exists()

    def _shown(self, name: str) -> str:
        return printable(os.path.join(self.directory, name))

    def _readable(self, names: list[str], skip_unreadable: bool) -> tuple[list[int], list[str]]:
        """Return the positions of the files that begin like images, and the other files' names."""
        paths = [os.path.join(self.directory, name) for name in names]
        faults = first_faults(paths, stop_at_first=not skip_unreadable)
        if faults and not skip_unreadable:
            position, fault = next(iter(faults.items()))
            raise UnreadableImageError(paths[position], fault)
        kept = [i for i in range(len(names)) if i not in faults]
        return kept, sorted(names[position] for position in faults)

    def layer(self, index: int, name: str) -> Tensor:
        """Decode the mask or the companion of an image."""
        path = self._layer_names[name][index]
        return (decode_map if name == "mask" else decode)(read_image_file(path), path)


def _images_of(
    walk: Walk, split_folder: Path, class_names: list[str]
) -> tuple[list[str], list[int]]:
    """Return the image files of the classes, as CLASS/.../IMAGE, and the number of their class."""
    names: list[str] = []
    numbers: list[int] = []
    for number, class_name in enumerate(class_names):
        folder = os.path.join(split_folder, class_name)
        found = list(walk.images(folder, class_name))
        if not found:
            others = "; ".join(left_out({"skipped": walk.skipped.facts()}))
            raise UserError(
                f"The class folder {printable(folder)} holds no images ({', '.join(EXTENSIONS)})"
                f"{others and ', only what is not taken in: '}{others}: complete the data set or "
                "remove the folder."
            )
        names += found
        numbers += [number] * len(found)
    return names, numbers


def _other_splits(directory: Path, own: Path) -> list[Path]:
    """Return the folders from which no link may bring images into a split.

    Of the train split all others, of another one the train split: a data set may test on one set
    of images under two names.
    """
    known = (VAL, "validation", "valid", TEST) if own.name == TRAIN else (TRAIN,)
    return [directory / name for name in known if (directory / name).is_dir()]


def _files_of(folder: Path, names: list[str]) -> Iterator[str]:
    """Yield the files below ``folder`` that have the images' relative paths but for the ending."""
    walk = Walk({os.path.realpath(folder)})
    stems = {os.path.splitext(path)[0]: path for path in walk.images(str(folder), "")}
    for name in names:
        found = stems.get(os.path.splitext(name)[0])
        if found is None:
            raise UserError(
                f"The image {printable(name)} has no file of the same name below {folder}: add it "
                "or remove the image."
            )
        yield os.path.join(folder, found)


def _split_folder(directory: Path, split: str, chosen: str | None) -> Path:
    if not directory.is_dir():
        raise UserError(f"The data set folder {directory} does not exist: {_LAYOUT}.")
    folders = class_folders(directory)
    if chosen is None and split == TRAIN and TRAIN not in folders:
        raise UserError(f"The data set folder {directory} has no folder 'train': {_LAYOUT}.")
    return directory / find_split(f"imagefolder:{directory}", split, folders, chosen)


def _class_names(directory: Path, split_folder: Path, classes: Iterable[str] | None) -> list[str]:
    """Return the sorted class folders, after checking that the split has the train split's."""
    present = class_folders(split_folder)
    if not present:
        raise UserError(f"The folder {split_folder} has no class folders: {_LAYOUT}.")
    train = directory / TRAIN
    known = class_folders(train) if train.is_dir() else present
    if classes is not None:
        wanted = set(classes)
        return sorted(wanted & set(known) & set(present))
    strangers = sorted(set(present) ^ set(known))
    if strangers:
        place = split_folder if strangers[0] in known else train
        raise UserError(
            f"The class {printable(strangers[0])} is missing in {place}: all splits need the "
            "same class folders."
        )
    return known
