"""Labels of the shapes data set: one factor of its images, or several together.

The images do not depend on their labels, so that one encoder is evaluated on several tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from torch import Tensor

from retable.data.shapes.outlines import catalogue
from retable.data.shapes.textures import BACKGROUND, FOREGROUND

Labelling = Literal["outline", "texture", "foreground", "background", "scene"]

LABELLINGS: tuple[Labelling, ...] = get_args(Labelling)
"""Factors that labels state:

- outline: the figure, balanced to within one image;
- texture: that of the object, 8 classes;
- foreground: the object's hue, 3 classes;
- background: hue and texture of the ground, 12 classes;
- scene: the background and whether it is darker or lighter than the object, 24 classes: what is
  seen of the surroundings, in place of a data set of places.

All but the outline are drawn independently for each image and hence balanced on average only: of n
images a class of share p has n p, give or take 2 sqrt(n p (1 - p)). The classes of a labelling are
equally likely, but for textures and backgrounds that agree with the outline: they are as likely as
the outlines that they go with, which are equally many where the number of outlines is a multiple of
8 and of 12.
"""

HUE_NAMES = ("red", "green", "blue")


def names_of(labelling: str, outlines: int) -> list[str]:
    """Return the name of each class, in the order of the labels, of so many outlines."""
    grounds = [f"{texture} {hue}" for texture in BACKGROUND for hue in HUE_NAMES]
    names = {
        "outline": list(catalogue())[:outlines],
        "texture": list(FOREGROUND),
        "foreground": list(HUE_NAMES),
        "background": grounds,
        "scene": [f"{ground}, {tone}" for tone in ("dark", "light") for ground in grounds],
    }
    return names[labelling]


def labels_of(labelling: Labelling, factors: Mapping[str, Tensor]) -> Tensor:
    """Return the labels (n,), int64, of n images whose `Shapes.factors` are given."""
    if labelling in ("outline", "texture", "foreground"):
        return factors[labelling]
    ground = factors["background"] + len(HUE_NAMES) * factors["background_texture"]
    if labelling == "background":
        return ground
    return ground + len(HUE_NAMES) * len(BACKGROUND) * factors["polarity"]
