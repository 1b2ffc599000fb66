"""What a source of images is: one small protocol, and the names of its splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

TRAIN = "train"
TEST = "test"


@runtime_checkable
class Source(Protocol):
    """Labelled images in a fixed order.

    Attributes:
        labels: (n,) int64 classes, -1 where unknown.
        class_names: the name of each class, in the order of the labels.
        description: what a result's provenance needs: the string that named the source, split,
            counts, and a checksum of the list of files and labels. Under "pixels" a checksum of
            what the images depend on, not their labels; a source without it can be used, but no
            features of it are kept. JSON-serialisable.
        skip_unreadable: whether a sample that turns out unreadable is replaced by the next one.
        unreadable: samples of which this turned out in this process.
    """

    labels: Tensor
    class_names: list[str]
    description: dict[str, Any]
    skip_unreadable: bool
    unreadable: set[int]

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
