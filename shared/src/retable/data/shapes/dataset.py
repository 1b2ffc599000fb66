"""Shapes: the built-in procedural data set, rendered from (seed, split, index) and nothing else.

An image shows one figure before a background. Its factors are drawn independently of each other:
outline (the class), texture, two colours, background texture and pose; the texture agrees with the
class with a chosen probability, and so may the background. The object is light on dark or dark on
light with equal probability and all tones of one side have one luminance: every pixel has the same
mean whatever the class, and the figure survives conversion to gray.

Every image is a function of its index: any subset, any order and any count give the same pixels.
Rendering happens on the CPU with operations that IEEE 754 rounds in one way, hence the same bytes
on every machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from retable.data.shapes.corruptions import OOD_VARIANTS, corrupt, parse_variant
from retable.data.shapes.factors import LABELLINGS, Labelling, labels_of, names_of
from retable.data.shapes.outlines import (
    TABLE_EXTENT,
    TABLE_SIDE,
    catalogue,
    distance_tables,
    edge_distance_tables,
)
from retable.data.shapes.textures import BACKGROUND, FOREGROUND, Texture, bilinear, paint
from retable.data.source import SPLITS, Source, checksum
from retable.errors import UserError
from retable.random import derive_key, integers, permutation, uniform

__all__ = ["OOD_VARIANTS", "Shapes", "tones"]

HUES = 3
"""Hues of each tone: red, green, blue. With six hues the two colours of an image nearly name it,
and contrastive learning learns little else.
"""

LUMINANCE = (0.75, 0.25)
"""ITU-R 601 luminance of the light and of the dark tone of every hue."""

RADIUS = (0.34, 0.45)
"""Range of the circumradius of the object, as a share of the image side."""

ROTATION = math.radians(15)
"""Largest rotation off upright, either way."""

_CHUNK = 256  # images rendered at once: intermediate arrays of 32 px images stay in the cache


@lru_cache(maxsize=4)
def tones(shift: float = 0.0) -> Tensor:
    """Return the palette, float32 (2 tones, 3 hues, 3 channels), hues turned by ``shift`` of 1."""
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    hue = torch.arange(HUES, dtype=torch.float64)[:, None] / HUES + shift
    # The fully saturated colour of a hue: three trapezoids, a third of the circle apart.
    offset = (hue - torch.tensor([0.0, 1 / 3, 2 / 3], dtype=torch.float64) + 0.5) % 1 - 0.5
    pure = (2 - 6 * offset.abs()).clamp(0, 1)
    luminance = (pure * weights).sum(1, keepdim=True)
    palette = []
    for target in LUMINANCE:
        tinted = pure + (1 - pure) * (target - luminance) / (1 - luminance).clamp(min=1e-9)
        palette.append(torch.where(luminance < target, tinted, pure * target / luminance))
    return torch.stack(palette).float()


@dataclass(frozen=True)
class _Layer:
    """The names of the factors that paint one layer, and how far its texture departs."""

    hue: str
    texture: str
    angle: str
    textures: dict[str, Texture]
    light_polarity: int
    strength: float


OBJECT = _Layer("foreground", "texture", "texture_angle", FOREGROUND, 0, 0.3)
GROUND = _Layer("background", "background_texture", "background_angle", BACKGROUND, 1, 0.15)


class Shapes(Source):
    """The procedural data set: images, masks (layer "mask") and factors, rendered on demand.

    Args:
        count: number of images; image i is the same for every count.
        split: "train", "val" or "test": disjoint draws of one distribution.
        seed: which data set of that distribution.
        size: image side in pixels, at least 16. Factors do not depend on it.
        classes: number of outlines, 2 to 76, balanced to within one image; 64 keep the share of
            false negatives of a contrastive queue near that of ImageNet-100.
        rho: probability that the texture is that of the class; otherwise it is drawn from all
            textures. 0 makes texture independent of class.
        background_rho: the same for background colour and texture.
        variant: "clean", "background_only", "background_shuffled" or one of ``OOD_VARIANTS``. A
            variant shows the same scenes as the clean images of the same indices, drawn or damaged
            differently.
        labels: which factors of an image are its label, see
            `retable.data.shapes.factors.LABELLINGS`; no pixel depends on it.

    Raises:
        UserError: a value out of range, an unknown split, variant or labelling.
    """

    def __init__(
        self,
        count: int,
        *,
        split: str = "train",
        seed: int = 0,
        size: int = 32,
        classes: int = 64,
        rho: float = 0.7,
        background_rho: float = 0.0,
        variant: str = "clean",
        labels: Labelling = "outline",
    ) -> None:
        available = len(catalogue())
        _require(count >= 1, "count", count, "at least 1")
        _require(split in SPLITS, "split", split, f"one of {', '.join(SPLITS)}")
        _require(size >= 16, "size", size, "at least 16 pixels")
        _require(2 <= classes <= available, "classes", classes, f"2 to {available}")
        _require(0 <= rho <= 1, "rho", rho, "a probability")
        _require(0 <= background_rho <= 1, "background_rho", background_rho, "a probability")
        self.count = count
        self.split = split
        self.seed = seed
        self.size = size
        self.num_classes = classes
        self.rho = rho
        self.background_rho = background_rho
        self.variant = variant
        self._style = parse_variant(variant)
        assignment = permutation(derive_key(0, "shapes", "class textures"), classes)
        self.class_textures = assignment % len(FOREGROUND)
        """The texture that goes with each class, int64 (classes,)."""
        assignment = permutation(derive_key(0, "shapes", "class backgrounds"), classes)
        self.class_backgrounds = assignment % (HUES * len(BACKGROUND))
        """The background that goes with each class: hue + 3 * texture, int64 (classes,)."""
        _require(labels in LABELLINGS, "labels", labels, f"one of {', '.join(LABELLINGS)}")
        class_names = names_of(labels, classes)
        self.layers = {"mask": "map"}
        self._masks: Tensor | None = None
        every = torch.arange(count)
        found = every % classes if labels == "outline" else labels_of(labels, self.factors(every))
        drawn = {
            "split": split,
            "outlines": classes,
            "size": size,
            "rho": rho,
            "background_rho": background_rho,
            "seed": seed,
            "variant": variant,
        }
        facts = [f"{name} {value}" for name, value in drawn.items()]
        description = {
            "source": "shapes",
            "images": count,
            "classes": len(class_names),
            "labels": labels,
            **drawn,
            "checksum": checksum([*facts, labels], found),
            "pixels": checksum([f"images {count}", *facts]),
        }
        super().__init__(found, class_names, description)

    def _key(self, factor: str) -> int:
        return derive_key(self.seed, "shapes", self.split, factor)

    def _between(self, factor: str, indices: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * uniform(self._key(factor), indices)

    def factors(self, indices: Tensor) -> dict[str, Tensor]:
        """Return what the images show, each (n,).

        int64: outline (the class), texture, foreground and background (hues), background_texture,
        polarity (0: light object on dark, 1: dark on light). float32: centre_row, centre_column and
        radius (circumradius) as shares of the image side, rotation (radians, clockwise; upright 0),
        texture_angle, background_angle. Colours of the variant "recoloured" are numbered alike.
        """
        indices = self._checked(indices)
        outline = indices % self.num_classes
        drawn = integers(self._key("texture"), indices, len(FOREGROUND))
        agrees = uniform(self._key("texture agrees"), indices) < self.rho
        texture = torch.where(agrees, self.class_textures[outline], drawn)
        if self._style.style == "texture_swapped":  # one of another class, not of the image's own
            kinds = min(len(FOREGROUND), self.num_classes)  # the textures that go with any class
            other = 1 + integers(self._key("conflicting texture"), indices, kinds - 1)
            texture = (self.class_textures[outline] + other) % kinds
        drawn = integers(self._key("background"), indices, HUES * len(BACKGROUND))
        agreeing = 0.0 if self._style.style == "background_shuffled" else self.background_rho
        agrees = uniform(self._key("background agrees"), indices) < agreeing
        backdrop = torch.where(agrees, self.class_backgrounds[outline], drawn)
        background = backdrop % HUES
        other = 1 + integers(self._key("foreground"), indices, HUES - 1)
        radius = self._between("radius", indices, *RADIUS)
        room = 0.5 - radius
        return {
            "outline": outline,
            "texture": texture,
            "foreground": (background + other) % HUES,
            "background": background,
            "background_texture": backdrop // HUES,
            "polarity": integers(self._key("polarity"), indices, 2),
            "centre_row": 0.5 + room * self._between("centre row", indices, -1, 1),
            "centre_column": 0.5 + room * self._between("centre column", indices, -1, 1),
            "radius": radius,
            "rotation": self._between("rotation", indices, -ROTATION, ROTATION),
            "texture_angle": self._between("texture angle", indices, 0, 2 * math.pi),
            "background_angle": self._between("background angle", indices, 0, 2 * math.pi),
        }

    def masks(self, indices: Tensor) -> Tensor:
        """Return where the object covers a pixel's centre, bool (n, size, size)."""
        indices = self._checked(indices)
        chunks = [
            self._distances(self.factors(part), distance_tables()) <= 0
            for part in torch.split(indices, _CHUNK)
        ]
        return torch.cat(chunks).view(-1, self.size, self.size)

    def images(self, indices: Tensor) -> Tensor:
        """Return images, uint8 (n, 3, size, size), of ``indices`` int64 (n,)."""
        indices = self._checked(indices)
        if self._pool is not None:
            return self._pool[indices]
        out = torch.empty(len(indices), 3, self.size, self.size, dtype=torch.uint8)
        for start in range(0, len(indices), _CHUNK):
            part = indices[start : start + _CHUNK]
            out[start : start + _CHUNK] = self._render(part)
        return out

    def image(self, index: int) -> Tensor:
        """Return one image: uint8 (3, size, size)."""
        if self._pool is not None:
            return self._pool[index]
        return self.images(torch.tensor([index]))[0]

    def resident(self, *, decode: bool = False) -> Tensor:
        """Return all images, uint8 (count, 3, size, size); rendered once, then kept."""
        if self._pool is None:
            self._pool = self.images(torch.arange(self.count))
        return self._pool

    def layer(self, index: int, name: str) -> Tensor:
        """Return the mask of one image: uint8 (1, size, size), 1 on the object."""
        if self._masks is not None:
            return self._masks[index]
        return self.masks(torch.tensor([index])).to(torch.uint8)

    def resident_layer(self, name: str) -> Tensor:
        """Return all masks, uint8 (count, 1, size, size); made once, then kept."""
        if self._masks is None:
            self._masks = self.masks(torch.arange(self.count))[:, None].to(torch.uint8)
        return self._masks

    def _checked(self, indices: Tensor) -> Tensor:
        indices = indices.to("cpu", torch.int64)
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < self.count:
            raise IndexError(f"an index lies outside the {self.count} images of {self.split}")
        return indices

    def _grid(self) -> tuple[Tensor, Tensor]:
        """Return rows and columns of the pixel centres as shares of the side, each (1, P)."""
        centres = (torch.arange(self.size) + 0.5) / self.size
        rows, columns = torch.meshgrid(centres, centres, indexing="ij")
        return rows.reshape(1, -1), columns.reshape(1, -1)

    def _distances(self, factors: dict[str, Tensor], tables: Tensor) -> Tensor:
        """Return each pixel's distance to the outline in pixels, float32 (n, P)."""
        rows, columns = self._grid()
        down = rows - factors["centre_row"][:, None]
        right = columns - factors["centre_column"][:, None]
        down, right = _turned(down, right, factors["rotation"])
        cells = (TABLE_SIDE - 1) / (2 * TABLE_EXTENT) / factors["radius"][:, None]
        middle = (TABLE_SIDE - 1) / 2
        rows, columns = down * cells + middle, right * cells + middle
        distance = bilinear(tables, factors["outline"], rows, columns)
        return distance * (factors["radius"] * self.size)[:, None]

    def _render(self, indices: Tensor) -> Tensor:
        factors = self.factors(indices)
        pixels = (self._drawn(factors, indices) * 255 + 0.5).floor().to(torch.uint8)
        images = pixels.view(-1, 3, self.size, self.size)
        if self._style.corruption is None:
            return images
        kind, severity = self._style.corruption, self._style.severity
        return corrupt(images, kind, severity, rng_key=self._key("corruption"), indices=indices)

    def _drawn(self, factors: dict[str, Tensor], indices: Tensor) -> Tensor:
        """Draw the scenes in the variant's style, float32 (n, 3, P) in [0, 1]."""
        style = self._style.style
        if style == "texture_only":
            return self._painted(OBJECT, factors, indices)
        if style == "background_only":
            return self._painted(GROUND, factors, indices)
        if style == "sketch":
            width = max(1.0, 0.04 * self.size)
            distances = self._distances(factors, edge_distance_tables())[:, None]
            return 1 - (0.5 + width / 2 - distances).clamp(0, 1).expand(-1, 3, -1)
        coverage = (0.5 - self._distances(factors, distance_tables())[:, None]).clamp(0, 1)
        if style == "silhouette":
            return 1 - coverage.expand(-1, 3, -1)
        front, back = (self._painted(layer, factors, indices) for layer in (OBJECT, GROUND))
        return back + (front - back) * coverage

    def _painted(self, layer: _Layer, factors: dict[str, Tensor], indices: Tensor) -> Tensor:
        """Paint one layer over the whole image, float32 (n, 3, P)."""
        rows, columns = self._grid()
        down, right = _turned(rows - 0.5, columns - 0.5, factors[layer.angle])
        u = right + uniform(self._key(f"{layer.hue} phase u"), indices)[:, None]
        v = down + uniform(self._key(f"{layer.hue} phase v"), indices)[:, None]
        textures = list(layer.textures.values())
        noise = self._key(f"{layer.hue} noise")
        pattern = paint(textures, factors[layer.texture], u, v, indices, noise)
        light = (factors["polarity"] == layer.light_polarity)[:, None]
        palette = tones(0.5 / HUES if self._style.style == "recoloured" else 0.0)
        bright, dark = palette[:, factors[layer.hue]]
        colour = torch.where(light, bright, dark)
        # The second colour of a texture: light tones darken, dark ones brighten.
        step = torch.where(light, -colour * layer.strength, (1 - colour) * layer.strength)
        return colour[:, :, None] + step[:, :, None] * pattern[:, None]


def _turned(down: Tensor, right: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Turn coordinates (n or 1, P) by ``angle`` (n,): the picture turns clockwise."""
    # float64, then rounded: the last bit of a cosine differs between libraries.
    cosine, sine = (f(angle.double()).float()[:, None] for f in (torch.cos, torch.sin))
    return down * cosine - right * sine, down * sine + right * cosine


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise UserError(f"`{name}` of shapes must be {expected}, got {value!r}.")
