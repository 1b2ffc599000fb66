"""Scenes of several figures in front of a background, with clutter: a data set of objects.

Figures, textures, colours and backgrounds are those of `retable.data.shapes.dataset`, so that an
encoder that was pretrained on single figures can be transferred. Later figures cover earlier ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from retable.data.shapes.dataset import GROUND, HUES, OBJECT, Shapes
from retable.data.shapes.outlines import catalogue, distance_tables
from retable.data.source import checksum
from retable.data.transfer.objects import Objects, ObjectSource
from retable.data.transfer.pixel_classes import SEMANTIC
from retable.errors import UserError
from retable.random import integers

FIGURES = 3
"""Most figures of a scene; each scene has one at least."""

CLUTTER = 2
"""Figures of other outlines than the classes', behind all others: background."""

SIZES = (0.16, 0.30)
"""Circumradius of a figure as a share of the side."""

LEAST_SEEN = 0.25
"""A figure of which less is seen is no object."""


class Scenes(ObjectSource):
    """Scenes rendered on demand: images, objects, and the layer "semantic" of classes.

    Args:
        count: number of scenes; scene i is the same for every count.
        split: "train", "val" or "test": disjoint draws of one distribution.
        seed: which data set of that distribution.
        size: side in pixels, at least 32.
        classes: number of outlines that are objects, at most 64; some of the others are clutter.
        rho: probability that a figure's texture is that of its class.

    Raises:
        UserError: a value out of range, or an unknown split.
    """

    def __init__(
        self,
        count: int,
        *,
        split: str = "train",
        seed: int = 0,
        size: int = 64,
        classes: int = 16,
        rho: float = 0.7,
    ) -> None:
        if size < 32 or not 2 <= classes <= 64:
            raise UserError(
                f"`size` and `classes` of scenes must be at least 32 and from 2 to 64, got {size} "
                f"and {classes}. Correct them."
            )
        self.size, self.classes = size, classes
        self._figures = _Figures(count, FIGURES, 0, classes, split, seed, size, rho)
        others = len(catalogue()) - classes
        self._clutter = _Figures(count, CLUTTER, classes, others, split, seed + 1, size, 0.0)
        facts = {
            "split": split,
            "size": size,
            "outlines": classes,
            "rho": rho,
            "seed": seed,
        }
        digest = checksum(
            [f"scenes {count}", *(f"{name} {value}" for name, value in facts.items())]
        )
        description = {
            "source": "shapes-scenes",
            "images": count,
            "classes": classes,
            "pixel_classes": classes + 1,
            **facts,
            "checksum": digest,
            "pixels": digest,
        }
        super().__init__(torch.full((count,), -1), list(catalogue())[:classes], description)
        self.layers = {SEMANTIC: "map"}
        self._objects: dict[int, Objects] = {}

    def image(self, index: int) -> Tensor:
        """Return one scene: uint8 (3, size, size)."""
        return self.resident()[index]

    def resident(self, *, decode: bool = False) -> Tensor:
        """Return all scenes, uint8 (count, 3, size, size); rendered once, then kept."""
        if self._pool is None:
            self._pool = torch.stack([self._render(index) for index in range(len(self))])
        return self._pool

    def _render(self, index: int) -> Tensor:
        scene = torch.tensor([index])
        picture = self._figures.ground(scene)
        for figures, numbers in ((self._clutter, CLUTTER), (self._figures, self._number(index))):
            for place in range(numbers):
                front, coverage = figures.painted(scene, place)
                picture = picture + (front - picture) * coverage
        pixels = (picture[0] * 255 + 0.5).floor().to(torch.uint8)
        return pixels.view(3, self.size, self.size)

    def objects(self, index: int) -> Objects:
        """Return the figures of a scene of which enough is seen; drawn once, then kept."""
        if index not in self._objects:
            self._objects[index] = self._draw_objects(index)
        return self._objects[index]

    def _draw_objects(self, index: int) -> Objects:
        scene, number = torch.tensor([index]), self._number(index)
        whole = torch.cat([self._figures.mask(scene, place) for place in range(number)])
        # Later figures cover earlier ones.
        covered = whole.flip(0).cumsum(0).flip(0) - whole.long() > 0
        seen = whole & ~covered
        kept = seen.flatten(1).sum(1) >= LEAST_SEEN * whole.flatten(1).sum(1)
        labels = torch.tensor([self._figures.outline(index, place) for place in range(number)])
        none = torch.zeros(number, dtype=torch.bool)
        return Objects(boxes_of(seen), labels, seen, none, none).where(kept)

    def layer(self, index: int, name: str) -> Tensor:
        """Return the class of each pixel, uint8 (1, size, size): 0 background, class + 1."""
        found = torch.zeros(self.size, self.size, dtype=torch.uint8)
        objects = self.objects(index)
        assert objects.masks is not None
        for mask, label in zip(objects.masks, objects.labels, strict=True):
            found[mask] = int(label) + 1
        return found[None]

    def size_of(self, index: int) -> tuple[int, int]:
        """Return height and width of a scene."""
        return self.size, self.size

    def has_objects(self) -> Tensor:
        """Return which scenes have an object: the last figure is never covered, so all."""
        return torch.ones(len(self), dtype=torch.bool)

    def _number(self, index: int) -> int:
        return self._figures.number(index)


