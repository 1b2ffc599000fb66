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
    prepare,
    stamps,
)
from retable.data.source import TRAIN, Source, checksum, find_split
from retable.errors import UserError

_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif")
_LAYOUT = "expected DIR/train/CLASS/IMAGE and DIR/val/CLASS/IMAGE"


class PackedNames:
    """An immutable list of strings in two tensors.

    A list of a million Python strings would be copied into every worker process bit by bit, since
    reading a string writes its reference count.
    """

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self._ends = torch.tensor([0, *(len(name) for name in encoded)]).cumsum(0)
        self._bytes = torch.frombuffer(bytearray(b"".join(encoded) or b"\0"), dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        start, end = self._ends[index : index + 2].tolist()
        return os.fsdecode(bytes(self._bytes[start:end].tolist()))

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))


class FolderSource(Source):
    """Images as DIR/SPLIT/CLASS/.../IMAGE, classes numbered in sorted order.

    The classes are those of the train folder for all splits, so that labels mean the same.
    ``names`` holds each image's CLASS/.../IMAGE. ``split`` is the folder that serves as ``role``,
    whichever that is; None: see `find_split`. ``wanted_classes`` are the class folders to read
    (ImageNet has ten times as many as ImageNet-100); None: all. ``skip_unreadable`` leaves out and
    counts files that are no images instead of refusing them.

    ``mask`` is a folder with a file MASKS/SPLIT/CLASS/.../STEM.* for each image: the layer "mask",
    uint8 (1, H, W), the first channel of the file's values; ``companion`` likewise, the layer
    "companion", an RGB image of any size.

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
        self.directory = _split_folder(Path(directory), role, split)
        class_names = _class_names(Path(directory), self.directory, wanted_classes)
        names: list[str] = []
        numbers: list[int] = []
        for number, class_name in enumerate(class_names):
            found = list(_images_below(self.directory / class_name, class_name))
            if not found:
                raise UserError(
                    f"The class folder {self.directory / class_name} holds no images "
                    f"({', '.join(_EXTENSIONS)}): complete the data set or remove the folder."
                )
            names += found
            numbers += [number] * len(found)
        paths = [os.path.join(self.directory, name) for name in names]
        faults = first_faults(paths, stop_at_first=not skip_unreadable)
        if faults and not skip_unreadable:
            position, fault = next(iter(faults.items()))
            raise UnreadableImageError(paths[position], fault)
        left_out = sorted(names[position] for position in faults)
        kept = [i for i in range(len(names)) if i not in faults]
        names, paths = [names[i] for i in kept], [paths[i] for i in kept]
        labels = torch.tensor(numbers)[kept]
        for label in sorted(set(numbers) - set(labels.tolist())):
            raise UserError(
                f"The class folder {self.directory / class_names[label]} holds no readable image: "
                "replace its files or remove the folder."
            )
        self.names = PackedNames(names)
        folders = {"mask": mask, "companion": companion}
        self._layer_names = {
            layer: PackedNames(_files_of(Path(folder) / self.directory.name, names))
            for layer, folder in folders.items()
            if folder is not None
        }
        self.layers = {layer: "map" if layer == "mask" else "image" for layer in self._layer_names}
        prepare()
        description: dict[str, Any] = {
            "source": f"imagefolder:{directory}",
            "split": role,
            "part": self.directory.name,
            "images": len(names),
            "classes": len(class_names),
            "unreadable": len(left_out),
            "unreadable_first": left_out[:10],
            "checksum": checksum(names, labels),
            "pixels": checksum(map(" ".join, zip(names, stamps(paths), strict=True))),
        }
        for layer, files in self._layer_names.items():
            description[layer] = checksum(stamps(list(files)))
        super().__init__(labels, class_names, description, skip_unreadable=skip_unreadable)

    def image(self, index: int) -> Tensor:
        """Decode one image: uint8 (3, H, W)."""
        path = os.path.join(self.directory, self.names[index])
        return decode(_bytes_of(path), path)

    def layer(self, index: int, name: str) -> Tensor:
        """Decode the mask or the companion of an image."""
        path = self._layer_names[name][index]
        return (decode_map if name == "mask" else decode)(_bytes_of(path), path)


def _bytes_of(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UnreadableImageError(path, error.strerror or str(error)) from error


def _files_of(folder: Path, names: list[str]) -> Iterator[str]:
    """Yield the files below ``folder`` that have the images' relative paths but for the ending."""
    stems = {os.path.splitext(path)[0]: path for path in _images_below(folder, "")}
    for name in names:
        found = stems.get(os.path.splitext(name)[0])
        if found is None:
            raise UserError(
                f"The image {name} has no file of the same name below {folder}: add it or remove "
                "the image."
            )
        yield os.path.join(folder, found)


def _split_folder(directory: Path, split: str, chosen: str | None) -> Path:
    if not directory.is_dir():
        raise UserError(f"The data set folder {directory} does not exist: {_LAYOUT}.")
    folders = _folders_in(directory)
    if chosen is None and split == TRAIN and TRAIN not in folders:
        raise UserError(f"The data set folder {directory} has no folder 'train': {_LAYOUT}.")
    return directory / find_split(f"imagefolder:{directory}", split, folders, chosen)


def _class_names(directory: Path, split_folder: Path, classes: Iterable[str] | None) -> list[str]:
    """Return the sorted class folders, after checking that the split has the train split's."""
    present = _folders_in(split_folder)
    if not present:
        raise UserError(f"The folder {split_folder} has no class folders: {_LAYOUT}.")
    train = directory / TRAIN
    known = _folders_in(train) if train.is_dir() else present
    if classes is not None:
        wanted = set(classes)
        return sorted(wanted & set(known) & set(present))
    strangers = sorted(set(present) ^ set(known))
    if strangers:
        place = split_folder if strangers[0] in known else train
        raise UserError(
            f"The class {strangers[0]} is missing in {place}: all splits need the same class "
            "folders."
        )
    return known


def _folders_in(directory: Path) -> list[str]:
    with os.scandir(directory) as entries:
        return sorted(
            entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")
        )


def _images_below(directory: Path, prefix: str) -> Iterator[str]:
    """Yield the image files below a folder in a fixed order, as paths that begin with prefix."""
    for folder, folders, files in os.walk(directory, followlinks=True):
        folders.sort()
        below = os.path.normpath(os.path.join(prefix, os.path.relpath(folder, directory)))
        for file in sorted(files):
            if file.lower().endswith(_EXTENSIONS) and not file.startswith("."):
                yield f"{below}{os.sep}{file}"
