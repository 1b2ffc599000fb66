"""Photographs that scikit-image ships with: real images for pictures, without a download."""

from __future__ import annotations

from importlib import resources

from torch import Tensor

from retable import extras
from retable.data.decoding import decode

_NAMES = ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg")


def photographs(count: int) -> list[Tensor]:
    """Return up to four photographs, each uint8 (3, H, W): a cat, a cup, an astronaut, a rocket.

    Raises:
        UserError: scikit-image is not installed.
    """
    extras.require("skimage", "photographs", "Drawing photographs")
    folder = resources.files("skimage.data")
    return [decode((folder / name).read_bytes(), name) for name in _NAMES[:count]]