class _Figures(Shapes):
    """Figures of scenes: number ``place`` of scene i is image ``i * places + place``."""

    def __init__(
        self,
        scenes: int,
        places: int,
        first: int,
        outlines: int,
        split: str,
        seed: int,
        size: int,
        rho: float,
    ) -> None:
        self.places, self.first, self.outlines = places, first, outlines
        self._table: dict[str, Tensor] | None = None
        super().__init__(
            scenes * places, split=split, seed=seed, size=size, classes=len(catalogue()), rho=rho
        )

    def factors(self, indices: Tensor) -> dict[str, Tensor]:
        """Return the factors of figures: outlines are drawn, and figures are smaller."""
        if self._table is None:
            self._table = self._draw(torch.arange(len(self)))
        return {name: values[indices] for name, values in self._table.items()}

    def _draw(self, indices: Tensor) -> dict[str, Tensor]:
        found = super().factors(indices)
        outline = self.first + integers(self._key("scene outline"), indices, self.outlines)
        agrees = found["texture"] == self.class_textures[found["outline"]]
        texture = torch.where(agrees, self.class_textures[outline], found["texture"])
        # Of another hue than the ground, which is that of the scene's first figure.
        ground = found["background"][indices // self.places * self.places]
        other = found["foreground"] - found["background"]
        radius = self._between("scene radius", indices, *SIZES)
        room = 0.5 - radius
        return found | {
            "outline": outline,
            "texture": texture,
            "foreground": (ground + other) % HUES,
            "radius": radius,
            "centre_row": 0.5 + room * self._between("scene row", indices, -1, 1),
            "centre_column": 0.5 + room * self._between("scene column", indices, -1, 1),
        }

    def number(self, scene: int) -> int:
        """Return how many figures a scene has, 1 to ``places``."""
        key = self._key("figures of a scene")
        return 1 + int(integers(key, torch.tensor([scene]), self.places))

    def outline(self, scene: int, place: int) -> int:
        """Return the outline of a figure."""
        return int(self.factors(torch.tensor([scene * self.places + place]))["outline"])

    def ground(self, scenes: Tensor) -> Tensor:
        """Return the backgrounds (n, 3, P) of scenes."""
        indices = scenes * self.places
        return self._painted(GROUND, self.factors(indices), indices)

    def painted(self, scenes: Tensor, place: int) -> tuple[Tensor, Tensor]:
        """Return the colours (n, 3, P) of a figure and its share of each pixel (n, 1, P)."""
        indices = scenes * self.places + place
        factors = self.factors(indices)
        distances = self._distances(factors, distance_tables())[:, None]
        return self._painted(OBJECT, factors, indices), (0.5 - distances).clamp(0, 1)

    def mask(self, scenes: Tensor, place: int) -> Tensor:
        """Return where a figure lies, bool (n, size, size)."""
        return self.masks(scenes * self.places + place)


def boxes_of(masks: Tensor) -> Tensor:
    """Return the boxes (N, 4) around masks (N, H, W) bool; 0 where a mask is empty."""
    found = torch.zeros(len(masks), 4)
    for box, mask in zip(found, masks, strict=True):
        columns, rows = (mask.any(dim=axis).nonzero()[:, 0] for axis in (0, 1))
        if len(rows):
            box.copy_(torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]))
    return found
