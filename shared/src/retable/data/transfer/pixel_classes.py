"""Images with a file of the class of each of their pixels: data sets of segmentation."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retable.data.decoding import by_threads, decode_map, file_size, read_image_file, stamps
from retable.data.image_files import ImageFiles, PackedNames
from retable.data.source import checksum
from retable.errors import UserError
from retable.text import printable

IGNORED = 255
"""Class of pixels that do not count, in PASCAL VOC and Cityscapes."""

SEMANTIC = "semantic"
"""Name of the layer: the class of each pixel, uint8 (1, H, W), or `IGNORED`."""


class LabelledImage(NamedTuple):
    """Paths below one folder of an image and of the classes of its pixels."""

    image: str
    classes: str


class PixelClassFiles(ImageFiles):
    """Images and the classes of their pixels, in files below a folder.

    Files of classes are grey or palette images, or files of the Semantic Boundaries Dataset
    (.mat). ``class_names`` are those of pixels, in the order of their numbers.

    Args:
        folder: above all files.
        files: paths below it.
        class_names: K names.
        facts: entries of the description.
        classes_of: (256,) uint8, the class that a stored number stands for; None: itself.

    Raises:
        UserError: an image or its file of classes is missing; when it is read: they differ in
            size, the file is broken or holds a number that is no class. The file is named.
    """

    def __init__(
        self,
        folder: Path,
        files: Sequence[LabelledImage],
        class_names: Sequence[str],
        facts: Mapping[str, str],
        classes_of: Tensor | None = None,
    ) -> None:
        self.classes_of = classes_of
        self._maps = PackedNames(one.classes for one in files)
        for path in _missing(folder, [path for one in files for path in one]):
            raise UserError(
                f"The file {printable(path)} is listed but missing. Unpack the archive again."
            )
        names = [one.image for one in files]
        super().__init__(folder, names, torch.full((len(names),), -1), class_names, facts)
        self.layers = {SEMANTIC: "map"}
        state = stamps([os.path.join(folder, one.classes) for one in files])
        self.description["pixel_classes"] = len(class_names)
        self.description["classes_of_pixels"] = checksum(state)

    def layer(self, index: int, name: str) -> Tensor:
        """Return the class of each pixel of an image: uint8 (1, H, W)."""
        path = os.path.join(self.folder, self._maps[index])
        found = _boundaries(path) if path.endswith(".mat") else _decoded(path)
        image = os.path.join(self.folder, self.names[index])
        if (size := file_size(image)) is not None and size != tuple(found.shape[1:]):
            raise _broken(path, f"{tuple(found.shape[1:])} pixels, its image has {size}")
        if self.classes_of is not None:
            found = self.classes_of[found.long()]
        odd = (found >= len(self.class_names)) & (found != IGNORED)
        if bool(odd.any()):
            raise _broken(path, f"{int(found[odd][0])} is no class")
        return found


def _missing(folder: Path, paths: Sequence[str]) -> Iterator[str]:
    full = [os.path.join(folder, path) for path in paths]
    for path, present in zip(full, by_threads(os.path.isfile, full, 16), strict=True):
        if not present:
            yield path


def _decoded(path: str) -> Tensor:
    return decode_map(read_image_file(path), path)


def _boundaries(path: str) -> Tensor:
    """Read the classes of a file of the Semantic Boundaries Dataset."""
    from scipy import io

    read: Any = io.loadmat

    try:
        found = read(path)["GTcls"]["Segmentation"][0, 0]
        return torch.from_numpy(found.astype("uint8"))[None]
    # SciPy raises what its readers of compressed parts raise, besides its own.
    except Exception as error:
        raise _broken(path, f"{type(error).__name__} {error}") from error


def _broken(path: str, fault: str) -> UserError:
    return UserError(
        f"The classes of pixels {printable(path)} are broken ({printable(fault)}). Unpack the "
        "archive again."
    )


def listed(path: Path) -> list[str]:
    """Return the names in a list of a data set, one on a line.

    Raises:
        UserError: the list cannot be read or is empty.
    """
    try:
        names = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"The list {printable(str(path))} cannot be read ({printable(str(error))}). Unpack its "
            "archive again."
        ) from error
    if not names:
        raise UserError(f"The list {printable(str(path))} names no image. Unpack it again.")
    return names
