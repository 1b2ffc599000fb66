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
    decode_all,
    first_faults,
    prepare,
    stamps,
)
from retable.data.source import TRAIN, checksum
from retable.errors import UserError

_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif")
_SPLIT_FOLDERS = {TRAIN: ("train",), "test": ("val", "validation", "test")}
_LAYOUT = "expected DIR/train/CLASS/IMAGE and DIR/val/CLASS/IMAGE"


class PackedNames:
    """An immutable list of strings in two tensors.

    A list of a million Python strings would be copied into every worker process bit by bit, since
    each look at a string writes its reference count.

    >>> list(PackedNames(["a", "bc"]))
    ['a', 'bc']
    """

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self._ends = torch.tensor([0, *(len(name) for name in encoded)]).cumsum(0)
        self._bytes = torch.frombuffer(bytearray(b"".join(encoded) or b"\0"), dtype=torch.uint8)

    def __len__(self) -> int:
        """Return the number of strings."""
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        """Return one string."""
        start, end = self._ends[index : index + 2].tolist()
        return os.fsdecode(bytes(self._bytes[start:end].tolist()))

    def __iter__(self) -> Iterator[str]:
        """Iterate over the strings."""
        return (self[index] for index in range(len(self)))


class FolderSource:
    """Images as DIR/SPLIT/CLASS/.../IMAGE, classes numbered in sorted order.

    The classes are those of the train folder for both splits, so that labels mean the same.
    ``names`` holds each image's CLASS/.../IMAGE.

    Args:
        directory: holds "train" and "val" (or "validation" or "test").
        split: "train" or "test".
        classes: read these class folders only; None reads all.
        skip_unreadable: leave out and count files that are no images instead of refusing them.

    Raises:
        UserError: a folder is missing, is laid out otherwise, has an empty or unknown class, or
            holds a file that is no image.
    """

    def __init__(
        self,
        directory: str | Path,
        split: str,
        *,
        classes: Iterable[str] | None = None,
        skip_unreadable: bool = False,
    ) -> None:
        self.skip_unreadable = skip_unreadable
        self.unreadable: set[int] = set()
        self.directory = _split_folder(Path(directory), split)
        self.class_names = _class_names(Path(directory), self.directory, classes)
        names: list[str] = []
        labels: list[int] = []
        for label, class_name in enumerate(self.class_names):
            found = list(_images_below(self.directory / class_name, class_name))
            if not found:
                raise UserError(
                    f"The class folder {self.directory / class_name} holds no images "
                    f"({', '.join(_EXTENSIONS)}): complete the data set or remove the folder."
                )
            names += found
            labels += [label] * len(found)
        left_out = self._check_files(names)
        if left_out:
            kept = [i for i in range(len(names)) if names[i] not in left_out]
            names, labels = [names[i] for i in kept], [labels[i] for i in kept]
        paths = [os.path.join(self.directory, name) for name in names]
        self.names = PackedNames(names)
        self.labels: Tensor = torch.tensor(labels)
        self._refuse_unreadable_classes()
        self._pool: Tensor | None = None
        prepare()
        self.description: dict[str, Any] = {
            "source": f"imagefolder:{directory}",
            "split": split,
            "images": len(self.names),
            "classes": len(self.class_names),
            "unreadable": len(left_out),
            "unreadable_first": sorted(left_out)[:10],
            "checksum": checksum(names, self.labels),
            "pixels": checksum(map(" ".join, zip(names, stamps(paths), strict=True))),
        }

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.names)

    def _check_files(self, names: list[str]) -> set[str]:
        paths = [os.path.join(self.directory, name) for name in names]
        faults = first_faults(paths, stop_at_first=not self.skip_unreadable)
        if faults and not self.skip_unreadable:
            position, fault = next(iter(faults.items()))
            raise UnreadableImageError(paths[position], fault)
        return {names[position] for position in faults}

    def _refuse_unreadable_classes(self) -> None:
        readable = set(self.labels.tolist())
        for label, class_name in enumerate(self.class_names):
            if label not in readable:
                raise UserError(
                    f"The class folder {self.directory / class_name} holds no readable image: "
                    "replace its files or remove the folder."
                )

    def image(self, index: int) -> Tensor:
        """Decode one image: uint8 (3, H, W)."""
        path = os.path.join(self.directory, self.names[index])
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise UnreadableImageError(path, error.strerror or str(error)) from error
        return decode(data, path)

    def resident(self, *, decode: bool = False) -> Tensor | None:
        """Return all images, uint8 (n, 3, H, W), or None, as `Source.resident` says."""
        if self._pool is None and decode:
            self._pool = decode_all(self)
        return self._pool


def _split_folder(directory: Path, split: str) -> Path:
    if not directory.is_dir():
        raise UserError(f"The data set folder {directory} does not exist: {_LAYOUT}.")
    for name in _SPLIT_FOLDERS[split]:
        if (directory / name).is_dir():
            return directory / name
    raise UserError(
        f"The data set folder {directory} has no folder {_SPLIT_FOLDERS[split][0]!r}: {_LAYOUT}."
    )


def _class_names(directory: Path, split_folder: Path, classes: Iterable[str] | None) -> list[str]:
    """Return the sorted class folders, after checking that the split has the train split's."""
    present = _folders_in(split_folder)
    if not present:
        raise UserError(f"The folder {split_folder} has no class folders: {_LAYOUT}.")
    train = directory / _SPLIT_FOLDERS[TRAIN][0]
    known = _folders_in(train) if train.is_dir() else present
    if classes is not None:
        wanted = set(classes)
        return sorted(wanted & set(known) & set(present))
    strangers = sorted(set(present) ^ set(known))
    if strangers:
        place = split_folder if strangers[0] in known else train
        raise UserError(
            f"The class {strangers[0]} is missing in {place}: the train and test splits need the "
            "same class folders."
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
