"""Sources of labelled images, with further named layers where they have some."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from retable.data.decoding import as_layer, decode_all, decode_layer
from retable.errors import UserError

TRAIN = "train"
VAL = "val"
TEST = "test"
SPLITS = (TRAIN, VAL, TEST)

_VALIDATION_NAMES = ("val", "validation", "valid")

LayerKind = Literal["map", "image", "boxes"]
"""Kinds of layers, which decide how a view cuts them:

- map: (C, H, W) or (H, W) of the image's height and width, of any type, for instance a mask or a
  dense target; cut by nearest neighbour;
- image: uint8 (3, H', W') of any size, for instance a texture of the image; cut at the same
  fractions of its sides and coloured by the image's own draws;
- boxes: (N, 4 or more) float: left, top, right, bottom in pixels, further columns as they are.
"""


@dataclass(slots=True)
class Sample:
    """One sample of a source; its label is the source's at the sample's index.

    Attributes:
        index: its position in the source.
        image: uint8 (3, H, W), RGB.
        layers: the further layers that were asked for, by name.
    """

    index: int
    image: Tensor
    layers: dict[str, Tensor]


class Source:
    """Labelled images in a fixed order. A subclass defines `image`, and `layer` if it has layers.

    Attributes:
        labels: (n,) int64 classes, -1 where unknown.
        class_names: the name of each class, in the order of the labels.
        description: JSON-serialisable provenance of results: the string that named the source,
            split, counts, and a checksum of the list of files and labels. Under "pixels" a checksum
            of all that the images depend on, not of their labels; without it no features of the
            source are cached.
        skip_unreadable: whether an unreadable sample is replaced by the next one.
        unreadable: samples that turned out unreadable in this process.
        replacements: the samples that took their places in `resident`.
        layers: the kind of each further layer, by name.
    """

    layers: Mapping[str, LayerKind] = MappingProxyType({})

    def __init__(
        self,
        labels: Tensor,
        class_names: Sequence[str],
        description: dict[str, Any] | None = None,
        *,
        skip_unreadable: bool = False,
    ) -> None:
        self.labels = labels
        self.class_names = list(class_names)
        self.description = description or {
            "images": len(labels),
            "classes": len(class_names),
            "checksum": checksum(class_names, labels),
        }
        self.skip_unreadable = skip_unreadable
        self.unreadable: set[int] = set()
        self.replacements: dict[int, int] = {}
        self._pool: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.labels)

    def image(self, index: int) -> Tensor:
        """Return one image: uint8 (3, H, W), RGB.

        Raises:
            UserError: the image cannot be read; the sentence names it.
        """
        raise NotImplementedError

    def layer(self, index: int, name: str) -> Tensor:
        """Return one of the `layers` of a sample, see `LayerKind`.

        Raises:
            UserError: it cannot be read.
        """
        raise NotImplementedError

    def sample(self, index: int, layers: Sequence[str] = ()) -> Sample:
        """Return one sample with the layers that are named.

        Raises:
            UserError: a part of it cannot be read or does not fit its image.
        """
        image = self.image(index)
        named = {name: self._checked_layer(index, name, image) for name in layers}
        return Sample(index, image, named)

    def _checked_layer(self, index: int, name: str, image: Tensor) -> Tensor:
        value = as_layer(self.layer(index, name), self.layers[name])
        if self.layers[name] == "map" and value.shape[1:] != image.shape[1:]:
            raise UserError(
                f"The layer {name!r} of sample {index} is of size {tuple(value.shape[1:])}, but its"
                f" image of {tuple(image.shape[1:])}: make them equal."
            )
        return value

    def resident(self, *, decode: bool = False) -> Tensor | None:
        """Return all images in one tensor, uint8 (n, 3, H, W), or None.

        None means that they are not in memory (pass ``decode=True`` to read them all) or differ in
        size.
        """
        if self._pool is None and decode:
            self._pool = decode_all(self)
        return self._pool

    def resident_layer(self, name: str) -> Tensor | list[Tensor] | None:
        """Return a layer of all samples in the order of `resident`.

        Returns:
            (n, C, H, W), or a list of n tensors for boxes, or None if the layers differ in size.
        """
        return decode_layer(self, name)


def find_split(
    data: str, split: str, present: Sequence[str], chosen: str | None, *, test_first: bool = False
) -> str:
    """Return which of a data set's own splits serves as ``split``.

    Args:
        data: the data set, for errors.
        split: "train"; "val", the validation split of a data set that has a test split too; or
            "test", the validation split, and the test split of a data set without one.
        present: the splits that the data set has.
        chosen: the one that the user chose; None: by the rule above.
        test_first: "test" is the data set's test split, and its validation split without one.

    Raises:
        UserError: there is no such split.
    """
    has = ", ".join(present) or "none"
    if chosen is not None:
        if chosen in present:
            return chosen
        raise UserError(f"`split` of the data set {data!r} must be one of {has}, got {chosen!r}.")
    names: tuple[str, ...] = {TRAIN: (TRAIN,), VAL: _VALIDATION_NAMES}.get(split, ())
    if split == TEST:
        names = (TEST, *_VALIDATION_NAMES) if test_first else (*_VALIDATION_NAMES, TEST)
    for name in names if split != VAL or TEST in present else ():
        if name in present:
            return name
    what = "validation split beside a test split" if split == VAL else f"{split} split"
    raise UserError(
        f"The data set {data!r} has no {what} (it has {has}): choose one with '?split=NAME'."
    )


def checksum(names: Iterable[str], labels: Tensor | None = None) -> str:
    """Return 32 hexadecimal digits that identify a list of files and, if given, their labels.

    >>> checksum(["a", "b"]) == checksum(["ab"])
    False
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in names:
        digest.update(name.encode("utf-8", "surrogateescape"))
        digest.update(b"\0")
    if labels is not None:
        digest.update(labels.to(torch.int64).numpy().tobytes())
    return digest.hexdigest()
