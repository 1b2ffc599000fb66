"""Sources of labelled images, with further named layers where they have some."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from retable.data.decoding import UnreadableImageError, by_threads, free_memory
from retable.errors import UserError

TRAIN = "train"
VAL = "val"
TEST = "test"
SPLITS = (TRAIN, VAL, TEST)

_VALIDATION_NAMES = ("val", "validation", "valid")
_TRUTH = {"true": True, "1": True, "false": False, "0": False}
_EXPECTED = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}

SMALL = 224
"""Images whose short side is below this are small: they are judged as they are."""

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
    """One sample of a source: image uint8 (3, H, W), RGB, and the layers that were asked for.

    Its label is the source's at ``index``.
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
        replacements: the samples that took their places in `resident`, by the unreadable ones;
            labels stay those of the samples themselves.
        layers: the kind of each further layer, by name.
        validation: positions (m,) of the training images by which settings are chosen before a
            training on all; None: the data set names none, and its users draw them.
    """

    layers: Mapping[str, LayerKind] = MappingProxyType({})
    validation: Tensor | None = None
    replacements: Mapping[int, int] = MappingProxyType({})
    _natural: tuple[tuple[int, int] | None, ...] = ()

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
        self._pool: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Tensor:
        """Return one image: uint8 (3, H, W), RGB.

        Raises:
            UserError: the image cannot be read; the sentence names it.
        """
        raise NotImplementedError

    def layer(self, index: int, name: str) -> Tensor:
        """Return one of the `layers` of a sample, see `LayerKind`; raise likewise."""
        raise NotImplementedError

    def sample(self, index: int, layers: Sequence[str] = ()) -> Sample:
        """Return one sample with the layers that are named.

        Raises:
            UserError: a part of it cannot be read or does not fit its image.
        """
        image = self.image(index)
        found = {name: self._formed_layer(index, name) for name in layers}
        for name, layer in found.items():
            if self.layers[name] == "map" and layer.shape[1:] != image.shape[1:]:
                raise UserError(
                    f"The layer {name!r} of sample {index} is of size {tuple(layer.shape[1:])}, but"
                    f" its image of {tuple(image.shape[1:])}: make them equal."
                )
        return Sample(index, image, found)

    def read_sample(self, index: int, layers: Sequence[str] = ()) -> Sample:
        """Return a sample, or, with ``skip_unreadable``, the next readable one in its place.

        The replacement is the same in every epoch and on every process and has its own layers.

        Raises:
            UnreadableImageError: nothing may be skipped, or nothing is left.
        """
        last = index + len(self) - 1
        for candidate in range(index, last + 1):
            try:
                return self.sample(candidate % len(self), layers)
            except UnreadableImageError:
                if not self.skip_unreadable or candidate == last:
                    raise
        raise AssertionError("an empty source has no index")

    def resident(self, *, decode: bool = False) -> Tensor | None:
        """Return all images in one tensor, uint8 (n, 3, H, W), or None.

        None means that they are not in memory (pass ``decode=True`` to read them all) or differ in
        size. An unreadable sample becomes a copy of the one that `replacements` states.

        Raises:
            UserError: the images do not fit into memory.
        """
        if self._pool is None and decode:
            self._pool = self._decode_all()
        return self._pool

    def resident_layer(self, name: str) -> Tensor | list[Tensor] | None:
        """Return a layer of all samples in the order of `resident`: (n, C, H, W).

        Boxes are a list of n tensors. None means that layers differ in size.
        """

        def read(index: int) -> Tensor:
            return self._formed_layer(self.replacements.get(index, index), name)

        _check_memory(f"layers {name!r}", len(self), read(0))
        found = list(by_threads(read, range(len(self)), os.cpu_count() or 1))
        if self.layers[name] == "boxes":
            return found
        return torch.stack(found) if len({layer.shape for layer in found}) == 1 else None

    def natural_size(self) -> tuple[int, int] | None:
        """Return the height and width that all images have, None if they differ or are not small.

        Of images in files their headers are read, and sizes from `SMALL` on are not small.
        Generated images have whatever size was asked for.
        """
        sizes = self._stated_sizes()
        if sizes is None:
            pool = self.resident()
            return None if pool is None else (pool.shape[-2], pool.shape[-1])
        if not self._natural:
            self._natural = (_small_size(sizes),)
        return self._natural[0]

    def _stated_sizes(self) -> Iterator[tuple[int, int] | None] | None:
        """Return the sizes that images in files state, None where one cannot be told.

        None instead of sizes: the images are not in files.
        """
        return None

    def _formed_layer(self, index: int, name: str) -> Tensor:
        """Return a layer in the form in which it is cut: maps (C, H, W), boxes float32."""
        value, kind = self.layer(index, name), self.layers[name]
        if kind == "map" and value.dim() == 2:
            return value[None]
        return value.float() if kind == "boxes" else value

    def _decode_all(self) -> Tensor | None:
        first = self.read_sample(0).image
        _check_memory("images", len(self), first)
        pool = torch.empty((len(self), *first.shape), dtype=torch.uint8)

        def read(index: int) -> int | None:
            sample = self.read_sample(index)
            if sample.image.shape != first.shape:
                return None
            pool[index] = sample.image
            return sample.index

        # torchvision decodes without holding the interpreter's lock.
        actual: list[int] = []
        for index in by_threads(read, range(len(self)), os.cpu_count() or 1):
            if index is None:
                return None
            actual.append(index)
        self.replacements = {i: index for i, index in enumerate(actual) if i != index}
        self.unreadable.update(self.replacements)
        return pool


def _small_size(sizes: Iterable[tuple[int, int] | None]) -> tuple[int, int] | None:
    common = None
    for size in sizes:
        if size is None:  # unreadable, which whoever decodes the image reports
            continue
        if min(size) >= SMALL or common not in (None, size):
            return None
        common = size
    return common


def _check_memory(what: str, count: int, first: Tensor) -> None:
    needed = count * first.numel() * first.element_size()
    limit = free_memory() * 9 // 10
    if needed > limit:
        raise UserError(
            f"The {count} {what} need {needed / 2**30:.1f} GiB of memory, of which "
            f"{limit / 2**30:.1f} GiB may be used: leave them on disk."
        )


def find_split(
    data: str, split: str, present: Sequence[str], chosen: str | None, *, test_first: bool = False
) -> str:
    """Return which of the splits that are ``present`` serves as ``split``: ``chosen``, if given.

    Otherwise "val" is the validation split of a data set that has a test split too, and "test" the
    validation split, or the test split of a data set without one; the reverse with ``test_first``.

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
    what, instead = f"{split} split", ""
    if split == VAL:
        what, instead = "validation split beside a test split", "use its test split, or "
    raise UserError(
        f"The data set {data!r} has no {what} (it has {has}): {instead}choose one with "
        "'?split=NAME'."
    )


def parse_parameters(
    data: str, texts: Mapping[str, str], kinds: Mapping[str, type]
) -> dict[str, Any]:
    """Convert the texts of a data set's parameters to their kinds: int, float, bool or str."""
    values: dict[str, Any] = {}
    for key, text in texts.items():
        if key not in kinds:
            known = ", ".join(kinds) or "none"
            raise UserError(f"The data set {data!r} has no parameter {key!r}: use one of {known}.")
        try:
            values[key] = _TRUTH[text.lower()] if kinds[key] is bool else kinds[key](text)
        except (KeyError, ValueError):
            raise UserError(
                f"`{key}` of the data set {data!r} must be {_EXPECTED[kinds[key]]}, got {text!r}."
            ) from None
    return values


def checksum(names: Iterable[str], labels: Tensor | None = None) -> str:
    """Return 32 hexadecimal digits that identify a list of files and, if given, their labels."""
    digest = hashlib.blake2b(digest_size=16)
    for name in names:
        digest.update(name.encode("utf-8", "surrogateescape"))
        digest.update(b"\0")
    if labels is not None:
        digest.update(labels.to(torch.int64).numpy().tobytes())
    return digest.hexdigest()
