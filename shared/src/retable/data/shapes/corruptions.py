"""Out-of-distribution variants of shapes, among them fifteen corruptions at five severities.

The kinds of corruption are those of Hendrycks and Dietterich, "Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations" (ICLR 2019), Section 4; implementations and
strengths are our own. Lengths are shares of the image side, so a severity means about the same at
32 and at 224 pixels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor

from retable.data.shapes.textures import bilinear, clouds, lattices
from retable.errors import UserError
from retable.random import derive_key, normal, uniform

SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Draws:
    """The draws of one batch: functions of the key, the purpose and the image's index."""

    rng_key: int
    indices: Tensor

    def counters(self, each: int) -> Tensor:
        """Return int64 (n, each), different for every image."""
        return self.indices[:, None] * each + torch.arange(each)

    def uniform(self, purpose: str, each: int) -> Tensor:
        """Return float32 (n, each) from (0, 1)."""
        return uniform(derive_key(self.rng_key, purpose), self.counters(each))

    def normal(self, purpose: str, each: int) -> Tensor:
        """Return float32 (n, each) from the standard normal distribution."""
        return normal(derive_key(self.rng_key, purpose), self.counters(each))

    def clouds(self, purpose: str, side: int, cell: float) -> Tensor:
        """Return smooth noise in [0, 1], float32 (n, side * side), lattice cells ``cell`` wide."""
        rows, columns = _pixel_grid(len(self.indices), side)
        noise = lattices(derive_key(self.rng_key, purpose), self.indices)
        return clouds(rows / side, columns / side, noise, cell)


def _pixel_grid(n: int, side: int) -> tuple[Tensor, Tensor]:
    positions = torch.arange(side, dtype=torch.float32)
    rows, columns = torch.meshgrid(positions, positions, indexing="ij")
    return rows.reshape(1, -1).expand(n, -1), columns.reshape(1, -1).expand(n, -1)


