"""Sources whose images show objects: boxes, classes and masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from retable.data.image_files import ImageFiles
from retable.data.source import Source
from retable.data.subsets import Subset
from retable.errors import UserError
from retable.text import printable


@dataclass(frozen=True)
class Objects:
    """N objects of an image of height H and width W.

    Attributes:
        boxes: (N, 4) float32: left, top, right, bottom in pixels; a box of one pixel has side 1.
        labels: (N,) int64 classes from 0.
        masks: (N, H, W) bool, what is seen of each object; None where a data set has none.
        difficult: (N,) bool; such objects are trained on, and count neither as found nor as missed.
        crowd: (N,) bool; regions of many objects, which are not trained on.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor | None
    difficult: Tensor
    crowd: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, kept: Tensor) -> Objects:
        """Return some of the objects, by a mask (N,)."""
        masks = None if self.masks is None else self.masks[kept]
        return Objects(
            self.boxes[kept], self.labels[kept], masks, self.difficult[kept], self.crowd[kept]
        )


class ObjectSource(Source):
    """Base class of sources whose images show objects; a subclass defines `objects` too.

    Images have no class of their own: ``labels`` are -1, ``class_names`` those of the objects.
    """

    def objects(self, index: int) -> Objects:
        """Return the objects of an image.

        Raises:
            UserError: the annotation cannot be read or does not fit its image; it is named.
        """
        raise NotImplementedError

    def size_of(self, index: int) -> tuple[int, int]:
        """Return height and width of an image without decoding it."""
        raise NotImplementedError

    def has_objects(self) -> Tensor:
        """Return which images have an object that is no crowd, (n,) bool."""
        found = [self.objects(index).crowd for index in range(len(self))]
        return torch.tensor([bool((~crowd).any()) for crowd in found])


class ObjectFiles(ImageFiles, ObjectSource):
    """Base class of images with objects in files, whose annotations state their sizes."""

    def image(self, index: int) -> Tensor:
        """Decode one image: uint8 (3, H, W).

        Raises:
            UserError: it has another size than its annotation states.
        """
        found = super().image(index)
        if (size := self.size_of(index)) != found.shape[1:]:
            raise UserError(
                f"The image {printable(self._path(self.names[index]))} must have the {size[0]} x "
                f"{size[1]} pixels of its annotation, got {found.shape[1]} x {found.shape[2]}. "
                "Unpack the archive again."
            )
        return found


class ObjectSubset(Subset, ObjectSource):
    """Some images of a source of objects."""

    base: ObjectSource

    def objects(self, index: int) -> Objects:
        """Return the objects of an image."""
        return self.base.objects(int(self.indices[index]))

    def size_of(self, index: int) -> tuple[int, int]:
        """Return height and width of an image."""
        return self.base.size_of(int(self.indices[index]))

    def has_objects(self) -> Tensor:
        """Return which images have an object that is no crowd, (n,) bool."""
        return self.base.has_objects()[self.indices]


def as_objects(source: Source) -> ObjectSource:
    """Return a source, or a subset of one, as a source of objects.

    Raises:
        UserError: its images have no objects.
    """
    if isinstance(source, ObjectSource):
        return source
    if isinstance(source, Subset):
        base, name = as_objects(source.base), source.description["subset"]
        return ObjectSubset(base, source.indices, source.labels, source.class_names, name)
    raise UserError(
        "`data` of detection must have images with objects, such as 'voc:DIR', 'coco:DIR' or "
        f"'shapes-scenes', got {source.description.get('data', source.description['source'])!r}. "
        "Name such a data set."
    )
