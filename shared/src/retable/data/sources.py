"""Where images come from: one small protocol, one string to name a source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable
from urllib.parse import parse_qsl

import torch
from torch import Tensor

from retable.errors import UserError

TRAIN = "train"
TEST = "test"


@runtime_checkable
class Source(Protocol):
    """Labelled images in a fixed order.

    Attributes:
        labels: (n,) int64 classes, -1 where unknown.
        class_names: the name of each class, in the order of the labels.
        description: what a result's provenance needs: the string that named the source, split,
            counts, and a checksum of the list of files and labels. JSON-serialisable.
    """

    labels: Tensor
    class_names: list[str]
    description: dict[str, Any]

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def image(self, index: int) -> Tensor:
        """Return one image: uint8 (3, H, W), RGB.

        Raises:
            UserError: the image cannot be read; the sentence names it.
        """
        ...

    def resident(self, *, decode: bool = False) -> Tensor | None:
        """Return all images in one tensor, uint8 (n, 3, H, W), or None.

        None says that they are not at hand: stored as files (pass ``decode=True`` to read them all)
        or of more than one size.
        """
        ...


class ShapesSource:
    """The built-in procedural data set as a source; ``shapes`` has its masks and factors.

    Args:
        split: "train" or "test".
        count: images of the train split.
        test_count: images of the test split.
        size: height and width in pixels.
        classes: number of outlines.
        rho: correlation of texture with class.
        seed: what the images are drawn from, apart from the run's seed.
        variant: "clean" or an out-of-distribution variant of the test split.
    """

    def __init__(
        self,
        split: str,
        *,
        count: int = 8000,
        test_count: int = 2000,
        size: int = 32,
        classes: int = 64,
        rho: float = 0.7,
        seed: int = 0,
        variant: str = "clean",
    ) -> None:
        from retable.data.shapes import Shapes

        self.shapes = Shapes(
            count if split == TRAIN else test_count,
            split=split,
            size=size,
            classes=classes,
            rho=rho,
            seed=seed,
            variant=variant,
        )
        self.labels: Tensor = self.shapes.labels
        self.class_names = list(self.shapes.class_names)
        self.description: dict[str, Any] = {
            "source": "shapes",
            "split": split,
            "images": len(self.labels),
            "classes": len(self.class_names),
            "size": size,
            "rho": rho,
            "seed": seed,
            "variant": variant,
            "checksum": checksum([f"{size} {rho} {seed} {variant}"], self.labels),
        }
        self._pool: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def image(self, index: int) -> Tensor:
        """Render one image: uint8 (3, size, size)."""
        if self._pool is not None:
            return self._pool[index]
        return self.shapes.images(torch.tensor([index]))[0]

    def resident(self, *, decode: bool = False) -> Tensor:
        """Return all images, rendered at the first call: uint8 (n, 3, size, size)."""
        if self._pool is None:
            self._pool = self.shapes.resident()
        return self._pool


def checksum(names: Iterable[str], labels: Tensor) -> str:
    """Return 32 hexadecimal digits that identify a list of files and their labels."""
    digest = hashlib.blake2b(digest_size=16)
    for name in names:
        digest.update(name.encode("utf-8", "surrogateescape"))
        digest.update(b"\0")
    digest.update(labels.to(torch.int64).numpy().tobytes())
    return digest.hexdigest()


_SHAPES_PARAMETERS: dict[str, type] = {
    "count": int,
    "test_count": int,
    "size": int,
    "classes": int,
    "rho": float,
    "seed": int,
    "variant": str,
}


def _open_shapes(query: str, split: str) -> Source:
    arguments: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in _SHAPES_PARAMETERS:
            raise UserError(
                f"The data set 'shapes' has no parameter {name!r}: expected one of "
                f"{', '.join(_SHAPES_PARAMETERS)}."
            )
        try:
            arguments[name] = _SHAPES_PARAMETERS[name](text)
        except ValueError:
            kind = _SHAPES_PARAMETERS[name].__name__
            raise UserError(
                f"The parameter {name}={text} of the data set 'shapes' is not of type {kind}."
            ) from None
    return ShapesSource(split, **arguments)


def open_source(
    spec: str, split: str, *, subset: str | None = None, skip_unreadable: bool = False
) -> Source:
    """Open a data set by its name.

    Args:
        spec: ``shapes``, with optional parameters as in ``shapes?count=8000&size=32&rho=0.7``.
        split: "train" or "test".
        subset: "imagenet100", "10%" or "imagenet100:10%".
        skip_unreadable: leave out and count unreadable images instead of refusing them.

    Raises:
        UserError: the data set is unknown.
    """
    if split not in (TRAIN, TEST):
        raise UserError(f"The split {split!r} is unknown: expected 'train' or 'test'.")
    address, _, query = spec.partition("?")
    if address == "shapes":
        return _open_shapes(query, split)
    raise UserError(f"The data set {spec!r} is unknown: expected 'shapes'.")