def _read(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Read images (n, 3, S, S) at fractional positions (n, S * S), the same for all channels."""
    n, channels, height, width = images.shape
    rows, columns = (x.repeat_interleave(channels, 0) for x in (rows, columns))
    tables = images.reshape(n * channels, height, width)
    return bilinear(tables, torch.arange(n * channels), rows, columns).view_as(images)


def _mean_of_shifts(images: Tensor, shifts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Average the images moved by each (down, right) in pixels, tensors (n, 1); edges extend."""
    rows, columns = _pixel_grid(len(images), images.shape[-1])
    total = torch.zeros_like(images)
    for down, right in shifts:
        total = total + _read(images, rows + down, columns + right)
    return total / len(shifts)


def _gaussian_noise(images: Tensor, deviation: float, draws: Draws) -> Tensor:
    return images + deviation * draws.normal("noise", images[0].numel()).view_as(images)


def _shot_noise(images: Tensor, photons: float, draws: Draws) -> Tensor:
    """Draw Poisson counts through the inverse distribution function of each of 256 levels."""
    levels = torch.arange(256, dtype=torch.float64) / 255 * photons
    highest = int(photons + 8 * math.sqrt(photons) + 10)
    counts = torch.arange(highest, dtype=torch.float64)
    log_mass = counts * levels.clamp(min=1e-12).log()[:, None] - levels[:, None]
    cumulative = (log_mass - torch.lgamma(counts + 1)).exp().cumsum(1).float()
    level = (images * 255).round().long().reshape(-1)
    chance = draws.uniform("photons", images[0].numel()).reshape(-1)
    found = torch.empty_like(chance)
    for value in torch.bincount(level).nonzero()[:, 0].tolist():
        members = level == value
        found[members] = torch.searchsorted(cumulative[value], chance[members]).float()
    return found.view_as(images) / photons


def _impulse_noise(images: Tensor, share: float, draws: Draws) -> Tensor:
    chance = draws.uniform("impulse", images[0].numel()).view_as(images)
    images = torch.where(chance < share / 2, 0.0, images)
    return torch.where(chance > 1 - share / 2, 1.0, images)


def _defocus_blur(images: Tensor, radius: float, draws: Draws) -> Tensor:
    """Average over points spread evenly on a disc (a sunflower pattern of 40)."""
    side, points = images.shape[-1], 40
    shifts = []
    for i in range(points):
        r = radius * side * math.sqrt((i + 0.5) / points)
        angle = i * math.pi * (3 - math.sqrt(5))
        down, right = r * math.sin(angle), r * math.cos(angle)
        shifts.append((torch.tensor([[down]]), torch.tensor([[right]])))
    return _mean_of_shifts(images, shifts)


def _displaced(images: Tensor, reach: float, down: Tensor, right: Tensor) -> Tensor:
    """Move each pixel by (down, right), (n, S * S) in [0, 1], scaled to ``reach`` either way."""
    side = images.shape[-1]
    rows, columns = _pixel_grid(len(images), side)
    down, right = ((chance - 0.5) * (2 * reach * side) for chance in (down, right))
    return _read(images, rows + down, columns + right)


def _glass_blur(images: Tensor, reach: float, draws: Draws) -> Tensor:
    pixels = images[0, 0].numel()
    down, right = (draws.uniform(f"glass {axis}", pixels) for axis in ("rows", "columns"))
    return _displaced(images, reach, down, right)


def _motion_blur(images: Tensor, length: float, draws: Draws) -> Tensor:
    angle = draws.uniform("motion angle", 1).double() * math.pi
    down, right = angle.sin().float(), angle.cos().float()
    steps = torch.linspace(-0.5, 0.5, 13) * (length * images.shape[-1])
    return _mean_of_shifts(images, [(down * step, right * step) for step in steps])


def _zoom_blur(images: Tensor, zoom: float, draws: Draws) -> Tensor:
    side = images.shape[-1]
    middle = (side - 1) / 2
    rows, columns = _pixel_grid(len(images), side)
    total = torch.zeros_like(images)
    for i in range(9):
        factor = 1 + zoom * i / 8
        down, right = ((x - middle) / factor + middle for x in (rows, columns))
        total = total + _read(images, down, right)
    return total / 9


def _snow(images: Tensor, amount: float, draws: Draws) -> Tensor:
    """Whiten the scene and let streaks of bright specks fall across it, slanted either way."""
    n, _, side, _ = images.shape
    specks = (draws.uniform("flakes", side * side) < 0.25 * amount).float()
    specks = specks.view(n, 1, side, side)
    slant = (draws.uniform("slant", 1) - 0.5) * 1.2
    steps = torch.linspace(-0.5, 0.5, 5) * (0.08 * side)
    streaks = _mean_of_shifts(specks, [(step.expand(n, 1), slant * step) for step in steps])
    whitened = images + (1 - images) * (0.35 * amount)
    return whitened + (streaks * 2.5).clamp(0, 1) * (1 - whitened)


def _frost(images: Tensor, amount: float, draws: Draws) -> Tensor:
    """Cover the image with bluish white needles: the ridges of smooth noise at two scales."""
    n, _, side, _ = images.shape
    coarse = draws.clouds("needles", side, 0.18)
    fine = draws.clouds("splinters", side, 0.08)
    ridges = 1 - ((0.65 * coarse + 0.35 * fine) * 2 - 1).abs()
    ice = ((ridges - 0.9 + 0.55 * amount) / 0.3).clamp(0, 1) * (0.35 + 0.5 * amount)
    ice = ice.view(n, 1, side, side)
    colour = torch.tensor([0.82, 0.9, 0.97]).view(1, 3, 1, 1)
    return images + (colour - images) * ice


def _fog(images: Tensor, amount: float, draws: Draws) -> Tensor:
    n, _, side, _ = images.shape
    octaves = [0.5**i * draws.clouds(f"octave {i}", side, 0.5 / 2**i) for i in range(4)]
    density = (sum(octaves, torch.zeros(())) / 1.875).view(n, 1, side, side)
    veil = (amount * (0.4 + 0.6 * density)).clamp(0, 1)
    return images + (0.9 - images) * veil


def _brightness(images: Tensor, step: float, draws: Draws) -> Tensor:
    """Raise the value of HSV, keeping hue and saturation."""
    value = images.amax(1, keepdim=True)
    raised = (value + step).clamp(max=1)
    scaled = images * (raised / value.clamp(min=1e-6))
    return torch.where(value > 0, scaled, raised)


def _contrast(images: Tensor, factor: float, draws: Draws) -> Tensor:
    # Summed in float64: the float32 mean depends in its last bit on the batch around it.
    mean = images.double().mean((2, 3), keepdim=True).float()
    return (images - mean) * factor + mean


def _elastic(images: Tensor, reach: float, draws: Draws) -> Tensor:
    side = images.shape[-1]
    down, right = (draws.clouds(f"elastic {axis}", side, 0.2) for axis in ("rows", "columns"))
    return _displaced(images, reach, down, right)


def _pixelate(images: Tensor, share: float, draws: Draws) -> Tensor:
    """Average over the area of cells 1 / share pixels wide, then show each cell as a square."""
    side = images.shape[-1]
    cells = max(2, round(side * share))
    width = side / cells
    starts = torch.arange(cells, dtype=torch.float64)[:, None] * width
    pixels = torch.arange(side, dtype=torch.float64)
    overlap = torch.minimum(starts + width, pixels + 1) - torch.maximum(starts, pixels)
    weights = overlap.clamp(min=0) / width
    # In float64, then rounded: the order of a matrix product's additions depends on the batch.
    coarse = (weights @ images.double() @ weights.T).float()
    nearest = ((pixels + 0.5) / width).long()
    return coarse[:, :, nearest][:, :, :, nearest]


def _jpeg(images: Tensor, quality: float, draws: Draws) -> Tensor:
    # Pillow: torchvision's own encoder is deprecated since 0.29.
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor

    decoded = torch.empty_like(images)
    for i, image in enumerate((images * 255).round().to(torch.uint8)):
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=int(quality))
        decoded[i] = pil_to_tensor(Image.open(file)).float() / 255
    return decoded


