"""Images in files of one folder, named by their paths below it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retable.data.decoding import by_threads, decode, file_size, prepare, read_image_file, stamps
from retable.data.source import Source, checksum


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


class ImageFiles(Source):
    """Images in files below a folder, in the order of their ``names``.

    ``facts`` are entries of the description beside the counts and checksums. ``border`` is the
    number of pixels that are cut off each side of every image.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        labels: Tensor,
        class_names: Sequence[str],
        facts: Mapping[str, Any],
        *,
        border: int = 0,
        skip_unreadable: bool = False,
    ) -> None:
        self.folder, self.border = folder, border
        self.names = PackedNames(names)
        prepare()
        state = stamps([self._path(name) for name in names])
        description: dict[str, Any] = {
            **facts,
            "images": len(names),
            "classes": len(class_names),
            "checksum": checksum(names, labels),
            "pixels": checksum(map(" ".join, zip(names, state, strict=True))),
        }
        super().__init__(labels, class_names, description, skip_unreadable=skip_unreadable)

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def image(self, index: int) -> Tensor:
        """Decode one image: uint8 (3, H, W)."""
        path = self._path(self.names[index])
        image = decode(read_image_file(path), path)
        if not self.border:
            return image
        return image[:, self.border : -self.border, self.border : -self.border]

    def _stated_sizes(self) -> Iterator[tuple[int, int] | None]:
        def size(index: int) -> tuple[int, int] | None:
            found = file_size(self._path(self.names[index]))
            cut = 2 * self.border
            return None if found is None else (found[0] - cut, found[1] - cut)

        return by_threads(size, range(len(self)), 16)
