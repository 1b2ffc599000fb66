"""Several sources of the same classes, one after the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain

import torch
from torch import Tensor

from retable.data.source import Source, checksum
from retable.errors import UserError


class Joined(Source):
    """The images of ``parts`` in their order, described as the first part but for its counts.

    Raises:
        UserError: the parts have different classes.
    """

    def __init__(self, parts: Sequence[Source]) -> None:
        first = parts[0]
        if any(part.class_names != first.class_names for part in parts):
            names = [str(part.description.get("part", "")) for part in parts]
            raise UserError(
                f"The parts {', '.join(names)} of the data set "
                f"{first.description.get('source', '')!r} must have the same classes. Unpack its "
                "archive again."
            )
        self.parts = parts
        self._ends = list(accumulate(map(len, parts)))
        labels = torch.cat([part.labels for part in parts])
        descriptions = [part.description for part in parts]
        joined = {"part": "+".join(str(one.get("part", "")) for one in descriptions)}
        for name in ("checksum", "pixels"):
            if all(name in one for one in descriptions):
                joined[name] = checksum(one[name] for one in descriptions)
        description = {**first.description, **joined, "images": len(labels)}
        super().__init__(
            labels, first.class_names, description, skip_unreadable=first.skip_unreadable
        )

    def image(self, index: int) -> Tensor:
        """Return one image: uint8 (3, H, W)."""
        place = bisect_right(self._ends, index)
        return self.parts[place].image(index - (self._ends[place - 1] if place else 0))

    def _stated_sizes(self) -> Iterator[tuple[int, int] | None] | None:
        sizes = [part._stated_sizes() for part in self.parts]
        known = [each for each in sizes if each is not None]
        return chain.from_iterable(known) if len(known) == len(sizes) else None