Corruption = Callable[[Tensor, float, Draws], Tensor]

CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, ...]]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.07, 0.10, 0.14, 0.19)),
    "shot_noise": (_shot_noise, (200, 100, 50, 25, 12)),
    "impulse_noise": (_impulse_noise, (0.01, 0.03, 0.06, 0.10, 0.17)),
    "defocus_blur": (_defocus_blur, (0.025, 0.035, 0.05, 0.065, 0.085)),
    "glass_blur": (_glass_blur, (0.02, 0.035, 0.05, 0.07, 0.09)),
    "motion_blur": (_motion_blur, (0.06, 0.10, 0.14, 0.19, 0.25)),
    "zoom_blur": (_zoom_blur, (0.08, 0.14, 0.20, 0.28, 0.38)),
    "snow": (_snow, (0.04, 0.08, 0.13, 0.2, 0.3)),
    "frost": (_frost, (0.2, 0.4, 0.6, 0.8, 1.0)),
    "fog": (_fog, (0.15, 0.25, 0.35, 0.45, 0.6)),
    "brightness": (_brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (_contrast, (0.75, 0.6, 0.5, 0.4, 0.3)),
    "elastic": (_elastic, (0.03, 0.045, 0.06, 0.08, 0.10)),
    "pixelate": (_pixelate, (0.75, 0.6, 0.5, 0.4, 0.3)),
    "jpeg": (_jpeg, (40, 25, 15, 9, 5)),
}
"""The kinds by name, each with its strength at severities 1 to 5."""


def corrupt(images: Tensor, kind: str, severity: int, *, rng_key: int, indices: Tensor) -> Tensor:
    """Return corrupted copies of ``images``, uint8 (n, 3, S, S).

    ``kind`` is a key of ``CORRUPTIONS``, ``severity`` 1 to 5; image i draws with (key, indices[i]).
    """
    if kind not in CORRUPTIONS:
        raise UserError(f"there is no corruption '{kind}'; choose from {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise UserError(f"corruption {kind} has severity {severity}; choose from 1 to 5")
    function, strengths = CORRUPTIONS[kind]
    draws = Draws(derive_key(rng_key, kind), indices)
    out = function(images.float() / 255, strengths[severity - 1], draws)
    return (out.clamp(0, 1) * 255 + 0.5).floor().to(torch.uint8)


STYLES = ("sketch", "texture_swapped", "recoloured", "silhouette", "texture_only")
"""Variants of the drawing:

- sketch: a black line along the outline on white;
- texture_swapped: the texture that goes with another class, a conflict of cues;
- recoloured: hues half way between those of the clean images;
- silhouette: the figure filled with black on white;
- texture_only: the object's texture fills the image, no outline is left.
"""

CONTROLS = ("clean", "background_only", "background_shuffled")
"""The distribution of training, the same backgrounds with the object removed, and the same objects
before backgrounds that agree with no class."""

OOD_VARIANTS = (
    *(f"corrupted:{kind}:{severity}" for kind in CORRUPTIONS for severity in SEVERITIES),
    *STYLES,
)
"""All variants that a classifier of clean images is tested on: 15 x 5 corruptions and 5 styles."""


@dataclass(frozen=True)
class Variant:
    """How images are drawn, and how they are corrupted afterwards."""

    style: str = "clean"
    corruption: str | None = None
    severity: int = 0


def parse_variant(name: str) -> Variant:
    """Parse the name of a variant."""
    if name in CONTROLS or name in STYLES:
        return Variant(name)
    if name in OOD_VARIANTS:
        _, kind, severity = name.split(":")
        return Variant(corruption=kind, severity=int(severity))
    nearest = get_close_matches(name, (*CONTROLS, *OOD_VARIANTS), 1)
    choice = f"did you mean {nearest[0]}" if nearest else f"choose from {', '.join(CONTROLS)}"
    raise UserError(
        f"shapes has no variant '{name}'; {choice}, one of {', '.join(STYLES)} or "
        "corrupted:<kind>:<severity 1 to 5>"
    )
