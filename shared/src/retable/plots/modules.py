"""Rows of a picture for the modules of a network: grouped by kind, in network order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy

from retable.plots.curves import Values

_ALL_NAMED = 12  # so many modules have room for their names
_NORM = re.compile(r"(^|\.)(bn|norm|gn|ln)\d*$|(downsample|shortcut)\.1$")
_CONVOLUTION = re.compile(r"(^|\.)conv\d*$|(downsample|shortcut)\.0$")


def is_norm(module: str) -> bool:
    """Whether a module is a normalisation layer, by torchvision's names.

    >>> [is_norm(name) for name in ("bn1", "layer2.0.downsample.1", "layer2.0.conv1")]
    [True, True, False]
    """
    return _NORM.search(module) is not None


def block_of(module: str) -> str:
    """Return the part of the network a module is labelled with: its stage, or the stem.

    >>> [block_of(name) for name in ("conv1", "layer2.0.bn1", "blocks.3.conv1")]
    ['stem', 'layer2', 'blocks.3']
    """
    parts = module.split(".")
    if len(parts) == 1:
        return "stem"
    return ".".join(parts[:2]) if parts[0] == "blocks" else parts[0]


@dataclass(frozen=True)
class Rows:
    """Rows of the modules: convolutions, an empty row, normalisation layers.

    Attributes:
        order: index of each row's module, None in the empty row.
        ticks: row and label of each block, or of each module if there are few.
        borders: rows before which a block ends.
        parts: first row, end and name of the convolutions and of the normalisation layers.
    """

    order: tuple[int | None, ...]
    ticks: tuple[tuple[float, str], ...]
    borders: tuple[int, ...]
    parts: tuple[tuple[int, int, str], ...]

    @classmethod
    def of(cls, modules: Sequence[str]) -> Rows:
        """Lay the modules out."""
        names = _without_common_prefix(modules)
        norms = [i for i, name in enumerate(names) if is_norm(name)]
        others = [i for i, name in enumerate(names) if not is_norm(name)]
        convolutions = all(_CONVOLUTION.search(names[i]) for i in others)
        order: list[int | None] = []
        ticks: list[tuple[float, str]] = []
        borders: list[int] = []
        parts: list[tuple[int, int, str]] = []
        for members, title in (
            (others, "convolutions" if convolutions else "other modules"),
            (norms, "normalisation"),
        ):
            if not members:
                continue
            order += [None] if order else []
            first = len(order)
            for block, found in groupby(members, lambda i: block_of(names[i])):
                own = list(found)
                ticks += [(len(order) + (len(own) - 1) / 2, block)]
                borders += [len(order)] if len(order) > first else []
                order += own
            parts += [(first, len(order), title)]
        if len(names) <= _ALL_NAMED:
            ticks = [(row, names[i]) for row, i in enumerate(order) if i is not None]
        return cls(tuple(order), tuple(ticks), tuple(borders), tuple(parts))

    def lay_out(self, norms: Values) -> Values:
        """Rearrange (E, M) to (R, E), the drawn rows; a norm that is not positive becomes NaN."""
        shown = numpy.full((len(self.order), len(norms)), numpy.nan)
        for row, module in enumerate(self.order):
            if module is not None:
                shown[row] = norms[:, module]
        return numpy.where(shown > 0, shown, numpy.nan)


def _without_common_prefix(modules: Sequence[str]) -> list[str]:
    """Return the names without their common first parts, such as ``encoder``.

    >>> _without_common_prefix(["encoder.conv1", "encoder.layer1.0.conv1"])
    ['conv1', 'layer1.0.conv1']
    """
    names = [name.split(".") for name in modules]
    while all(len(name) > 1 for name in names) and len({name[0] for name in names}) == 1:
        names = [name[1:] for name in names]
    return [".".join(name) for name in names]
